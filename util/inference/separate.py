"""A frame for each hand, without surfaces that are not the hand's, so that a crop shows one hand.

Pure functions on arrays, for any camera.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial.distance import cdist

from util.camera import Camera

GRID = 3.0  # mm between the pixels that show whether there is anything to take out
DEPTH_EDGE = 20.0  # mm between neighbours; more is the end of a surface
OWN_SHARE = 0.25  # of a surface that lies nearer to a hand; less, and it is another's
# Of a hand's surface, so much lies within so many mm of its joints a frame ago; of another's hardly any.
NEAR_SHARE, NEAR = 0.25, 40.0
FINGERS = 1500.0  # mm²; a smaller surface may be a finger of the hand whose joints were not found


def without_others(
    frame: np.ndarray,
    camera: Camera,
    hands: Sequence[np.ndarray],
    cube: np.ndarray,
    strangers: bool = False,
    reach: float = np.inf,
) -> list[np.ndarray]:
    """For every hand the frame without surfaces that are not its own.

    A surface ends where depth jumps. It is taken out of a hand's frame if nearly all of it lies nearer to
    another hand. Two hands that touch share one surface, which both keep.

    Args:
        frame: (H, W) mm, 0 for no reading.
        camera: that took it.
        hands: joints (n, 3) mm of each hand.
        cube: (3,) edges of a hand's crop, mm.
        strangers: take out as well what little of is near a hand: another, which is not among `hands`.
        reach: mm from a hand's joints; what is farther is taken out.

    Returns:
        One frame a hand; `frame` itself where there is nothing to take out.
    """
    frames = []
    for i, joints in enumerate(hands):
        others, own_frame = (*hands[:i], *hands[i + 1 :]), frame
        step = max(1, round(GRID * camera.fx / joints[:, 2].mean()))
        window, gone = _foreign(frame, camera, joints, others, cube, strangers, reach, step)
        if gone.any():
            if step > 1:
                window, gone = _foreign(frame, camera, joints, others, cube, strangers, reach, 1)
            own_frame = frame.copy()
            own_frame[window][gone] = 0
        frames.append(own_frame)
    return frames


def _foreign(
    frame: np.ndarray,
    camera: Camera,
    joints: np.ndarray,
    others: Sequence[np.ndarray],
    cube: np.ndarray,
    strangers: bool,
    reach: float,
    step: int,
) -> tuple[tuple[slice, slice], np.ndarray]:
    """What to take out of one hand's frame: a window of it, every `step`-th pixel, and a mask of these."""
    low, high = joints.min(axis=0) - cube / 2, joints.max(axis=0) + cube / 2
    corners = np.array([low, high])
    corners[:, 2] = joints[:, 2].min()
    uv, size = camera.xyz_to_uvd(corners)[:, :2], frame.shape[::-1]
    left, top = np.clip(np.floor(uv.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(uv.max(axis=0)) + 1, 0, size).astype(int)
    window = np.s_[top:bottom:step, left:right:step]
    depth = frame[window]
    inside = (depth > low[2]) & (depth < high[2])
    part = _surfaces(depth, inside)
    v, u = np.nonzero(inside)
    uvd = np.stack([left + step * u, top + step * v, depth[v, u]], axis=1)
    xyz = camera.uvd_to_xyz(uvd.astype(np.float64))
    own, mine = cdist(xyz, joints).min(axis=1), np.ones(len(xyz), bool)
    for other in others:
        mine &= own < cdist(xyz, other).min(axis=1)
    shown = (np.abs(xyz - (low + high) / 2) < cube / 2).all(axis=1)
    masks = (np.ones(len(xyz)), mine, shown, shown & (own < NEAR))
    size, nearer, shown, near = (np.bincount(part[v, u], mask, part.max(initial=0) + 1) for mask in masks)
    area = shown * (step * joints[:, 2].mean()) ** 2 / (camera.fx * camera.fy)
    stranger = (near < NEAR_SHARE * shown) & (area > FINGERS)
    stranger[np.argmax(near)] = False
    foreign = (nearer < OWN_SHARE * size) | (stranger & strangers)
    foreign[0] = False  # the ends of surfaces: they go with what they touch
    gone = foreign[part]
    if gone.any():
        gone |= (cv2.dilate(gone.astype(np.uint8), np.ones((5, 5))) > 0) & (part == 0) & inside
    gone[v, u] |= own > reach
    return window, gone


def _surfaces(depth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Number of the connected surface of each pixel (H, W) that is inside; 0 at its ends, and outside."""
    smooth = inside.copy()
    smooth[:, :-1] &= np.abs(np.diff(depth, axis=1)) <= DEPTH_EDGE
    smooth[:-1] &= np.abs(np.diff(depth, axis=0)) <= DEPTH_EDGE
    if not smooth.any():  # OpenCV ends the process for an image without pixels
        return np.zeros(depth.shape, np.int32)
    return cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)[1]
