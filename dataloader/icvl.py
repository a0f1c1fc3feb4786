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

from dataloader import DatasetInfo
from dataloader.frames import FrameIndex, new_index
from dataloader.labels import read_label_files
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
    folders={"train": "Training", "test": "Testing"},
    val_split="test",  # there is no other
    source="the ICVL Hand Posture Dataset is at https://labicvl.github.io/hand.html",
)
INFOS = {"icvl": INFO}

LABELS = {"train": ("labels",), "test": ("test_seq_1", "test_seq_2")}
IMAGE = re.compile(r"image_\d+\.png")
ANGLE = re.compile(rb"-?\d{1,3}(-5)?/")  # 22-5 is 22.5°; sequences have twelve digits


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the un-rotated frames of a split and their labels; no frame is read.

    One of the two test sequences may be missing: the other can be scored alone.
    """
    folder = root / info.folders[split]
    paths = [folder / f"{name}.txt" for name in LABELS[split]]
    there = [path for path in paths if path.is_file()] or paths
    lines = read_label_files(there, len(info.joint_names))
    used = np.array([ANGLE.match(name) is None for name in lines["name"].tolist()])
    records = lines[used]
    joint_xyz = info.camera.uvd_to_xyz(records["joint"].astype(np.float64))
    index = new_index(info, folder / "Depth", records["name"], joint_xyz, read_depth_png, IMAGE, split)
    part = "" if there == paths else "first" if paths[0] in there else "last"
    missing = [path.stem for path in paths if path not in there]
    return index._replace(labels_used=used, missing=missing, part=part)
