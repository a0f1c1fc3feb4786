"""HO-3D's layout on disk, the same in versions 2 and 3: right hands that hold objects.

<root>/{train,evaluation}.txt                         `<sequence>/<frame>` a line, in the order of results
<root>/{train,evaluation}/<sequence>/depth/%04d.png   8-bit colour, R + 256 · G units of 0.125 mm
<root>/{train,evaluation}/<sequence>/meta/%04d.pkl    camMat; handJoints3D; of evaluation handBoundingBox
<root>/evaluation_xyz.json                            joints of evaluation; without it they are withheld
<root>/center_{train,test}_refined.txt                hand centres, `x y z` in mm, a line a frame

Lengths are metres, y points up and z towards the viewer. Every 50th frame of train is split val.
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from dataloader import DatasetInfo
from dataloader.frames import FrameIndex, leave_out_handless, new_index
from dataloader.joint_orders import info_of_order
from dataloader.labels import read_frame_labels
from util import UserError
from util.camera import CAMERAS
from util.files import read_image, require_file, write_text

INFO = info_of_order(
    *("ho3d", "ho3d", 280, {"train": "train", "val": "train", "test": "evaluation"}),
    source="HO-3D is at https://github.com/shreyashampali/ho3d",
    held_out=50,
    official_scores=("absolute", "procrustes", "scale-translation"),
)
INFOS = {"ho3d": INFO}

IMAGE = re.compile(r"\d+\.png")
TO_MM = np.array([1000.0, -1000.0, -1000.0])  # of the files' xyz: mm, y down and z away
ROW = np.dtype([("joint", np.float32, (21, 3)), ("intrinsics", float, 4), ("box", float, 4)])
# What a pickle of NumPy's arrays asks for; in NumPy 1 `_core` was `core`.
PLAIN = {
    *("numpy.ndarray", "numpy.dtype", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    *("numpy._core.numeric._frombuffer", "_codecs.encode"),
}


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the frames that a split lists, and their labels; no frame is read. Training frames without a hand
    are left out."""
    folder, listed = root / info.folders[split], root / f"{info.folders[split]}.txt"
    require_file(listed, "the frames of the split, `<sequence>/<frame>` a line")
    lines = listed.read_text().split()
    if not lines or any(line.count("/") != 1 for line in lines):
        raise UserError(f"{listed} is damaged: expected `<sequence>/<frame>` a line.")
    metas = [folder / f"{line.replace('/', '/meta/')}.pkl" for line in lines]
    known = read_frame_labels(root / f".labels_{split}.npy", metas, ROW, read_meta)
    names = [f"{line.replace('/', '/depth/')}.png" for line in lines]
    index = new_index(info, folder, names, known["joint"], read_depth, IMAGE, split)
    index = index._replace(intrinsics=known["intrinsics"])
    if split == "train":
        return leave_out_handless(index)
    answers = root / "evaluation_xyz.json"
    joint_xyz = _read_evaluation(answers, len(lines)) if answers.is_file() else known["joint"]
    return index._replace(joint_xyz=joint_xyz, boxes=known["box"])


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (H, W) float32, mm."""
    image = read_image(path)
    if image.dtype != np.uint8 or image.ndim != 3:
        raise UserError(f"{path} is {image.dtype} of shape {image.shape}: expected an 8-bit colour PNG.")
    _, green, red = np.moveaxis(image[..., :3].astype(np.float32), -1, 0)
    return (red + 256 * green) * np.float32(CAMERAS["ho3d"].depth_scale)


def read_meta(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a frame: joints (21, 3), mm, NaN where it has none or the wrist alone; fx, fy, cx, cy; the hand's
    left, top, right, bottom, NaN where it has none; pixels."""
    meta = read_pickle(path)
    try:
        joints = np.asarray(meta["handJoints3D"], float)  # None: NaN
        joints = joints.reshape(-1, 3) * TO_MM if joints.size > 3 else np.full((21, 3), np.nan)
        intrinsics = np.asarray(meta["camMat"], float)[[0, 1, 0, 1], [0, 1, 2, 2]]
        box = np.asarray(meta.get("handBoundingBox", [np.nan] * 4), float)
        return np.array((joints, intrinsics, box), ROW).item()  # of these shapes
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: expected camMat (3, 3) and handJoints3D (21, 3).") from error


class _PlainUnpickler(pickle.Unpickler):
    """Makes NumPy's arrays and plain types, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}".replace("numpy.core.", "numpy._core.") not in PLAIN:
            raise UserError(f"refused, as it asks for {module}.{name}, which may run code")
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """Read a pickle of NumPy's arrays and plain types; what else it asks for is refused, by name."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()  # Python 2 wrote them
    except UserError as error:
        raise UserError(f"{path} was {error}.") from None
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        raise UserError(f"{path} is damaged: it cannot be read as a pickle.") from error


def _read_evaluation(path: Path, frames: int) -> np.ndarray:
    """The true joints (N, 21, 3) of evaluation, mm."""
    try:
        return np.array(json.loads(path.read_bytes()), float).reshape(frames, 21, 3) * TO_MM
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: expected (21, 3) joints of each of {frames} frames.") from error


def write_submission(folder: Path, index: FrameIndex, joint_xyz: np.ndarray) -> None:
    """Write pred.json of evaluation's joints (N, 21, 3), mm: [joints, meshes], in the files' units and axes.
    This method makes no mesh: a single point stands for each."""
    joints = (joint_xyz / TO_MM).round(6).tolist()
    write_text(folder / "pred.json", json.dumps([joints, [[[0.0] * 3]] * len(joints)]))
