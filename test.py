"""Score a checkpoint, or a file of predictions, on a data set."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, DataSettings, NetworkSettings, ScoringSettings
from dataloader import dataset_info
from util import UserError
from util.cli import run
from util.files import atomic_write, read_json, require_file, require_writable, sha256, write_table
from util.metrics import as_json, as_markdown, as_table, joint_errors, score, score_kinds
from util.points import doubt_format, parse_format, read_predictions

# What imports PyTorch is imported inside the functions: --help and a missing file are answered without it.


def main(config: Config) -> None:
    """Predict or read joints, compare them with the labels, and write figures and pictures."""
    parse_format(config.predictions_format), parse_format(config.centers_format)
    files = find_predictions(config)
    source = config.predictions or config.load_model
    if not source:
        from util.checkpoint import shipped_weights

        source = shipped_weights(config) or "random"
    name, info = run_name(Path(source)), dataset_info(config.dataset)
    if name in files and not config.predictions:
        raise UserError(f"--compare {name}={files[name]}: the name {name} is taken, choose another.")
    scored = {"predictions" if config.predictions else "checkpoint": source}
    scored |= {"data_dir": config.data_dir, "split": config.split}
    folder = results_folder(config, name, scored)
    for file in files.values():
        if file.resolve() == (folder / "predictions.txt").resolve():
            raise UserError(f"{file} would be overwritten: choose another --output_dir.")
    require_writable(folder)

    from dataloader.dataset import build_dataset, join
    from dataloader.hands17 import write_submission
    from dataloader.index import folds, missing_parts, read_kinds, read_labels
    from util.plots import pick_tiles

    joints = {}
    if config.predictions:
        true_xyz = read_labels(config)
    else:
        dataset, joints[name] = predict(config)
        true_xyz = dataset.index.joint_xyz
        if not dataset.index.labelled:
            write_table(folder / "predictions.txt", joints[name].reshape(len(true_xyz), -1))
            write_submission(folder / "submission.txt", dataset.index, info.camera.uvd_to_xyz(joints[name]))
            print(f"The labels are withheld: nothing to score. Written to {folder}/submission.txt")
            return
    joints |= {run: read_joints(file, true_xyz, config) for run, file in files.items()}
    errors = {run: joint_errors(info.camera.uvd_to_xyz(uvd), true_xyz) for run, uvd in joints.items()}
    rows = {run: score(error) for run, error in errors.items()}
    print(as_table(rows, info.joint_names))
    by_kind = score_kinds(errors[name], read_kinds(config))
    for kind, metrics in by_kind.items():
        print(f"{kind:<12}{metrics.frames:6} frames  MPE {metrics.mpe_mm:7.3f} mm")
    try:  # predictions are scored against labels alone: their frames may be missing
        if config.predictions:
            dataset = join([build_dataset(fold) for fold in folds(config)], config)
        tiles = pick_tiles(dataset, joints[name], errors[name].mean(axis=1))
    except (FileNotFoundError, UserError) as error:
        print(f"No gallery: {error}")
        tiles = None

    # Everything that can fail is done: now write.
    missing = missing_parts(config)
    record = as_json(rows[name], info.joint_names) | scored | {"missing": missing}
    if Path(source).is_file():  # not the pattern of several
        record["sha256"] = sha256(Path(source))
    if by_kind:
        record["by_kind"] = {kind: {"frames": m.frames, "mpe_mm": m.mpe_mm} for kind, m in by_kind.items()}
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    write_table(folder / "predictions.txt", joints[name].reshape(len(true_xyz), -1))
    write_figures(config, folder, rows, tiles)
    print(f"Written to {folder}/")
    if missing:
        print(f"Only a part of the split was scored: {', '.join(missing)} missing.")


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
    return next(folder for folder in folders if not re.fullmatch(r"P(\d|\{subject\})", folder))


def results_folder(config: Config, name: str, scored: dict[str, str]) -> Path:
    """--output_dir, else output/<dataset>/<name of the run>[/P<subject>][/<split>], unless that has results
    of something else than is `scored`."""
    if config.output_dir != config.default_output_dir:
        return Path(config.output_dir)
    folder = Path("output", config.dataset, f"scored_{name}" if config.predictions else name)
    if dataset_info(config.dataset).subject_scales and config.test_subject != "all":
        folder /= f"P{config.test_subject}"
    folder = folder if config.split == "test" else folder / config.split
    found = read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    for key in sorted(found.keys() & {"checkpoint", "predictions", "data_dir", "split"}):
        if os.path.abspath(found[key]) != os.path.abspath(scored.get(key, "")):
            other = f"another run ({key} {found[key]})"
            raise UserError(f"{folder} has the results of {other}: choose another folder with --output_dir.")
    return folder


def predict(config: Config) -> tuple[Any, np.ndarray]:
    """Run the network of every fold on its frames: their HandDataset, and (N, J, 3) full-frame uvd."""
    from dataloader.dataset import build_dataset, join
    from dataloader.index import folds
    from util.checkpoint import shipped_weights
    from util.deployment.backends import backend_from_config
    from util.training.engine import make_loader, predict_frames

    datasets, parts = [], []
    for fold in folds(config):
        backend, spec, device = backend_from_config(fold)
        fold = replace(fold, img_size=spec.img_size, cube=spec.cube or fold.cube)
        dataset = build_dataset(fold)
        if not (config.load_model or shipped_weights(config)):
            weights = f"weights of {config.net} for {config.dataset}"
            raise UserError(
                f"results/ has no {weights}: name some with --load_model, or say --load_model random."
            )
        loader = make_loader(dataset, config.batch_size, config.num_workers, device)
        parts.append(predict_frames(lambda image, run=backend: run(image)[0], loader, device, fold.precision))
        datasets.append(dataset)
    return join(datasets, config), np.concatenate(parts)


def read_joints(file: Path, true_xyz: np.ndarray, config: Config) -> np.ndarray:
    """Joints of --predictions or --compare as (N, J, 3) uvd; says so where another format fits better."""
    info, points = dataset_info(config.dataset), parse_format(config.predictions_format)
    hint = ""
    if info.subject_scales and config.test_subject != "all":
        hint = f"; these labels are of subject {config.test_subject}, all nine are --test_subject all"
    table, joint_uvd = read_predictions(file, *true_xyz.shape[:2], info.camera, points, hint)
    doubt_format(file, table, true_xyz, info.camera, points, flag="--predictions_format")
    return joint_uvd


def write_figures(config: Config, folder: Path, rows: dict[str, Any], tiles: dict[str, Any] | None) -> None:
    """Draw each run's Metrics of `rows`, and a gallery of `tiles`; the figures of an earlier run go."""
    from util import plots

    info, ending = dataset_info(config.dataset), config.figures
    for name in ("pck", "success", "joints", "gallery", "comparison"):
        for stale in folder.glob(f"{name}.*"):
            stale.unlink()
    plots.save_pck_curve(folder / f"pck.{ending}", rows)
    plots.save_success_curve(folder / f"success.{ending}", rows)
    plots.save_joint_bars(folder / f"joints.{ending}", rows, info.joint_names)
    if config.compare:
        plots.save_comparison(folder / f"comparison.{ending}", rows, info.joint_names)
        with atomic_write(folder / "comparison.md") as temporary:
            temporary.write_text(as_markdown(rows))
    if tiles is not None:
        plots.save_gallery(folder / f"gallery.{ending}", tiles, info.chains)


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings, ScoringSettings))
