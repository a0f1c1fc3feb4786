"""Contact sheets: what a synthetic split looks like."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dataloader.nyu import FRAME_NAME, read_depth, read_kinds, recorded_camera
from util.plots import DARK, draw_crop, draw_skeleton, save_figure

# The 21 joints of a split's joints21.npz, pinky to thumb from the wrist to the tip.
CHAINS = tuple((0, *range(1 + 4 * finger, 5 + 4 * finger)) for finger in (4, 3, 2, 1, 0))
SHAPE = (4, 6)
HALF_CUBE = 150.0  # mm


def save_contact_sheets(folder: Path, file: Path) -> list[Path]:
    """Draw 24 frames of a split's folder with their 21-joint skeletons, into a picture; of a split with kinds
    24 of each kind, whose name is added to the picture's. Returns what was written."""
    kinds = read_kinds(folder)
    joint_xyz = np.load(folder / "joints21.npz")["xyz"].astype(np.float64)
    sheets = {} if kinds else {file: list(range(len(joint_xyz)))}
    for i, frame in enumerate(kinds):
        for kind in frame:
            sheets.setdefault(file.with_stem(f"{file.stem}_{kind}"), []).append(i)
    for sheet, frames in sheets.items():
        save_figure(_draw(folder, joint_xyz, frames), sheet)
    return list(sheets)


def _draw(folder: Path, joint_xyz: np.ndarray, frames: list[int]) -> Figure:
    """Draw some of these frames, evenly spaced; joint_xyz (N, 21, 3) mm of the split's."""
    camera = recorded_camera(folder)
    rows, columns = SHAPE
    figure = Figure(figsize=(2 * columns, 2 * rows), facecolor=DARK)
    grid = figure.subplots(rows, columns)
    figure.subplots_adjust(0, 0, 1, 1, 0.012, 0.012)
    for axes, i in zip(grid.flat, np.linspace(0, len(frames) - 1, grid.size).astype(int), strict=True):
        joints = joint_xyz[frames[i]]
        depth = read_depth(folder / FRAME_NAME.format(frames[i] + 1)).astype(np.float32)
        middle = (joints.min(0) + joints.max(0)) / 2
        near = (depth > 0) & (np.abs(depth - middle[2]) < HALF_CUBE)
        draw_crop(axes, np.where(near, (depth - middle[2]) / HALF_CUBE, np.nan))
        draw_skeleton(axes, camera.xyz_to_uvd(joints)[:, :2], CHAINS, linewidth=1.4)
        u, v, _ = camera.xyz_to_uvd(middle)
        half = HALF_CUBE * camera.fx / middle[2]
        axes.set(xlim=(u - half, u + half), ylim=(v + half, v - half))
    return figure
