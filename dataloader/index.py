"""The index of a split: settings in; frames, labels and centres that agree, out."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from config import DATASETS, Config
from dataloader import dataset_info
from dataloader.crop import cut_window
from util import UserError
from util.camera import Camera
from util.points import PointFormat, doubt_format, parse_format, read_centers

DOUBTED_FRAMES = 2000  # at most, whose centres are compared with the labels


class FrameIndex(NamedTuple):
    """Where the frames of one split lie and what is known of them; no frame is read yet.

    `joint_xyz` (N, J, 3), `center_xyz` (N, 3), `cube` (N, 3): mm, possibly mapped from disk; joints
    are NaN where a benchmark withholds them. `names` (N,) bytes: files below `folder`. `read_depth(path)`
    gives a frame's depth (H, W) in mm, of the same dtype for all frames.
    """

    joint_xyz: np.ndarray
    center_xyz: np.ndarray
    cube: np.ndarray
    names: np.ndarray
    folder: Path
    read_depth: Callable[[Path], np.ndarray]

    @property
    def labelled(self) -> bool:
        """Whether the true joints are known."""
        return not np.isnan(self.joint_xyz[:1]).any()

    def frame_path(self, i: int) -> Path:
        """File of frame i."""
        return self.folder / os.fsdecode(self.names[i])


class Frames(NamedTuple):
    """Frames and labels of one split, still without centres.

    `joint_xyz`, `cube`, `names`, `folder`, `read_depth`: as in `FrameIndex`.
    `pattern`: of the frames' names in their folders. `center_split`: whose file of centres has theirs.
    `labels_used` (L,) bool: which lines of the label files the N frames are, None for all; a file
    of centres may have a line for each of either. `part`: first or last, where the labels of the
    other part of the split are not there.
    """

    joint_xyz: np.ndarray
    cube: np.ndarray
    names: np.ndarray
    folder: Path
    read_depth: Callable[[Path], np.ndarray]
    pattern: re.Pattern
    center_split: str
    labels_used: np.ndarray | None = None
    part: str = ""

    frame_path = FrameIndex.frame_path


def attach_centers(
    frames: Frames,
    path: Path,
    how_to_make: str,
    points: PointFormat,
    camera: Camera,
    frame_size: tuple[int, int],
    training: bool,
) -> FrameIndex:
    """Give every frame its centre.

    A frame whose centre is `invalid` is left out of training. In testing it stays, so that its error
    counts, and takes the centre of the valid frame nearest to it in the file.

    Args:
        frames: what was found.
        path, points: the file of centres and its format.
        how_to_make: the command that makes it, for the error when it is missing.
        camera, frame_size: of the data set; (height, width) pixels.
        training: whether the split is trained on.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the hand centre of every frame, `x y z` in mm; `{how_to_make}` makes it, "
            "data/README.md says where published ones are."
        )
    written, labels = read_centers(path), len(frames.names)
    if frames.labels_used is not None and len(written) == len(frames.labels_used):
        written = written[frames.labels_used]
    if frames.part and len(written) > labels:
        written = written[:labels] if frames.part == "first" else written[-labels:]
    centers = points.to_xyz(written, camera)
    valid = ~np.isnan(centers).any(axis=1)
    _require_frames(frames, valid, path)
    if not valid.any():
        raise UserError(f"{path} calls every frame invalid.")
    some = np.linspace(0, labels - 1, min(labels, DOUBTED_FRAMES)).astype(int)
    true_xyz = frames.joint_xyz[some].mean(axis=1)
    doubt_format(path, written[some], true_xyz, camera, points, flag="--centers_format")
    index = FrameIndex(frames.joint_xyz, centers, *frames[1:5])
    if not valid.all():
        testing = index._replace(center_xyz=centers[_nearest_valid(valid)])
        index = select(index, np.flatnonzero(valid)) if training else testing
    _check_windows(index, camera, frame_size)
    return index


def _require_frames(frames: Frames, valid: np.ndarray, path: Path) -> None:
    """Raise UserError unless frames, labels and centres agree; V2V-PoseNet also calls a frame invalid whose
    file does not exist."""
    names = [os.fsdecode(name) for name in frames.names.tolist()]
    found = {
        f"{below}/{file}".lstrip("/")
        for below in {os.path.dirname(name) for name in names}
        if (frames.folder / below).is_dir()
        for file in os.listdir(frames.folder / below)
        if frames.pattern.fullmatch(file)
    }
    missing = [name for name, there in zip(names, valid, strict=False) if there and name not in found]
    # Where only some labels are used, frames of the others may lie there too.
    whole = frames.labels_used is None or frames.labels_used.all()
    other = sorted(found.difference(names)) if whole else []
    if len(valid) == len(names) and not missing and not other:
        return
    words = f"; the first label without a frame is that of {frames.folder / missing[0]}" if missing else ""
    words += f"; the first frame without a label is {frames.folder / other[0]}" if other else ""
    raise UserError(
        f"{path}: {len(found)} depth frames, {len(names)} labels and {len(valid)} centres do not match; "
        f"frame i must have label i and centre i{words}."
    )


def _check_windows(index: FrameIndex, camera: Camera, frame_size: tuple[int, int]) -> None:
    """Raise UserError, naming the first frame that no crop can be cut from: a run would stop at it."""
    with np.errstate(all="ignore"):
        uvd = camera.xyz_to_uvd(index.center_xyz)
        half = index.cube[:, :2] / 2 / uvd[:, 2:] * (camera.fx, camera.fy)
        start, end = (np.trunc(uvd[:, :2] + edge + 0.5) for edge in (-half, half))
    cut = (end > 0) & (start < frame_size[::-1]) & (end - start >= 1)
    for i in np.flatnonzero(~cut.all(axis=1)):
        try:
            cut_window(np.zeros(frame_size), camera, index.center_xyz[i], index.cube[i], img_size=1)
        except UserError as error:
            raise UserError(f"{index.frame_path(i)}: {error}.") from error


def fingerprint(index: FrameIndex) -> str:
    """32 hexadecimal digits that change with a frame's name, size or time, a label, a centre or a cube.

    No frame is read; 70,000 frames take a second.
    """
    digest = blake2b(digest_size=16)
    for name in index.names.tolist():
        status = os.stat(os.path.join(os.fsencode(index.folder), name))
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    for array in index[:4]:
        digest.update(array.tobytes())
    return digest.hexdigest()


def select(index: FrameIndex, frames: np.ndarray) -> FrameIndex:
    """Some frames (K,) of an index, in that order."""
    return FrameIndex(*(array[frames] for array in index[:4]), *index[4:])


def concatenate(parts: Sequence[FrameIndex]) -> FrameIndex:
    """Indices of one data set, one after the other."""
    if len(parts) == 1:
        return parts[0]  # as it is: it may be mapped from disk
    return FrameIndex(*map(np.concatenate, list(zip(*parts, strict=True))[:4]), *parts[0][4:])


def _nearest_valid(valid: np.ndarray) -> np.ndarray:
    """For each of (N,) frames the number of the valid one nearest to it, the earlier of two."""
    known, frames = np.flatnonzero(valid), np.arange(len(valid))
    after = known[np.minimum(np.searchsorted(known, frames), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, frames, side="right") - 1, 0)]
    return np.where(np.abs(frames - before) <= np.abs(after - frames), before, after)


def find_frames(config: Config) -> Frames:
    """Find the frames and labels of `config.split` of `config.dataset`, without their centres."""
    for part in missing_parts(config):
        print(f"warning: {part} is missing: only a part of the split is used.", file=sys.stderr)
    return layout_of(config).find_frames(data_root(config), config)


def build_index(config: Config) -> FrameIndex:
    """Find the frames, labels and centres of `config.split` of `config.dataset`."""
    if config.test_subject == "all":
        raise UserError("--test_subject all is nine folds for test.py: choose one of 0 to 8 here.")
    frames, info, subject = find_frames(config), dataset_info(config.dataset), config.test_subject
    fold, flag = (f"{subject}_", f" --test_subject {subject}") if DATASETS[config.dataset].folds else ("", "")
    # Named as the released code and V2V-PoseNet do.
    path = Path(config.centers or data_root(config) / f"center_{frames.center_split}_{fold}refined.txt")
    make_centers = (
        f"python -m util.inference.centers --dataset {config.dataset} --data_dir {config.data_dir} "
        f"--split {frames.center_split}{flag} --method depth --out {path}"
    )
    points, training = parse_format(config.centers_format), config.split == "train"
    return attach_centers(frames, path, make_centers, points, info.camera, info.frame_size, training)


def read_labels(config: Config) -> np.ndarray:
    """True joints of every frame of the split, (N, J, 3) mm, without looking for frames or centres."""
    joint_xyz = find_frames(config).joint_xyz
    if np.isnan(joint_xyz[0]).all():
        raise UserError(
            f"The labels of {config.dataset}'s {config.split} frames are withheld: run a network instead, "
            "test.py then writes the submission file."
        )
    return joint_xyz


def read_kinds(config: Config) -> list[tuple[str, ...]]:
    """The kinds of each frame of a split, of rendered hands; NYU's test subjects; empty where it has none."""
    second = dataset_info(config.dataset).smaller_hand_from
    if config.split == "test" and second:
        return [(f"subject {1 + (i >= second)}",) for i in range(len(read_labels(config)))]
    read = getattr(layout_of(config), "read_kinds", None)
    return read(layout_of(config).split_folder(data_root(config), config)) if read else []


def missing_parts(config: Config) -> list[str]:
    """Which parts of a split are not there, of those that the layout allows to be scored without."""
    find = getattr(layout_of(config), "missing_parts", None)
    return find(data_root(config), config) if find else []


def folds(config: Config) -> list[Config]:
    """The settings of every fold: one, or with `test_subject` all one for each subject that is there.

    In `load_model` a fold's subject stands for `{subject}`.
    """
    if config.test_subject != "all":
        return [config]
    if not DATASETS[config.dataset].folds:
        raise UserError(f"--test_subject all is for msra: {config.dataset} has no subjects to leave out.")
    if config.load_model and "{subject}" not in config.load_model:
        raise UserError(
            f"--load_model {config.load_model} is one network, trained on subjects it would be tested on: "
            "name nine, with {subject} in place of the number."
        )
    return [
        replace(config, test_subject=subject, load_model=config.load_model.replace("{subject}", str(subject)))
        for subject in layout_of(config).subjects(data_root(config))
    ]


def data_root(config: Config) -> Path:
    """The data set's folder: `<data_dir>/<dataset>`, or `data_dir` where that has the layout itself."""
    split_folder = layout_of(config).split_folder
    usual, itself = Path(config.data_dir, config.dataset), Path(config.data_dir)
    for root in (usual, itself):
        if split_folder(root, config).is_dir():
            return root
    raise FileNotFoundError(
        f"{split_folder(usual, config)} is missing: split {config.split} of the {config.dataset} data set; "
        f"{dataset_info(config.dataset).origin(usual, config.split)}, data/README.md draws the folders."
    )


def layout_of(config: Config) -> ModuleType:
    """The module that reads the data set's files: `split_folder` and `find_frames`."""
    return import_module(f"dataloader.{DATASETS[config.dataset].module}")
