"""NYU's layout on disk (docs/spec.md §1), which the synthetic hands share.

<root>/{train,test}/depth_1_%07d.png     depth frames of camera 0, counted from 1
<root>/{train,test}/joint_data.mat       labels
<root>/center_{train,test}_refined.txt   hand centres, `x y z` in mm, a line a frame
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from dataloader import DatasetInfo
from dataloader.frames import FrameIndex, new_index
from util import UserError
from util.camera import CAMERAS, Camera
from util.files import read_image, read_json, require_file

JOINTS = (
    *("pinky tip", "pinky PIP", "ring tip", "ring PIP", "middle tip", "middle PIP", "index tip", "index PIP"),
    *("thumb tip", "thumb IP", "thumb MCP", "wrist ulnar", "wrist radial", "palm"),
)
CHAINS = ((13, 1, 0), (13, 3, 2), (13, 5, 4), (13, 7, 6), (13, 10, 9, 8), (11, 13, 12))
INFO = DatasetInfo(
    joint_names=JOINTS,
    chains=CHAINS,
    camera=CAMERAS["nyu"].camera,
    frame_size=CAMERAS["nyu"].frame_size,
    cube=(300, 300, 300),
    folders={split: split for split in ("train", "val", "test")},
    held_out=50,
    smaller_hand_from=2440,
    source="the NYU Hand Pose Dataset is at https://jonathantompson.github.io/NYU_Hand_Pose_Dataset.htm",
)
INFOS = {
    "nyu": INFO,
    "synth": replace(
        INFO,
        folders=INFO.folders | {"val_hard": "val_hard"},
        source="`python -m dataloader.synthetic --out {root} --split {split} --frames {frames}` makes it",
        held_out=0,
        smaller_hand_from=None,
    ),
}

LABELLED_JOINTS = 36
# Of these, those that the field evaluates, in the order of the joint names.
EVALUATED_JOINTS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
KINDS_FILE = "kinds.txt"  # of a synthetic split: the kinds of each frame
FRAME_NAME = "depth_1_{:07d}.png"
FRAME_PATTERN = re.compile(r"depth_1_\d{7}\.png")


def find_frames(root: Path, split: str, info: DatasetInfo) -> FrameIndex:
    """Find the frames of a split and their labels; no frame is read."""
    folder = root / info.folders[split]
    if (folder / "generator.json").is_file() and recorded_camera(folder) != info.camera:
        raise UserError(f"{folder} was rendered with {recorded_camera(folder)}, another camera: do it again.")
    joint_xyz = _read_joints(folder / "joint_data.mat")
    kinds = read_kinds(folder)
    cube = np.tile(np.asarray(info.cube, np.float64), (len(joint_xyz), 1))
    if split == "test" and info.smaller_hand_from is not None:
        cube[info.smaller_hand_from :] *= 5 / 6
        second = np.arange(len(joint_xyz)) >= info.smaller_hand_from
        kinds = [(f"subject {1 + int(later)}",) for later in second]
    names = [FRAME_NAME.format(i + 1) for i in range(len(joint_xyz))]
    index = new_index(info, folder, names, joint_xyz, read_depth, FRAME_PATTERN, split)
    return index._replace(cube=cube, kinds=kinds)


def _read_joints(path: Path) -> np.ndarray:
    """The evaluated joints of every frame of a split: (N, 14, 3) float64, mm."""
    require_file(path, "labels, as MATLAB writes them")
    try:
        labels = loadmat(path, variable_names=["joint_xyz"]).get("joint_xyz", np.empty(0))
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read as a MATLAB file: {error}.") from error
    if labels.dtype.kind not in "fiu" or labels.shape[2:] != (LABELLED_JOINTS, 3) or not labels.size:
        raise UserError(
            f"{path}: joint_xyz holds {labels.dtype} of shape {labels.shape}, expected real numbers of shape "
            f"(cameras, frames, {LABELLED_JOINTS}, 3)."
        )
    joint_xyz = labels[0][:, EVALUATED_JOINTS].astype(np.float64)
    # Samples are float32. NaN is not below a limit either.
    good = (np.abs(joint_xyz) <= np.finfo(np.float32).max).all((1, 2)) & (joint_xyz[..., 2] > 0).all(1)
    if not good.all():
        name = FRAME_NAME.format(int(np.argmin(good)) + 1)
        raise UserError(f"{path}: {name} has a joint that is not finite, or at or behind the camera.")
    return joint_xyz


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (H, W) uint16, mm, from green · 256 + blue; the data set checks its size."""
    image = read_image(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):  # some have alpha
        raise UserError(f"{path} is {image.dtype} of shape {image.shape}: expected an 8-bit 3-channel PNG.")
    # Widen before shifting: 8-bit arithmetic would drop the green channel.
    return (image[:, :, 1].astype(np.uint16) << 8) | image[:, :, 0]


def read_kinds(folder: Path) -> list[tuple[str, ...]]:
    """The kinds of each frame of a synthetic split, as `dataloader.synthetic.kinds` names them; empty where
    the split has none."""
    file = folder / KINDS_FILE
    try:
        return [tuple(line.split()) for line in file.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: save it as that, or delete it.") from error


def recorded_camera(folder: Path) -> Camera:
    """The camera that rendered a synthetic split, from its generator.json."""
    record = folder / "generator.json"
    try:
        return Camera(**read_json(record)["camera"])
    except (KeyError, TypeError):
        raise UserError(f"{record} is damaged: it names no camera.") from None
