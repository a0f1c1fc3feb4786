"""Score a checkpoint, or a file of predictions, on a data set."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config import DATASETS, Config, DataSettings, NetworkSettings, ScoringSettings
from util import UserError
from util.cli import run

if TYPE_CHECKING:
    from dataloader.dataset import HandDataset
    from util.plots import Tile

FIGURES = ("pck", "success", "joints", "gallery", "comparison")

# Most imports are inside the functions, so that --help does not wait for PyTorch.


def main(config: Config) -> None:
    """Predict or read joints, compare them with the labels, and write figures and pictures."""
    from dataloader import missing_parts, read_kinds, read_labels
    from dataloader.hands17 import write_submission
    from util import plots
    from util.files import atomic_write, require_writable, write_table
    from util.metrics import as_json, as_markdown, as_table, joint_errors, score, score_kinds
    from util.points import parse_format

    info, folder = config.info, results_folder(config)
    parse_format(config.predictions_format), parse_format(config.centers_format)
    compared = [parse_named_file(entry) for entry in config.compare]
    check_compared(compared, folder)
    if config.predictions and Path(config.predictions).resolve() == (folder / "predictions.txt").resolve():
        raise UserError(
            f"--predictions {config.predictions} would be overwritten: choose another --output_dir."
        )
    require_writable(folder)
    dataset = None
    if config.predictions:
        name, true_xyz = Path(config.predictions).stem, read_labels(config)
        joint_uvd = read_joints(Path(config.predictions), true_xyz, config)
    else:
        dataset, name, joint_uvd = predict(config)
        true_xyz = dataset.index.joint_xyz
        if not dataset.index.labelled:
            write_table(folder / "predictions.txt", joint_uvd.reshape(len(joint_uvd), -1))
            write_submission(folder / "submission.txt", dataset.index, info.camera.uvd_to_xyz(joint_uvd))
            print(f"The labels are withheld: nothing to score. Written to {folder}/submission.txt")
            return

    predictions = {name: joint_uvd}
    for other, file in compared:
        if other in predictions:
            raise UserError(f"--compare {other}={file}: the name {other} is taken, choose another.")
        predictions[other] = read_joints(file, true_xyz, config)
    errors = {key: joint_errors(info.camera.uvd_to_xyz(uvd), true_xyz) for key, uvd in predictions.items()}
    rows = {key: score(error) for key, error in errors.items()}
    by_kind = score_kinds(errors[name], read_kinds(config))
    print(as_table(rows, info.joint_names))
    for kind, metrics in by_kind.items():
        print(f"{kind:<12}{metrics.frames:6} frames  MPE {metrics.mpe_mm:7.3f} mm")

    tiles = gallery_tiles(config, dataset, joint_uvd, errors[name].mean(axis=1))

    # Everything that can fail is done: now write.
    missing = missing_parts(config)
    record = as_json(rows[name], info.joint_names) | scored_file(config) | {"missing": missing}
    if by_kind:
        record["by_kind"] = {kind: {"frames": m.frames, "mpe_mm": m.mpe_mm} for kind, m in by_kind.items()}
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    write_table(folder / "predictions.txt", joint_uvd.reshape(len(joint_uvd), -1))
    ending = config.figures
    figures = [folder / f"{name}.{other}" for name in FIGURES for other in ("png", "svg", "pdf")]
    for stale in (*figures, folder / "comparison.md"):
        stale.unlink(missing_ok=True)
    plots.save_pck_curve(folder / f"pck.{ending}", rows)
    plots.save_success_curve(folder / f"success.{ending}", rows)
    plots.save_joint_bars(folder / f"joints.{ending}", rows, info.joint_names)
    if compared:
        plots.save_comparison(folder / f"comparison.{ending}", rows, info.joint_names)
        with atomic_write(folder / "comparison.md") as temporary:
            temporary.write_text(as_markdown(rows))
    if tiles is not None:
        plots.save_gallery(folder / f"gallery.{ending}", tiles, info.chains)
    print(f"Written to {folder}/")
    if missing:
        print(f"Only a part of the split was scored: {', '.join(missing)} missing.")


def checkpoint_of(config: Config) -> str:
    """The checkpoint that is scored, empty for random weights."""
    from util.checkpoint import shipped_weights

    return config.load_model or shipped_weights(config)


def results_folder(config: Config) -> Path:
    """Where the results go: `output_dir`; beside a checkpoint in output/; else in a folder called like the
    checkpoint, so that no results replace those of another."""
    checkpoint = Path(checkpoint_of(config))
    if config.output_dir != config.default_output_dir or config.predictions or not checkpoint.name:
        return Path(config.output_dir)
    beside = Path(*(part for part in checkpoint.parent.parts if "{subject}" not in part))
    if "output" in beside.parts:
        folder = beside if config.dataset in beside.parts else beside / config.dataset
    else:
        name = checkpoint.name.replace("{subject}", "all")
        generic = checkpoint.stem in ("best", "last", "checkpoint", "model")
        folder = Path("output", config.dataset, f"{beside.name}_{name}" if generic else name)
        if config.info.subject_scales and config.test_subject != "all":
            folder /= f"P{config.test_subject}"
    return folder if config.split == "test" else folder / config.split


def run_name(config: Config, net: str) -> str:
    """What the scored run is called in figures."""
    checkpoint = Path(checkpoint_of(config))
    if checkpoint.stem in ("best", "last"):
        folders = [part for part in checkpoint.parent.parts if "{subject}" not in part]
        return folders[-1] if folders else net
    return checkpoint.stem or net


def scored_file(config: Config) -> dict[str, str]:
    """Path and SHA-256 of the file that was scored; of several, one a fold, the pattern."""
    from util.files import sha256

    path = config.predictions or checkpoint_of(config)
    hashed = {"sha256": sha256(Path(path))} if Path(path).is_file() else {}
    return {"predictions" if config.predictions else "checkpoint": path} | hashed


def read_joints(file: Path, true_xyz: "np.ndarray", config: Config) -> "np.ndarray":
    """Joints of --predictions or --compare as (N, J, 3) uvd; says so where another format fits better."""
    from util.points import doubt_format, parse_format, read_predictions

    info, points = DATASETS[config.dataset], parse_format(config.predictions_format)
    hint = ""
    if info.subject_scales and config.test_subject != "all":
        hint = f"; these labels are of subject {config.test_subject}, all nine are --test_subject all"
    table, joint_uvd = read_predictions(file, *true_xyz.shape[:2], info.camera, points, hint)
    doubt_format(file, table, true_xyz, info.camera, points, flag="--predictions_format")
    return joint_uvd


def predict(config: Config) -> "tuple[HandDataset, str, np.ndarray]":
    """Run the network of every fold on its frames.

    Returns:
        The samples, the run's name, and (N, J, 3) full-frame uvd.
    """
    from dataloader import build_dataset, folds, join
    from util.deployment.backends import backend_from_config
    from util.training.engine import make_loader, predict_frames

    datasets, parts = [], []
    for fold in folds(config):
        backend, spec, device = backend_from_config(fold)
        fold = replace(fold, img_size=spec.img_size, cube=spec.cube or fold.cube)
        dataset = build_dataset(fold)
        loader = make_loader(dataset, config.batch_size, config.num_workers, device)
        parts.append(predict_frames(lambda image, run=backend: run(image)[0], loader, device, fold.precision))
        datasets.append(dataset)
    return join(datasets, config), run_name(config, spec.net), np.concatenate(parts)


def gallery_tiles(
    config: Config, dataset: "HandDataset | None", joint_uvd: np.ndarray, frame_errors: np.ndarray
) -> "dict[str, list[Tile]] | None":
    """The gallery's frames. Predictions are scored against labels alone: their frames may be missing."""
    from dataloader import build_dataset, folds, join
    from util.plots import pick_tiles

    if dataset is not None:
        return pick_tiles(dataset, joint_uvd, frame_errors)
    try:
        dataset = join([build_dataset(fold) for fold in folds(config)], config)
        return pick_tiles(dataset, joint_uvd, frame_errors)
    except (FileNotFoundError, UserError) as error:
        print(f"No gallery: {error}")
        return None


def parse_named_file(entry: str) -> tuple[str, Path]:
    """`NAME=FILE` of --compare."""
    name, equals, file = entry.partition("=")
    if not (name and equals and file):
        raise UserError(f"--compare {entry!r} is not NAME=FILE.")
    return name, Path(file)


def check_compared(compared: list[tuple[str, Path]], folder: Path) -> None:
    """Raise FileNotFoundError or UserError if a compared file is missing, or would be overwritten."""
    for name, file in compared:
        if not file.is_file():
            raise FileNotFoundError(f"--compare {name}={file}: {file} is missing or not a file.")
        if file.resolve() == (folder / "predictions.txt").resolve():
            raise UserError(f"--compare {name}={file} would be overwritten: choose another --output_dir.")


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings, ScoringSettings))
