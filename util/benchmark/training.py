"""The training step: the plain loop and train.py's, step by step in turn, and their loss curves."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from dataloader.base import HandDataset, Sample
from model.loss import awr_loss
from util.benchmark.measure import BenchmarkConfig, Row, memory_rows, synchronize
from util.benchmark.networks import benchmark_network
from util.checkpoint import init_network, spec_from_config
from util.training.distributed import Processes
from util.training.engine import to_device, train_step
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState

# Steps that a loss curve is averaged over before two are compared: single batches differ by more.
CURVE_WINDOW = 20

# Takes a batch, trains one step on it, returns the loss.
Step = Callable[[Sample], float]


def draw_batches(dataset: HandDataset, config: BenchmarkConfig, device: torch.device) -> list[Sample]:
    """As many batches as the longest measurement takes, on the device: loading is not what is timed."""
    frames = [dataset[i] for i in range(min(config.pool, len(dataset)))]
    shuffled = ShuffledBatches(len(frames), config.batch_size, config.seed)
    batches: list[Sample] = []
    for epoch in range(-(-shuffled.frames_a_step * 64 // len(frames))):
        shuffled.select(epoch)
        for indices in shuffled:
            batches.append(to_device(default_collate([frames[i] for i in indices]), device))
    return batches


def plain_step(network: nn.Module, config: BenchmarkConfig, device: torch.device, nudge: float = 0.0) -> Step:
    """The textbook's loop: fp32, channels first, PyTorch's default Adam.

    Args:
        network: to start from.
        config: the settings.
        device: where to train.
        nudge: relative change of the initial weights, to see what rounding alone does to a curve.
    """
    network = network.to(device).train()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1 + nudge * torch.randn_like(weight))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)

    def step(sample: Sample) -> float:
        stages = network(sample.image)
        loss = awr_loss(
            stages,
            sample.image,
            sample.joint_uvd,
            config.kernel_size,
            config.dense_weight,
            config.coord_weight,
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        return loss.total.item()

    return step


def our_step(network: nn.Module, config: BenchmarkConfig, dataset: HandDataset, processes: Processes) -> Step:
    """The step of train.py, with its settings."""
    state = TrainingState(network, spec_from_config(config), config, processes)
    state.network.train()

    def step(sample: Sample) -> float:
        means = train_step(state, sample, dataset, config.lr)
        return float("nan") if means is None else means.loss

    return step


def compare_training(
    config: BenchmarkConfig, dataset: HandDataset, batches: list[Sample], processes: Processes
) -> Iterator[Row]:
    """Images a second of both ways, medians over steps that take turns, and their peak memory.

    On a CPU the plain way, too, keeps the memory that it frees: that is the process's to say.
    """
    ways = (
        plain_step(benchmark_network(config)[0], config, processes.device),
        our_step(benchmark_network(config)[0], config, dataset, processes),
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(config.steps + 2):
        for way, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way(batches[i % len(batches)])
            synchronize(processes.device)
            times.append(time.perf_counter() - start)
    plain, ours = (len(batches[0].image) / median(times[2:]) for times in seconds)
    yield Row(f"train_{config.net}", plain, ours, ours / plain, "images/s")
    steps = [partial(way, batches[0]) for way in ways]
    yield from memory_rows(f"train_{config.net}", *steps, processes.device)


def compare_curves(
    config: BenchmarkConfig, dataset: HandDataset, batches: list[Sample], processes: Processes
) -> dict[str, list[float]]:
    """Losses of both ways, and of the plain one from weights moved by about one fp32 rounding."""
    ways = {
        "plain": plain_step(init_network(config), config, processes.device),
        "ours": our_step(init_network(config), config, dataset, processes),
        "nudged": plain_step(init_network(config), config, processes.device, nudge=1e-7),
    }
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(config.curve_steps):
        for name, way in ways.items():
            losses[name].append(way(batches[i % len(batches)]))
    return losses


def curve_difference(losses: list[float], reference: list[float]) -> float:
    """Mean relative difference of two curves, averaged over windows of CURVE_WINDOW steps."""
    windows = len(losses) // CURVE_WINDOW or 1
    mean, expected = (
        [part.mean() for part in np.array_split(np.asarray(curve), windows)] for curve in (losses, reference)
    )
    return float(np.mean(np.abs(np.divide(mean, expected) - 1)))


def describe_curves(curves: dict[str, list[float]]) -> str:
    """One line: how far apart the losses are, and how far rounding alone drives them."""
    ours, nudged = (curve_difference(curves[name], curves["plain"]) for name in ("ours", "nudged"))
    last = {name: np.mean(losses[-CURVE_WINDOW:]) for name, losses in curves.items()}
    return (
        f"losses over {len(curves['plain'])} steps: ours differs from plain by {ours:.1%} in the mean, plain "
        f"from itself with weights moved by one rounding by {nudged:.1%}; at the end "
        + ", ".join(f"{name} {value:.5f}" for name, value in last.items())
    )
