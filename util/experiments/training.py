"""Experiments that train: each run in a folder of its own, where it goes on if it was stopped."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from config import Config
from dataloader import build_dataset, build_index
from dataloader.index import FrameIndex
from util import UserError
from util.checkpoint import RESULTS, load_network, save_checkpoint, spec_from_config, with_new_heads
from util.device import pick_device
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig, training_seconds
from util.files import require_file, sha256
from util.training.distributed import Processes
from util.training.engine import evaluate
from util.training.trainer import train

# Settings that change no number, or that a case tells in another way.
ELSEWHERE = ("data_dir", "device", "num_workers", "output_dir", "resume", "load_model")


class Case(NamedTuple):
    """One thing to measure: what the table calls it, the settings that its numbers depend on, roughly how
    long it takes, and the call that gives its records, with a folder to work in."""

    labels: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    measure: Callable[[Path], list[dict[str, Any]]]

    @property
    def name(self) -> str:
        """Of the file that keeps the records: experiments share it where the settings are the same."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['net']}_{digest[:12]}"


def training_cases(config: ExperimentConfig) -> list[Case]:
    """Every variant with the first seed, then with the next: what is stopped early is of use."""
    splits = [build_index(config.run_config({"split": split})) for split in ("train", "test")]
    frames, data = len(splits[0].joint_xyz), [hash_index(index) for index in splits]
    crops = config.crops_of_run
    if crops and crops < 2 * frames:
        raise UserError(f"--crops {crops} is less than two epochs of {frames} training frames.")
    device, cases = pick_device(config.device).type, []
    for seed in range(config.seeds):
        for (row, column), changes in EXPERIMENTS[config.name][1].items():
            c = config.run_config(changes, seed, frames)
            settings = {key: value for key, value in asdict(c).items() if key not in ELSEWHERE}
            start = sha256(shipped_file(c.net)) if config.start == "shipped" else config.start
            settings |= {"start": start, "labels": data, "device": device}
            seconds = training_seconds(c, c.max_epoch * frames, device)
            case = {"row": row, "column": column, "seed": seed}
            cases.append(Case(case, settings, seconds, partial(train_and_score, c, config.start)))
    return cases


def hash_index(index: FrameIndex) -> str:
    """What tells a split's crops apart from others': the hash of its frames' joints and centres."""
    return hashlib.sha256(index.joint_xyz.tobytes() + index.center_xyz.tobytes()).hexdigest()


def shipped_file(net: str) -> Path:
    """The weights of a network that come with the project; FileNotFoundError where there are none."""
    path = RESULTS / f"{net}_synth.pth"
    require_file(path, f"the weights of {net} that come with the project")
    return path


def train_and_score(config: Config, start: str, folder: Path) -> list[dict[str, Any]]:
    """Train in a folder, and score the last weights on the test split."""
    if start == "shipped":
        path, spec = folder / "start.pth", spec_from_config(config)
        if not path.is_file():
            trained, _ = load_network(shipped_file(config.net), spec)
            folder.mkdir(exist_ok=True)
            save_checkpoint(path, with_new_heads(trained, config), spec)
        config = replace(config, load_model=str(path))
    processes = Processes(pick_device(config.device))
    try:
        state = train(replace(config, output_dir=str(folder), resume=True), processes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("The same command goes on.") from None
    metrics = evaluate(state, build_dataset(replace(config, split="test"))).metrics
    parameters = sum(weight.numel() for weight in state.network.parameters()) / 1e6
    numbers = {"mpe_mm": metrics.mpe_mm, "median_mm": metrics.median_mm, "million parameters": parameters}
    return [numbers | {"ms a crop": milliseconds(state.scored, config.img_size, processes.device)}]


@torch.inference_mode()
def milliseconds(network: torch.nn.Module, img_size: int, device: torch.device) -> float:
    """The shortest of five passes of one crop: what else the machine does lengthens the others."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        network(torch.zeros(1, 1, img_size, img_size, device=device))[-1].cpu()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)
