"""One synthetic frame: a hand, posed and viewed, with forearm and background, seen through a sensor."""

from typing import NamedTuple

import numpy as np

from dataloader.nyu import EVALUATED_JOINTS
from dataloader.synthetic.background import sample_background
from dataloader.synthetic.hand.forearm import Forearm, attach_forearm, sample_forearm
from dataloader.synthetic.hand.landmarks import label_joints
from dataloader.synthetic.hand.pose import sample_pose
from dataloader.synthetic.hand.skeleton import (
    HandShape,
    JointAngles,
    bend_wrist,
    pose_joints,
    rotation,
    skin,
)
from dataloader.synthetic.render import Size, nearest, render_mesh
from dataloader.synthetic.sensor import SensorStyle, apply_sensor, sample_style
from util.camera import Camera

_DEG = np.pi / 180
_PARTLY_OUT = 0.05  # share of frames whose hand the frame's border cuts
_MARGIN = 6  # px between hand and border otherwise
_ARM_NEAREST = 180.0  # mm; a forearm that came nearer to the camera is cut shorter
# A centre estimator's error: standard deviation in mm, Student-t with this many degrees of freedom.
_CENTER_ERROR, _CENTER_TAIL = 8.0, 8.0


class PosedHand(NamedTuple):
    """A hand and its forearm, posed and turned; mm, y up, z away from the viewer.

    vertices: (V, 3), the hand's own first. faces: (F, 3) int32. num_own: number of the hand's own vertices.
    joints36: (36, 3), NaN but for NYU's 14 evaluated slots.
    joints21: (21, 3), wrist, then each finger from its base to the tip. middle: (3,) of the hand.
    """

    vertices: np.ndarray
    faces: np.ndarray
    num_own: int
    joints36: np.ndarray
    joints21: np.ndarray
    middle: np.ndarray

    def moved_to(self, place: np.ndarray) -> "PosedHand":
        """The hand with its middle at `place` (3,)."""
        shift = place - self.middle
        joints36, joints21 = self.joints36 + shift, self.joints21 + shift
        return self._replace(
            vertices=self.vertices + shift, joints36=joints36, joints21=joints21, middle=place
        )


class Scene(NamedTuple):
    """A rendered frame; everything in the camera's own frame, mm.

    depth: (H, W) uint16, as the sensor reports it, 0 = no reading.
    exact: (H, W) float32, before the sensor.
    joints36: (36, 3), joints21: (21, 3): as in `PosedHand`.
    center: (3,) the hand's centre with an estimator's error.
    """

    depth: np.ndarray
    exact: np.ndarray
    joints36: np.ndarray
    joints21: np.ndarray
    center: np.ndarray


def sample_scene(
    rng: np.random.Generator, shape: HandShape, camera: Camera, size: Size = (480, 640)
) -> Scene:
    """Draw pose, view, background and sensor for a given hand, and render.

    Args:
        camera: any pinhole camera; its `flip` says whether the labels' y points up (-1) or down (+1).
    """
    return render_scene(rng, shape, sample_pose(rng, shape), sample_view(rng), camera, size)


def render_scene(
    rng: np.random.Generator,
    shape: HandShape,
    angles: JointAngles,
    view: np.ndarray,
    camera: Camera,
    size: Size = (480, 640),
) -> Scene:
    """Render a given hand in a given pose, turned by `view` (3, 3); the rest is drawn."""
    sight = y_up(camera)
    hand = put_in_frame(rng, pose_hand(shape, angles, sample_forearm(rng, shape), view), shape, sight, size)
    own = hand.vertices[: hand.num_own]
    background = sample_background(rng, own, sight, size)
    return take_frame(rng, hand, background, camera, size, sample_style(rng))


def pose_hand(shape: HandShape, angles: JointAngles, forearm: Forearm, view: np.ndarray) -> PosedHand:
    """Pose a hand, attach its forearm, and turn both by `view` (3, 3) about the wrist."""
    rotations, joints = pose_joints(shape, angles)
    hand = skin(shape, rotations, joints)
    mesh, faces = attach_forearm(hand, shape.faces, shape.wrist_loop, forearm)
    mesh = bend_wrist(mesh, angles.wrist)
    joints36, joints21 = label_joints(shape, rotations, joints)
    middle = np.array([0.0, 0.42 * shape.length, 0.0])
    return PosedHand(mesh @ view.T, faces, len(hand), joints36 @ view.T, joints21 @ view.T, middle @ view.T)


def mirrored_hand(hand: PosedHand) -> PosedHand:
    """A right hand -> the left hand that is its mirror image."""
    across = np.array([-1.0, 1.0, 1.0])
    return hand._replace(
        vertices=hand.vertices * across,
        faces=np.ascontiguousarray(hand.faces[:, ::-1]),
        joints36=hand.joints36 * across,
        joints21=hand.joints21 * across,
        middle=hand.middle * across,
    )


def take_frame(
    rng: np.random.Generator,
    hand: PosedHand,
    background: np.ndarray | None,
    camera: Camera,
    size: Size,
    style: SensorStyle,
) -> Scene:
    """Render a hand in its place before a background (H, W) mm, and let the sensor see it."""
    sight = y_up(camera)
    exact = render_mesh(hand.vertices, hand.faces, sight, size)
    if background is not None:
        exact = nearest(exact, background)
    depth = apply_sensor(rng, exact, sight, style)
    mirror = np.array([1.0, -camera.flip, 1.0])
    joints36, joints21 = hand.joints36 * mirror, hand.joints21 * mirror
    return Scene(depth, exact, joints36, joints21, _estimated_center(rng, joints36))


def y_up(camera: Camera) -> Camera:
    """The camera that renders: left-handed like the hand's frame. One with y down mirrors the labels."""
    return camera._replace(flip=-1)


def sample_view(rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation (3, 3), hand frame to camera: every side of the hand, any turn within the image.

    Fingers rarely point away from the camera: then the forearm hides the hand.
    """
    kind = rng.random()
    if kind < 0.5:
        roll = rng.normal(0, 35)  # palm to the camera
    elif kind < 0.7:
        roll = rng.normal(180, 35)  # back
    else:
        roll = rng.uniform(-180, 180)
    tilt = rng.normal(25, 22) if rng.random() < 0.65 else rng.uniform(-35, 100)
    turn = rng.normal(0, 35) if rng.random() < 0.5 else rng.uniform(-180, 180)
    x, y, z = np.eye(3)
    return rotation(z, turn * _DEG) @ rotation(x, -tilt * _DEG) @ rotation(y, roll * _DEG)


def put_in_frame(
    rng: np.random.Generator,
    posed: PosedHand,
    shape: HandShape,
    camera: Camera,
    size: Size,
    distance: float | None = None,
) -> PosedHand:
    """A posed hand in its place, its forearm clear of the camera; `distance` in mm, None: drawn."""
    own = posed.vertices[: posed.num_own]
    hand = posed.moved_to(_place(rng, own - posed.middle, camera, size, distance))
    own, arm = np.split(hand.vertices, [hand.num_own])  # views
    arm[:] = _keep_off_lens(arm, own[shape.wrist_loop].mean(0))
    return hand


def _place(
    rng: np.random.Generator, hand: np.ndarray, camera: Camera, size: Size, distance: float | None = None
) -> np.ndarray:
    """Where the middle of a hand (V, 3) goes (3,), mm: all of it in the frame, or most.

    `distance` is where it fits in the frame, mm, else a little more; None: 400 to 1000.
    """
    frame = np.array(size[::-1])
    focal = np.array([camera.fx, camera.flip * camera.fy])
    if distance is None:
        distance = rng.uniform(400, 1000) if rng.random() < 0.5 else rng.uniform(600, 1000)
    partly_out, axis, far_side = rng.random() < _PARTLY_OUT, rng.integers(2), rng.random() < 0.5
    spot, cut = rng.random(2), rng.uniform(0.08, 0.35)
    while True:
        uv = camera.xyz_to_uvd(hand + np.array([0, 0, distance]))[:, :2]
        low, extent = uv.min(0), np.ptp(uv, axis=0)
        room = frame - 2 * _MARGIN - extent
        if (room > 0).all():
            break
        distance *= 1.15
    start = _MARGIN + spot * room
    if partly_out:
        start[axis] = frame[axis] - (1 - cut) * extent[axis] if far_side else -cut * extent[axis]
    middle = np.array([*((start - low) / focal * distance), distance])
    # Perspective: parts nearer than the middle moved further than it did.
    for _ in range(3):
        uv = camera.xyz_to_uvd(hand + middle)[:, :2]
        over = np.maximum(_MARGIN - uv.min(0), 0) - np.maximum(uv.max(0) - (frame - _MARGIN), 0)
        if partly_out:
            over[axis] = 0
        middle[:2] += over / focal * distance
    return middle


def _keep_off_lens(arm: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    """Shrink a forearm (N, 3) towards the wrist so far that it stays clear of the camera."""
    reach = wrist[2] - arm[:, 2].min()
    allowed = wrist[2] - _ARM_NEAREST
    return arm if reach <= allowed else wrist + (arm - wrist) * max(allowed / reach, 0.2)


def _estimated_center(rng: np.random.Generator, joints36: np.ndarray) -> np.ndarray:
    """The middle of the evaluated joints' bounding box (3,), with an error, as NYU's released centres."""
    joints = joints36[list(EVALUATED_JOINTS)]
    spread = _CENTER_ERROR / np.sqrt(_CENTER_TAIL / (_CENTER_TAIL - 2))
    return (joints.min(0) + joints.max(0)) / 2 + spread * rng.standard_t(_CENTER_TAIL, 3)
