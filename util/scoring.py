"""What test.py reads and where it writes: predictions of others, the results' folder, figures."""

import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from dataloader import dataset_info
from dataloader.frames import FrameIndex
from dataloader.index import layout_of
from dataloader.joint_orders import columns_of
from util import UserError
from util.files import Files, listed, read_json, require_file, write_table
from util.points import doubt_format, parse_format, read_predictions


def find_predictions(config: Config) -> dict[str, list[Path]]:
    """Files of --predictions and --compare, by the names of their runs."""
    own = [Path(file) for file in listed(config.predictions)]
    files = {run_name(config.predictions): own} if own else {}
    for entry in config.compare:
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
    folder = Path("output", config.dataset, f"scored_{name}" if config.predictions else name)
    if config.fold != "Pall":
        folder /= config.fold
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


def read_joints(files: Sequence[Path], frames: FrameIndex, config: Config) -> np.ndarray:
    """Joints of --predictions or --compare as (files, N, J, 3) uvd; says where another format fits better."""
    info, points = dataset_info(config.dataset), parse_format(config.predictions_format)
    camera, columns = frames.camera(info.camera), columns_of(config.predictions_order, info.joint_names)
    hint = "; are they of the same --split and --test_subject?"
    joints = []
    for file in files:
        table, joint_uvd = read_predictions(file, *frames.joint_xyz.shape[:2], camera, points, hint)
        doubt_format(file, table[:, columns], frames.joint_xyz, camera, points, flag="--predictions_format")
        joints.append(joint_uvd[:, columns])
    return np.stack(joints)


def write_predictions(
    config: Config, folder: Path, frames: FrameIndex, uvd: np.ndarray, xyz: np.ndarray
) -> None:
    """Write predictions.txt, and of a whole test split what a data set's own script or server takes."""
    write_table(folder / "predictions.txt", uvd.reshape(len(uvd), -1))
    layout = layout_of(config.dataset)
    if hasattr(layout, "write_submission") and config.split == "test" and not frames.missing:
        layout.write_submission(folder, frames, xyz)


def write_figures(config: Config, folder: Path, rows: dict[str, Any], tiles: dict[str, Any] | None) -> None:
    """Draw each run's Metrics of `rows`, and a gallery of `tiles`; the figures of an earlier run go."""
    from util import plots

    info, ending = dataset_info(config.dataset), config.figures
    for name in (*plots.FIGURES, "gallery"):
        for stale in folder.glob(f"{name}.*"):
            stale.unlink()
        if name != "gallery" and (name != "comparison" or config.compare):
            plots.save_scores(folder / f"{name}.{ending}", name, rows, info.joint_names)
    if tiles is not None:
        plots.save_figure(plots.draw_gallery(tiles, info), folder / f"gallery.{ending}")
