"""Label files, which are read once, and where caches lie.

A million labelled frames are a table of 280 MB. It is mapped from a cache on disk: a loader's workers
share it, and only the pages that are used are in memory.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from tqdm import tqdm

from util import UserError
from util.files import atomic_write, open_table, read_rows, require_file

NAME_BYTES = 40  # ICVL's longest, an angle's folder before the sequence's, has 34
VERSION = 4  # raise it when the cache of labels has another layout


def read_label_files(paths: Sequence[Path], num_joints: int, of_msra: bool = False) -> np.ndarray:
    """The labelled frames of some text files, one after the other.

    Args:
        paths: the files; the cache lies beside the first, or in the user's cache folder.
        num_joints: J; a line holds 3 J numbers.
        of_msra: the first line of a file is the number of lines that follow, they have no names, and z
            points towards the camera; the result's is positive.

    Returns (N,) records with `joint` (J, 3) float32, as in the files, and, but of MSRA's, `name`: read-only
    and memory-mapped where a cache can be written.
    """
    for path in paths:
        require_file(path, "labels, a frame a line")
    name = [] if of_msra else [("name", f"S{NAME_BYTES}")]
    row = np.dtype([*name, ("joint", np.float32, (num_joints, 3))])
    status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    parts, table = (VERSION, row, of_msra, status), paths[0].with_name(f".{paths[0].stem}.npy")
    return _cached(table, parts, lambda: np.concatenate(list(_parse_labels(paths, row, of_msra))))


def read_frame_labels(
    table: Path, paths: Sequence[Path], row: np.dtype, read: Callable[[Path], tuple]
) -> np.ndarray:
    """The labels of frames that have a file each: (N,) records of `row`, as `read_label_files` keeps them.

    `table`: the cache's name without its key. `read(path)`: a file's record, with joints of NaN for no hand.
    """

    def read_all() -> np.ndarray:
        records = np.array([read(path) for path in tqdm(paths, "labels, once", leave=False)], row)
        joints = records["joint"]
        good = np.isnan(joints).all((1, 2)) | np.isfinite(joints).all((1, 2)) & (joints[..., 2] > 0).all(1)
        if not good.all():
            path = paths[int(np.argmin(good))]
            raise UserError(f"{path} has a joint that is not finite, or at or behind the camera.")
        return records

    status = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, paths)]
    return _cached(table, (VERSION, row, status), read_all)


def _cached(table: Path, parts: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gives of `parts`: mapped from the cache of this name where there can be one."""
    cache = cache_file(table, parts)
    try:
        return np.load(cache, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # not there, or torn
        records = make()
    try:
        remove_other_keys(cache)
        with atomic_write(cache) as temporary, temporary.open("wb") as file:
            np.save(file, records)
            os.fsync(file.fileno())  # before the rename, so that a crash leaves no torn cache
        return np.load(cache, mmap_mode="r")
    except OSError:  # no place to write: without a cache
        return records


def _parse_labels(paths: Sequence[Path], row: np.dtype, of_msra: bool) -> Iterator[np.ndarray]:
    """Records of some files, one after the other."""
    for path in paths:
        with open_table(path) as lines_of_file:
            first = next(lines_of_file, "").strip() if of_msra else ""
            if of_msra and not first.isdecimal():
                raise UserError(f"{path}: line 1 holds {first[:20]!r}, not a number of frames.")
            lines, records = read_rows(path, lines_of_file, row, first=1 + of_msra)
        z = records["joint"][..., 2]
        z *= -1 if of_msra else 1
        behind = (z <= 0).any(axis=1)
        if behind.any():
            line = lines[int(np.argmax(behind))]
            raise UserError(f"{path}: line {line} has a joint at or behind the camera.")
        if of_msra and int(first) != len(records):
            raise UserError(f"{path} announces {first} frames in its first line and holds {len(records)}.")
        yield records


def cache_file(beside: Path, parts: tuple) -> Path:
    """Where a cache of these parts lies: `beside`, or where that folder takes no files, in the user's own.

    The file's name carries their key, so what is there fits and a change begins another file.
    """
    key = blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    path = beside.with_name(f"{beside.stem}-{key}{beside.suffix}")
    if path.exists() or os.access(path.parent, os.W_OK):
        return path
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as containers have
        user = Path(tempfile.gettempdir())
    folder = blake2b(str(path.parent.resolve()).encode(errors="surrogateescape"), digest_size=10)
    return user / "awr" / folder.hexdigest() / path.name


def remove_other_keys(path: Path) -> None:
    """Remove what `cache_file` named likewise, but with another key: it is out of date."""
    for other in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*{path.suffix}"):
        if other != path:
            other.unlink(missing_ok=True)
