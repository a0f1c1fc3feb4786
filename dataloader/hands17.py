"""HANDS 2017's layout on disk (docs/spec.md §1), that of the frame-based task.

<root>/training/Training_Annotation.txt           `image_D%08d.png`, then 21 × (x y z) mm, tab separated
<root>/training/images/image_D%08d.png            depth frames, 16 bit, mm
<root>/frame/images/image_D%08d.png               test frames; their labels are withheld
<root>/center_{train,test}_refined.txt            hand centres, `x y z` in mm, a line a frame

Split val is every 50th frame of train, to watch training by: it is trained on as well.
"""

import re
from pathlib import Path

import numpy as np

from dataloader import DatasetInfo
from dataloader.index import FrameIndex
from dataloader.labels import read_label_files
from util.camera import CAMERAS
from util.files import atomic_write, read_depth_png

JOINTS = (
    *("wrist", "thumb MCP", "index MCP", "middle MCP", "ring MCP", "pinky MCP"),
    *("thumb PIP", "thumb DIP", "thumb tip", "index PIP", "index DIP", "index tip"),
    *("middle PIP", "middle DIP", "middle tip", "ring PIP", "ring DIP", "ring tip"),
    *("pinky PIP", "pinky DIP", "pinky tip"),
)
CHAINS = (
    *((0, 5, 18, 19, 20), (0, 4, 15, 16, 17), (0, 3, 12, 13, 14), (0, 2, 9, 10, 11)),
    *((0, 1, 6, 7, 8), (2, 3, 4, 5)),
)
INFO = DatasetInfo(
    joint_names=JOINTS,
    chains=CHAINS,
    camera=CAMERAS["hands17"].camera,
    frame_size=CAMERAS["hands17"].frame_size,
    cube=(200, 200, 200),
    source="the HANDS 2017 challenge is at http://icvl.ee.ic.ac.uk/hands17/challenge",
)
INFOS = {"hands17": INFO}

FOLDERS = {"train": "training", "val": "training", "test": "frame"}
IMAGE = re.compile(r"image_D\d+\.png")
VAL_STEP = 50


def split_folder(root: Path, split: str) -> Path:
    """The folder without which there is no such split."""
    return root / FOLDERS[split]


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the frames of a split and, but for test, their labels; no frame is read.

    Labels and names stay on disk and are mapped into memory; the joints of test are NaN.
    """
    folder, used = split_folder(root, split), None
    if split == "test":
        images = [entry.name for entry in (folder / "images").glob("*") if IMAGE.fullmatch(entry.name)]
        if not images:
            raise FileNotFoundError(f"{folder / 'images'} is missing or empty: the depth frames.")
        names = np.array(sorted(images), np.bytes_)
        joint_xyz = np.broadcast_to(np.float32(np.nan), (len(names), len(info.joint_names), 3))
    else:
        records = read_label_files([folder / "Training_Annotation.txt"], len(info.joint_names))
        step = VAL_STEP if split == "val" else 1
        used = np.arange(len(records)) % step == 0
        names, joint_xyz = records["name"][::step], records["joint"][::step]
    return FrameIndex(
        joint_xyz=joint_xyz,
        center_xyz=None,
        cube=np.broadcast_to(np.asarray(info.cube, np.float64), (len(names), 3)),
        names=names,
        folder=folder / "images",
        read_depth=read_depth_png,
        pattern=IMAGE,
        center_split="train" if split == "val" else split,
        labels_used=used,
    )


def write_submission(path: Path, index: FrameIndex, joint_xyz: np.ndarray) -> None:
    """Write the test frames' predicted joints (N, 21, 3), mm, in the layout of Training_Annotation.txt."""
    with atomic_write(path) as temporary, temporary.open("w") as file:
        for i, joints in enumerate(joint_xyz):
            numbers = "\t".join(f"{value:.4f}" for value in joints.ravel())
            file.write(f"{index.frame_path(i).name}\t{numbers}\n")
