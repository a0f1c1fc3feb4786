"""What an experiment measures, part by part: runs of the trainer, or the shipped networks on a test split."""

import hashlib
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader.dataset import HandDataset, build_dataset
from dataloader.frames import select
from dataloader.index import build_index, fingerprint
from model.awr import read_votes
from util.checkpoint import RESULTS, ModelSpec, load_or_init_network
from util.device import autocast, pick_device
from util.experiments.aggregation import AGGREGATIONS
from util.experiments.catalog import VARIANTS, ExperimentConfig
from util.experiments.degrade import CURVES, degrade
from util.experiments.report import Records
from util.files import require_file, sha256
from util.inference.predictor import HandPosePredictor
from util.metrics import joint_errors
from util.training.distributed import Processes
from util.training.engine import make_loader, predict_frames
from util.training.trainer import train


class Case(NamedTuple):
    """One thing to measure: the table's words for it, its run's settings, what else its numbers depend on."""

    labels: dict[str, Any]
    run: Config
    known: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """All that its numbers depend on."""
        device = pick_device(self.run.device).type
        run = replace(self.run, data_dir="", load_model="", num_workers=0, device=device)
        return asdict(run) | self.known | {"ways": list(AGGREGATIONS)}

    @property
    def name(self) -> str:
        """Of the file that keeps the records: experiments share it where the settings are the same."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.run.net}_{digest[:12]}"


def find_cases(config: ExperimentConfig) -> list[Case]:
    """Every variant with the first seed, then with the next: what is stopped early is of use. Or each shipped
    network, decoded in all ways or with each of CURVES."""
    variants, curves, cases = VARIANTS.get(config.name), CURVES if config.name == "robustness" else ("",), []
    splits = ("train", "test") if variants else ("test",)
    indices = [build_index(config.data_config({"split": split})) for split in splits]
    data = {"data": [fingerprint(index) for index in indices]}
    if variants:
        for seed, ((row, column), changes) in product(range(config.seeds), variants.items()):
            labels = ({"row": row} if row else {}) | {"column": column, "seed": seed}
            run = config.run_config(changes, seed, frames=len(indices[0].joint_xyz))
            cases.append(Case(labels, run, data))
        return cases
    for net, curve in product(config.nets, curves):
        weights = RESULTS / f"{net}_synth.pth"
        require_file(weights, f"the weights of {net} that come with the project")
        changes = {"net": net, "load_model": str(weights)}
        known = data | {"weights": sha256(weights), "frames": config.frames, "curve": CURVES.get(curve)}
        labels = {"net": net, "curve": curve} if curve else {"column": net}
        cases.append(Case(labels, config.data_config(changes), known))
    return cases


def measure(case: Case, folder: Path) -> Records:
    """Train a network in a folder, or take a shipped one, and score it on the test split: in every way, or at
    every level of a curve."""
    run, data = case.run, build_dataset(replace(case.run, split="test"))
    if not run.load_model:
        run, processes = replace(run, output_dir=str(folder), resume=True), Processes(pick_device(run.device))
        try:
            state = train(run, processes)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("The same command goes on.") from None
        return score_ways(state.scored, state.spec, data, state.config)
    picked = np.linspace(0, len(data) - 1, min(case.known["frames"], len(data))).astype(int)
    data.index = select(data.index, picked)
    data.camera = data.index.camera(data.camera)
    if "curve" in case.labels:
        return score_curve(case.labels["curve"], data, run)
    return score_ways(*load_or_init_network(run), data, run)


def score_ways(network: nn.Module, spec: ModelSpec, data: HandDataset, run: Config) -> Records:
    """Every way to combine the votes of one network's dense maps: a record each, the paper's first."""
    device = pick_device(run.device)
    network.to(device).eval()

    def predict(image: Tensor) -> Tensor:
        with autocast(device, run.precision):
            dense = network(image)[-1]
        votes = read_votes(dense, image, spec.kernel_size)
        return torch.cat([aggregate(votes) for aggregate in AGGREGATIONS.values()], dim=1)

    loader = make_loader(data, run.batch_size, run.num_workers, device)
    xyz = data.camera.uvd_to_xyz(predict_frames(predict, loader, device, run.precision))
    return [
        {"row": name, "mpe_mm": joint_errors(part, data.index.joint_xyz).mean()}
        for name, part in zip(AGGREGATIONS, np.split(xyz, len(AGGREGATIONS), axis=1), strict=True)
    ]


def score_curve(curve: str, data: HandDataset, run: Config) -> Records:
    """A network at every level of a curve, alone, however low its confidence, and as the predictor runs it.

    A frame that the predictor takes for no hand is left out of its error; `answered` is the others' share.
    """
    records, (unit, levels) = [], CURVES[curve]
    alone = HandPosePredictor(run.load_model, run.device, min_confidence=0.0, denoise=False)
    predictors = {run.net: alone, f"{run.net}, predictor": HandPosePredictor(run.load_model, run.device)}
    for level, (column, predictor) in product(levels, predictors.items()):
        errors = []
        for i in range(len(data) if curve != "cube edge" or predictor is alone else 0):
            depth, center, alone.cube, joint_xyz = degrade(data, i, curve, level)  # the other's is its own
            side = "left" if data.index.is_left(i) else "right"
            pose = predictor.predict(depth, data.camera.of(i), center, handedness=side)
            errors += [joint_errors(pose.joints_xyz, joint_xyz).mean()] if pose else []
        if errors:
            row = {"row": f"{curve} {level:g} {unit}", "level": level, "unit": unit, "column": column}
            records.append(row | {"mpe_mm": np.mean(errors), "answered": len(errors) / len(data)})
    return records
