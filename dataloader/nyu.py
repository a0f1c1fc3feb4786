"""NYU's layout on disk (docs/spec.md §1), which the synthetic hands share.

<root>/{train,test}/depth_1_%07d.png     depth frames of camera 0, counted from 1
<root>/{train,test}/joint_data.mat       labels
<root>/center_{train,test}_refined.txt   hand centres, `x y z` in mm, a line a frame
"""

import os
import re
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from config import DATASETS, Config
from dataloader.index import Frames, center_file
from util import UserError
from util.camera import Camera
from util.files import read_image, read_json

# Of the 36 labelled joints, those that the field evaluates, in the order of the joint names.
EVALUATED_JOINTS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
LABELLED_JOINTS = 36
MAX_NUMBERS = 10**9  # in a label file; NYU's have 24 million

KINDS_FILE = "kinds.txt"  # of a synthetic split: the kinds of each frame
FRAME_NAME = "depth_1_{:07d}.png"
FRAME_PATTERN = re.compile(r"depth_1_\d{7}\.png")


def split_folder(root: Path, config: Config) -> Path:
    """The folder without which there is no such split."""
    return root / config.split


def find_frames(root: Path, config: Config) -> Frames:
    """Find the frames of a split and their labels; no frame is read.

    Raises:
        FileNotFoundError: naming the file that is missing, what it is and where it comes from.
        UserError: where the labels are damaged.
    """
    folder = split_folder(root, config)
    _require_camera(folder, DATASETS[config.dataset].camera)
    joint_xyz = read_labels(root, config)
    cube = np.tile(np.asarray(config.cube, np.float64), (len(joint_xyz), 1))
    smaller_hand_from = DATASETS[config.dataset].smaller_hand_from
    if config.split == "test" and smaller_hand_from is not None:
        cube[smaller_hand_from:] *= 5 / 6
    return Frames(
        joint_xyz=joint_xyz,
        cube=cube,
        frame_path=partial(frame_path, folder),
        read_depth=read_depth,
        images=sum(FRAME_PATTERN.fullmatch(name) is not None for name in os.listdir(folder)),
        center_path=center_file(root, config.split),
    )


def frame_path(folder: Path, i: int) -> Path:
    """File of frame i, counted from 0. A named function, so that an index can be sent to other processes."""
    return folder / FRAME_NAME.format(i + 1)


def read_labels(root: Path, config: Config) -> np.ndarray:
    """The evaluated joints of every frame of a split: (N, 14, 3) float64, mm.

    Raises:
        FileNotFoundError: if the label file is missing.
        UserError: if it is damaged, of another shape, or not finite somewhere.
    """
    path = split_folder(root, config) / "joint_data.mat"
    if not path.is_file():
        source = DATASETS[config.dataset].origin(root, config.split)
        raise FileNotFoundError(f"{path} is missing: the labels of split {config.split}; {source}.")
    try:
        announced = {name: shape for name, shape, _ in whosmat(path)}.get("joint_xyz", ())
        if prod(announced) > MAX_NUMBERS:
            raise UserError(f"it announces joint_xyz of shape {announced}")
        labels = loadmat(path, variable_names=["joint_xyz"]).get("joint_xyz")
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read as a MATLAB file: {error}.") from error
    if labels is None:
        raise UserError(f"{path} holds no joint_xyz: it is not NYU's label file.")
    if labels.ndim != 4 or labels.shape[2:] != (LABELLED_JOINTS, 3) or not labels.size:
        raise UserError(
            f"{path}: joint_xyz has shape {labels.shape}, expected (cameras, frames, {LABELLED_JOINTS}, 3)."
        )
    if labels.dtype.kind not in "fiu":
        raise UserError(f"{path}: joint_xyz holds {labels.dtype}, expected real numbers.")
    joint_xyz = labels[0][:, EVALUATED_JOINTS].astype(np.float64)
    finite = np.abs(joint_xyz) <= np.finfo(np.float32).max  # samples are float32
    _require(finite.all((1, 2)), path, "a joint that is not a finite number")
    _require((joint_xyz[..., 2] > 0).all(1), path, "a joint at or behind the camera (z ≤ 0)")
    return joint_xyz


def read_depth(path: Path) -> np.ndarray:
    """Decode one frame: (H, W) uint16, mm, from green · 256 + blue; the data set checks its size.

    Raises:
        FileNotFoundError: if it is missing.
        UserError: if it is no 8-bit 3-channel image.
    """
    image = read_image(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{path} is {image.dtype} of shape {image.shape}: expected an 8-bit 3-channel PNG.")
    # Widen before shifting: 8-bit arithmetic would drop the green channel.
    return (image[:, :, 1].astype(np.uint16) << 8) | image[:, :, 0]


def read_kinds(folder: Path) -> list[tuple[str, ...]]:
    """The kinds of each frame of a synthetic split, as `dataloader.synthetic.kinds` names them; empty where
    the split has none."""
    file = folder / KINDS_FILE
    return [tuple(line.split()) for line in file.read_text().splitlines()] if file.is_file() else []


def recorded_camera(folder: Path) -> Camera:
    """The camera that rendered a synthetic split.

    Raises:
        FileNotFoundError, UserError: if the split's generator.json is missing or damaged.
    """
    record = folder / "generator.json"
    try:
        return Camera(**read_json(record)["camera"])
    except (KeyError, TypeError):
        raise UserError(f"{record} is damaged: it names no camera.") from None


def _require_camera(folder: Path, camera: Camera) -> None:
    """Rendered splits say which camera rendered them: raise if the loader would assume another."""
    if (folder / "generator.json").is_file():
        rendered = recorded_camera(folder)
        if rendered != camera:
            raise UserError(
                f"{folder} was rendered with {rendered}, config.py has {camera}: "
                "render it again or change the row."
            )


def _require(good: np.ndarray, path: Path, what: str) -> None:
    """Raise for the first frame (N,) that is not good."""
    if not good.all():
        frame = int(np.argmin(good))
        raise UserError(f"{path}: {FRAME_NAME.format(frame + 1)} (entry {frame + 1}) has {what}.")
