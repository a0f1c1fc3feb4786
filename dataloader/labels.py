"""Label files as text: parsed once, fast, and memory-mapped from a cache ever after.

A million labelled frames are a table of 240 MB: it is mapped, not read, so that a loader holds only
the pages it touches and its workers share them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from util.files import atomic_write

NAME_LENGTH = 40  # bytes; ICVL's longest, an angle's folder before the sequence's, has 34
CHUNK_BYTES = 1 << 20  # text parsed at a time: small enough for the processor's cache
CACHE_VERSION = b"labels 2"  # another layout of the cache needs another name
KEY_BYTES = hashlib.sha256().digest_size


def label_dtype(num_joints: int) -> np.dtype:
    """One labelled frame: `name` as in the file (empty where a line has none), `joint` (J, 3) float32."""
    return np.dtype([("name", f"S{NAME_LENGTH}"), ("joint", np.float32, (num_joints, 3))])


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
        (N,) records of `label_dtype`, memory-mapped and read-only where a cache can be written.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: naming file and line, if a line is damaged.
    """
    dtype = label_dtype(num_joints)
    key = _key(paths, num_joints, named, counted, z_sign)
    for cache in _cache_places(paths[0]):
        records = _load(cache, dtype, key)
        if records is not None:
            return records
    parsed = partial(_parse_files, paths, num_joints, named, counted, z_sign)
    for cache in _cache_places(paths[0]):
        try:
            _save(cache, parsed(), key)
        except OSError:
            continue  # not writable: the next place, or none
        records = _load(cache, dtype, key)
        if records is not None:
            return records
    return np.concatenate(list(parsed()))


def require_labels(paths: Sequence[Path], split: str, source: str) -> None:
    """Raise FileNotFoundError, naming the first label file that is not there."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: labels of split {split}; {source}.")


def _parse_files(
    paths: Sequence[Path], num_joints: int, named: bool, counted: bool, z_sign: int
) -> Iterator[np.ndarray]:
    """Records of some files, one after the other, a few thousand at a time."""
    empty = True
    for path in paths:
        for records in _parse_file(path, num_joints, named, counted, z_sign):
            empty &= not len(records)
            yield records
    if empty:
        raise ValueError(f"{paths[0]} holds no labels: it is empty.")


def _parse_file(path: Path, num_joints: int, named: bool, counted: bool, z_sign: int) -> Iterator[np.ndarray]:
    """Records of one file, a few megabytes of text at a time."""
    with path.open("rb") as file:
        announced = _announced_lines(path, file.readline()) if counted else None
        line, found = int(counted), 0
        while text := file.read(CHUNK_BYTES):
            text += file.readline()
            try:
                records = _parse_lines(text, num_joints, named)
            except ValueError:
                raise _damage(path, text, line, num_joints, named, z_sign) from None
            records["joint"][..., 2] *= z_sign
            if not (records["joint"][..., 2] > 0).all():
                raise _damage(path, text, line, num_joints, named, z_sign)
            line += text.count(b"\n")
            found += len(records)
            yield records
    if announced is not None and announced != found:
        raise ValueError(f"{path} announces {announced} frames in its first line and holds {found}.")


def _announced_lines(path: Path, line: bytes) -> int:
    if not line.strip().isdigit():
        raise ValueError(
            f"{path}: line 1 holds {line[:20].decode(errors='replace')!r}, not a number of frames."
        )
    return int(line)


def _parse_lines(text: bytes, num_joints: int, named: bool) -> np.ndarray:
    """Whole lines of text -> records; blank lines count for nothing.

    Raises:
        ValueError: without words, if any line is damaged.
    """
    columns = 3 * num_joints + named
    characters = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    blank = characters <= ord(" ")
    starts = np.flatnonzero(blank[:-1] & ~blank[1:]) + 1
    ends = np.flatnonzero(~blank[:-1] & blank[1:]) + 1
    line_ends = np.flatnonzero(characters == ord("\n"))
    per_line = np.diff(np.searchsorted(starts, line_ends))
    if not np.isin(per_line, (0, columns)).all():
        raise ValueError
    starts, ends = starts.reshape(-1, columns), ends.reshape(-1, columns)
    records = np.zeros(len(starts), label_dtype(num_joints))
    if named:
        if (ends[:, 0] - starts[:, 0]).max(initial=0) > NAME_LENGTH:
            raise ValueError
        offset = 1  # of the line feed put before the text
        names = zip((starts[:, 0] - offset).tolist(), (ends[:, 0] - offset).tolist(), strict=True)
        records["name"] = [text[start:end] for start, end in names]
    numbers = _parse_numbers(characters, starts[:, named:].ravel(), ends[:, named:].ravel())
    records["joint"] = numbers.reshape(-1, num_joints, 3)
    return records


def _parse_numbers(characters: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Decimal numbers between `starts` and `ends` (T,) of a text: (T,) float64.

    All numbers at once, a digit at a time from the right: twice as fast as np.loadtxt, which HANDS 2017's
    60 million numbers keep busy for a quarter of a minute.

    Raises:
        ValueError: if a number is none, or is not finite.
    """
    length = np.minimum(ends - starts, 127).astype(np.int8)  # narrow types: this loop waits for memory
    digits = np.zeros(len(starts))  # the number with its point read as a digit 0
    digit_count = np.zeros(len(starts), np.int8)
    point = np.zeros(len(starts), np.int8)  # place of the point from the right, counted from 1; 0: none
    longest = min(int(length.max(initial=0)), 15)  # more digits than a float64 holds
    character, term = np.empty(len(starts), np.uint8), np.empty(len(starts))
    position = ends.copy()
    for place in range(longest):
        position -= 1
        np.take(characters, position, out=character, mode="clip")
        inside = length > place
        digit = character - np.uint8(ord("0"))  # wraps: what is no digit becomes large
        is_digit = inside & (digit < 10)
        digit *= is_digit
        digits += np.multiply(digit, 10.0**place, out=term)
        digit_count += is_digit
        point[inside & (character == ord("."))] = place + 1
    power = 10.0 ** np.arange(longest + 1)
    # The digit 0 at the point's place keeps the fraction below 0.1: the division never rounds up.
    whole_power = power[point]
    whole = np.floor(digits / whole_power)
    fraction = digits - whole * whole_power
    value = np.where(point > 0, whole + fraction / power[point - 1], digits)
    first = characters[starts]
    signed = (first == ord("-")) | (first == ord("+"))
    np.negative(value, out=value, where=first == ord("-"))
    # One sign, one point, digits and nothing else; anything rarer, as 1e-5, goes to Python.
    plain = (digit_count > 0) & (digit_count + signed + (point > 0) == length)
    for i in np.flatnonzero(~plain):
        value[i] = float(characters[starts[i] : ends[i]].tobytes())
    if not np.isfinite(value).all():
        raise ValueError
    return value


def _damage(path: Path, text: bytes, line: int, num_joints: int, named: bool, z_sign: int) -> ValueError:
    """The error that names the first damaged line of a text that starts after `line` lines."""
    columns = 3 * num_joints + named
    for number, content in enumerate(text.split(b"\n"), start=line + 1):
        fields = content.split()
        if not fields:
            continue
        if len(fields) != columns:
            return ValueError(f"{path}: line {number} has {len(fields)} fields, expected {columns}.")
        if named and len(fields[0]) > NAME_LENGTH:
            return ValueError(f"{path}: line {number}'s frame name is longer than {NAME_LENGTH} bytes.")
        for i, field in enumerate(fields[named:]):
            try:
                value = float(field)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                shown = field[:20].decode(errors="replace")
                return ValueError(f"{path}: line {number} holds {shown!r}, which is not a finite number.")
            if i % 3 == 2 and not value * z_sign > 0:
                return ValueError(f"{path}: line {number} has a joint at or behind the camera (z {value:g}).")
    return ValueError(f"{path} cannot be read as a table of joints.")


def _key(paths: Sequence[Path], *layout: int) -> bytes:
    """What the cache of these files must carry: it changes with any file's size or time."""
    digest = hashlib.sha256(CACHE_VERSION + repr(layout).encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns};".encode())
    return digest.digest()


def user_cache(path: Path) -> Path:
    """Where the user's cache folder keeps what cannot be written beside `path`."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "awr")
    return user / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20]


def _cache_places(path: Path) -> tuple[Path, Path]:
    """Beside the labels, and for read-only data sets in the user's cache folder."""
    return path.with_name(f".{path.stem}.index"), user_cache(path)


def _load(cache: Path, dtype: np.dtype, key: bytes) -> np.ndarray | None:
    """The cached records; None if there are none, or they are stale or torn.

    The key follows the records: a file cut short lacks it.
    """
    try:
        with cache.open("rb") as file:
            size = file.seek(-KEY_BYTES, os.SEEK_END)
            if file.read() != key:
                return None
        return np.memmap(cache, dtype, mode="r", shape=size // dtype.itemsize)
    except (OSError, ValueError):
        return None


def _save(cache: Path, parts: Iterator[np.ndarray], key: bytes) -> None:
    """Write records as they come: a million of them never lie in memory together."""
    with atomic_write(cache) as temporary, temporary.open("wb") as file:
        for records in parts:
            file.write(records.data)
        file.write(key)
        file.flush()
        os.fsync(file.fileno())  # before the rename, so that a crash leaves the old cache or the new
