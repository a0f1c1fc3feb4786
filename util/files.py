"""Reading tables and images, and writing files so that nothing half-written is ever seen."""

import errno
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, TextIO

import cv2
import numpy as np
from PIL import Image

from util import UserError

MAX_PIXELS = 2**25  # of a frame; depth cameras have a third of that at the most
MAX_LINE = 2**20  # characters; a longer one is not a line of numbers
# Byte order marks, as Latin-1 shows them.
UTF8_MARK, UTF16_MARKS = "\xef\xbb\xbf", ("\xff\xfe", "\xfe\xff")
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
    """Make the temporary file of `path`; an error names `path` itself."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.write_bytes(b"")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def require_writable(folder: Path) -> None:
    """Raise OSError, naming a folder, where no file can be written into it; it is not created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` could not: files whose process was killed while writing them."""
    for leftover in folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it while the block runs; the lock ends with the process, however it ends.

    Raises:
        UserError: if another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    inherited = [handle]  # a loader's worker that outlives a killed run must not keep the lock

    def close_in_child() -> None:
        while inherited:
            os.close(inherited.pop())

    os.register_at_fork(after_in_child=close_in_child)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another run writes into {folder}: wait until it ends, or choose another folder."
            ) from None
        yield
    finally:
        inherited.clear()
        os.close(handle)


def read_json(path: Path) -> dict:
    """Read a JSON file that this project wrote.

    Raises:
        FileNotFoundError, UserError: if it is missing or damaged.
    """
    require_file(path, "a record that this project wrote")
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object.")
    return content


def write_table(path: Path, table: np.ndarray) -> None:
    """Write (lines, columns) numbers as text, `%.3f`, a row a line."""
    with atomic_write(path) as temporary:
        np.savetxt(temporary, table, fmt="%.3f")


class Rows(NamedTuple):
    """Some lines of a table: `lines` (n,) their numbers, counted from 1, and `values` (n,) records."""

    lines: tuple[int, ...]
    values: np.ndarray


@contextmanager
def open_table(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file, and give its lines, for `read_rows`.

    Raises:
        FileNotFoundError: if it is missing.
        UserError: naming a line that is longer than any line of numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing or not a file.")
    with path.open(encoding="latin-1") as file:  # has a character for every byte
        yield _bounded_lines(path, file)


def _bounded_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines with commas as spaces, and without the mark that Windows' editors put before the first."""
    for number in count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        if number == 1:
            if line.startswith(UTF16_MARKS):
                raise UserError(f"{path} is UTF-16 text: save it as UTF-8.")
            line = line.removeprefix(UTF8_MARK)
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise DamagedLineError(path, number, f"is longer than {MAX_LINE:,} characters")
        yield line.replace(",", " ").replace(";", " ")


def read_rows(path: Path, lines: Iterable[str], row: np.dtype, first: int = 1) -> Iterator[Rows]:
    """Read lines of fields with spaces between them, some thousand lines at a time; blank lines do not count.

    Args:
        path: the file, for errors.
        lines: its lines.
        row: a structured type: a field of numbers, which must be finite, and maybe one of bytes before it.
        first: number of the first line.

    Raises:
        UserError: naming the first line that does not fit; also if there is none.
    """
    numbered = ((number, line) for number, line in enumerate(lines, first) if line.strip())
    empty = True
    while chunk := list(islice(numbered, LINES_AT_A_TIME)):
        numbers, texts = zip(*chunk, strict=True)
        try:
            values = np.loadtxt(texts, row, comments=None, ndmin=1)
        except ValueError:
            values = None
        if values is None or not _fits(values):
            raise DamagedLineError(path, *_first_damage(chunk, row))
        empty = False
        yield Rows(numbers, values)
    if empty:
        raise UserError(f"{path}: the file is empty.")


def read_table(path: Path, columns: int) -> np.ndarray:
    """Read a text file of numbers with spaces, tabs or commas between them.

    Args:
        path: the file.
        columns: numbers a line.

    Returns:
        (lines, columns) float64.

    Raises:
        FileNotFoundError: if the file is missing.
        UserError: naming the first line that is not `columns` finite numbers.
    """
    with open_table(path) as lines:
        return read_numbers(path, lines, columns)


def read_numbers(path: Path, lines: Iterable[str], columns: int) -> np.ndarray:
    """Lines of `columns` finite numbers: (lines, columns) float64; errors as of `read_rows`."""
    row = np.dtype([("numbers", np.float64, columns)])
    return np.concatenate([rows.values["numbers"] for rows in read_rows(path, lines, row)])


def read_image(path: Path) -> np.ndarray:
    """Decode an image file as it is stored: (H, W) or (H, W, channels), 8 or 16 bit.

    Raises:
        FileNotFoundError: if it is missing.
        UserError: if it cannot be decoded.
    """
    require_file(path, "a depth frame whose neighbours are there")
    encoded = np.fromfile(path, np.uint8)
    _require_small_image(path)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    except cv2.error:  # a header that announces an absurd size
        image = None
    if image is None:
        raise UserError(f"{path} is damaged: it cannot be decoded as an image.")
    return image


def printable(name: str) -> str:
    """A file's name with `?` for bytes that are no text: native code cannot draw or send them."""
    return name.encode("utf-8", "replace").decode()


def require_file(path: Path, what: str) -> None:
    """Raise FileNotFoundError or UserError where a path is no file: a pipe would be waited for for ever."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {what}.")
    if not path.is_file():
        raise UserError(f"{path} is not a file: expected {what}.")


def _require_small_image(path: Path) -> None:
    """Raise UserError where an image's header announces more pixels than any depth camera has."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise UserError(f"{path} is damaged, or no depth frame: it announces too many pixels.") from None
    except Exception:  # Pillow does not know it: OpenCV says whether it can be read
        return
    if width * height > MAX_PIXELS:
        raise UserError(f"{path} is damaged, or no depth frame: it announces {width}×{height} pixels.")


def read_depth_png(path: Path) -> np.ndarray:
    """Decode a depth frame kept as 16-bit PNG: (H, W) uint16, in the file's unit.

    Raises:
        FileNotFoundError, UserError: see `read_image`; also if it is of another kind.
    """
    image = read_image(path)
    if image.dtype != np.uint16 or image.ndim != 2:
        raise UserError(f"{path} is {image.dtype} of shape {image.shape}: expected a 16-bit grey PNG.")
    return image


def _fits(values: np.ndarray) -> bool:
    """Whether all numbers are finite and all names shorter than their field, which cuts longer ones."""
    *name, numbers = values.dtype.names
    whole = all((np.char.str_len(values[n]) < values.dtype[n].itemsize).all() for n in name)
    return whole and bool(np.isfinite(values[numbers]).all())


def _first_damage(lines: Sequence[tuple[int, str]], row: np.dtype) -> tuple[int, str]:
    """Number of the first line that does not fit, and what is wrong with it."""
    *name, numbers = row.names
    kind, shape = row[numbers].base, row[numbers].shape
    expected, largest = len(name) + int(np.prod(shape)), float(np.finfo(kind).max)
    for line, text in lines:
        fields = text.split()
        if len(fields) != expected:
            return line, f"has {len(fields)} {'fields' if name else 'numbers'}, expected {expected}"
        if name and len(fields[0]) >= row[name[0]].itemsize:
            return line, f"has a name of {len(fields[0])} bytes, {row[name[0]].itemsize - 1} are allowed"
        for field in fields[len(name) :]:
            try:
                finite = abs(float(field)) <= largest
            except ValueError:
                return line, f"holds {field[:20]!r}, which is not a number"
            if not finite:
                return line, f"holds {field}, which is not a finite {kind}"
    return lines[0][0], "or a later one cannot be read as numbers"
