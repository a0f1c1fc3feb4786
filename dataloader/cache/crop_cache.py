"""What every frame's crop is made from, on disk: decoding a frame is paid once.

A crop and all its augmentations read the same pixels of a frame: those that `cut_window` picks,
since augmentations warp the crop, not the frame. So a record of S × S depths, as the frame stores
them, is all that is ever needed, whatever an augmentation draws.

<name>.bin     N records of S × S uint16 mm; float32 where the data set's frames hold that
<name>.index   what the records are, and for each a key of its frame, centre and cube, and a checksum

A record counts when key and checksum agree with the frame as it is now. So a frame or centre that
changed, a record that was torn, and one that was never written are all found where they are read,
and all mended alike: by reading the frame.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import numpy as np

from util.camera import Camera
from util.files import atomic_write

VERSION = 1  # raise it when records mean something else
DTYPES = (np.dtype(np.uint16), np.dtype(np.float32))
HEADER_BYTES = 64
KEY_BYTES = 16
ENTRY_BYTES = KEY_BYTES + 4


class CropCache:
    """One split's records. May be sent to other processes, and be filled by many at once.

    Args:
        path: the data file; the index lies beside it.
        num_frames: N.
        img_size: S, edge of the crop.
        camera: the camera that took the frames.
        find_dtype: gives the type of the frames' depth; called where no usable cache lies.

    Raises:
        ValueError: if the frames hold another type of depth than the cache keeps, or the disk has no
            room for it.
        OSError: if it cannot be written.
    """

    def __init__(
        self, path: Path, num_frames: int, img_size: int, camera: Camera, find_dtype: Callable[[], np.dtype]
    ):
        self.path = path
        self.shape = (num_frames, img_size, img_size)
        self.settings = repr((VERSION, img_size, tuple(camera))).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):  # of processes that start together, one creates it
            self.dtype = self._dtype_there() or self._create(find_dtype())
        self._files: tuple[np.ndarray, np.ndarray, int, int] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": None}  # every process opens its own

    def key(self, frame: Path, center_xyz: np.ndarray, cube: np.ndarray) -> bytes | None:
        """What a record of this frame must carry, None where the frame's file cannot be found.

        Args:
            frame: its file; name, size and time count.
            center_xyz: (3,) mm.
            cube: (3,) mm.
        """
        try:
            status = os.stat(frame)
        except OSError:
            return None
        # Three parts of the path tell all frames of any data set apart, wherever it is mounted.
        parts = str(frame).split(os.sep)[-3:]  # a third of the time of Path.parts
        name = f"{'/'.join(parts)}:{status.st_size}:{status.st_mtime_ns}".encode()
        numbers = np.asarray((center_xyz, cube), np.float64).tobytes()
        return blake2b(numbers + self.settings + name, digest_size=KEY_BYTES).digest()

    @property
    def writable(self) -> bool:
        """Whether records can be kept, not only read."""
        return self._open()[3] >= 0

    def read(self, i: int, key: bytes | None) -> np.ndarray | None:
        """Record i, (S, S), or None where it is not there, stale or torn."""
        if key is None:
            return None
        records, entries, *_ = self._open()
        entry = entries[i].tobytes()
        if entry[:KEY_BYTES] != key:
            return None
        cut = np.array(records[i])  # ours before it is checked: another process may write it anew
        return cut if entry == _entry(key, cut) else None

    def write(self, i: int, key: bytes | None, cut: np.ndarray) -> None:
        """Keep record i; nothing happens where the cache can only be read.

        Raises:
            ValueError: if the frame's depth is of another type than the other frames'.
            OSError: naming the cache, if it cannot be written.
        """
        *_, records, entries = self._open()
        if key is None or entries < 0:
            return
        if cut.dtype != self.dtype:
            raise ValueError(f"{self.path} keeps {self.dtype} depth and cannot keep a frame of {cut.dtype}.")
        try:
            # Not through the map: there, a full disk would end the process without a word.
            os.pwrite(records, cut.data, i * cut.nbytes)
            os.pwrite(entries, _entry(key, cut), HEADER_BYTES + i * ENTRY_BYTES)
        except OSError as error:
            raise OSError(f"{self.path}: {error.strerror}; make room, or go without the cache.") from error

    def _open(self) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Records and entries mapped for reading, and descriptors to write them; -1 where that is barred."""
        if self._files is None:
            records = np.memmap(self.path, self.dtype, "r", shape=self.shape)
            entries = np.memmap(self._index, np.uint8, "r", HEADER_BYTES, shape=(self.shape[0], ENTRY_BYTES))
            # Plain arrays on the same memory: indexing a memmap costs more than reading the record.
            maps = (np.asarray(records), np.asarray(entries))
            self._files = (*maps, *map(_open_for_writing, (self.path, self._index)))
        return self._files

    @property
    def _index(self) -> Path:
        return self.path.with_suffix(".index")

    def _header(self, dtype: np.dtype) -> bytes:
        return f"awr crops {VERSION}: {self.shape} {dtype.str}".encode().ljust(HEADER_BYTES)

    def _data_bytes(self, dtype: np.dtype) -> int:
        return int(np.prod(self.shape)) * dtype.itemsize

    def _dtype_there(self) -> np.dtype | None:
        """The type of the records that lie there; None if there are none of this number and size."""
        try:
            with self._index.open("rb") as file:
                header = file.read(HEADER_BYTES)
            sizes = self.path.stat().st_size, self._index.stat().st_size
        except OSError:
            return None
        entries = HEADER_BYTES + self.shape[0] * ENTRY_BYTES
        fits = (t for t in DTYPES if header == self._header(t) and sizes == (self._data_bytes(t), entries))
        return next(fits, None)

    def _create(self, dtype: np.dtype) -> np.dtype:
        """Make both files, empty but with their room on the disk, in place of what was there."""
        if dtype not in DTYPES:
            raise ValueError(f"The cache keeps uint16 and float32 depth, not {dtype}: go without it.")
        for path in (self.path, self._index):
            path.unlink(missing_ok=True)  # processes that have it open keep it
            for leftover in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
                leftover.unlink()  # of a process that was killed here
        need, free = self._data_bytes(dtype), shutil.disk_usage(self.path.parent).free
        if need > free:
            raise ValueError(
                f"{self.path} needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free there: make room, "
                "or go without the cache."
            )
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            _reserve(file.fileno(), need)
        with atomic_write(self._index) as temporary, temporary.open("wb") as file:
            file.write(self._header(dtype))
            file.truncate(HEADER_BYTES + self.shape[0] * ENTRY_BYTES)
        return dtype


def _entry(key: bytes, cut: np.ndarray) -> bytes:
    return key + crc32(cut.data).to_bytes(4, "little")


def _reserve(file: int, size: int) -> None:
    """Grow an empty file, taking its room on the disk now where the system can: not in mid-training."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _open_for_writing(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY)
    except OSError:
        return -1


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl  # here, as the rest of the project runs where there is none
    except ImportError as error:
        raise ValueError("The cache needs Linux or macOS: go without it.") from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
