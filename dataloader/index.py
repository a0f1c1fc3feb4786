"""From what a data set's module finds to the index of a split: frames, labels and centres that agree."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.base import FrameIndex
from util.files import DamagedLineError, read_centers


class Frames(NamedTuple):
    """Frames and labels of one split, still without centres.

    `joint_xyz` (N, J, 3) and `cube` (N, 3), `frame_path`, `read_depth`: as in `FrameIndex`.
    `images`: number of depth frames that lie there. `center_path`: where the centres are read from.
    `labels_used` (L,) bool: which lines of the label files the N frames are, None for all; a file
    of centres may have a line for each of either.
    """

    joint_xyz: np.ndarray
    cube: np.ndarray
    frame_path: Callable[[int], Path]
    read_depth: Callable[[Path], np.ndarray]
    images: int
    center_path: Path
    labels_used: np.ndarray | None = None


def center_file(root: Path, split: str, test_subject: int | None = None) -> Path:
    """Where a split's centres lie, named as the released code and V2V-PoseNet do."""
    fold = "" if test_subject is None else f"{test_subject}_"
    return root / f"center_{split}_{fold}refined.txt"


def attach_centers(frames: Frames, split: str, how_to_make: str) -> FrameIndex:
    """Give every frame its centre.

    A frame whose centre is `invalid` is left out of training. In testing it stays, so that its error
    counts, and takes the centre of the valid frame nearest to it in the file.

    Args:
        frames: what was found.
        split: train, val or test.
        how_to_make: the command that makes the file of centres, for the error when it is missing.

    Raises:
        FileNotFoundError: if the file of centres is missing.
        ValueError: if it is damaged, or frames, labels and centres are not as many.
    """
    path = frames.center_path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the hand centre of every frame, `x y z` in mm; `{how_to_make}` makes it, "
            "data/README.md says where published ones are."
        )
    used, labels = frames.labels_used, len(frames.joint_xyz)
    try:
        centers = read_centers(path)
    except DamagedLineError as error:
        if used is not None or error.number > labels:
            raise
        frame = frames.frame_path(error.number - 1)
        raise ValueError(f"{str(error).rstrip('.')}: it is the centre of {frame}.") from error
    if used is not None and len(centers) == len(used):
        centers = centers[used]
    valid = ~np.isnan(centers).any(axis=1)
    # V2V-PoseNet also says invalid where the frame's file does not exist.
    if len(centers) != labels or not np.count_nonzero(valid) <= frames.images <= labels:
        raise ValueError(
            f"{path.parent}, split {split}: {frames.images} depth frames, {labels} labels and "
            f"{len(centers)} centres do not match; frame i must have label i and centre i."
        )
    if not valid.any():
        raise ValueError(f"{path} calls every frame invalid.")
    behind = valid & ~(centers[:, 2] > 0)
    if behind.any():
        i = int(np.argmax(behind))
        raise ValueError(
            f"{path}: frame {frames.frame_path(i)} (centre {i + 1}) has a centre at or behind the camera."
        )
    index = FrameIndex(frames.joint_xyz, centers, frames.cube, frames.frame_path, frames.read_depth)
    if valid.all():
        return index
    if split == "train":
        return select(index, np.flatnonzero(valid))
    return index._replace(center_xyz=centers[_nearest_valid(valid)])


def select(index: FrameIndex, frames: np.ndarray) -> FrameIndex:
    """Some frames (K,) of an index, in that order."""
    return FrameIndex(
        index.joint_xyz[frames],
        index.center_xyz[frames],
        index.cube[frames],
        partial(_selected_path, index.frame_path, frames),
        index.read_depth,
    )


def concatenate(parts: Sequence[FrameIndex]) -> FrameIndex:
    """Indices of one data set, one after the other."""
    if len(parts) == 1:
        return parts[0]  # as it is: it may be mapped from disk
    starts = np.cumsum([0, *(len(part.joint_xyz) for part in parts)])
    frame_path = partial(_joined_path, [part.frame_path for part in parts], starts)
    return FrameIndex(
        *(np.concatenate([part[field] for part in parts]) for field in range(3)),
        frame_path,
        parts[0].read_depth,
    )


# The paths of frames are found by named functions, not closures, so that an index can be sent to the
# processes that read frames where these are not forked.


def named_path(folder: Path, names: np.ndarray, i: int) -> Path:
    """File of frame i whose name (N,) bytes the labels hold."""
    return folder / names[i].decode()


def _selected_path(frame_path: Callable[[int], Path], frames: np.ndarray, i: int) -> Path:
    return frame_path(int(frames[i]))


def _joined_path(parts: list[Callable[[int], Path]], starts: np.ndarray, i: int) -> Path:
    part = int(np.searchsorted(starts, i, side="right")) - 1
    return parts[part](i - int(starts[part]))


def _nearest_valid(valid: np.ndarray) -> np.ndarray:
    """For each of (N,) frames the number of the valid one nearest to it, the earlier of two."""
    known, frames = np.flatnonzero(valid), np.arange(len(valid))
    after = known[np.minimum(np.searchsorted(known, frames), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, frames, side="right") - 1, 0)]
    return np.where(np.abs(frames - before) <= np.abs(after - frames), before, after)
