"""Load a pose network: find its file, choose an engine and a precision, check that it fits."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from config import DATASETS, Config, find_network
from dataloader import DatasetInfo, dataset_info
from util import UserError
from util.checkpoint import RESULTS, ModelSpec, load_network, spec_from_config
from util.deployment.backends import (
    ENGINE_SUFFIX,
    Backend,
    best_precision,
    exported_int8,
    fastest_backend,
    load_backend,
    load_engine,
    require_precision,
)
from util.deployment.folding import fuse_conv_bn
from util.device import pick_device

# An installed package brings one of these.
SHIPPED = [RESULTS / f"{net}_synth.pth" for net in ("resnet_18", "hourglass_1")]
DEFAULT_CHECKPOINT = next(filter(Path.is_file, SHIPPED), SHIPPED[0])
# Of the joints' mean confidence, for networks whose row in config.py has none: see NetworkInfo.
MIN_CONFIDENCE, REACQUIRE_BELOW = 0.3, 0.4


class LoadedNetwork(NamedTuple):
    """A pose network that is ready to run: by `engine` if there is one, else `network` by PyTorch.

    An int8 file has no `network`, and so no weight maps.
    """

    checkpoint: Path
    spec: ModelSpec
    info: DatasetInfo
    device: torch.device
    backend: str
    precision: str
    network: nn.Module | None
    engine: Backend | None


def load_pose_network(
    checkpoint: Path, device: str, backend: str, precision: str, assumed: ModelSpec | None
) -> LoadedNetwork:
    """Load a network; arguments as for `HandPosePredictor`."""
    if backend == "auto" and checkpoint.is_file():
        checkpoint = exported_int8(checkpoint, pick_device(device)) or checkpoint
    if checkpoint.suffix == ENGINE_SUFFIX:
        engine, spec = load_engine(checkpoint)
        info, cpu = info_of(checkpoint, spec), torch.device("cpu")
        return LoadedNetwork(checkpoint, spec, info, cpu, "openvino", "int8", None, engine)
    place = pick_device(device)
    backend, precision = choose_engine(place, backend, precision)
    trained, spec = load_network(checkpoint, assumed or spec_from_config(Config().resolved()))
    info = info_of(checkpoint, spec)
    network = fuse_conv_bn(trained.to(place), precision)
    engine = None if backend == "torch" else load_backend(trained, spec, backend, precision, place)
    return LoadedNetwork(checkpoint, spec, info, place, backend, precision, network, engine)


def choose_engine(device: torch.device, backend: str, precision: str) -> tuple[str, str]:
    """The backend that `auto` means on a device, and the precision that is fast there."""
    if backend == "auto":
        backend, precision = fastest_backend(device, precision)
    require_precision(backend, precision)
    return backend, best_precision(backend, precision, device)


def info_of(checkpoint: Path, spec: ModelSpec) -> DatasetInfo:
    """The row of the data set that a network was trained on, whose joints it predicts."""
    if spec.dataset not in DATASETS:
        raise UserError(f"{checkpoint} does not say which data set it was trained on: pass `assumed`.")
    info = dataset_info(spec.dataset)
    if spec.num_joints != len(info.joint_names):
        raise UserError(
            f"{checkpoint} predicts {spec.num_joints} joints, "
            f"data set {spec.dataset} has {len(info.joint_names)}."
        )
    return info


def thresholds(net: str) -> tuple[float, float]:
    """The mean confidence below which there is no hand, and below which a tracker searches the frame."""
    row = find_network(net)
    return row.min_confidence or MIN_CONFIDENCE, row.reacquire_below or REACQUIRE_BELOW
