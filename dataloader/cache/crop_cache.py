"""What every frame's crop is made from, on disk: decoding a frame is paid once.

A crop and all its augmentations read the same pixels of a frame: those that `cut_window` picks,
since augmentations warp the crop, not the frame. So S × S depths, as the frame stores them, are all
that is ever needed, whatever an augmentation draws.

The file is a header and N records: a key of the frame, its centre and cube; a checksum; S × S depths.
A record counts if key and checksum agree with the frame as it is now. So a frame or centre that
changed, a torn record and one that was never written are all noticed when they are read, and the
remedy is the same: read the frame.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import numpy as np

from util import UserError
from util.camera import Camera
from util.files import atomic_write

VERSION = 2  # raise it when records mean something else
HEADER_BYTES = 256
KEY_BYTES = 16
ENTRY_BYTES = KEY_BYTES + 4  # with the checksum


class CropCache:
    """One split's records. May be sent to other processes, and be filled by many at once.

    Args:
        path: the file; it is created, or replaced if it keeps something else.
        num_frames: N.
        img_size: S, edge of the crop.
        camera: the camera that took the frames.
        depth_dtype: type of the frames' depth.

    Raises:
        UserError: if the disk has no room for it.
        OSError: if it cannot be written.
    """

    def __init__(self, path: Path, num_frames: int, img_size: int, camera: Camera, depth_dtype: np.dtype):
        self.path = path
        self.shape = (num_frames, img_size, img_size)
        self.depth_dtype = depth_dtype
        self.record = np.dtype([("entry", np.void, ENTRY_BYTES), ("cut", depth_dtype, self.shape[1:])])
        header = f"awr crops {VERSION}: {self.shape} {depth_dtype.str} {tuple(camera)}"
        self._header = header.encode().ljust(HEADER_BYTES)
        self._size = HEADER_BYTES + num_frames * self.record.itemsize
        self._opened: tuple[np.ndarray, int] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):  # of processes that start together, one creates it
            if not self._is_usable():
                self._create()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}  # every process opens its own

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
        name = f"{'/'.join(frame.parts[-3:])}:{status.st_size}:{status.st_mtime_ns}".encode()
        numbers = np.asarray((center_xyz, cube), np.float64).tobytes()
        return blake2b(numbers + name, digest_size=KEY_BYTES).digest()

    @property
    def writable(self) -> bool:
        """Whether records can be kept, not only read."""
        return self._open()[1] >= 0

    def read(self, i: int, key: bytes | None) -> np.ndarray | None:
        """Record i, (S, S), or None where it is not there, stale or torn."""
        if key is None:
            return None
        records, _ = self._open()
        cut = records["cut"][i].copy()  # before the check: another process may write it meanwhile
        return cut if records["entry"][i].tobytes() == _entry(key, cut) else None

    def write(self, i: int, key: bytes | None, cut: np.ndarray) -> None:
        """Keep record i; nothing happens where the cache can only be read.

        Raises:
            UserError: if the frame's depth is of another type than the other frames'.
            OSError: naming the cache, if it cannot be written.
        """
        if key is None or not self.writable:
            return
        if cut.dtype != self.depth_dtype:
            raise UserError(
                f"{self.path} keeps {self.depth_dtype} depth and cannot keep a frame of {cut.dtype}."
            )
        _, file = self._open()
        try:
            # Not through the map: there, a full disk would end the process without a word.
            os.pwrite(file, _entry(key, cut) + cut.tobytes(), HEADER_BYTES + i * self.record.itemsize)
        except OSError as error:
            raise OSError(f"{self.path}: {error.strerror}; make room, or go without the cache.") from error

    def _open(self) -> tuple[np.ndarray, int]:
        """Records (N,) mapped for reading, and a descriptor to write them; -1 where that is not allowed."""
        if self._opened is None:
            records = np.memmap(self.path, self.record, "r", HEADER_BYTES, self.shape[:1])
            # A plain array on the same memory: indexing a memmap costs more than reading the record.
            self._opened = np.asarray(records), _open_for_writing(self.path)
        return self._opened

    def _is_usable(self) -> bool:
        """Whether the file is there and holds such records."""
        try:
            with self.path.open("rb") as file:
                header = file.read(HEADER_BYTES)
            return header == self._header and self.path.stat().st_size == self._size
        except OSError:
            return False

    def _create(self) -> None:
        """Make the file, empty but with its room on the disk, in place of what was there."""
        self.path.unlink(missing_ok=True)  # processes that have it open keep it
        self.path.with_suffix(".index").unlink(missing_ok=True)  # of the format before this one
        for leftover in self.path.parent.glob(f".{self.path.stem}.*.part{self.path.suffix}"):
            leftover.unlink()  # of a process that was killed here
        free = shutil.disk_usage(self.path.parent).free
        if self._size > free:
            raise UserError(
                f"{self.path} needs {self._size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free there: "
                "make room, or go without the cache."
            )
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            file.write(self._header)
            if hasattr(os, "posix_fallocate"):  # else the disk may be full in mid-training
                os.posix_fallocate(file.fileno(), 0, self._size)
            file.truncate(self._size)


def _entry(key: bytes, cut: np.ndarray) -> bytes:
    return key + crc32(cut.data).to_bytes(4, "little")


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
        raise UserError("The cache needs Linux or macOS: go without it.") from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
