"""Checkpoints: ours, the authors', and bare weights; always loaded with weights_only=True."""

import os
import pickle
import platform
import re
import textwrap
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from config import DATASETS, VERSION, Config
from dataloader import dataset_info
from model import build_network
from util import UserError
from util.files import atomic_write

MAX_JOINTS = 1000  # more is a damaged file, and its network would fill the memory
RESULTS = Path(__file__).parents[1] / "results"  # also for those who import this from a folder of theirs
AUTHORS_WEIGHTS = "https://github.com/Elody-07/AWR-Adaptive-Weighting-Regression"
# Where files of others keep the weights, and what DataParallel, torch.compile and Lightning put before names.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network")
PREFIXES = re.compile(r"^((module|_orig_mod|model|net|network)\.)+")


class ModelSpec(NamedTuple):
    """What must be known of weights to decode their predictions.

    `net`: name; `num_joints`: J; `downsample`: crop edge / map edge; `kernel_size`: K of docs/spec.md §5;
    `dataset`: what the network was trained on; `img_size`: edge of its crops, pixels; `cube`: edges of its
    crops, mm, None: the data set's own.
    """

    net: str
    num_joints: int
    downsample: int
    kernel_size: float
    dataset: str | None = None
    img_size: int = 128
    cube: tuple[float, float, float] | None = None

    def build(self) -> nn.Module:
        """The network with initial weights."""
        return build_network(self.net, self.num_joints, self.downsample)


def spec_from_config(config: Config) -> ModelSpec:
    """The spec of the network that the settings describe."""
    return ModelSpec(
        config.net,
        len(dataset_info(config.dataset).joint_names),
        config.downsample,
        config.kernel_size,
        config.dataset,
        config.img_size,
        config.cube,
    )


def spec_from_dict(content: dict[str, Any]) -> ModelSpec:
    """The spec that a file of ours holds; UserError, AttributeError or TypeError if it is not one."""
    content = dict(content)
    if content.pop("target", "joints") != "joints":  # older files say it
        raise UserError("it is a network for another target than joints")
    spec = ModelSpec(**content)
    if not 1 <= spec.num_joints <= MAX_JOINTS or len(spec.cube or (1, 1, 1)) != 3:
        raise UserError(f"its spec is {content}")
    # Checked like settings, before anything is built.
    names = ("net", "downsample", "kernel_size", "img_size", "cube")
    Config(**{name: getattr(spec, name) for name in names}).resolved()
    return spec


def load_or_init_network(config: Config, training: bool = False) -> tuple[nn.Module, ModelSpec]:
    """The network of the settings, on the CPU, with the weights of the named checkpoint.

    Where none is named, with those in results/ for this network and data set, else with random ones; these
    too where `load_model` is random.
    What the checkpoint says of itself wins over the settings, except for what it is `training` on from
    now; with other joints its last layers start from random weights then. Every difference is printed.
    """
    wanted = spec_from_config(config)
    path = config.load_model or shipped_weights(config)
    if path in ("", "random"):
        print(f"{config.net} is randomly initialised: its predictions are meaningless.")
        return init_network(config), wanted
    if not config.load_model:
        print(f"No --load_model: using {path}, which came with the project.")
    network, spec = load_network(Path(path), wanted)
    if not training:
        check_spec(path, spec, config)
        return network, spec
    other_joints = _describe_other_joints(spec, config)
    if other_joints:
        print(f"{path} {other_joints}: its last layers start from random weights.")
        spec = spec._replace(num_joints=wanted.num_joints)
        network = with_new_heads(network, replace(config, net=spec.net, downsample=spec.downsample))
    _print_differences(path, spec, wanted, training)
    return network, spec._replace(dataset=wanted.dataset, img_size=wanted.img_size, cube=wanted.cube)


def shipped_weights(config: Config) -> str:
    """Path of the weights in results/ for the settings' network and data set, empty where none are."""
    path = RESULTS / f"{config.net}_{config.dataset}.pth"
    return str(path) if path.is_file() else ""


def init_network(config: Config) -> nn.Module:
    """The settings' network with random weights, which the seed determines."""
    torch.manual_seed(config.seed)
    return spec_from_config(config).build()


def check_spec(path: str, spec: ModelSpec, config: Config) -> None:
    """Print where a file's network differs from the settings that it is scored with; refuse other joints."""
    other_joints = _describe_other_joints(spec, config)
    if other_joints:
        raise UserError(f"{path} {other_joints}.")
    _print_differences(path, spec, spec_from_config(config), training=False)


def _print_differences(path: str, spec: ModelSpec, wanted: ModelSpec, training: bool) -> None:
    """Say where a checkpoint and the settings differ, and which of them counts."""
    ours, own = ("dataset", "img_size", "cube") if training else ("dataset",), "the data set's own"
    for name, value in spec._asdict().items():
        other = getattr(wanted, name)
        if value != other and (name != "cube" or value is not None):
            outcome = f"it is {'trained' if training else 'scored'} on" if name in ours else "this wins over"
            print(f"{path} was trained with {name} {value}: {outcome} {other or own}.")


def _describe_other_joints(spec: ModelSpec, config: Config) -> str:
    """How a network's joints differ from the settings', empty where they are the same.

    As many need not be the same: MSRA's 21 and HANDS 2017's come in another order.
    """
    names, own = dataset_info(config.dataset).joint_names, spec.dataset
    if spec.num_joints != len(names):
        return f"predicts {spec.num_joints} joints, data set {config.dataset} has {len(names)}"
    if own in DATASETS and dataset_info(own).joint_names != names:
        return f"predicts the joints of {spec.dataset}, data set {config.dataset} has others"
    return ""


def with_new_heads(trained: nn.Module, config: Config) -> nn.Module:
    """The settings' network with the trained one's weights, but random where the number of joints sizes them,
    or where the trained one has no such layer."""
    network, weights, spec = init_network(config), trained.state_dict(), spec_from_config(config)
    one_more, initial = _shapes(spec._replace(num_joints=spec.num_joints + 1)), network.state_dict()
    kept = {
        key: weights[key]
        for key, value in initial.items()
        if key in weights and weights[key].shape == value.shape == one_more[key]
    }
    network.load_state_dict(initial | kept)
    return network


def _shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    """The shapes of a network's weights, without making any."""
    with torch.device("meta"):
        return {key: value.shape for key, value in spec.build().state_dict().items()}


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec, **state: Any) -> None:
    """Write weights, what decoding needs, versions, and any further state (optimizer, epoch, ...).

    The file appears whole or not at all. `state` may hold tensors, numbers, strings, lists and dicts.
    """
    versions = {library.__name__: str(library.__version__) for library in (torch, np, cv2)}
    versions |= {"python": platform.python_version(), "awr": VERSION}
    content = {"model": network.state_dict(), "spec": spec._asdict(), "versions": versions, **state}
    # Through Python's own file: PyTorch's would not say that a disk is full.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # It covers a write that failed with a complaint about its own bookkeeping.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        # On the disk before it takes the old one's name: a power cut leaves one of them whole.
        file.flush()
        os.fsync(file.fileno())


def load_network(path: Path, assumed: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """Build the network that a checkpoint was saved from and fill it.

    Args:
        path: our checkpoint, the published layout `{'model', 'optimizer', 'best_records'}`, or weights as
            `find_weights` finds them.
        assumed: what to take for a file that does not say what it holds.

    Returns:
        The network on the CPU, and its true spec.
    """
    content = read_checkpoint(path)
    try:
        weights = find_weights(content)
        spec = spec_from_dict(content["spec"]) if "spec" in content else _with_own_joints(assumed, weights)
        network = spec.build()
    except (UserError, TypeError, AttributeError) as error:
        why = str(error).rstrip(".")
        raise UserError(f"{path} holds no network of this project or the released code: {why}.") from error
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("_batches_tracked")}
    try:
        network.load_state_dict(counters | weights)  # files of PyTorch 0.4 and older have no counters
    except RuntimeError as error:
        lines = [textwrap.shorten(line, 150, placeholder=" …") for line in str(error).splitlines()[1:4]]
        raise UserError(
            f"{path} does not fit {spec.net} with {spec.num_joints} joints and downsample {spec.downsample}: "
            f"{'; '.join(line.rstrip('.') for line in lines)}."
        ) from None
    return network, spec


def find_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content, bare or under one of WRAPPERS, their names without PREFIXES."""

    def holds_weights(held: Any) -> bool:
        return isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())

    found = next((content[key] for key in WRAPPERS if holds_weights(content.get(key))), content)
    if not holds_weights(found):
        raise UserError(f"its entries are {', '.join(map(str, content))[:200] or 'none'}")
    if any(value.layout != torch.strided or value.is_complex() for value in found.values()):
        raise UserError("it has sparse or complex weights")
    weights = {PREFIXES.sub("", key): value for key, value in found.items()}
    if len(weights) != len(found):
        raise UserError("it holds two networks")
    return weights


def _with_own_joints(assumed: ModelSpec, weights: dict[str, Tensor]) -> ModelSpec:
    """`assumed` with the J that the weights have: a published file does not say what it was trained on."""
    one, two = (_shapes(assumed._replace(num_joints=joints)) for joints in (1, 2))
    for key in filter(weights.__contains__, one):
        for found, edge, longer in zip(weights[key].shape, one[key], two[key], strict=False):
            if longer != edge:  # the edge grows with J
                joints = 1 + (found - edge) // (longer - edge)
                return spec_from_dict(assumed._replace(num_joints=joints)._asdict())
    return assumed


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, `weights_only` always.

    Raises:
        FileNotFoundError: listing the checkpoints that are there.
    """
    if not path.is_file():
        there = ", ".join(sorted(str(file) for file in RESULTS.glob("*.pth"))) or "none"
        raise FileNotFoundError(
            f"{path} is missing: checkpoints in {RESULTS}/ are: {there}; "
            f"the authors' are linked from {AUTHORS_WEIGHTS}."
        )
    try:
        # PyTorch does not look at an archive's checksums. The format before PyTorch 1.6 has none.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
        # PyTorch's warnings about a foreign pickle would stand before our one sentence.
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it is damaged, or holds more than plain weights, which could run code."
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        raise UserError(f"{path} is damaged: it cannot be read as a PyTorch checkpoint.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a dictionary of weights.")
    return content


def _numpy_scalars() -> list[Any]:
    """NumPy's numbers, which published checkpoints hold as their best record, under old and new names."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    dtypes = (type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))
    return [*((scalar, name) for name in names), np.dtype, *dtypes]
