"""Engines that run a network with its head, behind one call: image in, joints and confidence out."""

import functools
import json
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from util import UserError
from util.checkpoint import ModelSpec, check_spec, load_or_init_network, spec_from_dict
from util.deployment.graph import JointNetwork, require, to_onnx
from util.device import has_vnni, pick_device, usable_precision

BACKENDS = {
    "torch": ("fp32", "bf16", "fp16"),
    "compile": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
ENGINE_SUFFIX = ".xml"  # of an int8 file, which export writes and OpenVINO runs
SPEC_ENTRY = ["awr", "spec"]  # where such a file keeps its ModelSpec, as JSON

# Takes (B, 1, S, S) float32 normalised crops, a tensor or an array; gives joints (B, J, 3) normalised
# uvd and their confidence (B, J), float32 tensors on the backend's device. Threads may share one.
Backend = Callable[[Tensor | np.ndarray], tuple[Tensor, Tensor]]


def backend_from_config(config: Config) -> tuple[Backend, ModelSpec, torch.device]:
    """The network that the settings name, ready to run.

    An int8 file is run by OpenVINO on the CPU, whatever `backend`, `precision` and `device` say.

    Returns:
        The backend, what its network is, and the device for its crops.

    Raises:
        FileNotFoundError, UserError: see `load_engine`, `load_or_init_network` and `load_backend`.
    """
    if Path(config.load_model).suffix == ENGINE_SUFFIX:
        backend, spec = load_engine(Path(config.load_model))
        check_spec(config.load_model, spec, config)
        return backend, spec, torch.device("cpu")
    device = pick_device(config.device)
    require_precision(config.backend, config.precision)
    if best_precision(config.backend, config.precision, device) != config.precision:
        print(f"{config.precision} is not faster on this machine, but it is used.")
    network, spec = load_or_init_network(config)
    return load_backend(network, spec, config.backend, config.precision, device), spec, device


def load_backend(
    network: nn.Module,
    spec: ModelSpec,
    backend: str = "torch",
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> Backend:
    """Prepare a network to run by one of the engines.

    Args:
        network: with its weights; it is moved to the device, and not changed otherwise.
        spec: what it is.
        backend: a key of BACKENDS.
        precision: one that BACKENDS lists for it.
        device: where torch and compile run; the others run on the CPU.

    Raises:
        UserError: for a backend or precision that does not exist or cannot run here, saying what to do.
    """
    device = torch.device(device)
    require_precision(backend, precision)
    if backend not in ("torch", "compile") and device.type != "cpu":
        raise UserError(f"backend {backend} runs on the CPU here: use --device cpu, or backend torch.")
    network = network.to(device)
    if backend == "onnxruntime":
        return run_by_onnxruntime(to_onnx(network, spec))
    if backend == "openvino":
        core = openvino_core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError("This processor has no bf16, openvino would only emulate it: use fp32.")
        return run_by_openvino(core.read_model(to_onnx(network, spec)), precision)
    return _run_by_torch(network, spec, precision, compiled=backend == "compile")


def load_engine(path: Path) -> tuple[Backend, ModelSpec]:
    """Load an int8 file that `python -m util.deployment.export` wrote, ready to run on the CPU.

    Args:
        path: the .xml; its weights lie beside it in a .bin of the same name.

    Returns:
        The backend, and what its network is.

    Raises:
        FileNotFoundError: if it is missing.
        UserError: if it cannot be read, or OpenVINO is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `python -m util.deployment.export --precision int8 --out {path}` writes it."
        )
    core = openvino_core()
    try:
        # Not by OpenVINO: it would try all its readers on a foreign file, and print what each says.
        content = json.loads(_spec_entry(path).get("value"))
        spec = spec_from_dict(content | {"cube": content["cube"] and tuple(content["cube"])})
        return run_by_openvino(core.read_model(path)), spec
    except Exception as error:  # a damaged file can fail anywhere
        raise UserError(
            f"{path} cannot be read: it or the .bin beside it is damaged or missing, "
            "or it was not written by `python -m util.deployment.export`."
        ) from error


def require_precision(backend: str, precision: str) -> None:
    """Raise UserError where a backend does not exist or lacks a precision."""
    if backend not in BACKENDS:
        raise UserError(f"There is no backend {backend!r}: use one of {', '.join(BACKENDS)}.")
    if precision not in BACKENDS[backend]:
        raise UserError(
            f"backend {backend} has no precision {precision}: it has {', '.join(BACKENDS[backend])}."
        )


def fastest_backend(device: torch.device, precision: str = "fp32") -> tuple[str, str]:
    """The fastest backend that is installed, and its precision, among those that keep the joints.

    OpenVINO on a CPU, in bf16 where the processor multiplies it (joints move by 0.1 to 0.3 mm), else in
    fp32; PyTorch on a GPU, in `precision`, and where the packages are missing (requirements-deploy.txt).
    """
    if device.type != "cpu" or any(find_spec(name) is None for name in ("openvino", "onnx", "onnxscript")):
        return "torch", precision
    has_bf16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "openvino", "bf16" if has_bf16 else "fp32"


def exported_int8(checkpoint: Path, device: torch.device) -> Path | None:
    """The int8 file that was exported from a checkpoint to a place beside it, where it is fast; or None.

    It has the checkpoint's name, ends in .xml and is newer. It gives no weight maps.
    """
    path = checkpoint.with_suffix(ENGINE_SUFFIX)
    if not (device.type == "cpu" and has_vnni() and find_spec("openvino")):
        return None
    if not (path.is_file() and path.with_suffix(".bin").is_file()):
        return None
    is_newer = path.stat().st_mtime >= checkpoint.stat().st_mtime
    return path if is_newer and _spec_entry(path) is not None else None


def _spec_entry(path: Path) -> ElementTree.Element | None:
    """What an .xml says of its network; None where this project's export did not write it."""
    try:
        return ElementTree.parse(path).find("/".join(["rt_info", *SPEC_ENTRY]))
    except ElementTree.ParseError:
        return None


def best_precision(backend: str, precision: str, device: torch.device) -> str:
    """`precision`, or what PyTorch is faster with; the other engines say themselves what they lack."""
    return usable_precision(device, precision) if backend in ("torch", "compile") else precision


def run_by_onnxruntime(content: bytes) -> Backend:
    """Run a graph of `to_onnx` by ONNX Runtime, on the CPU."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        found = session.run(["joint_uvd", "confidence"], {"image": np.asarray(image)})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    return predict


def run_by_openvino(model: Any, precision: str = "fp32") -> Backend:
    """Run an `openvino.Model` with the inputs and outputs of `to_onnx`; what is int8 in it stays int8.

    Args:
        model: read by `openvino_core()`.
        precision: of its other operations, fp32 or bf16.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()

    one_at_a_time = threading.Lock()  # the next call overwrites the outputs; each uses all cores anyway

    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        with one_at_a_time:
            request.infer([np.asarray(image)], share_inputs=True)
            return tuple(torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in range(2))

    return predict


@functools.cache
def openvino_core() -> Any:
    """The process's one `openvino.Core`, kept until the process ends.

    Each Core's CPU plugin installs a signal stack of its own (openvino pull request 11894), and puts the one
    before back when it goes. Of two that go in the order in which they came, the second puts back one that
    is unmapped already: the next signal ends the process with SIGSEGV. Seen with OpenVINO 2026.4.1.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    return require("openvino").Core()


def _run_by_torch(network: nn.Module, spec: ModelSpec, precision: str, compiled: bool) -> Backend:
    device = next(network.parameters()).device
    module = JointNetwork(network, spec.kernel_size, precision)
    if compiled:
        module.network = torch.compile(module.network, dynamic=False)

    @torch.inference_mode()
    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        return module(torch.as_tensor(image).to(device))

    return predict
