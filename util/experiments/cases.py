"""What an experiment measures, part by part: runs of the trainer, or the shipped networks on a test split."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader import dataset_info
from dataloader.dataset import HandDataset, build_dataset, make_sample
from dataloader.index import build_index, fingerprint, select
from model.awr import dense_to_joints, read_votes
from util.camera import crop_to_uvd
from util.checkpoint import RESULTS, ModelSpec, load_or_init_network
from util.device import autocast, pick_device
from util.experiments.aggregation import AGGREGATIONS
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig
from util.experiments.degrade import CURVES, Scene, read_scene
from util.files import require_file, sha256
from util.inference.predictor import HandPosePredictor
from util.metrics import joint_errors
from util.training.distributed import Processes
from util.training.engine import make_loader, predict_frames
from util.training.trainer import train

Records = list[dict[str, Any]]
# Settings that change no number, or that a case tells in another way.
ELSEWHERE = ("data_dir", "device", "num_workers", "output_dir", "resume", "load_model")


class Case(NamedTuple):
    """One thing to measure: what the table calls it, the settings that its numbers depend on, and the call
    that gives its records, with a folder to work in."""

    labels: dict[str, Any]
    settings: dict[str, Any]
    measure: Callable[[Path], Records]

    @property
    def name(self) -> str:
        """Of the file that keeps the records: experiments share it where the settings are the same."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['net']}_{digest[:12]}"


def training_cases(config: ExperimentConfig) -> list[Case]:
    """Every variant with the first seed, then with the next: what is stopped early is of use."""
    splits = [build_index(config.run_config({"split": split})) for split in ("train", "test")]
    data, frames = [fingerprint(index) for index in splits], len(splits[0].joint_xyz)
    cases = []
    for seed in range(config.seeds):
        for (row, column), changes in EXPERIMENTS[config.name][1].items():
            run = config.run_config(changes, seed, frames)
            labels = ({"row": row} if row else {}) | {"column": column, "seed": seed}
            cases.append(Case(labels, _key(run, data=data), partial(train_and_score, run)))
    return cases


def scoring_cases(config: ExperimentConfig) -> list[Case]:
    """Each shipped network, decoded in all ways or with each of CURVES."""
    curves, cases = tuple(CURVES) if config.name == "robustness" else ("",), []
    for net in config.nets:
        weights = RESULTS / f"{net}_synth.pth"
        require_file(weights, f"the weights of {net} that come with the project")
        run = Config(**config.shared | {"num_workers": 0}, net=net, load_model=str(weights)).resolved()
        known = {"data": fingerprint(build_index(run)), "weights": sha256(weights), "frames": config.frames}
        for curve in curves:
            labels = {"net": net, "curve": curve} if curve else {"column": net}
            key = _key(run, **known, curve=curve and [curve, *CURVES[curve].levels])
            cases.append(Case(labels, key, partial(score_shipped, run, config.frames, curve)))
    return cases


def _key(run: Config, **more: Any) -> dict[str, Any]:
    """All that a case's numbers depend on."""
    settings = {name: value for name, value in asdict(run).items() if name not in ELSEWHERE}
    return settings | more | {"device": pick_device(run.device).type, "ways": list(AGGREGATIONS)}


def train_and_score(config: Config, folder: Path) -> Records:
    """Train in a folder, and score the last weights on the test split in every way."""
    processes = Processes(pick_device(config.device))
    try:
        state = train(replace(config, output_dir=str(folder), resume=True), processes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("The same command goes on.") from None
    test = build_dataset(replace(config, split="test"))
    return score_ways(state.scored, state.spec.kernel_size, test, state.config, processes.device)


def score_ways(
    network: nn.Module, kernel_size: float, dataset: HandDataset, config: Config, device: torch.device
) -> Records:
    """Every way to combine the votes of one network's dense maps: a record each, the paper's first."""
    network.eval()

    def predict(image: Tensor) -> Tensor:
        with autocast(device, config.precision):
            dense = network(image)[-1]
        votes = read_votes(dense, image, kernel_size)
        return torch.cat([aggregate(votes) for aggregate in AGGREGATIONS.values()], dim=1)

    loader = make_loader(dataset, config.batch_size, config.num_workers, device)
    uvd = predict_frames(predict, loader, device, config.precision)
    xyz = np.split(dataset.camera.uvd_to_xyz(uvd), len(AGGREGATIONS), axis=1)
    errors = [joint_errors(part, dataset.index.joint_xyz).mean() for part in xyz]
    return [{"row": name, "mpe_mm": mpe} for name, mpe in zip(AGGREGATIONS, errors, strict=True)]


@torch.inference_mode()
def score_shipped(config: Config, frames: int, curve: str, _: Path) -> Records:
    """A network on at most so many frames: in every way or, at every level of a curve, alone and as the
    predictor runs it.

    A frame that the predictor takes for no hand is left out of its error; `answered` is the others' share.
    """
    network, spec = load_or_init_network(config)
    device, dataset = pick_device(config.device), build_dataset(replace(config, img_size=spec.img_size))
    picked = np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).astype(int)
    dataset.index, network = select(dataset.index, picked), network.eval().to(device)
    if not curve:
        return score_ways(network, spec.kernel_size, dataset, config, device)
    predictor, records = HandPosePredictor(config.load_model, device=config.device), []
    unit, levels, change = CURVES[curve]
    for level in levels:
        alone, whole = [], []
        for i in range(len(dataset)):
            scene = change(read_scene(dataset, i, dataset_info(config.dataset).joint_names), level)
            alone.append(joint_errors(joints_alone(network, spec, scene, device), scene.joint_xyz).mean())
            pose = predictor.predict(scene.depth, scene.camera, scene.center_xyz, handedness="right")
            if pose is not None and curve != "cube edge":  # the predictor's cube is its own
                whole.append(joint_errors(pose.joints_xyz, scene.joint_xyz).mean())
        for column, errors in ((config.net, alone), (f"{config.net}, predictor", whole)):
            if errors:
                row = {"row": f"{curve} {level:g} {unit}", "level": level, "unit": unit, "column": column}
                share = {"answered": len(errors) / len(alone)}
                records.append(row | {"mpe_mm": float(np.mean(errors))} | share)
    return records


def joints_alone(network: nn.Module, spec: ModelSpec, scene: Scene, device: torch.device) -> np.ndarray:
    """What the network alone makes of a scene, cropped around its centre: (J, 3) mm."""
    depth, camera, center, cube, joints, *_ = scene
    sample = make_sample(depth, camera, center, cube, joints, spec.img_size)
    image = torch.from_numpy(sample.image)[None].to(device)
    uvd = dense_to_joints(network(image)[-1], image, spec.kernel_size)[0].double().cpu().numpy()
    return camera.uvd_to_xyz(crop_to_uvd(uvd, center[2], cube[2], sample.M.astype(float), spec.img_size))
