"""Reading tables and images, and writing files so that nothing half-written is ever seen."""

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock, Timeout

from util import UserError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary name, of the same ending, to write to; rename it to `path` once the block succeeded.

    It is created at the start, so that a place that takes no file is found before the work. A link stays one,
    its file is replaced; a pipe or device is written to as it is. An OSError names `path`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        (path if path.is_dir() else temporary).write_bytes(b"")
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A write to a full disk names no file.
        if error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, f"{error.strerror}; an old file is unharmed", str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` could not: files whose process was killed while writing them."""
    for leftover in folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Refuse a folder into which no file can be written; it is not created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise UserError(f"{folder}: no file can be written into {existing}.")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it by a file `.lock` while the block runs; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another run writes into {folder}: wait, or choose another folder.") from None
    with held:
        yield


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(name: str) -> str:
    """A file's name with `?` for bytes that are no text: native code cannot draw or send them."""
    return name.encode("utf-8", "replace").decode()


Files = str | Path | Sequence[str | Path]  # one file or several


def listed(files: Files) -> list[str | Path]:
    """One file or several as a list; empty where none is named."""
    return [files] * bool(files) if isinstance(files, str | Path) else list(files)


def require_file(path: Path, what: str) -> None:
    """Raise FileNotFoundError where a path is missing, UserError where it is a folder or pipe."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {what}.")
    if not path.is_file():
        raise UserError(f"{path} is not a file: expected {what}.")


def read_json(path: Path) -> dict:
    """Read a JSON object that this project wrote."""
    require_file(path, "a record that this project wrote")
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: it holds no JSON object.") from None


def read_image(path: Path) -> np.ndarray:
    """Decode an image file as it is stored: (H, W) or (H, W, channels), 8 or 16 bit."""
    require_file(path, "a depth frame whose neighbours are there")
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


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_table(path: Path, table: np.ndarray) -> None:
    """Write (lines, columns) numbers as text, `%.3f`, a row a line."""
    with atomic_write(path) as temporary:
        np.savetxt(temporary, table, fmt="%.3f")


def read_table(path: Path, columns: int) -> np.ndarray:
    """Finite numbers from text, with spaces, tabs, commas or semicolons between: (lines, columns) float64."""
    with open_table(path) as lines:
        return read_numbers(path, lines, columns)


def read_numbers(path: Path, lines: Iterable[str], columns: int) -> np.ndarray:
    """Lines of `columns` finite numbers: (lines, columns) float64; `path` is for errors."""
    return read_rows(path, lines, np.dtype([("numbers", np.float64, columns)]))[1]["numbers"]


@contextmanager
def open_table(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file and give its lines for `read_rows`, with spaces for commas and semicolons."""
    require_file(path, "a text file, a row of numbers a line")
    with path.open(encoding="latin-1") as file:  # has a character for every byte
        mark = file.read(3)
        if mark.startswith(("\xff\xfe", "\xfe\xff")):
            raise UserError(f"{path} is UTF-16 text: save it as UTF-8.")
        file.seek(3 if mark == "\xef\xbb\xbf" else 0)  # which Windows' editors write before the first line
        yield (line.replace(",", " ").replace(";", " ") for line in file)


def read_rows(
    path: Path, lines: Iterable[str], row: np.dtype, first: int = 1
) -> tuple[list[int], np.ndarray]:
    """Read lines of fields with spaces between them; blank lines do not count.

    `row`: a structured type: finite numbers, and maybe bytes before them. `first`: number of the first line;
    `path`: for the error, which names the line that does not fit. Returns the lines' numbers, (n,) records.
    """
    *name, numbers = row.names
    read: list[int] = []

    def not_blank() -> Iterator[str]:
        for number, line in enumerate(lines, first):
            if line.strip():
                read.append(number)
                yield line

    with suppress(ValueError), warnings.catch_warnings(action="ignore"):  # it warns of an empty file
        records = np.loadtxt(not_blank(), row, comments=None, ndmin=1)
        fits = np.isfinite(records[numbers]).reshape(len(records), -1).all(axis=1)
        for field in name:  # a longer one was cut
            fits &= np.char.str_len(records[field]) < row[field].itemsize
        if read and fits.all():
            return read, records
        read = read[: int(np.argmin(fits)) + 1] if read else []
    if not read:
        raise UserError(f"{path}: the file is empty.")
    raise UserError(f"{path}: line {read[-1]} {_complaint(path, read[-1], row)}.")


def _complaint(path: Path, number: int, row: np.dtype) -> str:
    """What is wrong with a damaged line."""
    with open_table(path) as lines:
        fields = next(islice(lines, number - 1, None)).split()
    *name, numbers = row.names
    kind, expected = row[numbers].base, len(name) + math.prod(row[numbers].shape)
    if len(fields) != expected:
        return f"has {len(fields)} {'fields' if name else 'numbers'}, expected {expected}"
    for field in fields[len(name) :]:
        if not (NUMBER.fullmatch(field) and abs(float(field)) <= float(np.finfo(kind).max)):
            return f"holds {field[:20]!r}, which is not a finite {kind}"
    return f"has a name of more than {row[0].itemsize - 1} bytes"
