"""A frame for each hand, without what is another hand's, so that a crop shows one hand."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from util.camera import Camera


def without_others(
    frame: np.ndarray, camera: Camera, hands: Sequence[np.ndarray], cube: np.ndarray
) -> list[np.ndarray]:
    """For every hand the frame without what lies nearer to another hand's joints than to its own.

    Args:
        frame: (H, W) mm, 0 for no reading.
        camera: that took it.
        hands: joints (n, 3) mm of each hand.
        cube: (3,) edges of a hand's crop, mm; only what a crop near the joints may show is looked at.
    """
    frames = []
    for i, joints in enumerate(hands):
        low, high = joints.min(axis=0) - cube / 2, joints.max(axis=0) + cube / 2
        corners = np.array([low, high])
        corners[:, 2] = max(low[2], 1.0)
        uv, size = camera.xyz_to_uvd(corners)[:, :2], frame.shape[::-1]
        left, top = np.clip(np.floor(uv.min(axis=0)), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(uv.max(axis=0)) + 1, 0, size).astype(int)
        own_frame = frame.copy()
        window = own_frame[top:bottom, left:right]
        v, u = np.nonzero((window > low[2]) & (window < high[2]))
        xyz = camera.uvd_to_xyz(np.stack([u + left, v + top, window[v, u]], axis=1).astype(np.float64))
        own = cdist(xyz, joints).min(axis=1)
        for other in (*hands[:i], *hands[i + 1 :]):
            gone = cdist(xyz, other).min(axis=1) < own
            window[v[gone], u[gone]] = 0
        frames.append(own_frame)
    return frames
