"""A frame for each hand, without surfaces that are not the hand's, so that a crop shows one hand.

Pure functions on arrays, for any camera.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree

from util.camera import Camera

DEPTH_EDGE = 20.0  # mm between neighbouring pixels; more is the end of a surface
STEP = 3  # pixels between those that say whose a surface is
OWN_SHARE = 0.25  # of a surface that lies nearer to a hand; less, and it is another's
# So much of a hand's surface in its crop lies within so many mm of its joints. Of 134 surfaces of rendered
# moving hands, with the joints of the frame before, 0.44 or more did; of most other hands nothing.
NEAR_SHARE, NEAR = 0.25, 40.0
FINGERS = 1500.0  # mm²; a smaller surface may be a finger of the hand whose joints were not found


def without_others(
    frame: np.ndarray,
    camera: Camera,
    hands: Sequence[np.ndarray],
    cube: np.ndarray,
    strangers: bool = False,
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

    Returns:
        One frame a hand; `frame` itself where there is nothing to take out.
    """
    frames = []
    for i, joints in enumerate(hands):
        window, inside, parts = _surfaces(frame, camera, joints, cube)
        depth, part = frame[window][::STEP, ::STEP], parts[::STEP, ::STEP]
        v, u = np.nonzero(part)
        uv = np.stack([u, v], axis=1) * STEP + (window[1].start, window[0].start)
        xyz = camera.uvd_to_xyz(np.column_stack([uv, depth[v, u]]).astype(np.float64))
        own, middle = cKDTree(joints).query(xyz)[0], (joints.min(axis=0) + joints.max(axis=0)) / 2
        in_crop = (np.abs(xyz - middle) < cube / 2).all(axis=1)
        others = np.concatenate([np.full((1, 3), np.inf), *hands[:i], *hands[i + 1 :]])[1:]
        nearer = own < cKDTree(others).query(xyz)[0] if len(others) else np.ones(len(own), bool)
        count = parts.max(initial=0) + 1
        size, nearer, shown, near = (
            np.bincount(part[v, u], mask, count)
            for mask in (own < np.inf, nearer, in_crop, in_crop & (own < NEAR))
        )
        area = shown * (STEP * joints[:, 2].mean()) ** 2 / (camera.fx * camera.fy)
        stranger = (near < NEAR_SHARE * shown) & (area > FINGERS)
        stranger[np.argmax(near)] = False
        foreign = (nearer < OWN_SHARE * size) | (stranger & strangers)
        gone, kept = foreign[parts], ~foreign[parts] & (parts > 0)
        own_frame = frame
        if gone.any():  # with their rims
            gone = cv2.dilate(gone.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            own_frame = frame.copy()
            own_frame[window][gone & ~kept & inside] = 0
        frames.append(own_frame)
    return frames


def near_joints(frame: np.ndarray, camera: Camera, joints: np.ndarray, reach: float) -> np.ndarray:
    """A frame (H, W) mm that shows only what lies within `reach` mm of joints (n, 3) mm."""
    window = _surfaces(frame, camera, joints, np.full(3, 2 * reach))[0]
    v, u = np.nonzero(frame[window])
    uvd = np.stack([u + window[1].start, v + window[0].start, frame[window][v, u]], axis=1)
    xyz = camera.uvd_to_xyz(uvd.astype(np.float64))
    keep = cKDTree(joints).query(xyz)[0] < reach
    cut = np.zeros_like(frame)
    cut[window][v[keep], u[keep]] = frame[window][v[keep], u[keep]]
    return cut


def _surfaces(
    frame: np.ndarray, camera: Camera, joints: np.ndarray, cube: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The window of a frame around joints (n, 3) mm; which of its pixels are within the hand's depth; and the
    number of the surface that each lies on, 0 for none."""
    around = np.concatenate([joints - cube / 2, joints + cube / 2])
    near, far = around[:, 2].min(), around[:, 2].max()
    around[:, 2] = joints[:, 2].min()
    uv, (height, width) = camera.xyz_to_uvd(around)[:, :2], frame.shape
    left, top = np.clip(np.floor(uv.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(uv.max(axis=0)) + 1, 0, (width, height)).astype(int)
    window = np.s_[top:bottom, left:right]
    depth = frame[window]
    inside = (depth > near) & (depth < far)
    smooth = inside.copy()
    for axis in (0, 1):
        jump = np.abs(np.diff(depth, axis=axis)) > DEPTH_EDGE
        smooth &= ~np.pad(jump, [(0, 1) if axis == a else (0, 0) for a in (0, 1)])
    parts = np.zeros(smooth.shape, np.int32)
    if smooth.any():  # OpenCV ends the process for an image without pixels
        parts = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)[1]
    return window, inside, parts
