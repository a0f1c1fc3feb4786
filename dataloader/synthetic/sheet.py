"""A contact sheet: frames of a split with their skeletons, the project's own picture."""

from pathlib import Path

import numpy as np
import scipy.io
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataloader.nyu import EVALUATED_JOINTS, FRAME_NAME, read_depth
from util.files import atomic_write

_ROWS, _COLUMNS = 4, 6
_HALF_CUBE = 150.0  # mm
_PIXELS = 200  # of one tile
_DARK = "#17191d"
# The 21 joints of joints21.npz, finger by finger from wrist to tip, and their colours.
_FINGERS = tuple((0, *range(1 + 4 * finger, 5 + 4 * finger)) for finger in range(5))
_COLORS = ("#ff6b6b", "#ffd166", "#7bed9f", "#70d6ff", "#c7a6ff")


def write_sheet(folder: Path, file: Path) -> None:
    """Draw 24 frames, spread evenly over the split in `folder`, as a PNG.

    Raises:
        FileNotFoundError: a file of the split is missing.
    """
    joints = np.load(folder / "joints21.npz")["xyz"].astype(float)
    labels = scipy.io.loadmat(folder / "joint_data.mat")
    slots = list(EVALUATED_JOINTS)
    xyz, uvd = (labels[name][0][:, slots].astype(float) for name in ("joint_xyz", "joint_uvd"))
    frames = np.linspace(0, len(joints) - 1, _ROWS * _COLUMNS).astype(int)
    inches = np.array([_COLUMNS, _ROWS]) * _PIXELS / 100
    figure = Figure(figsize=inches, dpi=100, facecolor=_DARK)
    axes = figure.subplots(_ROWS, _COLUMNS)
    figure.subplots_adjust(0, 0, 1, 1, 0.012, 0.012)
    for axis, frame in zip(axes.flat, frames, strict=True):
        axis.set_facecolor(_DARK)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
        depth = read_depth(folder / FRAME_NAME.format(frame + 1)).astype(float)
        _draw(axis, depth, _project(joints[frame], xyz[frame], uvd[frame]), xyz[frame])
    with atomic_write(file) as unfinished:
        figure.savefig(unfinished, dpi=100, facecolor=_DARK)


def _project(points: np.ndarray, xyz: np.ndarray, uvd: np.ndarray) -> np.ndarray:
    """uv (N, 2) of points (N, 3); the split's own labels, known in both ways, tell the camera."""
    axes = []
    for axis in range(2):
        slope, offset = np.polyfit(xyz[:, axis] / xyz[:, 2], uvd[:, axis], 1)
        axes.append(slope * points[:, axis] / points[:, 2] + offset)
    return np.stack(axes, -1)


def _draw(axis: Axes, depth: np.ndarray, uv: np.ndarray, xyz: np.ndarray) -> None:
    """One tile: the depth within the cube around the hand, and the skeleton."""
    middle = (xyz.min(0) + xyz.max(0)) / 2
    low, high = uv.min(0), uv.max(0)
    # Pixels per mm from the skeleton's own size, so that any camera's frames fit.
    scale = np.linalg.norm(high - low) / max(np.linalg.norm(np.ptp(xyz[:, :2], axis=0)), 1)
    center, half = (low + high) / 2, 130 * scale
    near = (depth > 0) & (np.abs(depth - middle[2]) < _HALF_CUBE)
    axis.imshow(
        np.where(near, depth, np.nan),
        cmap="bone_r",
        vmin=middle[2] - 120,
        vmax=middle[2] + 170,
        interpolation="nearest",
    )
    for finger, color in zip(_FINGERS, _COLORS, strict=True):
        axis.plot(*uv[list(finger)].T, "-", color=color, linewidth=1.5, solid_capstyle="round")
        axis.plot(*uv[list(finger[1:])].T, "o", color=color, markersize=2.4)
    axis.set_xlim(center[0] - half, center[0] + half)
    axis.set_ylim(center[1] + half, center[1] - half)
