"""MSRA15's layout on disk (docs/spec.md §1); one of nine subjects is left out of training and tested on.

<root>/P?/<gesture>/joint.txt                  number of frames, then 21 × (x y z) mm a line, z negative
<root>/P?/<gesture>/%06d_depth.bin             depth frames, counted from 0
<root>/center_{train,test}_<test subject>_refined.txt   hand centres of that fold, `x y z` in mm

Frames are ordered by subject, gesture (1 … 9, I, IP, L, MP, RP, T, TIP, Y) and number, and so are the
lines of published centres and predictions.
"""

import re
from pathlib import Path

import numpy as np

from dataloader import DatasetInfo
from dataloader.frames import FrameIndex, new_index
from dataloader.joint_orders import info_of_order
from dataloader.labels import read_label_files
from util import UserError
from util.files import require_file

INFO = info_of_order(
    *("msra", "msra", 200, {"train": "P?", "test": "P{test_subject}"}),
    source="the MSRA Hand Gesture database is linked from https://jimmysuen.github.io",
    val_split="test",  # there is no other
    subject_scales=(1, 1, 1, 0.9, 0.9, 0.9, 0.85, 0.8, 0.75),
)
INFOS = {"msra": INFO}

FRAME_NAME = "{:06d}_depth.bin"
FRAME_PATTERN = re.compile(r"\d{6}_depth\.bin")
HEADER = 6  # int32: width, height, left, top, right, bottom; right and bottom exclusive


def subjects(root: Path) -> list[int]:
    """The subjects whose folders are there."""
    return [subject for subject in range(9) if (root / f"P{subject}").is_dir()]


def find_frames(root: Path, split: str, info: DatasetInfo, test_subject: int | str) -> FrameIndex:
    """Find the frames of a fold's split, or for `test_subject` all of all subjects, and their labels."""
    chosen, joints, names, scales = _subjects_of_split(root, split, test_subject), [], [], []
    for number in chosen:
        for folder in _gestures(root / f"P{number}"):
            path, num_joints = folder / "joint.txt", len(info.joint_names)
            joints.append(read_label_files([path], num_joints, of_msra=True))
            count = len(joints[-1])
            names += [f"P{number}/{folder.name}/{FRAME_NAME.format(i)}" for i in range(count)]
            scales += [info.subject_scales[number]] * count
    joint_xyz, cube = np.concatenate(joints)["joint"], np.array(scales)[:, None] * info.cube
    missing = [f"P{i}" for i in range(9) if i not in chosen] if test_subject == "all" else ()
    index = new_index(info, root, names, joint_xyz, read_depth, FRAME_PATTERN, split)
    return index._replace(cube=cube, missing=missing)


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (height, width) float32, mm, 0 outside the window that the file holds."""
    require_file(path, "a depth frame whose neighbours are there")
    content = path.read_bytes()
    header = np.frombuffer(content[: 4 * HEADER].ljust(4 * HEADER, b"\0"), "<i4").tolist()
    width, height, left, top, right, bottom = header
    fits = 0 <= left <= right <= width <= 10000 and 0 <= top <= bottom <= height <= 10000
    if not fits or len(content) != 4 * (HEADER + (right - left) * (bottom - top)):
        raise UserError(
            f"{path} is damaged, or not in MSRA's format (six int32, then float32 mm of a window): it has "
            f"{len(content)} bytes and begins with {header}; read raw float32 frames by np.fromfile and save "
            "them by np.save."
        )
    depth = np.zeros((height, width), np.float32)
    depth[top:bottom, left:right] = np.frombuffer(content, "<f4", offset=4 * HEADER).reshape(bottom - top, -1)
    if not np.isfinite(depth).all():
        raise UserError(f"{path} is damaged: it holds a depth that is not a finite number.")
    return depth


def _subjects_of_split(root: Path, split: str, left_out: int | str) -> list[int]:
    there = subjects(root)
    if left_out == "all":
        return there
    if there == [left_out] and split == "train":
        raise UserError(f"{root} holds only P{left_out}, which is left out of training: get the others.")
    return [subject for subject in there if (subject == left_out) == (split == "test")]


def _gestures(subject: Path) -> list[Path]:
    """A subject's folders of frames, at least one."""
    folders = sorted(path for path in subject.iterdir() if path.is_dir() and not path.name.startswith("."))
    return folders or [subject / "1"]
