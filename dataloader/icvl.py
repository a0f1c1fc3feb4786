"""ICVL's layout on disk (docs/spec.md §1).

<root>/Training/labels.txt                         `<sequence>/image_%04d.png`, then 16 × (u v d), a line
<root>/Training/Depth/<sequence>/image_%04d.png    depth frames, 16 bit, mm
<root>/Testing/test_seq_{1,2}.txt                  the same for the two test sequences
<root>/Testing/Depth/test_seq_{1,2}/image_%04d.png
<root>/center_{train,test}_refined.txt             hand centres, `x y z` in mm, a line a frame

labels.txt also lists copies of every frame turned about the camera's axis, `<angle>/<sequence>/…`. They
are left out: rotation is augmentation's work.
"""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from config import DATASETS, Config
from dataloader.index import Frames, center_file, named_path, read_label_files, require_labels
from util import UserError
from util.files import read_depth_png

FOLDERS = {"train": "Training", "test": "Testing"}
LABELS = {"train": ("labels.txt",), "test": ("test_seq_1.txt", "test_seq_2.txt")}
IMAGE = re.compile(r"image_\d+\.png")
ANGLE = re.compile(rb"-?\d{1,3}(-5)?/")  # 22-5 is 22.5°; sequences have twelve digits


def split_folder(root: Path, config: Config) -> Path:
    """The folder without which there is no such split.

    Raises:
        UserError: if the data set has no such split.
    """
    if config.split not in FOLDERS:
        raise UserError(f"ICVL has no split {config.split}: use train or test.")
    return root / FOLDERS[config.split]


def find_frames(root: Path, config: Config) -> Frames:
    """Find the un-rotated frames of a split and their labels; no frame is read.

    Raises:
        FileNotFoundError: naming the file that is missing, what it is and where it comes from.
        UserError: where the labels are damaged.
    """
    folder = split_folder(root, config) / "Depth"
    lines, used = _read_lines(root, config)
    records = lines[used]
    names = records["name"]
    return Frames(
        joint_xyz=_joint_xyz(records, config),
        cube=np.tile(np.asarray(config.cube, np.float64), (len(records), 1)),
        frame_path=partial(named_path, folder, names),
        read_depth=read_depth_png,
        images=sum(_count_images(folder / sequence) for sequence in _sequences(names)),
        center_path=center_file(root, config.split),
        labels_used=used,
        part=_part(root, config),
    )


def missing_parts(root: Path, config: Config) -> list[str]:
    """The test sequences that are not there: the other can be scored alone."""
    folder = split_folder(root, config)
    return [Path(name).stem for name in LABELS[config.split] if not (folder / name).is_file()]


def read_labels(root: Path, config: Config) -> np.ndarray:
    """The joints of every un-rotated frame of a split: (N, 16, 3) float64, mm.

    Raises:
        FileNotFoundError, UserError: see `find_frames`.
    """
    lines, used = _read_lines(root, config)
    return _joint_xyz(lines[used], config)


def _read_lines(root: Path, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Records of all label lines (L,), and which of them (L,) are of un-rotated frames."""
    info, folder = DATASETS[config.dataset], split_folder(root, config)
    missing = missing_parts(root, config)
    paths = [folder / name for name in LABELS[config.split]]
    paths = [path for path in paths if path.stem not in missing] or paths
    require_labels(paths, config.split, info.origin(root, config.split))
    lines = read_label_files(paths, len(info.joint_names))
    used = np.array([ANGLE.match(name) is None for name in lines["name"].tolist()], bool)
    if not used.any():
        raise UserError(f"{paths[0]} lists no un-rotated frame.")
    return lines, used


def _part(root: Path, config: Config) -> str:
    missing, all_parts = missing_parts(root, config), LABELS[config.split]
    if not missing or len(missing) == len(all_parts):
        return ""
    return "last" if missing[0] == Path(all_parts[0]).stem else "first"


def _joint_xyz(records: np.ndarray, config: Config) -> np.ndarray:
    return DATASETS[config.dataset].camera.uvd_to_xyz(records["joint"].astype(np.float64))


def _sequences(names: np.ndarray) -> set[str]:
    return {os.fsdecode(name).rpartition("/")[0] for name in names.tolist()}


def _count_images(folder: Path) -> int:
    return sum(IMAGE.fullmatch(name) is not None for name in os.listdir(folder)) if folder.is_dir() else 0
