"""HANDS 2019's layout on disk, that of task 1 (depth); joints and camera are those of HANDS 2017.

<root>/Task 1/training_joint_annotation.txt       `image_D%08d.png`, then 21 × (x y z) mm, tab separated
<root>/Task 1/{training,test}_images/             depth frames image_D%08d.png, 16 bit, mm; test has no labels
<root>/Task 1/{training,test}_bbs.txt             name, then left, top, right, bottom of the hand, pixels

Split val is every 50th frame of train, to watch training by: it is trained on as well.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataloader import DatasetInfo, hands17
from dataloader.frames import FrameIndex
from dataloader.labels import NAME_BYTES
from util import UserError
from util.files import open_table, read_rows

SOURCE = "the HANDS 2019 challenge is at https://sites.google.com/view/hands2019"
FOLDERS = dict.fromkeys(("train", "val"), "Task 1/training_images") | {"test": "Task 1/test_images"}
INFOS = {"hands19": replace(hands17.INFO, folders=FOLDERS, source=SOURCE)}
BOX = np.dtype([("name", f"S{NAME_BYTES}"), ("box", np.float64, 4)])

write_submission = hands17.write_submission


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the frames of a split, the boxes around the hands and, but for test, the labels."""
    folder = root / info.folders[split]
    index = hands17.index_frames(split, folder, folder.with_name("training_joint_annotation.txt"), info)
    path = folder.with_name(folder.name.replace("images", "bbs.txt"))
    with open_table(path) as lines:
        boxes = dict(read_rows(path, lines, BOX)[1].tolist())
    try:
        return index._replace(boxes=np.array([boxes[name] for name in index.names.tolist()]))
    except KeyError as error:
        raise UserError(f"{path} has no line of {error.args[0].decode()}.") from None
