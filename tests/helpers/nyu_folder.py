"""Write a folder in NYU's layout (docs/spec.md §1), for tests."""

from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.io import savemat

from dataloader.nyu import EVALUATED_JOINTS, FRAME_NAME
from tests.helpers.balls import render_balls
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint

SMALL = ModelSpec("resnet_18", 14, 4, 1.0, "nyu", 64)

OPEN_HAND_MM = np.array(
    [
        *((-60, 70), (-50, 40), (-30, 100), (-25, 55), (0, 110), (0, 60), (30, 100), (25, 55)),
        *((75, 20), (60, 0), (40, -20), (-25, -75), (25, -75), (0, 0)),
    ],
    np.float64,
)


def open_hand(center_xyz):
    """14 joints of a flat hand around a centre: (14, 3) mm."""
    return np.column_stack([OPEN_HAND_MM, np.zeros(14)]) + center_xyz


def ball_hand(joint_xyz, radius_mm=18.0):
    """A depth frame (480, 640) uint16 mm with a ball in front of every joint, nothing behind."""
    return render_balls(joint_xyz, NYU_CAMERA, (480, 640), radius_mm).round().astype(np.uint16)


def two_hands(apart, behind=0.0):
    """A hand at 600 mm and one to its right, `behind` mm further away; the frame of each alone too."""
    places = [-apart / 2, 0, 600], [apart / 2, 0, 600 + behind]
    left, right = (ball_hand(open_hand(place)) for place in places)
    both = np.where((left > 0) & ((left < right) | (right == 0)), left, right)
    return both, left, right


def encode_depth(depth):
    """(H, W) mm -> (H, W, 3) uint8 in OpenCV's channel order: depth = green · 256 + blue."""
    depth = np.asarray(depth, np.uint16)
    return np.dstack([depth & 255, depth >> 8, np.zeros_like(depth)]).astype(np.uint8)


def write_nyu_folder(root, split, depth_frames, joint_xyz, center_xyz):
    """Write frames, labels and centres of one split.

    Args:
        root: folder of the data set.
        split: train, val or test.
        depth_frames: iterable of (480, 640) mm; may be shorter than the labels, or empty.
        joint_xyz: (N, 14, 3) mm.
        center_xyz: (N, 3) mm.
    """
    folder = Path(root, split)
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.full((3, len(joint_xyz), 36, 3), np.nan)
    labels[0][:, EVALUATED_JOINTS] = joint_xyz
    pixels = np.full_like(labels, np.nan)
    pixels[0][:, EVALUATED_JOINTS] = NYU_CAMERA.xyz_to_uvd(np.asarray(joint_xyz, np.float64))
    savemat(folder / "joint_data.mat", {"joint_xyz": labels, "joint_uvd": pixels})
    np.savetxt(Path(root, f"center_{split}_refined.txt"), center_xyz, fmt="%.3f")
    for i, depth in enumerate(depth_frames):
        cv2.imwrite(str(folder / FRAME_NAME.format(i + 1)), encode_depth(depth))


def write_hands(root, center_xyz, *splits):
    """Write the same open hands around centres (N, 3) mm, as each split of the data set nyu in `root`."""
    joint_xyz = np.array([open_hand(center) for center in center_xyz])
    for split in splits:
        write_nyu_folder(Path(root, "nyu"), split, map(ball_hand, joint_xyz), joint_xyz, center_xyz)


def write_scored_hands(root, count):
    """Hands in NYU's layout in `root`/nyu, their joints in uvd in true.txt, and random weights in small.pth.

    Returns the joints (count, 14, 3), mm.
    """
    centers = np.random.default_rng(1).uniform((-100, -80, 600), (100, 80, 900), (count, 3))
    joints = np.array([open_hand(center) for center in centers])
    write_nyu_folder(root / "nyu", "test", map(ball_hand, joints), joints, centers)
    np.savetxt(root / "true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(count, -1), fmt="%.3f")
    torch.manual_seed(0)
    save_checkpoint(root / "small.pth", SMALL.build(), SMALL)
    return joints
