"""The index of a split: frames, labels and centres that agree; and label files, which are read as text once.

A million labelled frames are a table of 280 MB. It is mapped from a cache on disk: a loader's workers
share it, and only the pages that are used are in memory.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloader.base import FrameIndex
from util import UserError
from util.camera import Camera
from util.files import DamagedLineError, atomic_write, open_table, read_rows
from util.points import PointFormat, doubt_format, read_centers

NAME_BYTES = 40  # ICVL's longest, an angle's folder before the sequence's, has 34
COUNT_DIGITS = 12  # at most, of a number of frames, with the line's end
DOUBTED_FRAMES = 2000  # at most, whose centres are compared with the labels
CACHE_VERSION = 3  # raise it when the cache of labels has another layout
KEY_BYTES = hashlib.sha256().digest_size


class Frames(NamedTuple):
    """Frames and labels of one split, still without centres.

    `joint_xyz` (N, J, 3) and `cube` (N, 3), `frame_path`, `read_depth`: as in `FrameIndex`.
    `images`: number of depth frames that lie there. `center_path`: where the centres are read from.
    `part`: first or last, where the labels of the other part of the split are not there.
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
    part: str = ""


def center_file(root: Path, split: str, test_subject: int | None = None) -> Path:
    """Where a split's centres lie, named as the released code and V2V-PoseNet do."""
    fold = "" if test_subject is None else f"{test_subject}_"
    return root / f"center_{split}_{fold}refined.txt"


def attach_centers(
    frames: Frames, split: str, how_to_make: str, points: PointFormat, camera: Camera
) -> FrameIndex:
    """Give every frame its centre.

    A frame whose centre is `invalid` is left out of training. In testing it stays, so that its error
    counts, and takes the centre of the valid frame nearest to it in the file.

    Args:
        frames: what was found.
        split: train, val or test.
        how_to_make: the command that makes the file of centres, for the error when it is missing.
        points: the format of the file of centres.
        camera: of the data set.

    Raises:
        FileNotFoundError: if the file of centres is missing.
        UserError: if it is damaged, or frames, labels and centres are not as many.
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
        raise UserError(f"{str(error).rstrip('.')}: it is the centre of {frame}.") from error
    if used is not None and len(centers) == len(used):
        centers = centers[used]
    if frames.part and len(centers) > labels:
        centers = centers[:labels] if frames.part == "first" else centers[-labels:]
    written, centers = centers, points.to_xyz(centers, camera)
    valid = ~np.isnan(centers).any(axis=1)
    # V2V-PoseNet also says invalid where the frame's file does not exist.
    if len(centers) != labels or not np.count_nonzero(valid) <= frames.images <= labels:
        raise UserError(
            f"{path.parent}, split {split}: {frames.images} depth frames, {labels} labels and "
            f"{len(centers)} centres do not match; frame i must have label i and centre i{_odd_one(frames)}."
        )
    if not valid.any():
        raise UserError(f"{path} calls every frame invalid.")
    some = np.linspace(0, labels - 1, min(labels, DOUBTED_FRAMES)).astype(int)
    doubt_format(
        path, written[some], frames.joint_xyz[some].mean(axis=1), camera, points, flag="--centers_format"
    )
    behind = valid & ~(centers[:, 2] > 0)
    if behind.any():
        i = int(np.argmax(behind))
        raise UserError(
            f"{path}: frame {frames.frame_path(i)} (centre {i + 1}) has a centre at or behind the camera."
        )
    index = FrameIndex(frames.joint_xyz, centers, frames.cube, frames.frame_path, frames.read_depth)
    if valid.all():
        return index
    if split == "train":
        return select(index, np.flatnonzero(valid))
    return index._replace(center_xyz=centers[_nearest_valid(valid)])


def _odd_one(frames: Frames) -> str:
    """The first label without a frame and the first frame without a label, for an error."""
    labelled = [frames.frame_path(i) for i in range(len(frames.joint_xyz))]
    missing = next((path for path in labelled if not path.is_file()), None)
    words = f"; the first label without a frame is {missing}'s" if missing else ""
    if frames.labels_used is not None and not frames.labels_used.all():
        return words  # more frames than labels are right there
    # Frames are named alike but for their last number.
    alike = re.compile(re.sub(r"\d+(?=\D*$)", r"\\d+", re.escape(labelled[0].name)))
    known = set(labelled)
    for folder in dict.fromkeys(path.parent for path in labelled):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if alike.fullmatch(name) and folder / name not in known:
                return f"{words}; the first frame without a label is {folder / name}"
    return words


def select(index: FrameIndex, frames: np.ndarray) -> FrameIndex:
    """Some frames (K,) of an index, in that order."""
    return FrameIndex(
        index.joint_xyz[frames],
        index.center_xyz[frames],
        index.cube[frames],
        partial(_selected_path, index.frame_path, frames),
        index.read_depth,
    )


def fingerprint(index: FrameIndex) -> str:
    """What tells a split's frames apart from others: SHA-256 of their joints, names, sizes and times."""
    digest = hashlib.sha256(np.ascontiguousarray(index.joint_xyz))
    for path in map(index.frame_path, range(len(index.joint_xyz))):
        found = path.stat()
        digest.update(os.fsencode(f"{path.name} {found.st_size} {found.st_mtime_ns}\n"))
    return digest.hexdigest()


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
    return folder / os.fsdecode(names[i])


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


def read_label_files(
    paths: Sequence[Path], num_joints: int, named: bool = True, counted: bool = False, z_sign: int = 1
) -> np.ndarray:
    """The labelled frames of some text files, one after the other.

    Args:
        paths: the files; the cache lies beside the first, or in the user's cache folder.
        num_joints: J; a line holds 3 J numbers.
        named: a line starts with the frame's name.
        counted: the first line of a file is the number of lines that follow.
        z_sign: -1 where the file's z points towards the camera; the result's is positive.

    Returns:
        (N,) records with `joint` (J, 3) float32 and, where named, `name`: read-only and memory-mapped
        where a cache can be written.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: naming file and line, if a line is damaged.
    """
    name = [("name", f"S{NAME_BYTES}")] if named else []
    row = np.dtype([*name, ("joint", np.float32, (num_joints, 3))])
    key = _label_key(paths, row, counted, z_sign)
    caches = paths[0].with_name(f".{paths[0].stem}.index"), user_cache(paths[0])
    for cache in caches:
        records = _load_labels(cache, row, key)
        if records is not None:
            return records
    for cache in caches:
        try:
            _save_labels(cache, _parse_labels(paths, row, counted, z_sign), key)
        except OSError:
            continue  # not writable: the next place, or none
        records = _load_labels(cache, row, key)
        if records is not None:
            return records
    return np.concatenate(list(_parse_labels(paths, row, counted, z_sign)))


def require_labels(paths: Sequence[Path], split: str, source: str) -> None:
    """Raise FileNotFoundError, naming the first label file that is not there."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: labels of split {split}; {source}.")


def user_cache(path: Path) -> Path:
    """Where the user's cache folder keeps what cannot be written beside `path`."""
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "awr")
    except RuntimeError:  # a user without a home, as containers have
        user = Path(tempfile.gettempdir(), "awr")
    return user / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20]


def _parse_labels(paths: Sequence[Path], row: np.dtype, counted: bool, z_sign: int) -> Iterator[np.ndarray]:
    """Records of some files, one after the other, some thousand at a time."""
    for path in paths:
        found = 0
        with open_table(path) as lines_of_file:
            announced = _announced_frames(path, next(lines_of_file, "")) if counted else None
            for lines, records in read_rows(path, lines_of_file, row, first=1 + counted):
                z = records["joint"][..., 2]
                z *= z_sign
                behind = (z <= 0).any(axis=1)
                if behind.any():
                    line = lines[int(np.argmax(behind))]
                    raise DamagedLineError(path, line, "has a joint at or behind the camera")
                found += len(records)
                yield records
        if announced not in (None, found):
            raise UserError(f"{path} announces {announced} frames in its first line and holds {found}.")


def _announced_frames(path: Path, line: str) -> int:
    if not line.strip().isdecimal() or len(line) > COUNT_DIGITS:
        raise DamagedLineError(path, 1, f"holds {line[:20]!r}, not a number of frames")
    return int(line)


def _label_key(paths: Sequence[Path], *layout: object) -> bytes:
    """What the cache of these files must carry: it changes with any file's size or time."""
    status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((CACHE_VERSION, layout, status)).encode()).digest()


def _load_labels(cache: Path, row: np.dtype, key: bytes) -> np.ndarray | None:
    """The cached records; None if there are none, or they are stale or torn.

    The key follows the records: a file cut short lacks it.
    """
    try:
        with cache.open("rb") as file:
            size = file.seek(-KEY_BYTES, os.SEEK_END)
            if file.read() != key:
                return None
        return np.memmap(cache, row, mode="r", shape=size // row.itemsize)
    except (OSError, ValueError):
        return None


def _save_labels(cache: Path, parts: Iterator[np.ndarray], key: bytes) -> None:
    """Write records as they come: a million of them never lie in memory together."""
    with atomic_write(cache) as temporary, temporary.open("wb") as file:
        for records in parts:
            file.write(records.data)
        file.write(key)
        file.flush()
        os.fsync(file.fileno())  # before the rename, so that a crash leaves the old cache or the new
