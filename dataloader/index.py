"""The index of a split: settings in; frames, labels and centres that agree, out."""

import os
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from config import DATASETS, Config
from dataloader import dataset_info, layout_of
from dataloader.frames import PER_FRAME, FrameIndex, select
from util import UserError
from util.camera import Camera
from util.files import listed
from util.points import PointFormat, doubt_format, parse_format, read_centers

LABELS = "labels"  # in place of a file of centres: the mean of the true joints
COMPARED_FRAMES = 2000  # at most about twice as many, whose centres are compared with the labels


def build_index(config: Config) -> FrameIndex:
    """Find the frames, labels and centres of `config.split` of `config.dataset`.

    A frame whose centre is `invalid` is left out of training. In testing it stays, so that its error
    counts, and takes the centre of the valid frame nearest to it in the file.
    """
    if "all" in _fold(config).values():
        raise UserError("--test_subject all is nine folds for test.py: choose one of 0 to 8 here.")
    frames, info = find_frames(config), dataset_info(config.dataset)
    for part in frames.missing:
        print(f"warning: {part} is missing: only a part of the split is used.", file=sys.stderr)
    if frames.without_hand:
        print(f"{frames.without_hand} frames of {config.split} show no hand: left out.", file=sys.stderr)
    if config.centers == LABELS and not frames.labelled:
        raise UserError("--centers labels: the labels of these frames are withheld.")
    if config.centers == LABELS:
        print("Centres are made from the labels: the mean of the true joints.", file=sys.stderr)
        centers = frames.joint_xyz.mean(axis=1, dtype=np.float64)
    else:
        path, points = _center_file(config, frames.center_split), parse_format(config.centers_format)
        centers = _read_centers(frames, path, points, frames.camera(info.camera))
    index, valid = frames._replace(center_xyz=centers), ~np.isnan(centers).any(axis=1)
    if not valid.any():
        raise UserError(f"{path} calls every frame invalid.")
    if config.split != "train":
        nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)[0]
        index = index._replace(center_xyz=centers[nearest])
    elif not valid.all():
        index = select(index, valid)
    return index


def find_frames(config: Config) -> FrameIndex:
    """Find the frames and labels of `config.split` of `config.dataset`, without their centres.

    Some of NYU's training frames are val, and not in train then.
    """
    info = dataset_info(config.dataset)
    info = replace(info, cube=config.cube or info.cube)
    found = layout_of(config.dataset).find_frames(data_root(config), _folder(config), info, **_fold(config))
    if not info.held_out or config.split not in ("train", "val") or config.val_split == "test":
        return found
    used = (np.arange(len(found.names)) % info.held_out == 0) == (config.split == "val")
    return select(found, used)._replace(labels_used=used)


def data_root(config: Config) -> Path:
    """The data set's folder: `<data_dir>/<dataset>`, or `data_dir` where that has the layout itself."""
    info, split = dataset_info(config.dataset), _folder(config)
    if split not in info.folders:
        raise UserError(f"{config.dataset} has no split {split}: use {' or '.join(info.folders)}.")
    fold = {name: "?" if value == "all" else value for name, value in _fold(config).items()}
    folder = info.folders[split].format(**fold)
    usual, itself = Path(config.data_dir, config.dataset), Path(config.data_dir)
    for root in (usual, itself):
        if any(map(Path.is_dir, root.glob(folder))):
            return root
    frames = {"train": 20000, "val_hard": 600}.get(config.split, 2000)
    source = info.source.format(root=usual, split=config.split, frames=frames)
    what = f"{usual / folder} is missing: split {config.split} of {config.dataset}"
    raise FileNotFoundError(f"{what}; {source}, data/README.md draws the folders.")


def _folder(config: Config) -> str:
    """The split in whose folder the frames lie."""
    return "train" if config.split == "val" and dataset_info(config.dataset).held_out else config.split


def _fold(config: Config) -> dict[str, int | str]:
    """The argument by which a module whose data set has folds is told which."""
    name = DATASETS[config.dataset].folds
    return {name: getattr(config, name)} if name else {}


def folds(config: Config) -> list[Config]:
    """The settings of every fold: one, or with `test_subject` all one for each subject that is there.

    In `load_model` a fold's subject stands for `{subject}`.
    """
    if "all" not in _fold(config).values():
        return [config]
    models, subjects = listed(config.load_model), layout_of(config.dataset).subjects(data_root(config))
    for model in models:
        if "{subject}" not in model:
            advice = "name nine, with {subject} in place of the number"
            raise UserError(f"--load_model {model} would be tested on subjects it was trained on: {advice}.")

    found = {i: tuple(model.replace("{subject}", str(i)) for model in models) for i in subjects}
    return [replace(config, test_subject=i, load_model=own) for i, own in found.items()]


def _center_file(config: Config, split: str) -> Path:
    """The file of a split's centres, which is named as the released code and V2V-PoseNet do."""
    fold = "".join(f"{value}_" for value in _fold(config).values())
    flag = "".join(f" --{name} {value}" for name, value in _fold(config).items())
    path = Path(config.centers or data_root(config) / f"center_{split}_{fold}refined.txt")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the hand centre of every frame, `x y z` in mm; "
            f"`python -m util.inference.centers --dataset {config.dataset} --data_dir {config.data_dir} "
            f"--split {split}{flag} --method depth --out {path}` makes it, "
            "data/README.md says where published ones are."
        )
    return path


def _read_centers(frames: FrameIndex, path: Path, points: PointFormat, camera: Camera) -> np.ndarray:
    """The centres (N, 3) of the frames, mm, NaN where a file of centres says invalid."""
    written, labels = read_centers(path), len(frames.names)
    if frames.labels_used is not None and len(written) == len(frames.labels_used):
        written = written[frames.labels_used]
    if frames.part and len(written) > labels:
        written = written[:labels] if frames.part == "first" else written[-labels:]
    _require_frames(frames, path, ~np.isnan(written).any(axis=1))
    some = slice(None, None, 1 + labels // COMPARED_FRAMES)
    true_xyz, written = frames.joint_xyz[some].mean(axis=1, keepdims=True), written[:, None]
    doubt_format(path, written[some], true_xyz, camera.of(some), points, flag="--centers_format")
    return points.to_xyz(written, camera)[:, 0]


def _require_frames(frames: FrameIndex, path: Path, valid: np.ndarray) -> None:
    """Raise UserError unless frames, labels and the centres in `path` agree; V2V-PoseNet also calls a frame
    not `valid` whose file does not exist."""
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


def fingerprint(index: FrameIndex) -> str:
    """32 hexadecimal digits that change with a frame's name, size or time, a label, a centre or a cube.

    No frame is read; 70,000 frames take a second.
    """
    digest = blake2b(digest_size=16)
    for name in index.names.tolist():
        status = os.stat(os.path.join(os.fsencode(index.folder), name))
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    for array in (getattr(index, name) for name in PER_FRAME):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
