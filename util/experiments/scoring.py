"""Experiments that train nothing: the shipped networks on a test split, in many ways."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader import build_dataset, build_index
from dataloader.dataset import HandDataset
from dataloader.index import select
from model.awr import dense_to_joints
from util.checkpoint import ModelSpec, load_or_init_network
from util.device import pick_device
from util.experiments.aggregation import AGGREGATIONS, votes_of
from util.experiments.catalog import ExperimentConfig, forward_seconds
from util.experiments.degrade import CURVES, degrade
from util.experiments.training import Case, hash_index, shipped_file
from util.files import sha256
from util.metrics import joint_errors, score
from util.training.engine import make_loader, predict_frames


def scoring_cases(config: ExperimentConfig) -> list[Case]:
    """Each network with each of CURVES; or each network on `dataset`, and on NYU where it lies beside it."""
    robust, cases = config.name == "robustness", []
    nyu = ["nyu"] if Path(config.data_dir, "nyu", "test").is_dir() and not robust else []
    device = pick_device(config.device).type
    for net in config.nets.split(","):
        weights = shipped_file(net)
        for dataset in dict.fromkeys([config.dataset, *nyu]):
            c = Config(dataset, config.data_dir, net=net, load_model=str(weights), device=config.device)
            c = c.resolved()
            index = build_index(c)
            settings = {"net": net, "dataset": dataset, "weights": sha256(weights), "device": device}
            settings |= {"labels": hash_index(index)}
            if not robust:
                ways = {"part": dataset, "ways": list(AGGREGATIONS)}
                seconds = forward_seconds(net, 2 * len(index.joint_xyz), device)
                measure = partial(score_votes, c)
                cases.append(Case({"column": f"{net}, {dataset}"}, settings | ways, seconds, measure))
                continue
            for name, curve in CURVES.items():
                part = {"part": name, "frames": config.frames, "levels": curve.levels}
                seconds = forward_seconds(net, len(curve.levels) * config.frames, device)
                measure = partial(score_curve, c, name, config.frames)
                cases.append(Case({"column": net}, settings | part, seconds, measure))
    return cases


def score_votes(config: Config, _: Path) -> list[dict[str, Any]]:
    """Every way to combine the votes of one network, from the same dense maps: a record each."""
    network, spec, dataset, device = _network_and_frames(config)
    seconds = dict.fromkeys(AGGREGATIONS, 0.0)

    def predict(image: Tensor) -> Tensor:
        dense, joints = network(image)[-1], []
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # else the first way waits for the network
        for name, aggregate in AGGREGATIONS.items():
            began = time.perf_counter()
            joints.append(aggregate(votes_of(dense, image, spec.kernel_size)).cpu())
            seconds[name] += time.perf_counter() - began
        return torch.cat(joints, dim=1).to(device)

    uvd = predict_frames(predict, make_loader(dataset, config.batch_size, 0, device), device)
    return [
        {"row": name} | _errors(part, dataset) | {"ms a frame": 1000 * seconds[name] / len(uvd)}
        for name, part in zip(AGGREGATIONS, np.split(uvd, len(AGGREGATIONS), axis=1), strict=True)
    ]


def score_curve(config: Config, name: str, frames: int, _: Path) -> list[dict[str, Any]]:
    """One network at every level of one thing, on at most so many frames of the split: a record each."""
    network, spec, whole, device = _network_and_frames(config)
    curve, records = CURVES[name], []
    picked = np.linspace(0, len(whole) - 1, min(frames, len(whole))).astype(int)
    for level in curve.levels:
        index = degrade(select(whole.index, picked), whole.camera, curve, level, config.info.joint_names)
        dataset = HandDataset(index, whole.camera, whole.frame_size, whole.img_size)
        loader = make_loader(dataset, config.batch_size, 0, device)
        uvd = predict_frames(lambda i: dense_to_joints(network(i)[-1], i, spec.kernel_size), loader, device)
        labels = {"row": f"{name} {level:g} {curve.unit}", "curve": name, "level": level, "unit": curve.unit}
        records.append(labels | _errors(uvd, dataset))
    return records


def _network_and_frames(config: Config) -> tuple[nn.Module, ModelSpec, HandDataset, torch.device]:
    device = pick_device(config.device)
    network, spec = load_or_init_network(config)
    dataset = build_dataset(replace(config, img_size=spec.img_size, cube=spec.cube or config.cube))
    return network.eval().to(device), spec, dataset, device


def _errors(joint_uvd: np.ndarray, dataset: HandDataset) -> dict[str, float]:
    metrics = score(joint_errors(dataset.camera.uvd_to_xyz(joint_uvd), dataset.index.joint_xyz))
    return {"mpe_mm": metrics.mpe_mm, "median_mm": metrics.median_mm}
