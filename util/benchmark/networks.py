"""Rows of whole networks: by engine and precision, in live frames, and in training steps."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from config import Config
from dataloader import build_dataset
from dataloader.base import HandDataset, Sample
from model.loss import awr_loss
from util import UserError
from util.benchmark import baseline
from util.benchmark.measure import FEW, Row, compare, compare_memory, for_each
from util.benchmark.settings import BenchmarkConfig
from util.checkpoint import ModelSpec, load_or_init_network, shipped_weights
from util.deployment.backends import (
    BACKENDS,
    ENGINE_SUFFIX,
    Backend,
    best_precision,
    load_backend,
    load_engine,
)
from util.deployment.folding import example_crops, joint_shift_mm
from util.inference.find_hand import center_from_depth
from util.inference.predictor import HandPosePredictor
from util.training.distributed import Processes
from util.training.engine import StepMeans, to_device, train_step
from util.training.state import TrainingState

BATCH = 32
MOVED_FRAMES, LIVE_FRAMES = 32, 8  # at most, that these rows are averaged over


class LoadedNetwork(NamedTuple):
    """A network; what it is; the settings with its crops and K; its file, empty if it has none.

    `int8`: where that is an int8 file, what runs it; `network` has the weights in results/ then.
    """

    network: nn.Module
    spec: ModelSpec
    config: Config
    checkpoint: str
    int8: Backend | None = None


def load_for_benchmark(config: BenchmarkConfig, net: str, device: torch.device) -> LoadedNetwork:
    """A network on its device, in evaluation mode, with the weights of `load_model` or those in results/.

    Raises:
        FileNotFoundError, UserError: for a checkpoint that is missing, belongs to another network, or cannot
            be used on the device.
    """
    settings, int8 = config.project_config(net), None
    checkpoint = settings.load_model or shipped_weights(settings)
    if checkpoint.endswith(ENGINE_SUFFIX):
        if device.type != "cpu":
            raise UserError(f"{checkpoint} is an int8 file, which runs on the CPU: use --device cpu.")
        int8, spec = load_engine(Path(checkpoint))
        network, _ = load_or_init_network(replace(settings, load_model=""))
    else:
        network, spec = load_or_init_network(settings)
    if spec.net != net:
        raise UserError(f"{checkpoint} is a {spec.net}: give it in --nets, not {net}.")
    if not checkpoint:
        for module in network.modules():
            # Initial heads are so small that they give denormal numbers, which are slow: as large as trained.
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.std() < 0.01:
                nn.init.normal_(module.weight, std=0.03)
    cube = spec.cube or settings.cube
    settings = replace(settings, img_size=spec.img_size, kernel_size=spec.kernel_size, cube=cube)
    return LoadedNetwork(network.to(device).eval(), spec, settings, checkpoint, int8)


def network_rows(config: BenchmarkConfig, loaded: LoadedNetwork, device: torch.device) -> Iterator[Row]:
    """The chosen rows of one network, each as soon as it is measured.

    Raises:
        FileNotFoundError, UserError: for a data set that is not there.
    """
    engines = [(backend, precision) for backend in BACKENDS for precision in BACKENDS[backend]]
    for backend, precision in [("openvino", "int8")] if loaded.int8 else engines:
        if backend != "compile" or config.compile:
            yield from engine_rows(config, loaded, backend, precision, device)
    if config.wants(f"train_{loaded.spec.net}", f"memory_train_{loaded.spec.net}"):
        yield from train_rows(config, loaded, device)


@torch.inference_mode()
def engine_rows(
    config: BenchmarkConfig, loaded: LoadedNetwork, backend: str, precision: str, device: torch.device
) -> Iterator[Row]:
    """A network with its head by one engine, against the plain forward, and in live frames.

    The plain forward is fp32, eager, channels first. An engine that cannot be used is named with the reason,
    and has no rows.
    """
    engine = f"{loaded.spec.net}_{backend}_{precision}"
    kinds = ("frame", "batch32", "moved", "live_found", "live_tracked")
    if not config.wants(*(f"{kind}_{engine}" for kind in kinds)):
        return
    try:
        if best_precision(backend, precision, device) != precision:
            raise UserError(f"it is not faster on this {device}.")
        run = loaded.int8 or load_backend(loaded.network, loaded.spec, backend, precision, device)
    except UserError as error:
        print(f"  without {backend} {precision} of {loaded.spec.net}: {error}")
        return

    def plain(image: Tensor) -> Tensor:
        return baseline.joints_of_dense(loaded.network(image)[-1], image, loaded.spec.kernel_size)

    if config.wants(f"frame_{engine}"):
        image = example_crops(1, loaded.spec.img_size).to(device)
        yield compare(f"frame_{engine}", partial(plain, image), partial(run, image), config.repeats, device)
    if config.wants(f"batch32_{engine}"):
        image = example_crops(BATCH, loaded.spec.img_size).to(device)
        ways = partial(plain, image), partial(run, image)
        yield compare(f"batch32_{engine}", *ways, min(config.repeats, FEW), device, BATCH, "images/s")
    if config.wants(f"moved_{engine}"):
        dataset = build_dataset(loaded.config)
        frames = range(0, len(dataset), -(-len(dataset) // MOVED_FRAMES))
        crops = [torch.from_numpy(dataset[i].image[None]).to(device) for i in frames]
        moved = [joint_shift_mm(run(crop)[0], plain(crop), max(loaded.config.cube)) for crop in crops]
        yield Row(f"moved_{engine}", 0.0, float(torch.cat(moved).mean()), 0.0, "mm")
    if loaded.checkpoint and config.wants(f"live_found_{engine}", f"live_tracked_{engine}"):
        choices = {} if loaded.int8 else {"precision": precision, "backend": backend}
        try:
            predictor = HandPosePredictor(loaded.checkpoint, str(device), **choices)
        except UserError as error:
            print(f"  without live rows of {engine}: {error}")
        else:
            yield from live_rows(config, loaded, engine, run, predictor, device)


def live_rows(
    config: BenchmarkConfig,
    loaded: LoadedNetwork,
    engine: str,
    run: Backend,
    predictor: HandPosePredictor,
    device: torch.device,
) -> Iterator[Row]:
    """Whole frames through the predictor, against the bare work in them.

    Where the hand is to be found, that is the finder and two passes of the network; where its centre is
    known, one pass.
    """
    dataset = build_dataset(loaded.config)
    index, camera = dataset.index, dataset.camera
    frames = range(0, len(dataset), -(-len(dataset) // LIVE_FRAMES))
    depths = {i: index.read_depth(index.frame_path(i)) for i in frames}
    found = [i for i, depth in depths.items() if predictor.predict(depth, camera) is not None]
    if not found:
        print(f"  without live rows of {engine}: the predictor finds no hand in these frames.")
        return
    crops = {i: torch.from_numpy(dataset[i].image[None]).to(device) for i in found}
    pairs = {
        "live_found": (
            lambda i: (center_from_depth(depths[i], camera), run(crops[i]), run(crops[i])),
            lambda i: predictor.predict(depths[i], camera),
        ),
        "live_tracked": (
            lambda i: run(crops[i]),
            lambda i: predictor.predict(depths[i], camera, index.center_xyz[i]),
        ),
    }
    for kind, ways in pairs.items():
        if config.wants(f"{kind}_{engine}"):
            runs, repeats = (for_each(found, way) for way in ways), min(config.repeats, FEW)
            yield compare(f"{kind}_{engine}", *runs, repeats, device, len(found))


def train_rows(config: BenchmarkConfig, loaded: LoadedNetwork, device: torch.device) -> Iterator[Row]:
    """Steps on one batch, of the plain loop and of train.py: images a second, and a GPU's peak memory."""
    name, dataset = f"train_{loaded.spec.net}", build_dataset(loaded.config, augment=True)
    frames = range(min(config.batch_size, len(dataset)))
    batch = to_device(default_collate([dataset[i] for i in frames]), device)
    ways = plain_step(loaded, batch), our_step(loaded, batch, dataset)
    if config.wants(name):
        yield compare(name, *ways, config.steps, device, len(frames), "images/s")
    if config.wants(f"memory_{name}"):
        yield from compare_memory(f"memory_{name}", *ways, device)


def plain_step(loaded: LoadedNetwork, batch: Sample) -> Callable[[], float]:
    """A step of the textbook's loop: fp32, channels first, PyTorch's default Adam. Gives its loss."""
    network = copy.deepcopy(loaded.network).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=loaded.config.lr)

    def step() -> float:
        loss = awr_loss(network(batch.image), batch.image, batch.joint_uvd, loaded.spec.kernel_size)
        loss = loss.total({"dense": 1.0, "coord": 1.0})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(loaded: LoadedNetwork, batch: Sample, dataset: HandDataset) -> Callable[[], StepMeans | None]:
    """A step of train.py."""
    processes = Processes(batch.image.device)
    state = TrainingState(copy.deepcopy(loaded.network), loaded.spec, loaded.config, processes)
    state.network.train()
    return lambda: train_step(state, batch, dataset, loaded.config.lr)
