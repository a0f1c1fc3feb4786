"""Reading tables and images, and writing files so that nothing half-written is ever seen."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

INVALID = "invalid"  # V2V-PoseNet's word for a frame without a hand, in place of a centre


class DamagedLineError(ValueError):
    """A table's line `number`, from 1, cannot be read."""

    def __init__(self, path: Path, number: int, complaint: str):
        super().__init__(f"{path}: line {number} {complaint}.")
        self.number = number


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` once the block succeeded.

    The temporary file keeps the ending, since libraries choose the format by it. It is there from the
    start, empty: a place that takes no file shows before the work, not after it. A link stays one, its file
    is replaced; a pipe or device is written to as it is.

    Raises:
        OSError: naming `path`, if it is a folder, or if its folder takes no files or the disk is full.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        _make_empty(temporary, path)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:  # a write to a full disk, for one, does not say where
            message = f"{error.strerror}; what was there before is unharmed"
            raise OSError(error.errno, message, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _make_empty(temporary: Path, path: Path) -> None:
    """Make the temporary file of `path`, whose name an error carries: the other is nobody's business."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.write_bytes(b"")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` could not: files whose process was killed while writing them."""
    for leftover in folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)


def write_table(path: Path, table: np.ndarray) -> None:
    """Write (lines, columns) numbers as text, `%.3f`, a row a line."""
    with atomic_write(path) as temporary:
        np.savetxt(temporary, table, fmt="%.3f")


def read_table(path: Path, columns: int) -> np.ndarray:
    """Read a text file of white-space separated numbers.

    Args:
        path: the file.
        columns: numbers a line.

    Returns:
        (lines, columns) float64.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: naming the first line that is not `columns` finite numbers.
    """
    return _parse_table(path, _read_lines(path), columns)


def read_centers(path: Path) -> np.ndarray:
    """Read hand centres, `x y z` in mm a line; a line `invalid` says that the frame shows no hand.

    Returns:
        (lines, 3) float64, NaN where invalid.

    Raises:
        FileNotFoundError, ValueError: see `read_table`.
    """
    lines = [line.strip() for line in _read_lines(path)]
    centers = _parse_table(path, ["0 0 0" if line.startswith(INVALID) else line for line in lines], 3)
    invalid = [line.startswith(INVALID) for line in lines if line]
    centers[invalid] = np.nan
    return centers


def write_centers(path: Path, centers: np.ndarray) -> None:
    """Write (N, 3) centres as `read_centers` reads them; NaN becomes `invalid`."""
    lines = (INVALID if np.isnan(row).any() else "{:.3f} {:.3f} {:.3f}".format(*row) for row in centers)
    with atomic_write(path) as temporary, temporary.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_image(path: Path) -> np.ndarray:
    """Decode an image file as it is stored: (H, W) or (H, W, channels), 8 or 16 bit.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it cannot be decoded.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: a depth frame whose neighbours are there.") from error
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    except cv2.error:  # a header that announces an absurd size
        image = None
    if image is None:
        raise ValueError(f"{path} is damaged: it cannot be decoded as an image.")
    return image


def read_depth_png(path: Path) -> np.ndarray:
    """Decode a depth frame kept as 16-bit PNG: (H, W) uint16, in the file's unit.

    Raises:
        FileNotFoundError, ValueError: see `read_image`; also if it is of another kind.
    """
    image = read_image(path)
    if image.dtype != np.uint16 or image.ndim != 2:
        raise ValueError(f"{path} is {image.dtype} of shape {image.shape}: expected a 16-bit grey PNG.")
    return image


def read_predictions(path: Path, num_frames: int, num_joints: int) -> np.ndarray:
    """Read joints as they are saved, one frame a line, `u v d` per joint (docs/spec.md §10).

    Returns:
        (num_frames, num_joints, 3) float64 full-frame uvd: pixels and mm.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if a line is damaged, or the frames are not as many as the labels.
    """
    table = read_table(path, columns=3 * num_joints)
    if len(table) != num_frames:
        raise ValueError(
            f"{path} has {len(table)} frames, the labels have {num_frames}: they do not belong together."
        )
    return table.reshape(num_frames, num_joints, 3)


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing or not a file.")
    lines = path.read_text(errors="replace").splitlines()
    if not any(map(str.strip, lines)):
        raise ValueError(f"{path}: the file is empty.")
    return lines


def _parse_table(path: Path, lines: list[str], columns: int) -> np.ndarray:
    try:
        table = np.loadtxt(lines, ndmin=2, comments=None)
    except ValueError:
        table = None  # some line is damaged: find it below
    if table is None or table.shape[1] != columns or not np.isfinite(table).all():
        raise DamagedLineError(path, *_first_damage(lines, columns))
    return table


def _first_damage(lines: list[str], columns: int) -> tuple[int, str]:
    """Number, from 1, of the first line that is not `columns` finite numbers, and what is wrong with it."""
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and len(fields) != columns:
            return number, f"has {len(fields)} numbers, expected {columns}"
        for field in fields:
            try:
                finite = np.isfinite(float(field))
            except ValueError:
                return number, f"holds {field[:20]!r}, which is not a number"
            if not finite:
                return number, f"holds {field}, which is not finite"
    return 1, "or a later one cannot be read as numbers"
