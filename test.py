"""Score a checkpoint, or a file of predictions, on a data set."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from config import VERSION, Config, DataSettings, NetworkSettings, ScoringSettings
from dataloader import dataset_info, layout_of
from dataloader.index import find_frames, folds
from dataloader.joint_orders import columns_of
from util import UserError
from util.cli import run
from util.files import listed, require_writable, sha256, write_text
from util.metrics import as_json, as_markdown, as_table, average_joints, official_scores, score, score_kinds
from util.plots import pick_tiles
from util.points import parse_format
from util.scoring import (
    find_predictions,
    read_joints,
    results_folder,
    run_name,
    write_figures,
    write_predictions,
)

# What imports PyTorch is imported inside the functions: --help and a missing file are answered without it.


def main(config: Config) -> None:
    """Predict or read joints, compare them with the labels, and write figures and pictures."""
    if not config.predictions and str(config.load_model).endswith(".xml"):  # int8, by OpenVINO on the CPU
        config = replace(config, backend="openvino", precision="int8", device="cpu")
    files, info = find_predictions(config.predictions, config.compare), dataset_info(config.dataset)
    parse_format(config.centers_format)
    points = parse_format(config.predictions_format) if files else None
    columns = columns_of(config.predictions_order, info.joint_names)
    frames, parts = find_frames(config), folds(config)
    if config.predictions and not frames.labelled:
        raise UserError(f"The labels of these {config.dataset} frames are withheld: run a network instead.")
    source = config.predictions or config.load_model
    if not source:
        from util.checkpoint import shipped_weights

        source = shipped_weights(config) or "random"
    name, kind = run_name(source), "predictions" if config.predictions else "checkpoint"
    if name in files and not config.predictions:
        raise UserError(f"--compare {name}={files[name]}: the name {name} is taken, choose another.")
    scored = {kind: source, "data_dir": config.data_dir, "split": config.split}
    folder = results_folder(config, name, scored)
    written = (folder / "predictions.txt").resolve()
    if any(file.resolve() == written for file in chain.from_iterable(files.values())):
        raise UserError(f"{folder}/predictions.txt would be overwritten: choose another --output_dir.")
    require_writable(folder)

    from dataloader.dataset import build_dataset, join

    answers = {}
    if not config.predictions:
        dataset, answers[name] = predict(parts)
        frames = dataset.index  # without those that are left out of training
    camera, true_xyz = frames.camera(info.camera), frames.joint_xyz
    answers |= {run: read_joints(own, frames, camera, points, columns) for run, own in files.items()}
    xyz, joints, spread_mm = {}, {}, {}
    for own, uvd in answers.items():
        xyz[own], joints[own], spread_mm[own] = average_joints(uvd, camera)
    submitted = folder, layout_of(config.dataset), frames, joints[name], xyz[name]
    if not frames.labelled:
        write_predictions(*submitted)
        print(f"The labels are withheld: nothing to score. Written to {folder}/")
        return
    rows = {run: score(found, true_xyz) for run, found in xyz.items()}
    by_kind = {run: score_kinds(found, true_xyz, frames.kinds) for run, found in xyz.items()}
    print(as_table(rows, info.joint_names if config.per_joint else ()))
    for kind, metrics in by_kind[name].items():
        print(f"{kind:<12}{metrics.frames:6} frames  MPE {metrics.mpe_mm:7.3f} mm")
    spread = {}
    if spread_mm[name].any():
        frame_mm = spread_mm[name].mean(axis=1)
        correlation = float(np.corrcoef(frame_mm, rows[name].frame_mm)[0, 1])
        spread = {"spread_mm": float(frame_mm.mean()), "spread_error_correlation": correlation}
        print(f"answers spread by {frame_mm.mean():.3f} mm, correlation with the error {correlation:.2f}")
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
    record = as_json(rows[name], info.joint_names) | spread | scored | {"missing": list(frames.missing)}
    record |= {"dataset": config.dataset, "fold": config.fold, "version": VERSION}
    if not config.predictions:
        record |= {"centers": config.centers or "the data set's", "sensor": config.sensor}
        record |= {"backend": config.backend, "precision": config.precision}
    hashes = [sha256(Path(file)) for file in listed(source) if Path(file).is_file()]  # not a fold's pattern
    record |= {"sha256": hashes[0] if len(hashes) == 1 else hashes} if hashes else {}
    if official:
        record["official"] = {way: {"mpjpe_mm": m.mpe_mm, "auc": m.auc} for way, m in official.items()}
    if by_kind[name]:
        kinds = by_kind[name].items()
        record["by_kind"] = {kind: {"frames": m.frames, "mpe_mm": m.mpe_mm} for kind, m in kinds}
    write_text(folder / "metrics.json", json.dumps(record, indent=1) + "\n")
    write_predictions(*submitted)
    write_figures(folder, config.figures, info, rows, tiles)
    if config.compare:
        write_text(folder / "comparison.md", as_markdown(rows, by_kind))
    print(f"Written to {folder}/")
    if frames.missing:
        print(f"Only a part of the split was scored: {', '.join(frames.missing)} missing.")


def predict(parts: list[Config]) -> tuple[Any, np.ndarray]:
    """Run the networks of every fold on its frames: their HandDataset, and (networks, N, J, 3) full-frame
    uvd."""
    from dataloader.dataset import build_dataset, join
    from util.checkpoint import shipped_weights
    from util.deployment.backends import backend_from_config
    from util.training.engine import make_loader, predict_frames

    datasets, joints = [], []
    for fold in parts:
        answers = []
        for file in listed(fold.load_model) or [""]:
            backend, spec, device = backend_from_config(replace(fold, load_model=file))
            if not (file or shipped_weights(fold)):
                wanted = f"weights of {fold.net} for {fold.dataset}"
                raise UserError(f"results/ has no {wanted}: pass --load_model, or --load_model random.")
            dataset = build_dataset(replace(fold, img_size=spec.img_size, cube=spec.cube or fold.cube))
            loader = make_loader(dataset, fold.batch_size, fold.num_workers, device)
            predicted = predict_frames(lambda image, r=backend: r(image)[0], loader, device, fold.precision)
            answers.append(predicted)
        datasets.append(dataset)
        joints.append(answers)
    return join(datasets), np.concatenate(joints, axis=1)


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings, ScoringSettings))
