"""What the network's answers mean: is it a hand, which side is it, are two answers of one hand."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from dataloader.crop import Crop, crop_hand
from util import UserError
from util.camera import Camera

Side = Literal["right", "left"]
Handedness = Literal["auto", "right", "left"]
SIDES = ("right", "left")
ACROSS = (-1.0, 1.0, 1.0)  # times xyz: mirrored left to right

NEAREST = 1.0  # mm; a centre before it is in the lens, and its pixels overflow
HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck
SAME_HAND = 40.0  # mm between the joints of two answers, in the mean, below which they are of one hand
CENTER_MOVED = 15.0  # mm from the centre to the joints' middle; a found hand is cropped again beyond
CUT_OFF = 30.0  # the same of a followed hand: beyond, the crop may cut off a finger
# The answer at the rough centre may have so much less confidence than the other side's, and than
# min_confidence, to be cropped again: that adds at most 0.15.
SIDE_MARGIN, MOST_GAIN = 0.1, 0.15


class HandPose(NamedTuple):
    """A hand in one frame, in the frame's own camera.

    joints_xyz: (J, 3) float64 mm. joints_uvd: (J, 3) float64 full-frame pixels and mm.
    center_xyz: (3,) mm, centre of the crop. confidence: (J,) in [0, 1], higher means nearer the truth.
    crop: what the network saw, its image (S, S) in mm. weights: (J, F, F), each map sums to 1: how much
    each pixel of the crop counts for each joint; None unless asked for. joint_names: of the J joints.
    handedness: the side that it was taken for. identity: of a tracked hand, from 0, see `HandTracker`.
    """

    joints_xyz: np.ndarray
    joints_uvd: np.ndarray
    center_xyz: np.ndarray
    confidence: np.ndarray
    crop: Crop
    weights: np.ndarray | None = None
    joint_names: tuple[str, ...] = ()
    handedness: Side = "right"
    identity: int = 0

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the joints."""
        return float(self.confidence.mean())

    @property
    def middle(self) -> np.ndarray:
        """Where to crop for this hand: (3,) mm, the middle of the joints' bounding box."""
        return (self.joints_xyz.min(axis=0) + self.joints_xyz.max(axis=0)) / 2

    @property
    def off_center(self) -> float:
        """How far the middle of the joints lies from that of the crop, mm."""
        return float(np.linalg.norm(self.middle - self.center_xyz))

    def distance(self, other: "HandPose") -> float:
        """Mean distance of the joints of two poses, mm, whatever finger each is of: sides may differ."""
        apart = cdist(self.joints_xyz, other.joints_xyz)
        return float((apart.min(axis=0).mean() + apart.min(axis=1).mean()) / 2)

    def shown_area(self, camera: Camera, reach: float = np.inf) -> float:
        """Area of what the crop shows within `reach` mm of a joint, mm² facing the camera."""
        image, M = self.crop.image, self.crop.M.astype(np.float64)
        v, u = np.nonzero(image)
        uv, d = (np.stack([u, v], axis=1) - M[:2, 2]) / M[0, 0], image[v, u].astype(np.float64)
        near = cdist(camera.uvd_to_xyz(np.column_stack([uv, d])), self.joints_xyz).min(axis=1) <= reach
        return float((d[near] ** 2).sum() / (M[0, 0] ** 2 * camera.fx * camera.fy))

    def to_dict(self) -> dict:
        """The pose as lists and strings, for JSON, to three digits; without the crop and the weights."""
        about = {"identity": self.identity, "handedness": self.handedness, "joint_names": [*self.joint_names]}
        for name in ("joints_xyz", "joints_uvd", "center_xyz", "confidence"):
            # In float32, three digits would be printed as eleven.
            about[name] = np.asarray(getattr(self, name), np.float64).round(3).tolist()
        return about

    def mirrored(self, width: int) -> "HandPose":
        """The pose in the frame mirrored left to right, which is `width` pixels wide."""
        image, M = self.crop.image[:, ::-1], self.crop.M.copy()
        M[0, 2] = image.shape[1] - 1 - M[0, 0] * (width - 1) - M[0, 2]
        center = self.center_xyz * ACROSS
        return self._replace(
            joints_xyz=self.joints_xyz * ACROSS,
            joints_uvd=self.joints_uvd * ACROSS + (width - 1, 0, 0),
            center_xyz=center,
            crop=self.crop._replace(image=image, center_xyz=center, M=M),
            weights=None if self.weights is None else self.weights[..., ::-1],
            handedness="left" if self.handedness == "right" else "right",
        )


class Candidate(NamedTuple):
    """A hand that may be there: `frame` (H, W) mm; `center` (3,) mm, NaN for none; `side` to take it for."""

    frame: np.ndarray
    center: np.ndarray
    side: Side

    def crop(self, camera: Camera, cube: np.ndarray, img_size: int) -> Crop | None:
        """What the network is to see, a left hand as a right one; None where nothing was measured."""
        frame, center, side = self
        if not center[2] >= NEAREST:  # NaN: there is no centre
            return None
        if side == "left":
            frame, camera, center = frame[:, ::-1], camera.mirrored(frame.shape[1]), center * ACROSS
        try:
            crop = crop_hand(frame, camera, center, cube, img_size)
        except UserError:
            return None  # outside the frame, or too far away to be seen
        return crop if crop.image.any() else None


class Found(NamedTuple):
    """Hands in a frame, the most confident first; where there is none, the reason for people."""

    hands: list[HandPose]
    reason: str = ""


def why_no_hand(pose: HandPose | None, camera: Camera, min_confidence: float) -> str:
    """Why an answer is not taken for a hand, for people; empty where it is one."""
    if pose is None:
        return "nothing was measured around the centre"
    if pose.mean_confidence < min_confidence:
        return f"low confidence: {pose.mean_confidence:.2f}"
    return "too small for a hand" if pose.shown_area(camera) < HAND_AREA else ""


def is_hand(pose: HandPose | None, camera: Camera, min_confidence: float) -> bool:
    """Whether an answer is taken for a hand: a network answers for every crop, also for a wall."""
    return not why_no_hand(pose, camera, min_confidence)


def most_confident(poses: Sequence[HandPose | None]) -> HandPose | None:
    """Of one hand's answers, say one a side, the one to believe; None where there is none."""
    return max(filter(None, poses), key=lambda pose: pose.mean_confidence, default=None)


def to_crop_again(answers: Sequence[HandPose | None], min_confidence: float) -> list[HandPose]:
    """Of the answers at a rough centre, one a side, those that deserve a crop around their joints.

    None where the joints of all that may be right lie in the middle of the crop already.
    """
    answers = list(filter(None, answers))
    best = max((pose.mean_confidence for pose in answers), default=0.0)
    least = max(best - SIDE_MARGIN, min_confidence - MOST_GAIN)
    likely = [pose for pose in answers if pose.mean_confidence >= least]
    return likely if any(pose.off_center > CENTER_MOVED for pose in likely) else []


def distinct(poses: Sequence[HandPose | None], known: Sequence[HandPose] = ()) -> list[HandPose]:
    """The poses of different hands, the most confident first and one a hand, without those `known`."""
    kept: list[HandPose] = []
    for pose in sorted(filter(None, poses), key=lambda pose: -pose.mean_confidence):
        if all(pose.distance(other) > SAME_HAND for other in (*kept, *known)):
            kept.append(pose)
    return kept


def sides_of(handedness: Handedness) -> tuple[Side, ...]:
    """The sides to try."""
    if handedness not in ("auto", *SIDES):
        raise UserError(f"handedness is {handedness!r}: use 'auto', 'right' or 'left'.")
    return SIDES if handedness == "auto" else (handedness,)


def check_max_hands(max_hands: int) -> None:
    """Refuse a number of hands that is none."""
    if not isinstance(max_hands, int | np.integer) or max_hands < 1:
        raise UserError(f"max_hands is {max_hands}: it must be at least 1, and a whole number.")
