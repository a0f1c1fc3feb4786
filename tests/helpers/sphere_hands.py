"""Hands of spheres, drawn at random in a moment, so that tests have frames to learn from."""

from pathlib import Path

import cv2
import numpy as np

from dataloader.nyu import CHAINS
from tests.helpers.balls import along_bones, render_balls
from tests.helpers.nyu_folder import write_nyu_folder
from util.camera import NYU_CAMERA

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
    balls = [along_bones(joints, CHAINS) for joints in joint_xyz]
    depth_frames = [render_balls(centers, NYU_CAMERA, (480, 640), 12.0) for centers in balls]
    write_nyu_folder(root, split, depth_frames, joint_xyz, joint_xyz.mean(axis=1))


def _draw_joints(rng: np.random.Generator) -> np.ndarray:
    """(14, 3) mm: the flat hand, each finger bent a little, turned and moved."""
    joints = FLAT_HAND * rng.uniform(0.9, 1.1)
    for chain in CHAINS:
        joints[list(chain[1:]), 2] += rng.uniform(-25, 25)
    turn, _ = cv2.Rodrigues(rng.normal(0, (0.3, 0.3, 0.3)))
    return joints @ turn.T + rng.uniform((-80, -60, 700), (80, 60, 900))
