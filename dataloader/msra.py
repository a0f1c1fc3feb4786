"""MSRA15's layout on disk (docs/spec.md §1); one of nine subjects is left out of training and tested on.

<root>/P?/<gesture>/joint.txt                  number of frames, then 21 × (x y z) mm a line, z negative
<root>/P?/<gesture>/%06d_depth.bin             depth frames, counted from 0
<root>/center_{train,test}_<test subject>_refined.txt   hand centres of that fold, `x y z` in mm

Frames are ordered by subject, gesture (1 … 9, I, IP, L, MP, RP, T, TIP, Y) and number, and so are the
lines of published centres and predictions.
"""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from config import DATASETS, Config
from dataloader.index import Frames, center_file, read_label_files, require_labels
from util import UserError
from util.files import open_table, require_file

FRAME_NAME = "{:06d}_depth.bin"
FRAME_PATTERN = re.compile(r"\d{6}_depth\.bin")
HEADER = 6  # int32: width, height, left, top, right, bottom; right and bottom exclusive


def subjects(root: Path) -> list[int]:
    """The subjects whose folders are there."""
    return [subject for subject in range(9) if (root / f"P{subject}").is_dir()]


def missing_parts(root: Path, config: Config) -> list[str]:
    """The subjects that are not there, where all nine are to be scored."""
    there = subjects(root)
    return [f"P{subject}" for subject in range(9) if subject not in there and config.test_subject == "all"]


def split_folder(root: Path, config: Config) -> Path:
    """A folder without which there is no such split.

    Raises:
        UserError: if the data set has no such split.
    """
    if config.split == "val":
        raise UserError("MSRA has no split val: use train or test, and --test_subject for the fold.")
    if config.split == "test" and config.test_subject != "all":
        return root / f"P{config.test_subject}"
    return root / f"P{next(iter(_subjects_of_split(root, config)), 0)}"


def find_frames(root: Path, config: Config) -> Frames:
    """Find the frames of a fold's split and their labels; no frame is read.

    Raises:
        FileNotFoundError: naming the file that is missing, what it is and where it comes from.
        UserError: where labels are damaged, or if `test_subject` is all.
    """
    if config.test_subject == "all":
        raise UserError("--test_subject all is nine folds for test.py: choose one of 0 to 8 here.")
    chosen = _subjects_of_split(root, config)
    records = [_read_subject(root, subject, config) for subject in chosen]
    folders = [folder for subject in chosen for folder in _gestures(root, subject)]
    starts = np.cumsum([0, *map(_announced_frames, folders)])
    scales = np.array(DATASETS[config.dataset].subject_scales)[chosen]

    return Frames(
        joint_xyz=np.concatenate([part["joint"] for part in records]),
        cube=np.repeat(scales, [len(part) for part in records])[:, None] * np.asarray(config.cube),
        frame_path=partial(_frame_path, folders, starts),
        read_depth=read_depth,
        images=sum(
            FRAME_PATTERN.fullmatch(name) is not None for folder in folders for name in os.listdir(folder)
        ),
        center_path=center_file(root, config.split, config.test_subject),
    )


def read_labels(root: Path, config: Config) -> np.ndarray:
    """The joints of every frame of a split, for `test_subject` all of all subjects: (N, 21, 3) mm.

    Raises:
        FileNotFoundError, UserError: see `find_frames`.
    """
    chosen = _subjects_of_split(root, config)
    return np.concatenate([_read_subject(root, subject, config)["joint"] for subject in chosen])


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (height, width) float32, mm, 0 outside the window that the file holds.

    Raises:
        FileNotFoundError: if it is missing.
        UserError: if its header cannot be, its length is not the header's, or a depth is not finite.
    """
    require_file(path, "a depth frame whose neighbours are there")
    content = path.read_bytes()
    if len(content) < 4 * HEADER:
        raise UserError(f"{path} is damaged: {len(content)} bytes do not hold its header.")
    width, height, left, top, right, bottom = np.frombuffer(content, "<i4", HEADER).tolist()
    inside = 0 <= left <= right <= width <= 10000 and 0 <= top <= bottom <= height <= 10000
    if not (inside and width and height):
        raise UserError(
            f"{path} is not in MSRA's format, or damaged (six int32, then float32 mm): window {left}, {top}, "
            f"{right}, {bottom} lies outside {width}×{height}; raw float32 frames, as of an iPhone, become "
            "readable by np.save(name.npy, np.fromfile(name.bin, np.float32).reshape(height, width))."
        )
    expected = 4 * (HEADER + (right - left) * (bottom - top))
    if len(content) != expected:
        raise UserError(f"{path} is damaged: it has {len(content)} bytes, its header says {expected}.")
    depth = np.zeros((height, width), np.float32)
    depth[top:bottom, left:right] = np.frombuffer(content, "<f4", offset=4 * HEADER).reshape(bottom - top, -1)
    if not np.isfinite(depth).all():
        raise UserError(f"{path} is damaged: it holds a depth that is not a finite number.")
    return depth


def _frame_path(folders: list[Path], starts: np.ndarray, i: int) -> Path:
    gesture = int(np.searchsorted(starts, i, side="right")) - 1
    return folders[gesture] / FRAME_NAME.format(i - int(starts[gesture]))


def _subjects_of_split(root: Path, config: Config) -> list[int]:
    there, left_out = subjects(root), config.test_subject
    if left_out == "all":
        return there
    chosen = [subject for subject in there if (subject == left_out) == (config.split == "test")]
    if there == [left_out] and config.split == "train":
        raise UserError(
            f"{root} holds only P{left_out}, which is left out of training: get the other subjects."
        )
    return chosen


def _read_subject(root: Path, subject: int, config: Config) -> np.ndarray:
    """Records of all frames of one subject, gesture by gesture."""
    info = DATASETS[config.dataset]
    source = info.origin(root, config.split)
    paths = [folder / "joint.txt" for folder in _gestures(root, subject)]
    if not paths:
        raise FileNotFoundError(f"{root / f'P{subject}'} holds no gestures: {source}.")
    require_labels(paths, config.split, source)
    return read_label_files(paths, len(info.joint_names), named=False, counted=True, z_sign=-1)


def _gestures(root: Path, subject: int) -> list[Path]:
    folders = (root / f"P{subject}").iterdir()
    return sorted(folder for folder in folders if folder.is_dir() and not folder.name.startswith("."))


def _announced_frames(folder: Path) -> int:
    """The count in the first line of joint.txt, which reading the labels has compared with its lines."""
    with open_table(folder / "joint.txt") as lines:
        return int(next(lines))
