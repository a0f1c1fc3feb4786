"""Experiments that train nothing: the shipped networks on a test split, in many ways."""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader import build_dataset, read_labels
from dataloader.base import HandDataset
from dataloader.degrade import CURVES, degrade
from dataloader.index import select
from model.aggregation import AGGREGATIONS, votes_of
from model.awr import dense_to_joints
from util.checkpoint import RESULTS, load_or_init_network
from util.device import pick_device
from util.experiments.catalog import GFLOPS, GFLOPS_A_SECOND, ExperimentConfig
from util.experiments.training import Case
from util.files import require_file, sha256
from util.metrics import joint_errors, score
from util.training.engine import make_loader, predict_frames


def scoring_cases(config: ExperimentConfig) -> list[Case]:
    """Each network with each of CURVES; or each network on `dataset`, and on NYU where it lies beside it."""
    robust, cases = config.name == "robustness", []
    nyu = ["nyu"] if Path(config.data_dir, "nyu", "test").is_dir() else []
    for net in config.nets.split(","):
        weights = RESULTS / f"{net}_synth.pth"
        require_file(weights, f"the weights of {net}, which --nets names")
        for part in CURVES if robust else dict.fromkeys([config.dataset, *nyu]):
            dataset = config.dataset if robust else part
            c = Config(dataset, config.data_dir, net=net, load_model=str(weights), device=config.device)
            data = hashlib.sha256(read_labels(c.resolved()).tobytes()).hexdigest()
            settings = {
                "net": net,
                "part": part,
                "dataset": dataset,
                "weights": sha256(weights),
                "labels": data,
            }
            passes = config.frames * (len(CURVES[part].levels) if robust else 2)
            device = pick_device(config.device).type
            settings["device"] = device
            seconds = passes * GFLOPS.get(net, 10.0) / GFLOPS_A_SECOND.get(device, GFLOPS_A_SECOND["cpu"])
            if robust:
                labels = {"column": net}
                settings |= {"frames": config.frames, "levels": CURVES[part].levels}
                measure = partial(score_curve, c.resolved(), part, config.frames)
            else:
                labels, measure = {"column": f"{net}, {part}"}, partial(score_votes, c.resolved())
                settings["ways"] = list(AGGREGATIONS)
            cases.append(Case(labels, settings, seconds, measure))
    return cases


def score_votes(config: Config, _: Path) -> list[dict[str, Any]]:
    """Every way to combine the votes of one network, from the same dense maps: a record each."""
    network, kernel_size, device = _network(config)
    dataset, seconds = build_dataset(config), dict.fromkeys(AGGREGATIONS, 0.0)

    def predict(image: Tensor) -> Tensor:
        dense, joints = network(image)[-1], []
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # else the first way waits for the network
        for name, aggregate in AGGREGATIONS.items():
            began = time.perf_counter()
            joints.append(aggregate(votes_of(dense, image, kernel_size)).cpu())
            seconds[name] += time.perf_counter() - began
        return torch.cat(joints, dim=1).to(device)

    uvd = predict_frames(predict, make_loader(dataset, config.batch_size, 0, device), device)
    return [
        {"row": name} | _errors(part, dataset) | {"ms a frame": 1000 * seconds[name] / len(uvd)}
        for name, part in zip(AGGREGATIONS, np.split(uvd, len(AGGREGATIONS), axis=1), strict=True)
    ]


def score_curve(config: Config, name: str, frames: int, _: Path) -> list[dict[str, Any]]:
    """One network at every level of one thing, on at most so many frames of the split: a record each."""
    network, kernel_size, device = _network(config)
    curve, whole, records = CURVES[name], build_dataset(config), []
    picked = np.linspace(0, len(whole) - 1, min(frames, len(whole))).astype(int)
    for level in curve.levels:
        index = degrade(select(whole.index, picked), whole.camera, curve, level, config.info.joint_names)
        dataset = HandDataset(index, whole.camera, whole.frame_size, whole.img_size)
        loader = make_loader(dataset, config.batch_size, 0, device)
        uvd = predict_frames(lambda i: dense_to_joints(network(i)[-1], i, kernel_size), loader, device)
        labels = {"row": f"{name} {level:g} {curve.unit}", "curve": name, "level": level, "unit": curve.unit}
        records.append(labels | _errors(uvd, dataset))
    return records


def _network(config: Config) -> tuple[nn.Module, float, torch.device]:
    device = pick_device(config.device)
    network, spec = load_or_init_network(config)
    return network.eval().to(device), spec.kernel_size, device


def _errors(joint_uvd: np.ndarray, dataset: HandDataset) -> dict[str, float]:
    metrics = score(joint_errors(dataset.camera.uvd_to_xyz(joint_uvd), dataset.index.joint_xyz))
    return {"mpe_mm": metrics.mpe_mm, "median_mm": metrics.median_mm}
