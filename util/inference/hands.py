"""A hand in one frame, where one may be, and which of several answers are of one hand."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from dataloader.crop import Crop
from util import UserError
from util.camera import ACROSS, Camera

Side = Literal["right", "left"]
Handedness = Literal["auto", "right", "left"]
SIDES = ("right", "left")

SAME_HAND = 40.0  # mm between the joints of two poses, in the mean, up to which they are of one hand


class HandPose(NamedTuple):
    """A hand in one frame, in the frame's own camera.

    joints_xyz: (J, 3) float64 mm. joints_uvd: (J, 3) float64 full-frame pixels and mm.
    center_xyz: (3,) mm, centre of the crop. confidence: (J,) in [0, 1], higher means nearer the truth.
    crop: what the network saw, its image (S, S) in mm. weights: (J, F, F), each map sums to 1: how much
    each pixel of the crop counts for each joint; None unless asked for. joint_names: of the J joints.
    handedness: the side that it was taken for. identity: of a tracked hand, from 0, see `HandTracker`.
    spread_mm: (J,) of several networks' answers around their mean, None of one network.
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
    spread_mm: np.ndarray | None = None

    @property
    def mean_confidence(self) -> float:
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

    def is_same(self, other: "HandPose") -> bool:
        """Whether two poses are of one hand."""
        return self.distance(other) <= SAME_HAND

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
        names = ["joints_xyz", "joints_uvd", "center_xyz", "confidence"]
        for name in names + ["spread_mm"] * (self.spread_mm is not None):
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
    """A hand that may be there: `frame` (H, W) mm; `center` (3,) mm; `side` to take it for."""

    frame: np.ndarray
    center: np.ndarray
    side: Side


class Found(NamedTuple):
    """Hands in a frame, the most confident first; where there is none, the reason for people."""

    hands: list[HandPose]
    reason: str = ""


def most_confident(poses: Sequence[HandPose | None]) -> HandPose | None:
    """Of one hand's answers, say one a side, the one to believe; None where there is none."""
    return max(filter(None, poses), key=lambda pose: pose.mean_confidence, default=None)


def distinct(poses: Sequence[HandPose], known: Sequence[HandPose] = ()) -> list[HandPose]:
    """The poses of different hands, the most confident first and one a hand, without those `known`."""
    kept: list[HandPose] = []
    for pose in sorted(poses, key=lambda pose: -pose.mean_confidence):
        if all(not pose.is_same(other) for other in (*kept, *known)):
            kept.append(pose)
    return kept


def sides_of(handedness: Handedness, max_hands: int) -> tuple[Side, ...]:
    """The sides to try; refuses what is none, and a number of hands that is none."""
    if handedness not in ("auto", *SIDES):
        raise UserError(f"handedness is {handedness!r}: use 'auto', 'right' or 'left'.")
    if not isinstance(max_hands, int | np.integer) or max_hands < 1:
        raise UserError(f"max_hands is {max_hands}: it must be at least 1, and a whole number.")
    return SIDES if handedness == "auto" else (handedness,)
