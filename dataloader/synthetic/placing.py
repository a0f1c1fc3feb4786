"""A hand with its forearm: posed, turned, and put in its place before the camera."""

from typing import NamedTuple

import numpy as np

from dataloader.synthetic.hand.forearm import Forearm, attach_forearm
from dataloader.synthetic.hand.landmarks import label_joints
from dataloader.synthetic.hand.skeleton import HandShape, JointAngles, bend_wrist, pose_joints, rotation, skin
from dataloader.synthetic.render import Size
from util.camera import Camera

_DEG = np.pi / 180
_PARTLY_OUT = 0.05  # share of frames whose hand the frame's border cuts
_MARGIN = 6  # px between hand and border otherwise
_ARM_NEAREST = 180.0  # mm; a forearm that came nearer to the camera is cut shorter


class PosedHand(NamedTuple):
    """A hand and its forearm, posed and turned; mm, y up, z away from the viewer."""

    vertices: np.ndarray  # (V, 3), the hand's own first
    faces: np.ndarray  # (F, 3) int32
    num_own: int  # number of the hand's own vertices
    joints36: np.ndarray  # (36, 3), NaN but for NYU's 14 evaluated slots
    joints21: np.ndarray  # (21, 3), wrist, then each finger from its base to the tip
    middle: np.ndarray  # (3,) of the hand

    def moved_to(self, place: np.ndarray) -> "PosedHand":
        """The hand with its middle at `place` (3,)."""
        shift = place - self.middle
        vertices, joints36, joints21 = (x + shift for x in (self.vertices, self.joints36, self.joints21))
        return self._replace(vertices=vertices, joints36=joints36, joints21=joints21, middle=place)

    def mirrored(self) -> "PosedHand":
        """The left hand that is this right one's mirror image."""
        across = np.array([-1.0, 1.0, 1.0])
        return PosedHand(
            self.vertices * across,
            np.ascontiguousarray(self.faces[:, ::-1]),
            self.num_own,
            self.joints36 * across,
            self.joints21 * across,
            self.middle * across,
        )


def pose_hand(shape: HandShape, angles: JointAngles, forearm: Forearm, view: np.ndarray) -> PosedHand:
    """Pose a hand, attach its forearm, and turn both by `view` (3, 3) about the wrist."""
    rotations, joints = pose_joints(shape, angles)
    hand = skin(shape, rotations, joints)
    mesh, faces = attach_forearm(hand, shape.faces, shape.wrist_loop, forearm)
    mesh = bend_wrist(mesh, angles.wrist)
    joints36, joints21 = label_joints(shape, rotations, joints)
    middle = np.array([0.0, 0.42 * shape.length, 0.0])
    return PosedHand(mesh @ view.T, faces, len(hand), joints36 @ view.T, joints21 @ view.T, middle @ view.T)


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
    return view_of(turn * _DEG, tilt * _DEG, roll * _DEG)


def view_of(turn: float, tilt: float, roll: float) -> np.ndarray:
    """A rotation (3, 3), hand frame to camera, of a turn in the image, a tilt and a roll; radians."""
    x, y, z = np.eye(3)
    return rotation(z, turn) @ rotation(x, -tilt) @ rotation(y, roll)


def put_in_frame(
    rng: np.random.Generator, posed: PosedHand, shape: HandShape, camera: Camera, size: Size, distance: float
) -> PosedHand:
    """A posed hand at a distance (mm) that fits it in the frame, else a little farther; its forearm is clear
    of the camera."""
    own = posed.vertices[: posed.num_own]
    hand = posed.moved_to(_place(rng, own - posed.middle, camera, size, distance))
    own, arm = np.split(hand.vertices, [hand.num_own])  # views
    wrist = own[shape.wrist_loop].mean(0)
    reach, allowed = wrist[2] - arm[:, 2].min(), wrist[2] - _ARM_NEAREST
    if reach > allowed:
        arm[:] = wrist + (arm - wrist) * max(allowed / reach, 0.2)
    return hand


def _place(
    rng: np.random.Generator, hand: np.ndarray, camera: Camera, size: Size, distance: float
) -> np.ndarray:
    """Where the middle of a hand (V, 3) goes (3,), mm: all of it in the frame, or most."""
    frame = np.array(size[::-1])
    focal = np.array([camera.fx, camera.flip * camera.fy])
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
