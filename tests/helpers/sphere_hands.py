"""Hands of spheres, drawn at random in a moment, so that tests have frames to learn from."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from dataloader.nyu import CHAINS
from tests.helpers.nyu_folder import write_nyu_folder
from util.camera import NYU_CAMERA

HEIGHT, WIDTH = 480, 640
RADIUS_MM = 12.0

# A flat right hand, mm, palm at the origin, fingers along +y, in the order of the joint names.
FLAT_HAND = np.array(
    [
        *[(-45, 80, 0), (-38, 45, 0), (-20, 100, 0), (-17, 55, 0), (5, 105, 0), (4, 58, 0), (30, 95, 0)],
        *[(25, 52, 0), (75, 40, 0), (60, 15, 0), (38, -15, 0), (-22, -55, 0), (22, -55, 0), (0, 0, 0)],
    ],
    np.float64,
)


def write_sphere_hands(root: Path, split: str, count: int, seed: int = 0) -> None:
    """`count` frames of randomly placed and turned hands of spheres."""
    rng = np.random.default_rng(seed)
    joint_xyz = np.stack([_draw_joints(rng) for _ in range(count)])
    depth_frames = np.stack([_render(joints) for joints in joint_xyz])
    write_nyu_folder(root, split, depth_frames, joint_xyz, joint_xyz.mean(axis=1))


def _draw_joints(rng: np.random.Generator) -> np.ndarray:
    """(14, 3) mm: the flat hand, each finger bent a little, turned and moved."""
    joints = FLAT_HAND * rng.uniform(0.9, 1.1)
    for chain in CHAINS:
        joints[list(chain[1:]), 2] += rng.uniform(-25, 25)
    turn, _ = cv2.Rodrigues(rng.normal(0, (0.3, 0.3, 0.3)))
    return joints @ turn.T + rng.uniform((-80, -60, 700), (80, 60, 900))


def _render(joint_xyz: np.ndarray) -> np.ndarray:
    """(480, 640) mm: spheres on the joints and along the fingers."""
    ends = [(a, b) for chain in CHAINS for a, b in pairwise(chain)]
    along = np.linspace(0, 1, 5)[:, None]
    centers = np.concatenate([joint_xyz[a] * (1 - along) + joint_xyz[b] * along for a, b in ends])
    depth = np.full((HEIGHT, WIDTH), np.inf)
    for (u, v, z), radius_px in zip(
        NYU_CAMERA.xyz_to_uvd(centers), RADIUS_MM * NYU_CAMERA.fx / centers[:, 2], strict=True
    ):
        top, left = int(v - radius_px), int(u - radius_px)
        rows, columns = np.ogrid[top : int(v + radius_px) + 2, left : int(u + radius_px) + 2]
        height = 1 - ((columns - u) ** 2 + (rows - v) ** 2) / radius_px**2
        surface = np.where(height > 0, z - RADIUS_MM * np.sqrt(np.maximum(height, 0)), np.inf)
        window = depth[top : top + len(rows), left : left + columns.shape[1]]
        np.minimum(window, surface, out=window)
    return np.where(np.isfinite(depth), depth, 0)
