"""One synthetic frame: a hand, posed and viewed, with what is around it, seen through a sensor.

A frame is of some kinds (kinds.py), a plain gesture of none. A seed's bytes depend on the order of the draws.
"""

from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from dataloader.nyu import EVALUATED_JOINTS
from dataloader.synthetic.background import sample_background, sample_body, sample_plane
from dataloader.synthetic.hand.forearm import Forearm, sample_forearm
from dataloader.synthetic.hand.pose import lean_fingers, sample_pose
from dataloader.synthetic.hand.signs import SIGNS, TOUCHING, sample_sign
from dataloader.synthetic.hand.skeleton import HandShape, JointAngles, pose_joints, scaled
from dataloader.synthetic.objects import Thing, mesh_of, sample_grasp
from dataloader.synthetic.placing import PosedHand, pose_hand, put_in_frame, sample_view
from dataloader.synthetic.render import Size, covered, nearest, render_mesh, y_up
from dataloader.synthetic.sensor import apply_sensor, sample_coarse_style, sample_style
from util.camera import Camera

_DEG = np.pi / 180
# A centre estimator's error: standard deviation in mm, Student-t with this many degrees of freedom.
_CENTER_ERROR, _CENTER_TAIL = 8.0, 8.0
_SIZES = (0.85, 1.25)  # NYU's first test subject has 159 mm from wrist to middle PIP, the bank's median 136
_REACH = 0.66  # of the hand's length: 1.8 times as far as the palm's centre
_POSES = 8  # drawn until one reaches
_CLEAR = 7.0  # mm between two hands
_HANDS, _PLACES = 6, 8  # tried until one fits
_CUBE, _PIXELS = 300.0, 300  # mm, of a crop; shown of the other hand in it at least
_HIDDEN = 0.4  # share of the joints that another hand covers at most


class Scene(NamedTuple):
    """A rendered frame; everything in the camera's own frame, mm."""

    depth: np.ndarray  # (H, W) uint16, as the sensor reports it, 0 = no reading
    exact: np.ndarray  # (H, W) float32, before the sensor
    joints36: np.ndarray  # (36, 3) and (21, 3), as in `PosedHand`
    joints21: np.ndarray
    center: np.ndarray  # (3,) the hand's centre with an estimator's error


def sample_scene(
    rng: np.random.Generator,
    shape: HandShape,
    camera: Camera,
    size: Size = (480, 640),
    kinds: tuple[str, ...] = (),
) -> Scene:
    """Draw pose, view, surroundings and sensor for a given hand and a frame of these kinds, and render, by
    any pinhole camera; its `flip` says whether the labels' y points up (-1) or down (+1)."""
    sight = y_up(camera)
    if "sizes" in kinds:
        shape = scaled(shape, rng.uniform(*_SIZES))
    angles, thing = _sample_pose(rng, shape, kinds)
    if kinds:
        forearm, view = sample_forearm(rng, shape), sample_view(rng)
    else:
        view, forearm = sample_view(rng), sample_forearm(rng, shape)
    if "sleeves" in kinds:
        forearm = _dress(rng, forearm)
    posed = pose_hand(shape, angles, forearm, view)
    hand = put_in_frame(rng, posed, shape, sight, size, _sample_distance(rng, kinds))
    layers = [render_mesh(hand.vertices, hand.faces, sight, size)]
    layers.append(_sample_behind(rng, hand.vertices[: hand.num_own], sight, size, kinds))
    if thing is not None:
        vertices, faces = mesh_of(thing)
        layers.append(render_mesh(vertices @ view.T + hand.middle - posed.middle, faces, sight, size))
    if "hands" in kinds:
        layers.append(_other_hand(rng, shape, hand, sight, size))
    exact = reduce(nearest, (depth for depth in layers if depth is not None))
    style = sample_coarse_style(rng) if "sensors" in kinds else sample_style(rng)
    if "range" in kinds:
        style = style._replace(nearest=150)
    depth = apply_sensor(rng, exact, sight, style)
    mirror = np.array([1.0, -camera.flip, 1.0])
    joints36, joints21 = hand.joints36 * mirror, hand.joints21 * mirror
    return Scene(depth, exact, joints36, joints21, _estimated_center(rng, joints36))


def _sample_pose(
    rng: np.random.Generator, shape: HandShape, kinds: tuple[str, ...]
) -> tuple[JointAngles, Thing | None]:
    thing = None
    if "objects" in kinds:
        angles, thing = sample_grasp(rng, shape)
    elif "signs" in kinds or "touching" in kinds:
        angles = sample_sign(rng, shape, SIGNS if "signs" in kinds else TOUCHING)
    elif "reaching" in kinds:
        angles = _sample_reaching(rng, shape)
    else:
        angles = sample_pose(rng, shape)
    if "leaning" in kinds and thing is None:  # fingers on an object fit it
        angles = lean_fingers(rng, shape, angles)
    if "wrist" in kinds:
        bent = rng.choice([-1, 1], 2) * rng.uniform([45, 12], [75, 28])
        one = rng.random()  # flexed, deviated, or both
        angles = angles._replace(wrist=bent * [one < 0.8, one > 0.4] * _DEG)
    return angles, thing


def _sample_reaching(rng: np.random.Generator, shape: HandShape) -> JointAngles:
    """A pose whose index finger reaches as far from the wrist as in nearly all of NYU's frames."""
    for _ in range(_POSES):
        angles = sample_pose(rng, shape)
        tip = pose_joints(shape, angles)[1][1, 4]
        if np.linalg.norm(tip) >= _REACH * shape.length:
            break
    return angles


def _dress(rng: np.random.Generator, arm: Forearm) -> Forearm:
    """A thick sleeve with a cuff, or a watch on a bare or covered arm."""
    if rng.random() < 0.6:
        sleeve, start = rng.uniform(8, 24), rng.uniform(0, 50)
        return arm._replace(sleeve=sleeve, sleeve_start=start, band=rng.uniform(0, 9), band_start=start)
    return arm._replace(
        band=rng.uniform(6, 14), band_start=rng.uniform(12, 45), band_width=rng.uniform(20, 45)
    )


def _sample_distance(rng: np.random.Generator, kinds: tuple[str, ...]) -> float:
    """From the camera to the hand, mm."""
    if "range" in kinds:
        return rng.uniform(250, 400) if rng.random() < 0.4 else rng.uniform(1000, 1500)
    return rng.uniform(400, 1000) if rng.random() < 0.5 else rng.uniform(600, 1000)


def _sample_behind(
    rng: np.random.Generator, own: np.ndarray, camera: Camera, size: Size, kinds: tuple[str, ...]
) -> np.ndarray | None:
    """Depth (H, W) of what is behind a hand (V, 3) mm; None where nothing is."""
    if "surface" in kinds:
        return sample_plane(rng, own, camera, size, gap=rng.uniform(0, 12))
    if "person" in kinds:
        face = rng.random() < 0.5
        return sample_body(rng, own, camera, size, rng.uniform(5, 60), face)
    return sample_background(rng, own, camera, size)


def _other_hand(
    rng: np.random.Generator, shape: HandShape, hand: PosedHand, camera: Camera, size: Size
) -> np.ndarray | None:
    """Depth (H, W) of the person's other hand, or another's right one, beside, before or behind; None in the
    rare case that none fits."""
    own = KDTree(hand.vertices)
    for _ in range(_HANDS):
        other = pose_hand(shape, sample_pose(rng, shape), sample_forearm(rng, shape), sample_view(rng))
        if rng.random() < 0.75:
            other = other.mirrored()
        aside = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(aside), np.sin(aside), 0.0]) * rng.uniform(40, 170)
        way[2] = rng.uniform(-90, 130)
        for _ in range(_PLACES):
            moved = other.moved_to(hand.middle + way)
            way = way * 1.15 + [0, 0, 12]
            if moved.vertices[:, 2].min() < 150 or own.query(moved.vertices)[0].min() < _CLEAR:
                continue
            depth = render_mesh(moved.vertices, moved.faces, camera, size)
            if _shows_near(depth, hand.middle, camera) and covered(hand.joints21, depth, camera) <= _HIDDEN:
                return depth
    return None


def _shows_near(depth: np.ndarray, middle: np.ndarray, camera: Camera) -> bool:
    """Whether a depth image (H, W) shows something in a cube around a place (3,), as crops are."""
    reach = np.array([_CUBE / 2, _CUBE / 2, 0])
    u, v = np.sort([camera.xyz_to_uvd(middle + side * reach)[:2] for side in (-1, 1)], axis=0).T
    (left, right), (top, bottom) = (np.clip(each, 0, 10**6).astype(int) for each in (u, v))
    near = depth[top:bottom, left:right]
    return bool((np.abs(near - middle[2]) < _CUBE / 2).sum() > _PIXELS)


def _estimated_center(rng: np.random.Generator, joints36: np.ndarray) -> np.ndarray:
    """The middle of the evaluated joints' bounding box (3,), with an error, as NYU's released centres."""
    joints = joints36[list(EVALUATED_JOINTS)]
    spread = _CENTER_ERROR / np.sqrt(_CENTER_TAIL / (_CENTER_TAIL - 2))
    return (joints.min(0) + joints.max(0)) / 2 + spread * rng.standard_t(_CENTER_TAIL, 3)
