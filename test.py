"""Score a checkpoint, or a file of predictions, on a data set."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config import Config, DataSettings, NetworkSettings, ScoringSettings
from util.cli import run

if TYPE_CHECKING:
    from dataloader.base import HandDataset
    from util.plots import Tile

# Most imports are inside the functions, so that --help does not wait for PyTorch.


def main(config: Config) -> None:
    """Predict or read joints, compare them with the labels, and write figures and pictures."""
    from dataloader import read_labels
    from dataloader.hands17 import write_submission
    from util import plots
    from util.files import atomic_write, read_predictions, write_table
    from util.metrics import as_json, as_table, joint_errors, score

    info, folder = config.info, Path(config.output_dir)
    compared = [parse_named_file(entry) for entry in config.compare]
    check_not_overwritten(compared, folder)
    if config.predictions:
        name, dataset, true_xyz = Path(config.predictions).stem, None, read_labels(config)
        joint_uvd = read_predictions(Path(config.predictions), *true_xyz.shape[:2])
    else:
        dataset, name, joint_uvd = predict(config)
        true_xyz = dataset.index.joint_xyz
        if config.output_dir == config.default_output_dir:
            folder = Path(replace(config, net=name).default_output_dir)  # the checkpoint's own network wins
            check_not_overwritten(compared, folder)
        if not dataset.index.labelled:
            write_table(folder / "predictions.txt", joint_uvd.reshape(len(joint_uvd), -1))
            write_submission(folder / "submission.txt", dataset.index, info.camera.uvd_to_xyz(joint_uvd))
            print(f"The labels are withheld: nothing to score. Written to {folder}/submission.txt")
            return

    predictions = {name: joint_uvd}
    for other, file in compared:
        if other in predictions:
            raise ValueError(f"--compare {other}={file}: the name {other} is taken, choose another.")
        predictions[other] = read_predictions(file, *true_xyz.shape[:2])
    errors = {key: joint_errors(info.camera.uvd_to_xyz(uvd), true_xyz) for key, uvd in predictions.items()}
    rows = {key: score(error) for key, error in errors.items()}
    print(as_table(rows, info.joint_names))

    tiles = gallery_tiles(config, dataset, joint_uvd, errors[name].mean(axis=1))

    # Everything that can fail is done: now write.
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(as_json(rows[name], info.joint_names), indent=1) + "\n")
    write_table(folder / "predictions.txt", joint_uvd.reshape(len(joint_uvd), -1))
    ending = config.figures
    plots.save_pck_curve(folder / f"pck.{ending}", rows)
    plots.save_success_curve(folder / f"success.{ending}", rows)
    plots.save_joint_bars(folder / f"joints.{ending}", rows, info.joint_names)
    if tiles is None:
        (folder / f"gallery.{ending}").unlink(missing_ok=True)  # it would show other predictions
    else:
        plots.save_gallery(folder / f"gallery.{ending}", tiles, info.chains)
    print(f"Written to {folder}/")


def predict(config: Config) -> "tuple[HandDataset, str, np.ndarray]":
    """Run the network of every fold on its frames.

    Returns:
        The samples, the network's name, and (N, J, 3) full-frame uvd.
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
    return join(datasets, config), spec.net, np.concatenate(parts)


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
    except (FileNotFoundError, ValueError) as error:
        print(f"No gallery: {error}")
        return None


def parse_named_file(entry: str) -> tuple[str, Path]:
    """`NAME=FILE` of --compare."""
    name, equals, file = entry.partition("=")
    if not (name and equals and file):
        raise ValueError(f"--compare {entry!r} is not NAME=FILE.")
    return name, Path(file)


def check_not_overwritten(compared: list[tuple[str, Path]], folder: Path) -> None:
    """Raise ValueError if one of the compared files is what is to be written into `folder`."""
    for name, file in compared:
        if file.resolve() == (folder / "predictions.txt").resolve():
            raise ValueError(f"--compare {name}={file} would be overwritten: choose another --output_dir.")


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings, ScoringSettings))
