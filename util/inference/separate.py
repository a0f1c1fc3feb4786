"""Two hands near each other: each frame without the other's surface, so that a crop shows one hand.

Pure functions on arrays, for any camera.
"""

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from util.camera import Camera

DEPTH_EDGE = 20.0  # mm between neighbouring pixels; more is the end of a surface
STEP = 3  # pixels between those that say whose a surface is
OWN_SHARE = 0.25  # of a surface that lies nearer to a hand; less, and it is the other's


def without_others(
    frame: np.ndarray, camera: Camera, hands: Sequence[np.ndarray], cube: np.ndarray
) -> list[np.ndarray]:
    """For every hand the frame without surfaces that belong to another.

    A surface ends where depth jumps. It is taken out of a hand's frame if nearly all of it lies nearer to
    another hand. Two hands that touch share one surface, which both keep.

    Args:
        frame: (H, W) mm, 0 for no reading.
        camera: that took it.
        hands: points (n, 3) mm of each hand: its joints, or its centre alone.
        cube: (3,) edges of a hand's crop, mm.

    Returns:
        One frame a hand; `frame` itself where no other hand is within its crop.
    """
    frames = [frame] * len(hands)
    for i, j in combinations(range(len(hands)), 2):
        apart = np.abs(box_middle(hands[i]) - box_middle(hands[j]))
        if (apart >= cube).any():  # their crops cannot meet
            continue
        parts = _Parts(frame, camera, np.concatenate([hands[i], hands[j]]), cube)
        nearer_to_i = parts.share_nearer(hands[i], hands[j])
        frames[i] = parts.taken_out(frames[i], nearer_to_i < OWN_SHARE)
        frames[j] = parts.taken_out(frames[j], nearer_to_i > 1 - OWN_SHARE)
    return frames


class _Parts:
    """The surfaces in the part of a frame around some points."""

    def __init__(self, frame: np.ndarray, camera: Camera, points: np.ndarray, cube: np.ndarray):
        height, width = frame.shape
        around = np.concatenate([points - cube / 2, points + cube / 2])
        around[:, 2] = points[:, 2].min()
        uv = camera.xyz_to_uvd(around)[:, :2]
        left, top = np.clip(np.floor(uv.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(uv.max(axis=0)) + 1, 0, (width, height)).astype(int)
        self.window = np.s_[top:bottom, left:right]
        self.camera, self.corner = camera, np.array([left, top])
        self.depth = np.ascontiguousarray(frame[self.window], np.float32)
        near, far = points[:, 2].min() - cube[2] / 2, points[:, 2].max() + cube[2] / 2
        self.inside = (self.depth > near) & (self.depth < far)
        smooth = self.inside.copy()
        for axis in (0, 1):
            jump = np.abs(np.diff(self.depth, axis=axis)) > DEPTH_EDGE
            smooth &= ~np.pad(jump, [(0, 1) if axis == a else (0, 0) for a in (0, 1)])
        self.count, self.part = 1, np.zeros(smooth.shape, np.int32)
        if smooth.any():  # OpenCV ends the process for an image without pixels
            self.count, self.part = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)

    def share_nearer(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The share of every part (count,) that is nearer to one hand's points than to the other's."""
        part = self.part[::STEP, ::STEP]
        v, u = np.nonzero(part)
        uv = np.stack([u, v], axis=1) * STEP + self.corner
        uvd = np.column_stack([uv, self.depth[::STEP, ::STEP][v, u]])
        xyz, number = self.camera.uvd_to_xyz(uvd.astype(np.float64)), part[v, u]
        nearer = cKDTree(one).query(xyz)[0] < cKDTree(other).query(xyz)[0]
        size = np.bincount(number, minlength=self.count)
        share = np.bincount(number, nearer, minlength=self.count) / np.maximum(size, 1)
        return np.where(size > 0, share, 0.5)  # nobody's: both keep it

    def taken_out(self, frame: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """A copy of the frame with no readings on some of the parts (count,), nor at their rims."""
        parts[0] = False  # what lies between the parts
        if not parts.any():
            return frame
        gone, kept = parts[self.part], ~parts[self.part] & (self.part > 0)
        with_rim = cv2.dilate(gone.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        frame = frame.copy()
        frame[self.window][with_rim & ~kept & self.inside] = 0
        return frame


def box_middle(points: np.ndarray) -> np.ndarray:
    """Middle (3,) of the bounding box of points (n, 3)."""
    return (points.min(axis=0) + points.max(axis=0)) / 2
