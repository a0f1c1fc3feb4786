"""Data sets by name."""

from pathlib import Path

import numpy as np

from config import DATASETS, Config
from dataloader import nyu
from dataloader.base import FrameIndex, HandDataset


def build_index(config: Config) -> FrameIndex:
    """Find the frames, labels and centres of `config.split` of `config.dataset`.

    Raises:
        FileNotFoundError, ValueError: in one sentence, if the data set is not there or damaged.
    """
    return nyu.index_frames(_root(config), config.split, DATASETS[config.dataset], config.cube)


def build_dataset(config: Config, augment: bool = False) -> HandDataset:
    """The samples of `config.split`, augmented if asked for."""
    return HandDataset(
        build_index(config),
        DATASETS[config.dataset].camera,
        config.img_size,
        config.augment_para if augment else None,
        config.seed,
    )


def read_labels(config: Config) -> np.ndarray:
    """True joints of every frame of the split, (N, J, 3) mm, without looking for frames or centres."""
    return nyu.read_labels(_root(config), config.split, DATASETS[config.dataset])


def _root(config: Config) -> Path:
    root = Path(config.data_dir, config.dataset)
    if not (root / config.split).is_dir():
        raise FileNotFoundError(
            f"{root / config.split} is missing: split {config.split} of the {config.dataset} data set; "
            f"{DATASETS[config.dataset].source}, data/README.md draws the folders."
        )
    return root
