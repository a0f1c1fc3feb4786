"""Depth frames of balls: around joints, and along the bones between them."""

from itertools import pairwise

import numpy as np


def render_balls(points_xyz, camera, frame_size, radius_mm):
    """A depth frame (H, W), mm, with a ball around every point (N, 3), mm; 0 behind them."""
    depth = np.full(frame_size, np.inf)
    rows, columns = np.indices(frame_size)
    for u, v, d in camera.xyz_to_uvd(np.asarray(points_xyz, np.float64).reshape(-1, 3)):
        radius = radius_mm * camera.fx / d
        box = tuple(slice(max(int(p - radius), 0), int(p + radius) + 2) for p in (v, u))
        inside = 1 - ((columns[box] - u) ** 2 + (rows[box] - v) ** 2) / radius**2
        front = d - radius_mm * np.sqrt(np.clip(inside, 0, None))
        depth[box] = np.where(inside > 0, np.minimum(depth[box], front), depth[box])
    return np.where(np.isfinite(depth), depth, 0)


def along_bones(joint_xyz, chains):
    """Five points (N, 3) on every bone, its ends among them."""
    bones = [(joint_xyz[a], joint_xyz[b]) for chain in chains for a, b in pairwise(chain)]
    return np.concatenate([np.linspace(a, b, 5) for a, b in bones])
