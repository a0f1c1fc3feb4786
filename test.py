"""Score a checkpoint, or a file of predictions, on a data set."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import VERSION, Config, DataSettings, NetworkSettings, ScoringSettings
from dataloader import dataset_info
from dataloader.frames import FrameIndex
from dataloader.index import find_frames, folds, layout_of
from dataloader.joint_orders import columns_of
from util import UserError
from util.cli import run
from util.files import atomic_write, read_json, require_file, require_writable, sha256, write_table
from util.metrics import as_json, as_markdown, as_table, official_scores, score, score_kinds
from util.points import doubt_format, parse_format, read_predictions

# What imports PyTorch is imported inside the functions: --help and a missing file are answered without it.


def main(config: Config) -> None:
    """Predict or read joints, compare them with the labels, and write figures and pictures."""
    if not config.predictions and config.load_model.endswith(".xml"):  # int8, by OpenVINO on the CPU alone
        config = replace(config, backend="openvino", precision="int8", device="cpu")
    files, info = find_predictions(config), dataset_info(config.dataset)
    parse_format(config.centers_format)
    if files:
        parse_format(config.predictions_format)
    columns_of(config.predictions_order, info.joint_names)
    frames, parts = find_frames(config), folds(config)
    if config.predictions and not frames.labelled:
        raise UserError(f"The labels of these {config.dataset} frames are withheld: run a network instead.")
    source = config.predictions or config.load_model
    if not source:
        from util.checkpoint import shipped_weights

        source = shipped_weights(config) or "random"
    name, kind = run_name(Path(source)), "predictions" if config.predictions else "checkpoint"
    if name in files and not config.predictions:
        raise UserError(f"--compare {name}={files[name]}: the name {name} is taken, choose another.")
    scored = {kind: source, "data_dir": config.data_dir, "split": config.split}
    folder = results_folder(config, name, scored)
    if any(file.resolve() == (folder / "predictions.txt").resolve() for file in files.values()):
        raise UserError(f"{folder}/predictions.txt would be overwritten: choose another --output_dir.")
    require_writable(folder)

    from dataloader.dataset import build_dataset, join
    from util.plots import pick_tiles

    joints = {}
    if not config.predictions:
        dataset, joints[name] = predict(parts)
        frames = dataset.index  # without those that are left out of training
    camera, true_xyz = frames.camera(info.camera), frames.joint_xyz
    joints |= {run: read_joints(file, frames, config) for run, file in files.items()}
    xyz = {run: camera.uvd_to_xyz(uvd) for run, uvd in joints.items()}
    if not frames.labelled:
        write_predictions(config, folder, frames, joints[name], xyz[name])
        print(f"The labels are withheld: nothing to score. Written to {folder}/")
        return
    rows = {run: score(found, true_xyz) for run, found in xyz.items()}
    by_kind = {run: score_kinds(found, true_xyz, frames.kinds) for run, found in xyz.items()}
    print(as_table(rows, info.joint_names if config.per_joint else ()))
    for kind, metrics in by_kind[name].items():
        print(f"{kind:<12}{metrics.frames:6} frames  MPE {metrics.mpe_mm:7.3f} mm")
    official = official_scores(xyz[name], true_xyz, info.official_scores)
    if official:
        print(as_table(official))
    try:  # predictions are scored against labels alone: their frames may be missing
        if config.predictions:
            dataset = join([build_dataset(replace(fold, centers="")) for fold in parts])
        tiles = pick_tiles(dataset, joints[name], rows[name].frame_mm)
    except (FileNotFoundError, UserError) as error:
        print(f"No gallery: {error}")
        tiles = None

    # Everything that can fail is done: now write.
    record = as_json(rows[name], info.joint_names) | scored | {"missing": list(frames.missing)}
    record |= {"dataset": config.dataset, "fold": config.fold, "version": VERSION}
    if not config.predictions:
        record |= {"centers": config.centers or "the data set's", "sensor": config.sensor}
        record |= {"backend": config.backend, "precision": config.precision}
    if Path(source).is_file():  # not the pattern of several
        record["sha256"] = sha256(Path(source))
    if official:
        record["official"] = {way: {"mpjpe_mm": m.mpe_mm, "auc": m.auc} for way, m in official.items()}
    if by_kind[name]:
        kinds = by_kind[name].items()
        record["by_kind"] = {kind: {"frames": m.frames, "mpe_mm": m.mpe_mm} for kind, m in kinds}
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    write_predictions(config, folder, frames, joints[name], xyz[name])
    write_figures(config, folder, rows, tiles)
    if config.compare:
        with atomic_write(folder / "comparison.md") as temporary:
            temporary.write_text(as_markdown(rows, by_kind))
    print(f"Written to {folder}/")
    if frames.missing:
        print(f"Only a part of the split was scored: {', '.join(frames.missing)} missing.")


def find_predictions(config: Config) -> dict[str, Path]:
    """Files of --predictions and --compare, by the names of their runs."""
    files = {run_name(Path(config.predictions)): Path(config.predictions)} if config.predictions else {}
    for entry in config.compare:
        name, _, file = entry.partition("=")
        if not (name and file):
            raise UserError(f"--compare {entry!r} is not NAME=FILE.")
        if name in files:
            raise UserError(f"--compare {entry}: the name {name} is taken, choose another.")
        files[name] = Path(file)
    for file in files.values():
        require_file(file, "predicted joints, a frame a line")
    return files


def run_name(file: Path) -> str:
    """A file's stem; for best.pth and last.pth their folder's name, or what holds the folders of subjects."""
    if file.stem not in ("best", "last"):
        return file.stem
    folders = reversed(file.absolute().parent.parts)
    return next(folder for folder in folders if not re.fullmatch(r"P(\d|\{subject\})|s\d", folder))


def results_folder(config: Config, name: str, scored: dict[str, str]) -> Path:
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
        if os.path.abspath(found[key]) != os.path.abspath(scored.get(key, "")):
            raise UserError(f"{folder} has results of {key} {found[key]}: choose another --output_dir.")
    return folder


def predict(parts: list[Config]) -> tuple[Any, np.ndarray]:
    """Run the network of every fold on its frames: their HandDataset, and (N, J, 3) full-frame uvd."""
    from dataloader.dataset import build_dataset, join
    from util.checkpoint import shipped_weights
    from util.deployment.backends import backend_from_config
    from util.training.engine import make_loader, predict_frames

    datasets, joints = [], []
    for fold in parts:
        backend, spec, device = backend_from_config(fold)
        if not (fold.load_model or shipped_weights(fold)):
            wanted = f"weights of {fold.net} for {fold.dataset}"
            raise UserError(f"results/ has no {wanted}: pass --load_model, or --load_model random.")
        datasets.append(build_dataset(replace(fold, img_size=spec.img_size, cube=spec.cube or fold.cube)))
        loader = make_loader(datasets[-1], fold.batch_size, fold.num_workers, device)
        joints.append(predict_frames(lambda image, r=backend: r(image)[0], loader, device, fold.precision))
    return join(datasets), np.concatenate(joints)


def read_joints(file: Path, frames: FrameIndex, config: Config) -> np.ndarray:
    """Joints of --predictions or --compare as (N, J, 3) uvd; says so where another format fits better."""
    info, points = dataset_info(config.dataset), parse_format(config.predictions_format)
    camera, columns = frames.camera(info.camera), columns_of(config.predictions_order, info.joint_names)
    hint = "; are they of the same --split and --test_subject?"
    table, joint_uvd = read_predictions(file, *frames.joint_xyz.shape[:2], camera, points, hint)
    doubt_format(file, table[:, columns], frames.joint_xyz, camera, points, flag="--predictions_format")
    return joint_uvd[:, columns]


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


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings, ScoringSettings))
