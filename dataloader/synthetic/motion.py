"""Hands that move: smooth, endless, and the same for the same seed, for demos and for tests of tracking.

Every few tenths of a second the hand reaches a drawn pose, view and place, and moves smoothly between
them. Frame i is a function of the seed and i alone, so frames can be rendered in any order.
"""

from functools import lru_cache, reduce
from typing import NamedTuple

import numpy as np

from dataloader.nyu import EVALUATED_JOINTS
from dataloader.synthetic.hand.bank import Shapes
from dataloader.synthetic.hand.forearm import sample_forearm
from dataloader.synthetic.hand.pose import sample_pose
from dataloader.synthetic.hand.skeleton import JointAngles, unit
from dataloader.synthetic.objects import Thing, mesh_of
from dataloader.synthetic.placing import PosedHand, pose_hand, view_of
from dataloader.synthetic.render import Size, covered, nearest, render_mesh, y_up
from dataloader.synthetic.sensor import SensorStyle, apply_sensor
from util.camera import Camera

FRAMES_A_POSE = 24  # 0.8 s at 30 frames a second
LEAVE_PERIOD = 150  # frames; at the end of each the hand goes, stays away, and comes back
_ON_THE_WAY, _AWAY = 15, 30  # frames to go or to come, and outside
_NEAREST, _FARTHEST = 480.0, 720.0  # mm
# Of two hands: the right one is the nearer, and they cross without touching.
_CROSSING_PERIOD = 200  # frames; each side of the frame belongs to either hand once in it
_SWING = 0.2  # share of the frame's width, from the middle to each side
_LANES = ((470.0, 540.0), (650.0, 740.0))  # mm
_ARM_NEAREST = 250.0  # mm
# Of the body: middles and radii of torso, shoulders, neck and head, and where the upper arms begin; mm, y up.
_BODY = (
    ((60.0, -430.0, 1050.0), (175.0, 340.0, 105.0)),
    ((60.0, -185.0, 1050.0), (205.0, 110.0, 95.0)),
    ((60.0, -50.0, 1040.0), (58.0, 110.0, 58.0)),
    ((60.0, 135.0, 1030.0), (76.0, 112.0, 95.0)),
)
_SHOULDERS = ((-125.0, -160.0, 1040.0), (245.0, -160.0, 1040.0))
_DEG = np.pi / 180
# A good sensor: the motion is what such a clip is for, the full range of sensors is in the data set.
_SENSOR = SensorStyle(40.0, 0, 0.5, 0.3, (2, 2), 3, 0.05, 0.4, 3, 16.0, 0.2, 0.0)


class MovingFrame(NamedTuple):
    """A frame and what is true of its hand; of two, arrays of both, the right one first."""

    depth: np.ndarray  # (H, W) uint16 mm, 0 = no reading
    joint_xyz: np.ndarray  # (14, 3) or (2, 14, 3) mm, NYU's evaluated joints
    visible: np.ndarray  # () or (2,): all joints are in the frame, another hand covers a third at most


class MovingHand:
    """A right hand before any pinhole camera, with frames of `size`, (height, width).

    `leaves`: whether each hand leaves the frame for a second every five. `body`: whether their owner's body
    is behind them.
    """

    lanes = (None,)  # of each hand

    def __init__(
        self,
        shapes: Shapes,
        seed: int,
        camera: Camera,
        size: Size = (480, 640),
        leaves: bool = False,
        body: bool = False,
    ):
        self.seed, self.camera, self.size = len(self.lanes) * seed, camera, size
        self.hands = [
            _Mover(shapes, self.seed + (lane or 0), y_up(camera), size, leaves, lane) for lane in self.lanes
        ]
        self.body = body

    def frame(self, i: int) -> MovingFrame:
        """Render frame i."""
        sight = y_up(self.camera)
        posed = [hand.posed(i) for hand in self.hands]
        layers = [render_mesh(hand.vertices, hand.faces, sight, self.size) for hand in posed]
        behind = []
        if self.body:
            behind = [render_mesh(*_body_mesh([hand.vertices[-1] for hand in posed]), sight, self.size)]
        rng = np.random.default_rng((self.seed, 1, i))
        depth = apply_sensor(rng, reduce(nearest, layers + behind), sight, _SENSOR)
        mirror = np.array([1.0, -self.camera.flip, 1.0])
        joint_xyz = np.stack([hand.joints36[list(EVALUATED_JOINTS)] * mirror for hand in posed])
        visible = [self._is_visible(k, joints, layers) for k, joints in enumerate(joint_xyz)]
        if len(posed) == 1:
            joint_xyz, (visible,) = joint_xyz[0], visible
        return MovingFrame(depth, joint_xyz, np.array(visible))

    def _is_visible(self, k: int, joints: np.ndarray, layers: list[np.ndarray]) -> bool:
        """Whether hand k's joints (14, 3) lie in the frame, and no other hand's layer (H, W) covers many."""
        uv = self.camera.xyz_to_uvd(joints)[:, :2]
        inside = bool(((uv >= 0) & (uv < self.size[::-1])).all())
        others = layers[:k] + layers[k + 1 :]
        return inside and all(covered(joints, other, self.camera) <= 1 / 3 for other in others)


class TwoMovingHands(MovingHand):
    """A right and a left hand of two shapes, which cross again and again; arguments as of `MovingHand`."""

    lanes = (0, 1)


class _Mover:
    """One hand; `camera` has y up; `lane`: 0 the right, 1 the left of two, None where it is alone."""

    def __init__(self, shapes: Shapes, seed: int, camera: Camera, size: Size, leaves: bool, lane: int | None):
        rng = np.random.default_rng(seed)
        self.shape = shapes.sample_shape(rng)
        self.forearm = sample_forearm(rng, self.shape)
        self.seed, self.camera, self.size, self.leaves, self.lane = seed, camera, size, leaves, lane
        self._key = lru_cache(maxsize=64)(self._draw_key)

    def posed(self, i: int) -> PosedHand:
        """The hand in its place at frame i; mm, y up."""
        number, step = divmod(i, FRAMES_A_POSE)
        share = _smooth(step / FRAMES_A_POSE)
        before_after = zip(self._key(number), self._key(number + 1), strict=True)
        *angles, view, place = (a + (b - a) * share for a, b in before_after)
        hand = pose_hand(self.shape, JointAngles(*angles), self.forearm, view_of(*view))
        hand = (hand.mirrored() if self.lane == 1 else hand).moved_to(self._place(i, *place))
        # An arm that came up to the lens would hide the hand.
        hand.vertices[:, 2] = np.maximum(hand.vertices[:, 2], _ARM_NEAREST)
        return hand

    def _place(self, i: int, u: float, v: float, depth: float) -> np.ndarray:
        """Where the hand's middle is (3,), mm, at frame i; u and v are shares of the frame."""
        height, width = self.size
        if self.lane is not None:
            near, far = _LANES[self.lane]
            depth = near + (depth - _NEAREST) / (_FARTHEST - _NEAREST) * (far - near)
            swing = _SWING * np.cos(2 * np.pi * i / _CROSSING_PERIOD)
            u = 0.5 + (u - 0.5) / 2 + (swing if self.lane else -swing)
        uvd = np.array([u * width + self._away(i) * 0.9 * width, v * height, depth])
        return self.camera.uvd_to_xyz(uvd)

    def _away(self, i: int) -> float:
        """How far the hand has gone, from 0 to 1."""
        if not self.leaves:
            return 0.0
        if self.lane == 1:  # not both at once
            i += LEAVE_PERIOD // 2
        # Frames from the middle of its absence.
        distance = abs(i % LEAVE_PERIOD - (LEAVE_PERIOD - _ON_THE_WAY - _AWAY / 2))
        return _smooth(1 - np.clip((distance - _AWAY / 2) / _ON_THE_WAY, 0, 1))

    def _draw_key(self, number: int) -> tuple[np.ndarray, ...]:
        """The joints' angles; view (3,): turn, tilt, roll; place (3,): u, v as shares of the frame, z mm."""
        rng = np.random.default_rng((self.seed, 0, number))
        # The palm more or less to the camera, so that a viewer sees a hand and not a puzzle.
        view = np.array([rng.normal(0, 25), rng.normal(15, 15), rng.normal(0, 30)]) * _DEG
        place = np.array([rng.uniform(0.4, 0.6), rng.uniform(0.42, 0.58), rng.uniform(_NEAREST, _FARTHEST)])
        return *sample_pose(rng, self.shape), view, place


def _body_mesh(elbows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Torso, neck, head, and the upper arms to the elbows (3,), right and left: vertices, faces."""
    parts = [Thing("ball", np.array(middle), np.eye(3), np.array(radii)) for middle, radii in _BODY]
    for shoulder, elbow in zip(_SHOULDERS, elbows, strict=False):
        along = elbow - shoulder
        across = unit(np.cross(along, [0.0, 0.0, 1.0]))
        axes = np.stack([across, unit(np.cross(along, across)), unit(along)])
        half = np.array([50.0, 50.0, np.linalg.norm(along) / 2 + 50])
        parts.append(Thing("ball", (shoulder + elbow) / 2, axes, half))
    meshes = [mesh_of(part) for part in parts]
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces).astype(np.int32)


def _smooth(share: float) -> float:
    """Ease in and out: 0 to 1 with no jump in speed."""
    return share * share * (3 - 2 * share)
