"""Frames made worse, one thing at a time: the centre, the sensor, what stands in front, the hand."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from dataloader.dataset import HandDataset
from util.camera import Camera

SLAB_MM = 80.0  # from the centre towards the camera


class Scene(NamedTuple):
    """One frame.

    `depth` (H, W) float32 mm, 0 where nothing was measured; `camera`; `center_xyz` (3,), `cube` (3,),
    `joint_xyz` (J, 3) and `wrist_xyz` (3,) mm; `rng`: of this frame, the same at every level.
    """

    depth: np.ndarray
    camera: Camera
    center_xyz: np.ndarray
    cube: np.ndarray
    joint_xyz: np.ndarray
    wrist_xyz: np.ndarray
    rng: np.random.Generator


def read_scene(dataset: HandDataset, i: int, joint_names: tuple[str, ...]) -> Scene:
    """Frame i of a split as it is; the joints whose names begin with "wrist" are the wrist."""
    index = dataset.index
    joint_xyz, depth = index.joint_xyz[i], index.read_depth(index.frame_path(i)).astype(np.float32)
    wrist_xyz = joint_xyz[[name.startswith("wrist") for name in joint_names]].mean(axis=0)
    rng = np.random.default_rng((1, i))
    return Scene(depth, dataset.camera, index.center_xyz[i], index.cube[i], joint_xyz, wrist_xyz, rng)


def move_center(scene: Scene, level: float) -> Scene:
    """The centre `level` mm off, in a direction of the frame's own."""
    direction = scene.rng.standard_normal(3)
    return scene._replace(center_xyz=scene.center_xyz + level * direction / np.linalg.norm(direction))


def add_noise(scene: Scene, level: float) -> Scene:
    """Normal noise on every pixel that was measured."""
    noisy = scene.depth + np.float32(level) * scene.rng.standard_normal(scene.depth.shape, np.float32)
    return scene._replace(depth=np.where(scene.depth > 0, noisy.clip(1), 0))


def lose_pixels(scene: Scene, level: float) -> Scene:
    """A share of the pixels, anywhere, is not measured."""
    return scene._replace(depth=np.where(scene.rng.random(scene.depth.shape) < level, 0, scene.depth))


def coarsen(scene: Scene, level: float) -> Scene:
    """Only the middle of every `level` × `level` pixels was measured, and stands for all of them."""
    places = [np.arange(edge) // level * level + level // 2 for edge in scene.depth.shape]
    rows, columns = (place.clip(max=len(place) - 1).astype(int) for place in places)
    return scene._replace(depth=scene.depth[rows][:, columns])


def turn(scene: Scene, level: float) -> Scene:
    """Frame and joints turned by `level` degrees about the centre's pixel; neighbouring depths are mixed."""
    camera, (height, width) = scene.camera, scene.depth.shape
    u, v, _ = camera.xyz_to_uvd(scene.center_xyz).tolist()
    matrix = cv2.getRotationMatrix2D((u, v), level, 1.0)
    depth = cv2.warpAffine(scene.depth, matrix, (width, height), flags=cv2.INTER_LINEAR)
    uvd = camera.xyz_to_uvd(np.asarray(scene.joint_xyz, np.float64))
    uvd[:, :2] = uvd[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return scene._replace(depth=depth, joint_xyz=camera.uvd_to_xyz(uvd))


def put_slab(scene: Scene, level: float) -> Scene:
    """An upright bar, `level` mm wide, between the camera and the centre."""
    x, y, z = scene.center_xyz - (0, 0, SLAB_MM)
    left, right = (scene.camera.xyz_to_uvd(np.array([x + s * level / 2, y, z]))[0] for s in (-1, 1))
    u = np.arange(scene.depth.shape[1])
    hidden = (left < u) & (u < right) & ((scene.depth == 0) | (scene.depth > z))
    return scene._replace(depth=np.where(hidden, np.float32(z), scene.depth))


def scale_cube(scene: Scene, level: float) -> Scene:
    """A crop of `level` times the edge."""
    return scene._replace(cube=scene.cube * level)


def scale_hand(scene: Scene, level: float) -> Scene:
    """A hand of `level` times the size at `level` times the distance: the pixels stay, their depth grows."""
    joint_xyz, center_xyz = scene.joint_xyz * level, scene.center_xyz * level
    return scene._replace(depth=scene.depth * np.float32(level), joint_xyz=joint_xyz, center_xyz=center_xyz)


def cut_forearm(scene: Scene, level: float) -> Scene:
    """Nothing is measured farther than `level` mm beyond the wrist, along the line from the joints' mean."""
    axis = scene.wrist_xyz - scene.joint_xyz.mean(axis=0)
    v, u = np.indices(scene.depth.shape, np.float32)
    xyz = scene.camera.uvd_to_xyz(np.stack([u, v, scene.depth.clip(1)], axis=-1))
    beyond = (xyz - scene.wrist_xyz) @ (axis / np.linalg.norm(axis))
    return scene._replace(depth=np.where(beyond > level, 0, scene.depth))


class Curve(NamedTuple):
    """What changes a frame, and its `levels`, the harmless one first."""

    unit: str
    levels: tuple[float, ...]
    change: Callable[[Scene, float], Scene]


CURVES = {
    "centre error": Curve("mm", (0, 10, 20, 30, 40, 60), move_center),
    "sensor noise": Curve("mm", (0, 2, 5, 10, 20), add_noise),
    "lost pixels": Curve("of all", (0, 0.1, 0.3, 0.5, 0.7), lose_pixels),
    "coarser pixels": Curve("pixels a side", (1, 2, 3), coarsen),
    "turned, blended": Curve("degrees", (0, 5, 15), turn),
    "slab in front": Curve("mm wide", (0, 10, 20, 40, 60), put_slab),
    "cube edge": Curve("× the data set's", (1, 0.7, 0.85, 1.2, 1.5), scale_cube),
    "hand size": Curve("× its own", (1, 0.7, 0.85, 1.15, 1.3), scale_hand),
    "forearm seen": Curve("mm", (150, 60, 30, 0), cut_forearm),
}
