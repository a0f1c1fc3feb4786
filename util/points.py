"""Files of points, predicted joints and hand centres, in the conventions of several projects."""

import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from util import UserError
from util.camera import Camera
from util.files import open_table, read_numbers, read_table, write_text

INVALID = "invalid"  # V2V-PoseNet's word for a frame without a hand, in place of a centre
UNITS_MM = {"": 1.0, "_cm": 10.0, "_m": 1000.0}
AXES = (*map("".join, product(("x", "-x"), ("y", "-y"), ("z", "-z"))), "yxz", "uvd", "vud")
FAR_MM = 40.0  # mean distance from the labels that is worth a warning


class PointFormat(NamedTuple):
    """How a file writes points: `xyz` or `uvd`, columns in another order or with another sign, another unit.

    `columns` (3,): where the file has x, y, z or u, v, d; `signs` (3,), by which these are multiplied;
    `unit_mm` of lengths, not of pixels.
    """

    name: str
    columns: tuple[int, ...]
    signs: tuple[float, ...]
    unit_mm: float

    def to_xyz(self, points: np.ndarray, camera: Camera) -> np.ndarray:
        """(..., 3) numbers as in the file -> (..., 3) camera space, mm."""
        points = points[..., self.columns] * self.signs
        if "u" not in self.name:
            return points * self.unit_mm
        with np.errstate(all="ignore"):
            return camera.uvd_to_xyz(points * (1, 1, self.unit_mm))


FORMATS: dict[str, PointFormat] = {}
for axes, (unit, unit_mm) in product(AXES, UNITS_MM.items()):
    letters, ours = axes.replace("-", ""), "uvd" if "u" in axes else "xyz"
    signs = tuple(-1.0 if f"-{letter}" in axes else 1.0 for letter in ours)
    FORMATS[axes + unit] = PointFormat(axes + unit, tuple(map(letters.index, ours)), signs, unit_mm)


def parse_format(text: str) -> PointFormat:
    """`xyz` or `uvd`, or a variant: x-yz (y has the other sign), vud (other order), xyz_m (metres)."""
    if text not in FORMATS:
        variants = "x-yz where y has the other sign, vud or yxz for another order, xyz_m for metres"
        raise UserError(f"{text!r} is no format of points: use xyz or uvd, {variants}.")
    return FORMATS[text]


def doubt_format(
    path: Path, points: np.ndarray, true_xyz: np.ndarray, camera: Camera, given: PointFormat, flag: str
) -> None:
    """Say on stderr where another reading of a file's points lies much closer to the labels.

    `points` (..., 3): as in the file, NaN are left out. `given`: how they were read; `flag` passes another.
    `true_xyz` (..., 3): labels, mm.
    """

    def distance_mm(found: PointFormat) -> float:
        with np.errstate(all="ignore"):
            distances = np.linalg.norm(found.to_xyz(points, camera) - true_xyz, axis=-1)
        return float(np.mean(distances[np.isfinite(distances)])) if np.isfinite(distances).any() else np.inf

    here = distance_mm(given)
    if here <= FAR_MM or np.isnan(true_xyz).all():
        return
    best, advice = min(FORMATS.values(), key=distance_mm), " in the mean"
    if distance_mm(best) < here / 2:
        advice = f" if read as {given.name}, {distance_mm(best):.1f} mm as {best.name}: "
        advice += f"pass {flag} {best.name}, or set it in config.py"
    print(f"warning: {path} is {here:.1f} mm from the labels{advice}.", file=sys.stderr)


def read_predictions(
    path: Path, num_frames: int, num_joints: int, camera: Camera, points: PointFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Read joints, one frame a line, three numbers a joint (docs/spec.md §10).

    `num_frames`, `num_joints`: as many as the labels have.
    Returns the numbers as in the file, and full-frame uvd (pixels, mm): (num_frames, num_joints, 3) float64.
    """
    table = read_table(path, columns=3 * num_joints).reshape(-1, num_joints, 3)
    if len(table) != num_frames:
        raise UserError(
            f"{path} has {len(table)} frames, the labels have {num_frames}: check split and fold."
        )
    if points.name == "uvd":
        return table, table
    joint_xyz = points.to_xyz(table, camera)
    if not (joint_xyz[..., 2] > 0).all():
        frame = int(np.argmin((joint_xyz[..., 2] > 0).all(axis=1))) + 1
        raise UserError(f"{path}: frame {frame} has a joint behind the camera if read as {points.name}.")
    return table, camera.xyz_to_uvd(joint_xyz)


def read_centers(path: Path) -> np.ndarray:
    """Read hand centres, three numbers a line: (lines, 3) float64 as in the file.

    A line `invalid` says that the frame shows no hand: NaN.
    """
    with open_table(path) as file:
        lines = [line.strip() for line in file]
    centers = read_numbers(path, ["0 0 0" if line.startswith(INVALID) else line for line in lines], 3)
    centers[[line.startswith(INVALID) for line in lines if line]] = np.nan
    return centers


def write_centers(path: Path, centers: Iterable[np.ndarray]) -> None:
    """Write (N, 3) centres as `read_centers` reads them; NaN becomes `invalid`."""
    lines = (INVALID if np.isnan(row).any() else "{:.3f} {:.3f} {:.3f}".format(*row) for row in centers)
    write_text(path, "".join(f"{line}\n" for line in lines))
