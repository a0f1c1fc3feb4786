"""HANDS 2017's layout on disk (docs/spec.md §1), that of the frame-based task.

<root>/training/Training_Annotation.txt           `image_D%08d.png`, then 21 × (x y z) mm, tab separated
<root>/training/images/image_D%08d.png            depth frames, 16 bit, mm
<root>/frame/images/image_D%08d.png               test frames; their labels are withheld
<root>/center_{train,test}_refined.txt            hand centres, `x y z` in mm, a line a frame

Split val is every 50th frame of train, to watch training by: it is trained on as well.
"""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from config import DATASETS, Config
from dataloader.base import FrameIndex
from dataloader.index import Frames, center_file, named_path, read_label_files, require_labels
from util import UserError
from util.files import atomic_write, read_depth_png

FOLDERS = {"train": "training", "val": "training", "test": "frame"}
IMAGE = re.compile(r"image_D\d+\.png")
VAL_STEP = 50


def split_folder(root: Path, config: Config) -> Path:
    """The folder without which there is no such split."""
    return root / FOLDERS[config.split]


def find_frames(root: Path, config: Config) -> Frames:
    """Find the frames of a split and, but for test, their labels; no frame is read.

    Labels and names stay on disk and are mapped into memory; those of test are NaN.

    Raises:
        FileNotFoundError: naming the file that is missing, what it is and where it comes from.
        UserError: where the labels are damaged.
    """
    folder = split_folder(root, config) / "images"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing: the depth frames; {DATASETS[config.dataset].origin(root, config.split)}."
        )
    images = [name for name in os.listdir(folder) if IMAGE.fullmatch(name)]
    used = None
    if config.split == "test":
        names = np.array(sorted(images), np.bytes_)
        joints = len(DATASETS[config.dataset].joint_names)
        joint_xyz = np.broadcast_to(np.float32(np.nan), (len(names), joints, 3))
        center_path = center_file(root, "test")
    else:
        records, step = _read_records(root, config), VAL_STEP if config.split == "val" else 1
        used = np.arange(len(records)) % step == 0
        names, joint_xyz, images = records["name"][::step], records["joint"][::step], images[::step]
        center_path = center_file(root, "train")
    if not len(names):
        raise UserError(
            f"{folder} holds no depth frames: {DATASETS[config.dataset].origin(root, config.split)}."
        )
    return Frames(
        joint_xyz=joint_xyz,
        cube=np.broadcast_to(np.asarray(config.cube, np.float64), (len(names), 3)),
        frame_path=partial(named_path, folder, names),
        read_depth=read_depth_png,
        images=len(images),
        center_path=center_path,
        labels_used=used,
    )


def read_labels(root: Path, config: Config) -> np.ndarray:
    """The joints of every frame of a split: (N, 21, 3) float32, mm, mapped from disk.

    Raises:
        FileNotFoundError: if the label file is missing.
        UserError: if it is damaged, and for the test split, whose labels are withheld.
    """
    if config.split == "test":
        raise UserError(
            "The labels of HANDS 2017's test frames are withheld: run a network instead, "
            "test.py then writes the submission file."
        )
    return _read_records(root, config)["joint"][:: VAL_STEP if config.split == "val" else 1]


def write_submission(path: Path, index: FrameIndex, joint_xyz: np.ndarray) -> None:
    """Write what the challenge takes: the layout of Training_Annotation.txt.

    Args:
        path: file to write.
        index: the test frames.
        joint_xyz: (N, 21, 3) predicted joints, mm.
    """
    with atomic_write(path) as temporary, temporary.open("w") as file:
        for i, joints in enumerate(joint_xyz):
            numbers = "\t".join(f"{value:.4f}" for value in joints.ravel())
            file.write(f"{index.frame_path(i).name}\t{numbers}\n")


def _read_records(root: Path, config: Config) -> np.ndarray:
    info = DATASETS[config.dataset]
    path = split_folder(root, config) / "Training_Annotation.txt"
    require_labels([path], config.split, info.origin(root, config.split))
    return read_label_files([path], len(info.joint_names))
