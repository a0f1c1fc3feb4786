"""What every frame's crop is made from, kept on disk: decoding a frame is paid once.

A crop and all its augmentations read the same pixels of a frame: those that `cut_window` picks, since
augmentations warp the crop, not the frame. So S × S depths, as the frame stores them, are all that is ever
needed, whatever an augmentation draws.

The file is N records: a checksum, then S × S depths. Its name carries a key of all frames, centres and
cubes: where one of them changes, another file is begun. A record without the right checksum was never
written, or not to its end: its frame is read.

Training with `--cache` fills what is missing; `python -m dataloader.cache` all of it.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from zlib import crc32

import numpy as np
from filelock import FileLock

from dataloader.frames import FrameIndex
from dataloader.index import fingerprint
from dataloader.labels import cache_file, remove_other_keys
from util import UserError
from util.camera import Camera
from util.files import atomic_write

VERSION = 3  # raise it when records mean something else


class CropCache:
    """One split's records in a file, that `open_cache` makes. May be sent to other processes, and be filled
    by many at once."""

    def __init__(self, path: Path, record: np.dtype):
        self.path, self._record = path, record
        # A plain array on the mapped memory: indexing a memmap costs more than reading the record.
        self._records = np.asarray(np.memmap(path, record, "r"))
        self._file = os.open(path, os.O_WRONLY) if os.access(path, os.W_OK) else None

    def __reduce__(self) -> tuple:
        return CropCache, (self.path, self._record)

    def read(self, i: int) -> np.ndarray | None:
        """Record i, (S, S), or None where it is not there or torn."""
        cut = self._records["cut"][i].copy()  # before the check: another process may write it meanwhile
        return cut if self._records["checksum"][i] == crc32(cut.data) else None

    def write(self, i: int, cut: np.ndarray) -> None:
        """Keep record i; nothing happens where the cache can only be read."""
        if self._file is None:
            return
        record = np.uint32(crc32(cut.data)).tobytes() + cut.tobytes()
        try:
            # Not through the map: there, a full disk would end the process without a word.
            os.pwrite(self._file, record, i * self._record.itemsize)
        except OSError as error:
            raise OSError(f"{self.path}: {error.strerror}; make room, or go without the cache.") from error


def open_cache(path: Path, index: FrameIndex, camera: Camera, img_size: int) -> CropCache:
    """The cache of a split's crops of edge `img_size`, in the file that `cache_file` names for `path`; it is
    made, empty but with its room on the disk, where there is none."""
    if not hasattr(os, "pwrite"):
        raise UserError("The cache needs Linux or macOS: go without it.")
    depth_dtype = index.read_depth(index.frame_path(0)).dtype
    record = np.dtype([("checksum", np.uint32), ("cut", depth_dtype, (img_size, img_size))])
    size = len(index.joint_xyz) * record.itemsize
    parts = (VERSION, fingerprint(index), tuple(camera), img_size, depth_dtype.str)
    path = cache_file(path, parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".crops.lock")) if os.access(path.parent, os.W_OK) else nullcontext():
        if not path.is_file() or path.stat().st_size != size:
            remove_other_keys(path)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # else the disk may be full in mid-training
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
    return CropCache(path, record)
