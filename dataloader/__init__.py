"""Data sets by name: settings in, an index of labelled frames or prepared samples out."""

import errno
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from config import DATASETS, Config
from dataloader import msra
from dataloader.base import FrameIndex, HandDataset
from dataloader.cache.crop_cache import CropCache
from dataloader.index import Frames, attach_centers, concatenate, user_cache
from util import UserError
from util.points import parse_format


def layout_of(config: Config) -> ModuleType:
    """The module that reads the data set's files: `split_folder`, `find_frames` and `read_labels`."""
    return import_module(f"{__name__}.{DATASETS[config.dataset].layout}")


def find_frames(config: Config) -> Frames:
    """Find the frames and labels of `config.split` of `config.dataset`, without their centres.

    Raises:
        FileNotFoundError, UserError: in one sentence, if the data set is not there or damaged.
    """
    for part in missing_parts(config):
        print(f"warning: {part} is missing: only a part of the split is used.", file=sys.stderr)
    return layout_of(config).find_frames(_root(config), config)


def build_index(config: Config) -> FrameIndex:
    """Find the frames, labels and centres of `config.split` of `config.dataset`.

    Raises:
        FileNotFoundError, UserError: see `find_frames`; also if the centres are missing or do not match.
    """
    frames = find_frames(config)
    if config.centers:
        frames = frames._replace(center_path=Path(config.centers))
    fold = f" --test_subject {config.test_subject}" if DATASETS[config.dataset].subject_scales else ""
    # hands17's val takes its centres from among those of train.
    split = "train" if frames.center_path.name.startswith("center_train") else config.split
    make_centers = (
        f"python -m util.inference.centers --dataset {config.dataset} --data_dir {config.data_dir} "
        f"--split {split}{fold} --method depth --out {frames.center_path}"
    )
    points = parse_format(config.centers_format)
    index = attach_centers(frames, config.split, make_centers, points, DATASETS[config.dataset].camera)
    return index._replace(joint_xyz=_targets(index.joint_xyz, config))


def build_dataset(config: Config, augment: bool = False) -> HandDataset:
    """The samples of `config.split`, augmented or not, and cached if `config.cache`.

    Raises:
        FileNotFoundError, UserError, OSError: see `build_index` and `CropCache`.
    """
    index = build_index(config)
    return _dataset(index, config, augment, _open_cache(index, config) if config.cache else None)


def read_labels(config: Config) -> np.ndarray:
    """True joints of every frame of the split, (N, J, 3) mm, without looking for frames or centres."""
    return _targets(layout_of(config).read_labels(_root(config), config), config)


def read_kinds(config: Config) -> list[tuple[str, ...]]:
    """The kinds of each frame of a split, of rendered hands; NYU's test subjects; empty where it has none."""
    info = DATASETS[config.dataset]
    if config.split == "test" and info.smaller_hand_from:
        frames = len(read_labels(config))
        return [(f"subject {1 + (i >= info.smaller_hand_from)}",) for i in range(frames)]
    read = getattr(layout_of(config), "read_kinds", None)
    return read(layout_of(config).split_folder(_root(config), config)) if read else []


def missing_parts(config: Config) -> list[str]:
    """Which parts of a split are not there, of those that the layout allows to be scored without."""
    find = getattr(layout_of(config), "missing_parts", None)
    return find(_root(config), config) if find else []


def folds(config: Config) -> list[Config]:
    """The settings of every fold: one, or with `test_subject` all one for each subject that is there.

    In `load_model` a fold's subject stands for `{subject}`.

    Raises:
        UserError: if one checkpoint is named for all folds, or subjects are left out of a data set
            that has none.
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


def _dataset(
    index: FrameIndex, config: Config, augment: bool = False, cache: CropCache | None = None
) -> HandDataset:
    return HandDataset(
        index,
        DATASETS[config.dataset].camera,
        DATASETS[config.dataset].frame_size,
        config.img_size,
        config.augment_para if augment else None,
        config.seed,
        cache,
        config.center_noise,
        config.rotation,
        config.sensor,
    )


def _open_cache(index: FrameIndex, config: Config) -> CropCache:
    """The cache of a split's crops, created where none is: beside the data set or, where that cannot be
    written, in the user's cache folder."""
    root, info = _root(config), DATASETS[config.dataset]
    fold = f"_{config.test_subject}" if info.subject_scales else ""
    name = f"crops_{config.split}{fold}_{config.img_size}.bin"
    depth_dtype = index.read_depth(index.frame_path(0)).dtype
    arguments = (len(index.joint_xyz), config.img_size, info.camera, depth_dtype)
    try:
        return CropCache(root / name, *arguments)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return CropCache(user_cache(root) / name, *arguments)


def _targets(joint_xyz: np.ndarray, config: Config) -> np.ndarray:
    """What is predicted: (N, J, 3) joints, or as one joint their mean."""
    return joint_xyz if config.target == "joints" else joint_xyz.mean(axis=1, keepdims=True)


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
