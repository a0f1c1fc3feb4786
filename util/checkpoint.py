"""Checkpoints: ours, the authors', and bare weights; always loaded with weights_only=True."""

import io
import os
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
from util.files import atomic_write, require_file

MAX_JOINTS = 1000  # more is a damaged file, and its network would fill the memory
RESULTS = Path(__file__).parents[1] / "results"  # also for those who import this from a folder of theirs
AUTHORS_WEIGHTS = "https://github.com/Elody-07/AWR-Adaptive-Weighting-Regression"
# Where files of others keep the weights, and what DataParallel, torch.compile and Lightning put before names.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network")
PREFIXES = re.compile(r"^((module|_orig_mod|model|net|network)\.)+")
# NumPy's numbers, which published checkpoints hold as their best record, under old and new names.
NUMPY_SCALARS = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))),
]


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
    settings = {name: getattr(config, name) for name in ModelSpec._fields if name != "num_joints"}
    return ModelSpec(num_joints=len(dataset_info(config.dataset).joint_names), **settings)


def spec_from_dict(content: dict[str, Any]) -> ModelSpec:
    """The spec that a file holds; UserError, AttributeError or TypeError if it is not one."""
    if content.get("target", "joints") != "joints":  # older files say it
        raise UserError("it is a network for another target than joints")
    spec = ModelSpec(**{name: value for name, value in content.items() if name != "target"})
    if not 1 <= spec.num_joints <= MAX_JOINTS or len(spec.cube or (1, 1, 1)) != 3:
        raise UserError(f"its spec is {content}")
    # Checked like settings, before anything is built.
    names = ("net", "downsample", "kernel_size", "img_size", "cube")
    Config(**{name: getattr(spec, name) for name in names}).resolved()
    return spec


def shipped_weights(config: Config) -> str:
    """Path of the weights in results/ for the settings' network and data set, empty where none are.

    For the default network hourglass_1's may stand in: an installed package brings no others.
    """
    nets = (config.net, "hourglass_1") if config.net == Config.net else (config.net,)
    paths = (RESULTS / f"{net}_{config.dataset}.pth" for net in nets)
    return next((str(path) for path in paths if path.is_file()), "")


def init_network(config: Config) -> nn.Module:
    """The settings' network with random weights, which the seed determines."""
    torch.manual_seed(config.seed)
    return spec_from_config(config).build()


def load_or_init_network(config: Config, training: bool = False) -> tuple[nn.Module, ModelSpec]:
    """The network of the settings, on the CPU, with the weights of the named checkpoint.

    Where none is named, with those in results/ for this network and data set, else with random ones. What the
    checkpoint says of itself wins over the settings, except for what it is `training` on from now; with other
    joints its last layers start from random weights then. Every difference is printed.
    """
    if not isinstance(config.load_model, str):
        raise UserError(f"--load_model {' '.join(config.load_model)}: name one file here, not several.")
    wanted = spec_from_config(config)
    path = config.load_model or shipped_weights(config)
    if path in ("", "random"):
        print(f"{config.net} is randomly initialised: its predictions are meaningless.")
        return init_network(config), wanted
    if not config.load_model:
        print(f"No --load_model: using {path}, which came with the project.")
    network, spec = load_network(Path(path), wanted)
    same_joints = check_spec(path, spec, config, training)
    if not training:
        return network, spec
    if not same_joints:
        heads, trained = _head_sizes(spec), network.state_dict()
        network = init_network(replace(config, net=spec.net, downsample=spec.downsample))
        network.load_state_dict({k: trained[k] for k in trained if k not in heads}, strict=False)
    return network, wanted._replace(net=spec.net, downsample=spec.downsample, kernel_size=spec.kernel_size)


def check_spec(path: str, spec: ModelSpec, config: Config, training: bool = False) -> bool:
    """Print where a file's network differs from the settings, and which of them counts.

    Returns whether it predicts the joints of the settings; where it does not, only `training` goes on.
    """
    wanted, names = spec_from_config(config), dataset_info(config.dataset).joint_names
    # As many joints need not be the same: MSRA's 21 and HANDS 2017's come in another order.
    its_names = dataset_info(spec.dataset).joint_names if spec.dataset in DATASETS else names
    same_joints = spec.num_joints == len(names) and its_names == names
    if not same_joints:
        other = f"{path} predicts {spec.num_joints} joints, not the {len(names)} of {config.dataset}"
        if not training:
            raise UserError(f"{other}.")
        print(f"{other}: its last layers start from random weights.")
    ours = ("dataset", "img_size", "cube") if training else ("dataset",)
    for name, value in spec._asdict().items():
        other = getattr(wanted, name) or "the data set's own"
        if name != "num_joints" and value and value != other:
            outcome = f"it is {'trained' if training else 'scored'} on" if name in ours else "this wins over"
            print(f"{path} was trained with {name} {value}: {outcome} {other}.")
    return same_joints


def _head_sizes(spec: ModelSpec) -> dict[str, int]:
    """The weights whose size grows with the number of joints: name -> how many numbers for one."""
    with torch.device("meta"):  # without making any
        one, two = (spec._replace(num_joints=joints).build().state_dict() for joints in (1, 2))
    return {key: one[key].numel() for key in one if one[key].shape != two[key].shape}


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec, **state: Any) -> None:
    """Write weights, what decoding needs, versions, and any further state (optimizer, epoch, ...).

    The file appears whole or not at all. `state` may hold tensors, numbers, strings, lists and dicts.
    """
    versions = {library.__name__: str(library.__version__) for library in (torch, np, cv2)}
    versions |= {"python": platform.python_version(), "awr": VERSION}
    state |= {"model": network.state_dict(), "spec": spec._asdict(), "versions": versions}
    content = io.BytesIO()  # PyTorch's own writing would not say that a disk is full
    torch.save(state, content)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # before it takes the old one's name: a power cut leaves one of them whole


def load_network(path: Path, assumed: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """Build the network that a checkpoint was saved from, on the CPU, and fill it; with its true spec.

    `path`: our checkpoint, the published layout `{'model', 'optimizer', 'best_records'}`, or weights as
    `find_weights` finds them. `assumed`: for a file that does not say what it holds; J is counted.
    """
    content = read_checkpoint(path)
    try:
        weights = find_weights(content)
        if "spec" not in content:  # a published file does not say what it was trained on
            counts = [weights[key].numel() // n for key, n in _head_sizes(assumed).items() if key in weights]
            assumed = assumed._replace(num_joints=counts[0] if counts else assumed.num_joints)
        spec = spec_from_dict(content.get("spec", assumed._asdict()))
        network = spec.build()
    except (UserError, TypeError, AttributeError) as error:
        why = str(error).rstrip(".")
        raise UserError(f"{path} holds no network of this project or the released code: {why}.") from error
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        why = textwrap.shorten(str(error).partition("\n")[2], 400, placeholder=" …").rstrip(".")
        described = f"{spec.net} with {spec.num_joints} joints and downsample {spec.downsample}"
        raise UserError(f"{path} does not fit {described}: {why}.") from None
    return network, spec


def find_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content, bare or under one of WRAPPERS, their names without PREFIXES."""
    for found in (*map(content.get, WRAPPERS), content):
        values = found.values() if isinstance(found, dict) else ()
        if values and all(isinstance(value, Tensor) and not value.is_complex() for value in values):
            weights = {PREFIXES.sub("", key): value for key, value in found.items()}
            if len(weights) != len(found):
                raise UserError("it holds two networks")
            return weights
    raise UserError(f"its entries are {', '.join(map(str, content))[:200] or 'none'}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, `weights_only` always."""
    there = ", ".join(sorted(str(file) for file in RESULTS.glob("*.pth"))) or "none"
    require_file(path, f"checkpoints in {RESULTS}/ are {there}; the authors' are at {AUTHORS_WEIGHTS}")
    try:
        # PyTorch does not look at an archive's checksums. The format before PyTorch 1.6 has none.
        if zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip():
            raise zipfile.BadZipFile("a checksum is wrong")
        # PyTorch's warnings about a foreign pickle would stand before our one sentence.
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        why = "is damaged, or was refused as it holds more than plain weights, which could run code"
        raise UserError(f"{path} {why}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a dictionary of weights.")
    return content
