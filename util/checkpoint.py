"""Checkpoints: ours, the authors', and bare weights; always loaded with weights_only=True."""

import os
import pickle
import platform
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
from model import build_network
from util import UserError
from util.files import atomic_write

MAX_JOINTS = 1000  # more is a damaged file, and its network would fill the memory
RESULTS = Path(__file__).parents[1] / "results"  # also for those who import this from a folder of theirs
AUTHORS_WEIGHTS = "https://github.com/Elody-07/AWR-Adaptive-Weighting-Regression"


class ModelSpec(NamedTuple):
    """What must be known of weights to decode their predictions.

    `net`: name; `num_joints`: J; `downsample`: crop edge / map edge; `kernel_size`: K of docs/spec.md §5;
    `dataset`: what the network was trained on; `img_size`: edge of its crops, pixels; `target`: joints, or
    center for a network that refines centres; `cube`: edges of its crops, mm, None: the data set's own.
    """

    net: str
    num_joints: int
    downsample: int
    kernel_size: float
    dataset: str | None = None
    img_size: int = 128
    target: str = "joints"
    cube: tuple[float, float, float] | None = None

    def build(self) -> nn.Module:
        """The network with initial weights."""
        return build_network(self.net, self.num_joints, self.downsample)


def load_or_init_network(config: Config, training: bool = False) -> tuple[nn.Module, ModelSpec]:
    """The network of the settings, on the CPU, with the weights of the named checkpoint.

    Where none is named, with those in results/ for this network and data set, else with random ones; these
    too where `load_model` is random.
    What the checkpoint says of itself wins over the settings, except for what it is `training` on from
    now; with other joints its last layers start from random weights then. Every difference is printed.

    Raises:
        FileNotFoundError, UserError: see `load_network`; also if what is to be scored has other joints.
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
        spec = spec._replace(num_joints=wanted.num_joints, target=wanted.target)
        network = with_new_heads(network, replace(config, net=spec.net, downsample=spec.downsample))
    _print_differences(path, spec, wanted, training)
    return network, spec._replace(dataset=wanted.dataset, img_size=wanted.img_size, cube=wanted.cube)


def check_spec(path: str, spec: ModelSpec, config: Config) -> None:
    """Print where a file's network differs from the settings that it is scored with.

    Raises:
        UserError: if it predicts something else.
    """
    if spec.target != config.target:
        raise UserError(
            f"{path} is a network for the {spec.target}: use --target {spec.target}, "
            f"or a checkpoint for the {config.target}."
        )
    other_joints = _describe_other_joints(spec, config)
    if other_joints:
        raise UserError(f"{path} {other_joints}.")
    _print_differences(path, spec, spec_from_config(config), training=False)


def _print_differences(path: str, spec: ModelSpec, wanted: ModelSpec, training: bool) -> None:
    """Say where a checkpoint and the settings differ, and which of them counts."""
    for name, value in spec._asdict().items():
        other = getattr(wanted, name)
        if value == other or (name == "cube" and value is None):
            continue
        other = "the data set's own" if other is None else other
        if name == "dataset":
            outcome = f"it is {'trained' if training else 'scored'} on {other}"
        elif training and name in ("img_size", "cube"):
            outcome = f"it is trained on {other}"
        else:
            outcome = f"this wins over {other}"
        print(f"{path} was trained with {name} {value}: {outcome}.")


def _describe_other_joints(spec: ModelSpec, config: Config) -> str:
    """How a network's joints differ from the settings', empty where they are the same.

    As many need not be the same: MSRA's 21 and HANDS 2017's come in another order.
    """
    names = config.info.joint_names
    if spec.num_joints != len(names):
        return f"predicts {spec.num_joints} joints, data set {config.dataset} has {len(names)}"
    own = DATASETS.get(spec.dataset)
    if own is None or spec.target != "joints" or config.target != "joints" or own.joint_names == names:
        return ""
    return f"predicts the joints of {spec.dataset}, data set {config.dataset} has others"


def with_new_heads(trained: nn.Module, config: Config) -> nn.Module:
    """The settings' network with the trained one's weights, but random where the number of joints sizes them,
    or where the trained one has no such layer."""
    network, weights = init_network(config), trained.state_dict()
    with torch.device("meta"):
        spec = spec_from_config(config)
        one_more = spec._replace(num_joints=spec.num_joints + 1).build().state_dict()
    initial = network.state_dict()
    kept = {
        key: weights[key]
        for key, value in initial.items()
        if key in weights and weights[key].shape == value.shape == one_more[key].shape
    }
    network.load_state_dict(initial | kept)
    return network


def spec_from_config(config: Config) -> ModelSpec:
    """The spec of the network that the settings describe."""
    default_cube = replace(config, cube=None).resolved().cube
    return ModelSpec(
        config.net,
        len(config.info.joint_names),
        config.downsample,
        config.kernel_size,
        config.dataset,
        config.img_size,
        config.target,
        None if config.cube == default_cube else config.cube,
    )


def shipped_weights(config: Config) -> str:
    """Path of the weights in results/ for the settings' network and data set, empty where none are."""
    center = "center_" if config.target == "center" else ""
    path = RESULTS / f"{center}{config.net}_{config.dataset}.pth"
    return str(path) if path.is_file() else ""


def init_network(config: Config) -> nn.Module:
    """The settings' network with random weights, which the seed determines."""
    torch.manual_seed(config.seed)
    return spec_from_config(config).build()


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec, **state: Any) -> None:
    """Write weights, what decoding needs, versions, and any further state (optimizer, epoch, ...).

    The file appears whole or not at all. `state` may hold tensors, numbers, strings, lists and dicts.
    """
    content = {
        "model": network.state_dict(),
        "spec": spec._asdict(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "awr": VERSION,
        },
        **state,
    }
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
        path: our checkpoint, the published layout `{'model', 'optimizer', 'best_records'}`, or a
            bare state dict; `module.` before the keys is dropped.
        assumed: what to take for a file that does not say what it holds.

    Returns:
        The network on the CPU, and its true spec.

    Raises:
        FileNotFoundError: listing the checkpoints that are there.
        UserError: if the file is damaged, is not plain weights, or does not fit the network.
    """
    content = read_checkpoint(path)
    try:
        weights = {key.removeprefix("module."): value for key, value in content.get("model", content).items()}
        spec = spec_from_dict(content["spec"]) if "spec" in content else _with_own_joints(assumed, weights)
        network = spec.build()
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} was not written by this project or the released code: {error}.") from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        entries = ", ".join(map(str, content))[:200] or "none"
        raise UserError(f"{path} holds no network weights; its entries: {entries}.")
    if any(value.layout != torch.strided or value.is_complex() for value in weights.values()):
        raise UserError(f"{path} holds sparse or complex weights, which no network here has.")
    _require_fit(path, spec, network.state_dict(), weights)
    network.load_state_dict(weights)
    return network, spec


def _with_own_joints(assumed: ModelSpec, weights: dict[str, Tensor]) -> ModelSpec:
    """`assumed` with the J that the weights have: a published file does not say what it was trained on."""
    with torch.device("meta"):
        one, two = (assumed._replace(num_joints=joints).build().state_dict() for joints in (1, 2))
    for key in filter(weights.__contains__, one):
        for found, edge, longer in zip(weights[key].shape, one[key].shape, two[key].shape, strict=False):
            if longer != edge:  # the edge grows with J
                joints = 1 + (found - edge) // (longer - edge)
                if not 1 <= joints <= MAX_JOINTS:
                    raise TypeError(f"its {key} is of {joints} joints")
                return assumed._replace(num_joints=joints)
    return assumed


def spec_from_dict(content: dict[str, Any]) -> ModelSpec:
    """The spec that a file of ours holds; TypeError if it is not one."""
    spec = ModelSpec(**content)
    kinds = (str, int, int, (int, float), (str, type(None)), int, str, (tuple, type(None)))
    typed = all(isinstance(value, kind) for value, kind in zip(spec, kinds, strict=True))
    if not typed or not 1 <= spec.num_joints <= MAX_JOINTS or spec.target not in ("joints", "center"):
        raise TypeError(f"its spec is {dict(content)}")
    if spec.cube is not None and not (len(spec.cube) == 3 and all(map(_is_number, spec.cube))):
        raise TypeError(f"its cube is {spec.cube}, expected three edges in mm")
    try:  # checked like settings, before anything is built
        names = ("net", "downsample", "kernel_size", "img_size", "target", "cube")
        Config(**{name: getattr(spec, name) for name in names}).resolved()
    except UserError as error:
        raise TypeError(str(error).rstrip(".")) from error
    return spec


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, `weights_only` always.

    Raises:
        FileNotFoundError, UserError: see `load_network`.
    """
    if not path.is_file():
        there = ", ".join(sorted(str(file) for file in RESULTS.glob("*.pth"))) or "none"
        raise FileNotFoundError(
            f"{path} is missing: checkpoints in {RESULTS}/ are: {there}; "
            f"the authors' are linked from {AUTHORS_WEIGHTS}."
        )
    _check_archive(path)
    try:
        # PyTorch's warnings about a foreign pickle would stand before our one sentence.
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings(action="ignore"):
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


def _check_archive(path: Path) -> None:
    """Raise UserError where a checksum of the file's archive is wrong: PyTorch does not look at them."""
    if not zipfile.is_zipfile(path):  # the format before PyTorch 1.6
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # headers can be damaged in many ways
        raise UserError(f"{path} is damaged: it cannot be read as an archive.") from error
    if damaged:
        raise UserError(f"{path} is damaged: {damaged} has a wrong checksum; copy the file again.")


def _require_fit(path: Path, spec: ModelSpec, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    other_shape = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", other_shape))
    complaints = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in groups if keys]
    if complaints:
        raise UserError(
            f"{path} does not fit {spec.net} with {spec.num_joints} joints and downsample {spec.downsample}: "
            f"{'; '.join(complaints)}."
        )


def _numpy_scalars() -> list[Any]:
    """NumPy's numbers, which published checkpoints hold as their best record, under old and new names."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    dtypes = (type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64))
    return [*((scalar, name) for name in names), np.dtype, *dtypes]


_NUMPY_SCALARS = _numpy_scalars()
