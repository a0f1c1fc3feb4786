"""A split made worse, one thing at a time: the centres, the sensor, what stands in front, the hands.

Frames stay on the disk as they are: the index that is given reads them, and changes them then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.index import FrameIndex
from util.camera import Camera

SLAB_MM = 80.0  # from the centre towards the camera


class Scene(NamedTuple):
    """One frame.

    `depth` (H, W) float32 mm, 0 where nothing was measured; `camera`; `center_xyz` (3,), `joint_xyz`
    (J, 3) and `wrist_xyz` (3,) mm; `rng`: of this frame.
    """

    depth: np.ndarray
    camera: Camera
    center_xyz: np.ndarray
    joint_xyz: np.ndarray
    wrist_xyz: np.ndarray
    rng: np.random.Generator


def add_noise(scene: Scene, level: float) -> np.ndarray:
    """Normal noise on every pixel that was measured."""
    noisy = scene.depth + np.float32(level) * scene.rng.standard_normal(scene.depth.shape, np.float32)
    return np.where(scene.depth > 0, noisy.clip(1), 0)


def lose_pixels(scene: Scene, level: float) -> np.ndarray:
    """A share of the pixels, anywhere, is not measured."""
    return np.where(scene.rng.random(scene.depth.shape) < level, 0, scene.depth)


def put_slab(scene: Scene, level: float) -> np.ndarray:
    """An upright bar, `level` mm wide, between the camera and the centre."""
    x, y, z = scene.center_xyz - (0, 0, SLAB_MM)
    left, right = (scene.camera.xyz_to_uvd(np.array([x + s * level / 2, y, z]))[0] for s in (-1, 1))
    u = np.arange(scene.depth.shape[1])
    hidden = (left < u) & (u < right) & ((scene.depth == 0) | (scene.depth > z))
    return np.where(hidden, np.float32(z), scene.depth)


def cut_forearm(scene: Scene, level: float) -> np.ndarray:
    """Nothing is measured farther than `level` mm beyond the wrist, along the line from the joints' mean."""
    axis = scene.wrist_xyz - scene.joint_xyz.mean(axis=0)
    v, u = np.indices(scene.depth.shape, np.float32)
    xyz = scene.camera.uvd_to_xyz(np.stack([u, v, scene.depth.clip(1)], axis=-1))
    beyond = (xyz - scene.wrist_xyz) @ (axis / np.linalg.norm(axis))
    return np.where(beyond > level, 0, scene.depth)


def move_centers(index: FrameIndex, level: float) -> FrameIndex:
    """Every centre `level` mm off, in a direction of its own."""
    direction = np.random.default_rng(0).standard_normal(index.center_xyz.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return index._replace(center_xyz=index.center_xyz + level * direction)


def scale_cubes(index: FrameIndex, level: float) -> FrameIndex:
    """Crops of `level` times the edge."""
    return index._replace(cube=index.cube * level)


def scale_hands(index: FrameIndex, level: float) -> FrameIndex:
    """Hands of `level` times the size at `level` times the distance: the pixels stay, their depth grows."""

    def read_depth(path: Path) -> np.ndarray:
        return index.read_depth(path).astype(np.float32) * np.float32(level)

    joint_xyz, center_xyz = index.joint_xyz * level, index.center_xyz * level
    return index._replace(joint_xyz=joint_xyz, center_xyz=center_xyz, read_depth=read_depth)


class Curve(NamedTuple):
    """`levels` of one thing, the harmless one first; and what changes all frames' index, or each frame."""

    unit: str
    levels: tuple[float, ...]
    change_index: Callable[[FrameIndex, float], FrameIndex] | None = None
    change_frame: Callable[[Scene, float], np.ndarray] | None = None


CURVES = {
    "centre error": Curve("mm", (0, 10, 20, 30, 40, 60), change_index=move_centers),
    "sensor noise": Curve("mm", (0, 2, 5, 10, 20), change_frame=add_noise),
    "lost pixels": Curve("of all", (0, 0.1, 0.3, 0.5, 0.7), change_frame=lose_pixels),
    "slab in front": Curve("mm wide", (0, 10, 20, 40, 60), change_frame=put_slab),
    "cube edge": Curve("× the data set's", (1, 0.7, 0.85, 1.2, 1.5), change_index=scale_cubes),
    "hand size": Curve("× its own", (1, 0.7, 0.85, 1.15, 1.3), change_index=scale_hands),
    "forearm seen": Curve("mm", (150, 60, 30, 0), change_frame=cut_forearm),
}


def degrade(
    index: FrameIndex, camera: Camera, curve: Curve, level: float, joint_names: tuple[str, ...]
) -> FrameIndex:
    """The index of the same frames with one thing changed; for loaders without processes of their own.

    Args:
        index: of the split.
        camera: that took the frames.
        curve: what changes: an entry of CURVES.
        level: how much.
        joint_names: of the labels; those that begin with "wrist" are the wrist.
    """
    if curve.change_index is not None:
        return curve.change_index(index, level)
    wrist = [j for j, name in enumerate(joint_names) if name.startswith("wrist")]
    number = {index.frame_path(i): i for i in range(len(index.joint_xyz))}

    def read_depth(path: Path) -> np.ndarray:
        i, depth = number[path], index.read_depth(path).astype(np.float32)
        joint_xyz, rng = index.joint_xyz[i], np.random.default_rng((1, i))
        wrist_xyz = joint_xyz[wrist].mean(axis=0)
        return curve.change_frame(Scene(depth, camera, index.center_xyz[i], joint_xyz, wrist_xyz, rng), level)

    return index._replace(read_depth=read_depth)
