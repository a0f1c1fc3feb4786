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
from dataloader.frames import FrameIndex, new_index
from dataloader.joint_orders import info_of_order
from dataloader.labels import read_label_files
from util.files import atomic_write, read_depth_png

SOURCE = "the HANDS 2017 challenge is at http://icvl.ee.ic.ac.uk/hands17/challenge"
FOLDERS = {"train": "training", "val": "training", "test": "frame"}
INFO = info_of_order("hands", "hands17", 200, FOLDERS, source=SOURCE)
INFOS = {"hands17": INFO}
IMAGE = re.compile(r"image_D\d+\.png")
VAL_STEP = 50


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the frames of a split and, but for test, their labels; no frame is read.

    Labels and names stay on disk and are mapped into memory; the joints of test are NaN.
    """
    folder = root / info.folders[split]
    return index_frames(split, folder / "images", folder / "Training_Annotation.txt", info)


def index_frames(split: str, folder: Path, annotation: Path, info: DatasetInfo) -> FrameIndex:
    """The frames in a `folder`, and but for test their labels in the file `annotation`."""
    used = None
    if split == "test":
        images = [entry.name for entry in folder.glob("*") if IMAGE.fullmatch(entry.name)]
        if not images:
            raise FileNotFoundError(f"{folder} is missing or empty: the depth frames.")
        names = np.array(sorted(images), np.bytes_)
        joint_xyz = np.broadcast_to(np.float32(np.nan), (len(names), len(info.joint_names), 3))
    else:
        records = read_label_files([annotation], len(info.joint_names))
        step = VAL_STEP if split == "val" else 1
        used = np.arange(len(records)) % step == 0
        names, joint_xyz = records["name"][::step], records["joint"][::step]
    center_split = "train" if split == "val" else split
    index = new_index(info, folder, names, joint_xyz, read_depth_png, IMAGE, center_split)
    return index._replace(labels_used=used)


def write_submission(folder: Path, index: FrameIndex, joint_xyz: np.ndarray) -> None:
    """Write the test frames' predicted joints (N, 21, 3), mm, in the layout of Training_Annotation.txt."""
    with atomic_write(folder / "submission.txt") as temporary, temporary.open("w") as file:
        for i, joints in enumerate(joint_xyz):
            numbers = "\t".join(f"{value:.4f}" for value in joints.ravel())
            file.write(f"{index.frame_path(i).name}\t{numbers}\n")
