"""Rows of the head and of whole networks, by engine and precision."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from config import DATASETS
from dataloader import build_dataset
from model.awr import dense_to_joints, joints_to_dense
from util.benchmark import baseline
from util.benchmark.measure import (
    BenchmarkConfig,
    Row,
    duration_row,
    memory_rows,
    rate_row,
    time_in_turn,
)
from util.checkpoint import ModelSpec, init_network, load_network, shipped_weights, spec_from_config
from util.deployment.backends import (
    BACKENDS,
    CHECKED_FRAMES,
    Backend,
    best_precision,
    calibration_crops,
    load_backend,
    spread_crops,
)
from util.deployment.export import plate_images
from util.deployment.folding import moved_mm

BATCH = 32
FEATURE_SIZE = 64
MATRICES = {"cpu": 2048, "cuda": 8192}  # edges of those whose product stands for the machine's limit


@torch.inference_mode()
def head_rows(config: BenchmarkConfig, device: torch.device, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Dense maps to joints and back, batch 32, time and peak memory: the wanted ones of these rows."""
    torch.manual_seed(config.seed)
    kernel_size, joints = 0.4, len(DATASETS["nyu"].joint_names)
    image = plate_images(BATCH, 2 * FEATURE_SIZE).to(device)
    joint_uvd = (torch.rand(BATCH, joints, 3) - 0.5).to(device)
    dense = joints_to_dense(joint_uvd, image, kernel_size, FEATURE_SIZE)
    dense += 0.05 * torch.randn_like(dense)
    for name, ways in {
        "head_decode": [
            lambda: baseline.joints_of_dense(dense, image, kernel_size),
            lambda: dense_to_joints(dense, image, kernel_size),
        ],
        "head_encode": [
            lambda: baseline.dense_of_joints(joint_uvd, image, kernel_size, FEATURE_SIZE),
            lambda: joints_to_dense(joint_uvd, image, kernel_size, FEATURE_SIZE),
        ],
    }.items():
        if wanted(name):
            yield duration_row(name, *time_in_turn(ways, config.repeats, device))
        if wanted(f"memory_{name}"):
            yield from memory_rows(name, *ways, device)


@torch.inference_mode()
def network_rows(config: BenchmarkConfig, device: torch.device, kind: str) -> Iterator[Row]:
    """A network with its head against the fp32 eager forward, by engine and precision, then the best of
    those that are not int8, PyTorch's peak memory and the best one's share of the machine's limit.

    For a single frame also how far each moves joints, in mm, in the mean over some of the split's frames.

    Args:
        config: `net` is the network; `load_model` its weights.
        device: where the plain way and PyTorch's backends run.
        kind: frame, a single one, or batch32.
    """
    network = benchmark_network(config)[0].to(device)
    image = plate_images(BATCH if kind == "batch32" else 1, config.img_size).to(device)
    way = plain_way(network, config.kernel_size, image)
    backends = dict(usable_backends(network, config, device))
    names, runs = list(backends), [lambda run=run: run(image) for run in backends.values()]
    repeats = max(config.repeats // 3, 3) if kind == "batch32" else config.repeats
    eager, *seconds = time_in_turn([way, *runs], repeats, device)
    for name, ours in zip(names, seconds, strict=True):
        yield _network_row(f"{kind}_{config.net}_{name}", eager, ours, len(image))
    candidates = [i for i, name in enumerate(names) if not name.endswith("int8")]
    best = min(candidates, key=lambda i: seconds[i])
    yield _network_row(f"{kind}_{config.net}", eager, seconds[best], len(image))
    # Engines keep their memory from run to run, where no run's peak shows it: PyTorch's own is compared.
    torch_fp32 = runs[names.index("torch_fp32")]
    yield from memory_rows(f"{kind}_{config.net}_torch_fp32", way, torch_fp32, device)
    limit = matrix_gflops(names[best].split("_")[1], device)
    achieved = gflop(network, config.img_size) * len(image) / seconds[best]
    yield Row(f"limit_{kind}_{config.net}", limit, achieved, achieved / limit, "GFLOP/s")
    if kind == "frame":
        crops = torch.from_numpy(spread_crops(build_dataset(config), CHECKED_FRAMES))
        expected = plain_way(network, config.kernel_size, crops.to(device))().cpu()
        for name, run in backends.items():
            # One by one: compiled networks are so for one frame.
            found = torch.cat([run(crop[None])[0].cpu() for crop in crops])
            moved = moved_mm(found, expected, max(config.cube)).mean().item()
            yield Row(f"moved_{config.net}_{name}", 0.0, moved, 0.0, "mm")


def sweep_batch(config: BenchmarkConfig, device: torch.device) -> Iterator[Row]:
    """Throughput of PyTorch's backend at batches of 1 to 64."""
    network = benchmark_network(config)[0].to(device)
    run = load_backend(network, spec_from_config(config), "torch", "fp32", device)
    for batch in (1, 2, 4, 8, 16, 32, 64):
        image = plate_images(batch, config.img_size).to(device)
        way = plain_way(network, config.kernel_size, image)
        with torch.inference_mode():
            seconds = time_in_turn([way, lambda image=image: run(image)], 3, device)
        yield rate_row(f"sweep_batch_{config.net}_{batch:02d}", *seconds, batch, "images/s")


def plain_way(network: nn.Module, kernel_size: float, image: Tensor) -> Callable[[], Tensor]:
    """The forward of the released code's kind: fp32, eager, channels first, the plain head."""
    return lambda: baseline.joints_of_dense(network(image)[-1], image, kernel_size)


def benchmark_network(config: BenchmarkConfig) -> tuple[nn.Module, ModelSpec]:
    """The network of the settings, in evaluation mode, with its checkpoint's or the shipped weights.

    Initial heads and deconvolutions are so small that their products run into denormal numbers,
    which are slow: without a checkpoint they get weights of a trained network's size.

    Raises:
        FileNotFoundError, ValueError: for a name that no network has, or a checkpoint that is not there or
            of another network.
    """
    asked = spec_from_config(config)
    path = config.load_model or shipped_weights(config)
    if path:
        network, spec = load_network(Path(path), asked)
        if spec.net != config.net:
            raise ValueError(f"{path} is a {spec.net}: give it in --nets, not {config.net}.")
        if (spec.target, spec.num_joints) != (asked.target, asked.num_joints):
            raise ValueError(
                f"{path} predicts {spec.num_joints} joints, target {spec.target}: "
                f"data set {config.dataset}, target {asked.target}, has {asked.num_joints}."
            )
        return network.eval(), spec
    network = init_network(config).eval()
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.03)
        elif isinstance(module, nn.Conv2d) and module.weight.std() < 0.01:
            nn.init.normal_(module.weight, std=0.02)
    return network, asked


def as_trained(config: BenchmarkConfig) -> BenchmarkConfig:
    """The settings with the K and the cube that their network was trained with."""
    _, spec = benchmark_network(config)
    return replace(config, kernel_size=spec.kernel_size, cube=spec.cube or config.cube)


def usable_backends(
    network: nn.Module, config: BenchmarkConfig, device: torch.device
) -> Iterator[tuple[str, Backend]]:
    """Every engine and precision that is there, with its name; of the others, why they are not.

    `compile` takes minutes to start: it runs where config.backend asks for it. int8's ranges are
    measured as test.py does.
    """
    calibration = None
    for backend, precisions in BACKENDS.items():
        if backend == "compile" and config.backend != "compile":
            continue
        for precision in precisions:
            try:
                if best_precision(backend, precision, device) != precision:
                    raise ValueError(f"it gains nothing on this {device}.")
                if precision == "int8" and calibration is None:
                    calibration = calibration_crops(config, build_dataset(config))
                run = load_backend(network, spec_from_config(config), backend, precision, device, calibration)
            except ValueError as error:
                print(f"  without {backend} {precision}: {error}")
                continue
            yield f"{backend}_{precision}", run


def gflop(network: nn.Module, img_size: int) -> float:
    """10⁹ additions and multiplications of one frame."""
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, img_size, img_size, device=device))
    return counter.get_total_flops() / 1e9


def matrix_gflops(precision: str, device: torch.device) -> float:
    """10⁹ operations a second of a large matrix product: what the machine can do."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    edge = MATRICES[device.type]
    a = torch.randn(edge, edge, device=device).to(dtype)
    (seconds,) = time_in_turn([lambda: a @ a], 5, device)
    return 2 * edge**3 / seconds / 1e9


def _network_row(name: str, plain_seconds: float, ours: float, frames: int) -> Row:
    if frames == 1:
        return duration_row(name, plain_seconds, ours)
    return rate_row(name, plain_seconds, ours, frames, "images/s")
