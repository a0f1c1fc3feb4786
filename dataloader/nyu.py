"""NYU's layout on disk (SPEC §1), which the synthetic hands share.

<root>/{train,test}/depth_1_%07d.png     depth frames of camera 0, counted from 1
<root>/{train,test}/joint_data.mat       labels
<root>/center_{train,test}_refined.txt   hand centres, `x y z` in mm, a line a frame
"""

import os
import re
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat

from config import DatasetInfo
from dataloader.base import FrameIndex
from util.files import read_table

# Of the 36 labelled joints, those that the field evaluates, in the order of the joint names.
EVALUATED_JOINTS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
LABELLED_JOINTS = 36

FRAME_NAME = "depth_1_{:07d}.png"
FRAME_PATTERN = re.compile(r"depth_1_\d{7}\.png")


def index_frames(root: Path, split: str, info: DatasetInfo, cube: tuple[float, float, float]) -> FrameIndex:
    """Find the frames of a split, their labels and their centres; no frame is read.

    Args:
        root: folder of the data set.
        split: train, val or test.
        info: the data set's row in the table.
        cube: edges of the cropped volume, mm.

    Raises:
        FileNotFoundError: naming the file that is missing, what it is and where it comes from.
        ValueError: where files disagree or hold what cannot be.
    """
    joint_xyz = read_labels(root, split, info)
    center_xyz = read_centers(root, split, info)
    folder = root / split
    images = sum(FRAME_PATTERN.fullmatch(name) is not None for name in os.listdir(folder))
    if not images == len(joint_xyz) == len(center_xyz):
        raise ValueError(
            f"{root}, split {split}: {images} depth frames, {len(joint_xyz)} labels and {len(center_xyz)} "
            "centres do not match; frame i must have label i and centre i."
        )
    cubes = np.tile(np.asarray(cube, np.float64), (len(joint_xyz), 1))
    if split == "test" and info.smaller_hand_from is not None:
        cubes[info.smaller_hand_from :] *= 5 / 6
    return FrameIndex(joint_xyz, center_xyz, cubes, lambda i: folder / FRAME_NAME.format(i + 1), read_depth)


def read_labels(root: Path, split: str, info: DatasetInfo) -> np.ndarray:
    """The evaluated joints of every frame of a split: (N, 14, 3) float64, mm.

    Raises:
        FileNotFoundError: if the label file is missing.
        ValueError: if it is damaged, of another shape, or not finite somewhere.
    """
    path = root / split / "joint_data.mat"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the labels of split {split}; {info.source}.")
    try:
        labels = loadmat(path, variable_names=["joint_xyz"]).get("joint_xyz")
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}.") from error
    if labels is None:
        raise ValueError(f"{path} holds no joint_xyz: it is not NYU's label file.")
    if labels.ndim != 4 or labels.shape[2:] != (LABELLED_JOINTS, 3) or not labels.shape[1]:
        raise ValueError(
            f"{path}: joint_xyz has shape {labels.shape}, expected (cameras, frames, {LABELLED_JOINTS}, 3)."
        )
    joint_xyz = labels[0][:, EVALUATED_JOINTS].astype(np.float64)
    _require(np.isfinite(joint_xyz).all((1, 2)), path, "a joint that is not a finite number")
    _require((joint_xyz[..., 2] > 0).all(1), path, "a joint at or behind the camera (z ≤ 0)")
    return joint_xyz


def read_centers(root: Path, split: str, info: DatasetInfo) -> np.ndarray:
    """The hand centre of every frame of a split: (N, 3) float64, mm.

    Raises:
        FileNotFoundError: if the file of centres is missing.
        ValueError: if a line is damaged or a centre lies at or behind the camera.
    """
    path = root / f"center_{split}_refined.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the hand centre of every frame, `x y z` in mm; data/README.md says "
            "where published centres come from."
        )
    centers = read_table(path, columns=3)
    _require(centers[:, 2] > 0, path, "a centre with z ≤ 0")
    return centers


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (480, 640) uint16, mm, from green · 256 + blue.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is no 8-bit 3-channel image.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: a depth frame whose neighbours are there.") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    if image is None:
        raise ValueError(f"{path} is damaged: it cannot be decoded as an image.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{path} is {image.dtype} of shape {image.shape}: expected an 8-bit 3-channel PNG.")
    # Widen before shifting: 8-bit arithmetic would drop the green channel.
    return (image[:, :, 1].astype(np.uint16) << 8) | image[:, :, 0]


def _require(good: np.ndarray, path: Path, what: str) -> None:
    """Raise for the first frame (N,) that is not good."""
    if not good.all():
        frame = int(np.argmin(good))
        raise ValueError(f"{path}: {FRAME_NAME.format(frame + 1)} (line or entry {frame + 1}) has {what}.")
