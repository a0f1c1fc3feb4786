"""Load a pose network: find its file, choose an engine and a precision, check that it fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from config import DATASETS, Config
from dataloader import DatasetInfo, dataset_info
from util import UserError
from util.checkpoint import RESULTS, ModelSpec, load_network, shipped_weights, spec_from_config
from util.deployment import backends
from util.deployment.folding import fuse_conv_bn
from util.device import pick_device

DEFAULT_CHECKPOINT = Path(shipped_weights(Config()) or RESULTS / "resnet_18_synth.pth")


class LoadedNetwork(NamedTuple):
    """A pose network that is ready to run: by `engine` if there is one, else `network` by PyTorch.
    An int8 file has no `network`, and so no weight maps."""

    checkpoint: Path
    spec: ModelSpec
    info: DatasetInfo
    device: torch.device
    backend: str
    precision: str
    network: nn.Module | None
    engine: backends.Backend | None


def load_together(
    checkpoints: Sequence[Path], device: str, backend: str, precision: str, assumed: ModelSpec | None
) -> list[LoadedNetwork]:
    """Load networks that see the same crop and predict the same joints; arguments as for
    `HandPosePredictor`."""
    if not checkpoints:
        raise UserError("No checkpoint is named: at least one is needed.")
    networks = [load_pose_network(file, device, backend, precision, assumed) for file in checkpoints]
    views = [(own.spec.img_size, own.spec.cube, own.info.joint_names, own.device) for own in networks]
    for own, view in zip(networks, views, strict=True):
        if view != views[0]:
            other = f"{networks[0].checkpoint}: their crop, joints or device differ"
            raise UserError(f"{own.checkpoint} cannot be averaged with {other}.")
    return networks


def load_pose_network(
    checkpoint: Path, device: str, backend: str, precision: str, assumed: ModelSpec | None
) -> LoadedNetwork:
    """Load a network; arguments as for `HandPosePredictor`."""
    if backend == "auto" and checkpoint.is_file():
        checkpoint = backends.exported_int8(checkpoint, pick_device(device)) or checkpoint
    if checkpoint.suffix == backends.ENGINE_SUFFIX:
        engine, spec = backends.load_engine(checkpoint)
        info, cpu = info_of(checkpoint, spec), torch.device("cpu")
        return LoadedNetwork(checkpoint, spec, info, cpu, "openvino", "int8", None, engine)
    place = pick_device(device)
    if backend == "auto":
        backend, precision = backends.fastest_backend(place, precision)
    backends.require_precision(backend, precision)
    precision = backends.best_precision(backend, precision, place)
    trained, spec = load_network(checkpoint, assumed or spec_from_config(Config().resolved()))
    info = info_of(checkpoint, spec)
    network = fuse_conv_bn(trained.to(place), precision)
    engine = None if backend == "torch" else backends.load_backend(trained, spec, backend, precision, place)
    return LoadedNetwork(checkpoint, spec, info, place, backend, precision, network, engine)


def info_of(checkpoint: Path, spec: ModelSpec) -> DatasetInfo:
    """The row of the data set that a network was trained on, whose joints it predicts."""
    if spec.dataset not in DATASETS:
        raise UserError(f"{checkpoint} does not say which data set it was trained on: pass `assumed`.")
    info = dataset_info(spec.dataset)
    if spec.num_joints != len(info.joint_names):
        joints = f"predicts {spec.num_joints} joints, data set {spec.dataset} has {len(info.joint_names)}"
        raise UserError(f"{checkpoint} {joints}.")
    return info
