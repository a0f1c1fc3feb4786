"""ICVL's layout on disk (docs/spec.md §1).

<root>/Training/labels.txt                         `<sequence>/image_%04d.png`, then 16 × (u v d), a line
<root>/Training/Depth/<sequence>/image_%04d.png    depth frames, 16 bit, mm
<root>/Testing/test_seq_{1,2}.txt                  the same for the two test sequences
<root>/Testing/Depth/test_seq_{1,2}/image_%04d.png
<root>/center_{train,test}_refined.txt             hand centres, `x y z` in mm, a line a frame

labels.txt also lists copies of every frame turned about the camera's axis, `<angle>/<sequence>/…`. They
are left out: rotation is augmentation's work.
"""

import re
from pathlib import Path

import numpy as np

from config import Config
from dataloader import DatasetInfo, dataset_info
from dataloader.index import Frames
from dataloader.labels import read_label_files, require_labels
from util import UserError
from util.camera import CAMERAS
from util.files import read_depth_png

JOINTS = (
    *("palm", "thumb root", "thumb mid", "thumb tip", "index root", "index mid", "index tip"),
    *("middle root", "middle mid", "middle tip", "ring root", "ring mid", "ring tip"),
    *("pinky root", "pinky mid", "pinky tip"),
)
CHAINS = ((0, 13, 14, 15), (0, 10, 11, 12), (0, 7, 8, 9), (0, 4, 5, 6), (0, 1, 2, 3), (4, 7, 10, 13))
INFO = DatasetInfo(
    joint_names=JOINTS,
    chains=CHAINS,
    camera=CAMERAS["icvl"].camera,
    frame_size=CAMERAS["icvl"].frame_size,
    cube=(200, 200, 200),
    val_split="test",  # there is no other
    source="the ICVL Hand Posture Dataset is at https://labicvl.github.io/hand.html",
)
INFOS = {"icvl": INFO}

FOLDERS = {"train": "Training", "test": "Testing"}
LABELS = {"train": ("labels",), "test": ("test_seq_1", "test_seq_2")}
# Where one test sequence is missing: which part of the centres' lines belongs to the other.
PARTS = {("test_seq_1",): "last", ("test_seq_2",): "first"}
IMAGE = re.compile(r"image_\d+\.png")
ANGLE = re.compile(rb"-?\d{1,3}(-5)?/")  # 22-5 is 22.5°; sequences have twelve digits


def split_folder(root: Path, config: Config) -> Path:
    """The folder without which there is no such split."""
    if config.split not in FOLDERS:
        raise UserError(f"ICVL has no split {config.split}: use train or test.")
    return root / FOLDERS[config.split]


def find_frames(root: Path, config: Config) -> Frames:
    """Find the un-rotated frames of a split and their labels; no frame is read."""
    info, folder = dataset_info(config.dataset), split_folder(root, config)
    missing = missing_parts(root, config)
    paths = [folder / f"{name}.txt" for name in LABELS[config.split]]
    paths = [path for path in paths if path.stem not in missing] or paths
    require_labels(paths, config.split, info.origin(root, config.split))
    lines = read_label_files(paths, len(info.joint_names))
    used = np.array([ANGLE.match(name) is None for name in lines["name"].tolist()])
    if not used.any():
        raise UserError(f"{paths[0]} lists no un-rotated frame.")
    records = lines[used]
    return Frames(
        joint_xyz=info.camera.uvd_to_xyz(records["joint"].astype(np.float64)),
        cube=np.tile(np.asarray(config.cube or info.cube, np.float64), (len(records), 1)),
        names=records["name"],
        folder=folder / "Depth",
        read_depth=read_depth_png,
        pattern=IMAGE,
        center_split=config.split,
        labels_used=used,
        part=PARTS.get(tuple(missing), ""),
    )


def missing_parts(root: Path, config: Config) -> list[str]:
    """The test sequences that are not there: the other can be scored alone."""
    folder = split_folder(root, config)
    return [name for name in LABELS[config.split] if not (folder / f"{name}.txt").is_file()]
