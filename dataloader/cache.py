"""What every frame's crop is made from, kept on disk: decoding a frame is paid once.

A crop and all its augmentations read the same pixels of a frame: those that `cut_window` picks, since
augmentations warp the crop, not the frame. So S × S depths, as the frame stores them, are all that is ever
needed, whatever an augmentation draws.

The file is N records: a checksum, then S × S depths. Its name carries a key of all frames, centres and
cubes: where one of them changes, another file is begun. A record without the right checksum was never
written, or not to its end: its frame is read.

`python -m dataloader.cache` fills it ahead of training; training with `--cache` fills what is missing.
"""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Self
from zlib import crc32

import numpy as np
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import Config
from dataloader.frames import FrameIndex
from dataloader.index import fingerprint
from dataloader.labels import cache_file, remove_other_keys
from util import UserError
from util.camera import Camera
from util.cli import run
from util.files import atomic_write

VERSION = 3  # raise it when records mean something else
CHUNK = 32  # frames that a process takes at a time
DESCRIPTION = """Fill the cache of a split's crops ahead of training; a stopped run goes on.

python -m dataloader.cache --dataset nyu --split train --num_workers 4
"""


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
    path = cache_file(path, blake2b(repr(parts).encode(), digest_size=8).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".crops.lock")) if os.access(path.parent, os.W_OK) else nullcontext():
        if not path.is_file() or path.stat().st_size != size:
            remove_other_keys(path)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # else the disk may be full in mid-training
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
    return CropCache(path, record)


@dataclass
class CacheSettings:
    """Settings of this command; they must be training's."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test", "val_hard"] = "train"
    setup: Literal["s0", "s1", "s2", "s3"] = "s0"  # dexycb: how it is split
    test_subject: int = 0  # msra: the fold
    val_split: Literal["val", "test"] = "val"  # test: of nyu, no training frame is held out
    img_size: int = 128  # edge of the crop, pixels
    cube: tuple[float, float, float] | None = None  # mm; None: the data set's
    centers: str = ""  # file of hand centres, or labels; empty: the data set's own
    centers_format: str = "xyz"  # of the file of centres
    num_workers: int = os.cpu_count() or 1  # processes that read frames; 0: this one

    def resolved(self) -> Self:
        """The settings; `main` has them checked as config.py's."""
        return self


def main(settings: CacheSettings) -> None:
    """Cache every frame of the split that is not cached yet."""
    from dataloader.dataset import build_dataset, init_worker  # which import this module

    dataset = build_dataset(Config(**vars(settings), cache=True).resolved())
    frames, workers = range(len(dataset)), settings.num_workers
    how = {"num_workers": workers, "collate_fn": dataset.fill_cache, "worker_init_fn": init_worker}
    read = sum(tqdm(DataLoader(frames, CHUNK, **how), desc="frames", unit=" frames", unit_scale=CHUNK))
    if read and not os.access(dataset.cache.path, os.W_OK):
        raise UserError(f"{dataset.cache.path} can only be read, and lacks {read} frames.")
    print(f"{len(dataset)} frames, of which {read} were read now, in {dataset.cache.path}")


if __name__ == "__main__":
    run(main, DESCRIPTION, CacheSettings)
