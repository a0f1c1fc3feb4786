"""The frames of a split and what is known of them, which the modules of the data sets make."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader import DatasetInfo
from util import UserError
from util.camera import Camera

PER_FRAME = ("joint_xyz", "center_xyz", "cube", "names", "intrinsics", "left", "boxes")


class FrameIndex(NamedTuple):
    """Where the frames of one split lie and what is known of them; no frame is read yet.

    `joint_xyz` (N, J, 3), `center_xyz` (N, 3), `cube` (N, 3): mm, possibly mapped from disk; joints are NaN
    where a benchmark withholds them, centres None until `build_index` has read them. `names` (N,) bytes:
    files below `folder`. `read_depth(path)`: a frame's depth (H, W) in mm, of the same dtype for all frames.

    Of the split as its data set's module finds it: `pattern` of the frames' names in their folders;
    `center_split`, whose file of centres has theirs; `labels_used` (L,) bool, which lines of the label files
    the N frames are, None for all: a file of centres may have a line for each of either; `missing`, parts
    of the split that are not there though it can be used without; `part`, first or last, that is there;
    `kinds` of every frame, empty where none are known; `without_hand`, how many frames were left out.

    None where a data set has no such thing: `intrinsics` (N, 4), fx, fy, cx, cy of each frame's own camera;
    `left` (N,) bool, whether the hand is a left one; `boxes` (N, 4), its left, top, right, bottom; pixels.
    """

    joint_xyz: np.ndarray
    center_xyz: np.ndarray | None
    cube: np.ndarray
    names: np.ndarray
    folder: Path
    read_depth: Callable[[Path], np.ndarray]
    pattern: re.Pattern | None = None
    center_split: str = ""
    labels_used: np.ndarray | None = None
    missing: Sequence[str] = ()
    part: str = ""
    kinds: Sequence[tuple[str, ...]] = ()
    without_hand: int = 0
    intrinsics: np.ndarray | None = None
    left: np.ndarray | None = None
    boxes: np.ndarray | None = None

    @property
    def labelled(self) -> bool:
        """Whether the true joints are known."""
        return not np.isnan(self.joint_xyz[:1]).any()

    def camera(self, usual: Camera) -> Camera:
        """The camera of the frames: the data set's `usual` one, or each frame's own, see `Camera.of`."""
        return usual if self.intrinsics is None else Camera(*self.intrinsics.T[..., None], usual.flip)

    def is_left(self, i: int) -> bool:
        """Whether frame i shows a left hand, which a network sees mirrored."""
        return self.left is not None and bool(self.left[i])

    def mirror_left(self, uvd: np.ndarray, frames: Sequence[int] | slice, width: int) -> np.ndarray:
        """Mirror the left hands among full-frame uvd (n, J, 3) of some frames, `width` pixels wide."""
        if self.left is None:
            return uvd
        u = np.where(self.left[frames][:, None], width - 1 - uvd[..., 0], uvd[..., 0])
        return np.concatenate([u[..., None], uvd[..., 1:]], axis=-1)

    def frame_path(self, i: int) -> Path:
        """File of frame i."""
        return self.folder / os.fsdecode(self.names[i])

    def read_frame(self, i: int, frame_size: tuple[int, int]) -> np.ndarray:
        """Depth (H, W) of frame i in mm, which must have its data set's (height, width)."""
        path = self.frame_path(i)
        depth = self.read_depth(path)
        if depth.shape != frame_size:
            (height, width), (rows, columns) = depth.shape, frame_size
            raise UserError(f"{path} has {width}×{height} pixels, its data set's camera {columns}×{rows}.")
        return depth


def new_index(
    info: DatasetInfo,
    folder: Path,
    names: Sequence[str] | np.ndarray,
    joint_xyz: np.ndarray,
    read_depth: Callable[[Path], np.ndarray],
    pattern: re.Pattern,
    center_split: str,
) -> FrameIndex:
    """An index of frames with the data set's cube, still without centres; see FrameIndex."""
    cube = np.broadcast_to(np.asarray(info.cube, np.float64), (len(names), 3))
    names = np.asarray(names, np.bytes_)
    return FrameIndex(joint_xyz, None, cube, names, folder, read_depth, pattern, center_split)


def leave_out_handless(index: FrameIndex) -> FrameIndex:
    """Without the frames whose joints are NaN, which show no hand."""
    used = ~np.isnan(index.joint_xyz[:, 0, 0])
    return select(index, used)._replace(labels_used=used, without_hand=int((~used).sum()))


def select(index: FrameIndex, frames: np.ndarray) -> FrameIndex:
    """Some frames of an index: their numbers (K,), in that order, or (N,) bool."""
    known = {name: getattr(index, name) for name in PER_FRAME}
    return index._replace(**{name: array[frames] for name, array in known.items() if array is not None})
