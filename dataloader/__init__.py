"""Data sets by name: settings in, an index of labelled frames or prepared samples out."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from config import DATASETS, Config
from dataloader import msra
from dataloader.dataset import HandDataset
from dataloader.index import FrameIndex, Frames, attach_centers, concatenate
from util import UserError
from util.points import parse_format


def layout_of(config: Config) -> ModuleType:
    """The module that reads the data set's files: `split_folder` and `find_frames`."""
    return import_module(f"{__name__}.{DATASETS[config.dataset].layout}")


def find_frames(config: Config) -> Frames:
    """Find the frames and labels of `config.split` of `config.dataset`, without their centres."""
    for part in missing_parts(config):
        print(f"warning: {part} is missing: only a part of the split is used.", file=sys.stderr)
    return layout_of(config).find_frames(_root(config), config)


def build_index(config: Config) -> FrameIndex:
    """Find the frames, labels and centres of `config.split` of `config.dataset`."""
    if config.test_subject == "all":
        raise UserError("--test_subject all is nine folds for test.py: choose one of 0 to 8 here.")
    frames, info, subject = find_frames(config), DATASETS[config.dataset], config.test_subject
    fold, flag = (f"{subject}_", f" --test_subject {subject}") if info.subject_scales else ("", "")
    # Named as the released code and V2V-PoseNet do.
    path = Path(config.centers or _root(config) / f"center_{frames.center_split}_{fold}refined.txt")
    make_centers = (
        f"python -m util.inference.centers --dataset {config.dataset} --data_dir {config.data_dir} "
        f"--split {frames.center_split}{flag} --method depth --out {path}"
    )
    points, training = parse_format(config.centers_format), config.split == "train"
    return attach_centers(frames, path, make_centers, points, info.camera, info.frame_size, training)


def build_dataset(config: Config, augment: bool = False) -> HandDataset:
    """The samples of `config.split`, augmented or not, and cached if `config.cache`."""
    dataset = _dataset(build_index(config), config, augment)
    if config.cache:
        from dataloader.cache import CropCache

        fold = f"_{config.test_subject}" if DATASETS[config.dataset].subject_scales else ""
        path = _root(config) / f"crops_{config.split}{fold}_{config.img_size}.bin"
        dataset.cache = CropCache(path, dataset.index, dataset.camera, config.img_size)
    return dataset


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
    """The kinds of each frame of a split, empty where it has none: rendered hands may have some."""
    read = getattr(layout_of(config), "read_kinds", None)
    return read(layout_of(config).split_folder(_root(config), config)) if read else []


def missing_parts(config: Config) -> list[str]:
    """Which parts of a split are not there, of those that the layout allows to be scored without."""
    find = getattr(layout_of(config), "missing_parts", None)
    return find(_root(config), config) if find else []


def folds(config: Config) -> list[Config]:
    """The settings of every fold: one, or with `test_subject` all one for each subject that is there.

    In `load_model` a fold's subject stands for `{subject}`.
    """
    if config.test_subject != "all":
        return [config]
    if not DATASETS[config.dataset].subject_scales:
        raise UserError(f"--test_subject all is for msra: {config.dataset} has no subjects to leave out.")
    if config.load_model and "{subject}" not in config.load_model:
        raise UserError(
            f"--load_model {config.load_model} is one network, trained on subjects it would be tested on: "
            "name nine, with {subject} in place of the number."
        )
    return [
        replace(config, test_subject=subject, load_model=config.load_model.replace("{subject}", str(subject)))
        for subject in msra.subjects(_root(config))
    ]


def join(datasets: list[HandDataset], config: Config) -> HandDataset:
    """The test samples of several folds, one after the other."""
    return _dataset(concatenate([dataset.index for dataset in datasets]), config)


def _dataset(index: FrameIndex, config: Config, augment: bool = False) -> HandDataset:
    info = DATASETS[config.dataset]
    strength = config.augment_para if augment else None
    what = (index, info.camera, info.frame_size, config.img_size, strength, config.seed)
    return HandDataset(*what, rotation=config.rotation, sensor=config.sensor)


def _root(config: Config) -> Path:
    """The data set's folder: `<data_dir>/<dataset>`, or `data_dir` where that has the layout itself."""
    split_folder = layout_of(config).split_folder
    usual, itself = Path(config.data_dir, config.dataset), Path(config.data_dir)
    for root in (usual, itself):
        if split_folder(root, config).is_dir():
            return root
    raise FileNotFoundError(
        f"{split_folder(usual, config)} is missing: split {config.split} of the {config.dataset} data set; "
        f"{DATASETS[config.dataset].origin(usual, config.split)}, data/README.md draws the folders."
    )
