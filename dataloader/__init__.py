"""Data sets by name: settings in; an index of labelled frames (`index`) or prepared samples (`dataset`) out.

Each module of a data set reads its files by `find_frames`, and holds its facts in INFOS.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from config import find_dataset
from util.camera import Camera


@dataclass(frozen=True)
class DatasetInfo:
    """What is fixed for a data set (docs/spec.md §1)."""

    joint_names: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]  # joints from pinky to thumb, then wrist or knuckles, for drawing
    camera: Camera  # nominal where frames have cameras of their own
    frame_size: tuple[int, int]  # height, width of the camera's frames, pixels
    cube: tuple[float, float, float]  # mm
    folders: dict[str, str]  # by split: pattern of its folder below the root; {test_subject}: the fold
    source: str  # where it comes from, or {root}, {split} and {frames} in the command that makes it
    val_split: str = "val"  # scored after every epoch; best.pth is picked by it
    held_out: int = 0  # one of so many training frames is val and not trained on; 0: none
    smaller_hand_from: int | None = None  # first test frame of a subject whose cube is × 5/6
    subject_scales: tuple[float, ...] = ()  # of the cube by subject, where subjects are left out in turn
    official_scores: tuple[str, ...] = ()  # of util.metrics.official_scores, those of its own script


def layout_of(name: str) -> ModuleType:
    """The module that reads the files of a data set of `config.DATASETS`."""
    return import_module(f"{__name__}.{find_dataset(name).module}")


def dataset_info(name: str) -> DatasetInfo:
    """The facts of a data set of `config.DATASETS`."""
    return layout_of(name).INFOS[name]
