"""Reading tables of numbers, and writing files so that nothing half-written is ever seen."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` once the block succeeded.

    The temporary file keeps the ending, since libraries choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, table: np.ndarray) -> None:
    """Write (lines, columns) numbers as text, `%.3f`, a row a line."""
    with written_whole(path) as temporary:
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
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing or not a file.")
    lines = path.read_text(errors="replace").splitlines()
    if not any(map(str.strip, lines)):
        raise ValueError(f"{path}: the file is empty.")
    try:
        table = np.loadtxt(lines, ndmin=2, comments=None)
    except ValueError:
        table = None  # some line is damaged: find it below
    if table is None or table.shape[1] != columns or not np.isfinite(table).all():
        raise ValueError(f"{path}: {_first_damage(lines, columns)}.")
    return table


def read_predictions(path: Path, num_frames: int, num_joints: int) -> np.ndarray:
    """Read joints as they are saved, one frame a line, `u v d` per joint (SPEC §10).

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


def _first_damage(lines: list[str], columns: int) -> str:
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and len(fields) != columns:
            return f"line {number} has {len(fields)} numbers, expected {columns}"
        for field in fields:
            try:
                finite = np.isfinite(float(field))
            except ValueError:
                return f"line {number} holds {field[:20]!r}, which is not a number"
            if not finite:
                return f"line {number} holds {field}, which is not finite"
    return "it cannot be read as a table of numbers"
