"""What test.py reads and where it writes: predictions of others, the results' folder, figures."""

import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from config import Config
from dataloader import DatasetInfo
from dataloader.frames import FrameIndex
from util import UserError, plots
from util.camera import Camera
from util.files import Files, listed, read_json, require_file, write_table
from util.points import PointFormat, doubt_format, read_predictions


def find_predictions(predictions: Files, compare: Sequence[str]) -> dict[str, list[Path]]:
    """Files of --predictions and --compare, by the names of their runs."""
    files = {run_name(predictions): [Path(file) for file in listed(predictions)]} if predictions else {}
    for entry in compare:
        name, _, file = entry.partition("=")
        if not (name and file):
            raise UserError(f"--compare {entry!r} is not NAME=FILE.")
        if name in files:
            raise UserError(f"--compare {entry}: the name {name} is taken, choose another.")
        files[name] = [Path(file)]
    for file in chain.from_iterable(files.values()):
        require_file(file, "predicted joints, a frame a line")
    return files


def run_name(files: Files) -> str:
    """A file's stem; for best.pth and last.pth their folder's name, or what holds the folders of subjects.
    Of several files, all of them."""
    names = []
    for file in map(Path, listed(files)):
        folders = reversed(file.absolute().parent.parts)
        own = next(folder for folder in folders if not re.fullmatch(r"P(\d|\{subject\})|s\d", folder))
        names.append(own if file.stem in ("best", "last") else file.stem)
    return "+".join(names)


def results_folder(config: Config, name: str, scored: dict[str, Any]) -> Path:
    """--output_dir, else output/<dataset>/<name of the run>[/P<subject>][/<split>][/<file of centres>]
    [/sensor_<strength>], unless that has results of something else than is `scored`."""
    if config.output_dir != config.default_output_dir:
        return Path(config.output_dir)
    folder = config.results_folder(f"scored_{name}" if config.predictions else name)
    folder = folder if config.split == "test" else folder / config.split
    if not config.predictions:
        folder = folder / Path(config.centers).stem / (f"sensor_{config.sensor:g}" if config.sensor else "")
    found = read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    for key in sorted(found.keys() & {"checkpoint", "predictions", "data_dir", "split"}):
        if _places(found[key]) != _places(scored.get(key, "")):
            raise UserError(f"{folder} has results of {key} {found[key]}: choose another --output_dir.")
    return folder


def _places(files: Files) -> list[str]:
    return [os.path.abspath(file) for file in listed(files)]


def read_joints(
    files: Sequence[Path], frames: FrameIndex, camera: Camera, points: PointFormat, columns: Sequence[int]
) -> np.ndarray:
    """Joints of --predictions or --compare as (files, N, J, 3) uvd; says where another format fits better.

    `columns` (J,): where a file has each of the data set's joints.
    """
    joints = []
    for file in files:
        table, joint_uvd = read_predictions(file, *frames.joint_xyz.shape[:2], camera, points)
        doubt_format(file, table[:, columns], frames.joint_xyz, camera, points, flag="--predictions_format")
        joints.append(joint_uvd[:, columns])
    return np.stack(joints)


def write_predictions(
    folder: Path, layout: ModuleType, frames: FrameIndex, uvd: np.ndarray, xyz: np.ndarray
) -> None:
    """Write predictions.txt, and of a whole test split what a data set's own script or server takes."""
    write_table(folder / "predictions.txt", uvd.reshape(len(uvd), -1))
    if hasattr(layout, "write_submission") and frames.center_split == "test" and not frames.missing:
        layout.write_submission(folder, frames, xyz)


def write_figures(
    folder: Path, ending: str, info: DatasetInfo, rows: dict[str, Any], tiles: dict[str, Any] | None
) -> None:
    """Draw each run's Metrics of `rows`, and a gallery of `tiles`; the figures of an earlier run go."""
    for name in (*plots.FIGURES, "gallery"):
        for stale in folder.glob(f"{name}.*"):
            stale.unlink()
        if name != "gallery" and (name != "comparison" or len(rows) > 1):
            plots.save_scores(folder / f"{name}.{ending}", name, rows, info.joint_names)
    if tiles is not None:
        plots.save_figure(plots.draw_gallery(tiles, info), folder / f"gallery.{ending}")
