"""Reading tables and images, and writing files so that nothing half-written is ever seen."""

import errno
import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from util import UserError

MAX_PIXELS = 2**25  # of a frame; depth cameras have a third of that at the most
MAX_LINE = 2**20  # characters of a line that are read at once; no line of numbers is longer
LINES_AT_A_TIME = 10_000  # of a table: a few megabytes of text


class DamagedLineError(UserError):
    """A table's line `number`, from 1, cannot be read."""

    def __init__(self, path: Path, number: int, complaint: str):
        super().__init__(f"{path}: line {number} {complaint}.")
        self.number = number


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` once the block succeeded.

    The temporary file keeps the ending, since libraries choose the format by it. It is there from the
    start, empty: a place that takes no file shows before the work, not after it. A link stays one, its file
    is replaced; a pipe or device is written to as it is. An OSError names `path`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        temporary.write_bytes(b"")
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A write to a full disk names no file.
        if error.errno and error.filename in (None, str(temporary)):
            message = f"{error.strerror}; what was there before is unharmed"
            raise OSError(error.errno, message, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` could not: files whose process was killed while writing them."""
    for leftover in folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise OSError, naming a folder, where no file can be written into it; it is not created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it by a file `.lock` while the block runs; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another run writes into {folder}: wait until it ends, or choose another folder."
        ) from None
    with held:
        yield


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(name: str) -> str:
    """A file's name with `?` for bytes that are no text: native code cannot draw or send them."""
    return name.encode("utf-8", "replace").decode()


def require_file(path: Path, what: str) -> None:
    """Raise FileNotFoundError or UserError where a path is no file: a pipe would be waited for for ever."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {what}.")
    if not path.is_file():
        raise UserError(f"{path} is not a file: expected {what}.")


def read_json(path: Path) -> dict:
    """Read a JSON file that this project wrote."""
    require_file(path, "a record that this project wrote")
    with suppress(ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    raise UserError(f"{path} is damaged: it holds no JSON object.")


def read_image(path: Path) -> np.ndarray:
    """Decode an image file as it is stored: (H, W) or (H, W, channels), 8 or 16 bit."""
    require_file(path, "a depth frame whose neighbours are there")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as header:
            pixels = math.prod(header.size)
    except Exception as error:  # where Pillow does not know the format, OpenCV says whether it can be read
        pixels = math.inf if isinstance(error, Image.DecompressionBombError) else 0
    if pixels > MAX_PIXELS:
        raise UserError(f"{path} is damaged, or no depth frame: it announces over {MAX_PIXELS:,} pixels.")
    image = None
    with suppress(cv2.error):
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path} is damaged: it cannot be decoded as an image.")
    return image


def read_depth_png(path: Path) -> np.ndarray:
    """Decode a depth frame kept as 16-bit PNG: (H, W) uint16, in the file's unit."""
    image = read_image(path)
    if image.dtype != np.uint16 or image.ndim != 2:
        raise UserError(f"{path} is {image.dtype} of shape {image.shape}: expected a 16-bit grey PNG.")
    return image


def write_table(path: Path, table: np.ndarray) -> None:
    """Write (lines, columns) numbers as text, `%.3f`, a row a line."""
    with atomic_write(path) as temporary:
        np.savetxt(temporary, table, fmt="%.3f")


def read_table(path: Path, columns: int) -> np.ndarray:
    """Read a text file of `columns` finite numbers a line, with spaces, tabs, commas or semicolons between.

    Returns:
        (lines, columns) float64.
    """
    with open_table(path) as lines:
        return read_numbers(path, lines, columns)


def read_numbers(path: Path, lines: Iterable[str], columns: int) -> np.ndarray:
    """Lines of `columns` finite numbers: (lines, columns) float64; `path` is for errors."""
    row = np.dtype([("numbers", np.float64, columns)])
    return np.concatenate([values["numbers"] for _, values in read_rows(path, lines, row)])


@contextmanager
def open_table(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file and give its lines for `read_rows`, with spaces for commas and semicolons."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing or not a file.")
    with path.open(encoding="latin-1") as file:  # has a character for every byte
        mark = file.read(3)
        if mark.startswith(("\xff\xfe", "\xfe\xff")):
            raise UserError(f"{path} is UTF-16 text: save it as UTF-8.")
        file.seek(3 if mark == "\xef\xbb\xbf" else 0)  # which Windows' editors write before the first line
        lines = iter(partial(file.readline, MAX_LINE), "")
        yield (line.replace(",", " ").replace(";", " ") for line in lines)


def read_rows(
    path: Path, lines: Iterable[str], row: np.dtype, first: int = 1
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Read lines of fields with spaces between them, some thousand at a time; blank lines do not count.

    Args:
        path: the file, for errors.
        lines: its lines.
        row: a structured type: a field of numbers, which must be finite, and maybe one of bytes before it.
        first: number of the first line.

    Yields:
        (n,) numbers of lines, counted from 1, and (n,) records.

    Raises:
        DamagedLineError: naming the first line that does not fit.
    """
    numbered = ((number, line) for number, line in enumerate(lines, first) if line.strip())
    chunk = list(islice(numbered, LINES_AT_A_TIME))
    if not chunk:
        raise UserError(f"{path}: the file is empty.")
    while chunk:
        numbers, texts = zip(*chunk, strict=True)
        values = _parse(texts, row)
        if values is None:
            damaged = next((i for i, text in enumerate(texts) if _parse([text], row) is None), 0)
            raise DamagedLineError(path, numbers[damaged], _complaint(texts[damaged], row))
        yield numbers, values
        chunk = list(islice(numbered, LINES_AT_A_TIME))


def _parse(texts: Sequence[str], row: np.dtype) -> np.ndarray | None:
    """Records of lines; None if one does not fit, is not finite or has a name too long for its field."""
    try:
        values = np.loadtxt(texts, row, comments=None, ndmin=1)
    except ValueError:
        return None
    *name, numbers = row.names
    whole = all((np.char.str_len(values[n]) < row[n].itemsize).all() for n in name)
    return values if whole and np.isfinite(values[numbers]).all() else None


def _complaint(text: str, row: np.dtype) -> str:
    """What is wrong with a damaged line."""
    *name, numbers = row.names
    fields, number = text.split(), row[numbers].base
    expected = len(name) + math.prod(row[numbers].shape)
    if len(fields) != expected:
        return f"has {len(fields)} {'fields' if name else 'numbers'}, expected {expected}"
    for field in fields[len(name) :]:
        if _parse([field], np.dtype([("number", number)])) is None:
            return f"holds {field[:20]!r}, which is not a finite {number}"
    return f"has a name of more than {row[0].itemsize - 1} bytes"
