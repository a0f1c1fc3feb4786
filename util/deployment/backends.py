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
from util import UserError, require
from util.checkpoint import ModelSpec, check_spec, load_or_init_network, spec_from_dict
from util.deployment.graph import JointNetwork, to_onnx
from util.device import has_vnni, pick_device, usable_precision
from util.files import require_file, sha256

BACKENDS = {
    "torch": ("fp32", "bf16", "fp16"),
    "compile": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
ENGINE_SUFFIX = ".xml"  # of an int8 file, which export writes and OpenVINO runs; its weights are in a .bin

# Takes (B, 1, S, S) float32 normalised crops, a tensor or an array; gives joints (B, J, 3) normalised
# uvd and their confidence (B, J), float32 tensors on the backend's device. Threads may share one.
Backend = Callable[[Tensor | np.ndarray], tuple[Tensor, Tensor]]


def backend_from_config(config: Config) -> tuple[Backend, ModelSpec, torch.device]:
    """The network that the settings name, ready to run; its spec; and the device for its crops.

    An int8 file is run by OpenVINO on the CPU, whatever `backend`, `precision` and `device` say.
    """
    if Path(config.load_model).suffix == ENGINE_SUFFIX:
        backend, spec = load_engine(Path(config.load_model))
        check_spec(config.load_model, spec, config)
        return backend, spec, torch.device("cpu")
    device = pick_device(config.device)
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
    """Prepare a network, which is moved to the device and not changed otherwise, to run by an engine.

    `backend` is a key of BACKENDS, `precision` one of its values. Only torch and compile run on a GPU.
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
    module = JointNetwork(network, spec.kernel_size, precision)
    if backend == "compile":
        module.network = torch.compile(module.network, dynamic=False)
    return torch.inference_mode()(lambda image: module(torch.as_tensor(image).to(device)))


def load_engine(path: Path) -> tuple[Backend, ModelSpec]:
    """Prepare an int8 file, an .xml with its .bin beside it, to run on the CPU; and what its network is."""
    require_file(
        path, f"an int8 file; `python -m util.deployment.export --precision int8 --out {path}` writes it"
    )
    core = openvino_core()  # where it is not installed, this is the complaint
    try:
        # Not by OpenVINO: it would try all its readers on a foreign file, and print what each says.
        content = json.loads(_engine_entries(path)["spec"])
        spec = spec_from_dict(content | {"cube": content["cube"] and tuple(content["cube"])})
        return run_by_openvino(core.read_model(path)), spec
    except Exception as error:  # a damaged file can fail anywhere
        raise UserError(
            f"{path} cannot be read: it or the .bin beside it is damaged or missing, or it was not written "
            "by this version of `python -m util.deployment.export`: export it again."
        ) from error


def exported_int8(checkpoint: Path, device: torch.device) -> Path | None:
    """The whole int8 file, of a checkpoint's name, that was exported from it; None where it is not fast."""
    path = checkpoint.with_suffix(ENGINE_SUFFIX)
    if not (device.type == "cpu" and has_vnni() and find_spec("openvino") and path.is_file()):
        return None
    try:
        return path if _engine_entries(path)["checkpoint_sha256"] == sha256(checkpoint) else None
    except Exception:  # foreign, or damaged
        return None


def _engine_entries(path: Path) -> dict[str, str]:
    """What export wrote into an int8 file of its network. Any exception: it did not, or the .bin is damaged.

    Only this element is parsed: without the head of the file there are no entities and no encodings.
    """
    content = path.read_bytes()
    element = content[content.index(b"<awr>") : content.index(b"</awr>") + len(b"</awr>")]
    entries = {entry.tag: entry.get("value") for entry in ElementTree.fromstring(element)}
    if entries["weights_sha256"] != sha256(path.with_suffix(".bin")):
        raise ValueError(f"{path} belongs to another .bin")
    return entries


def require_precision(backend: str, precision: str) -> None:
    """Refuse a backend that does not exist, or a precision that it lacks."""
    if backend not in BACKENDS:
        raise UserError(f"There is no backend {backend!r}: use one of {', '.join(BACKENDS)}.")
    if precision not in BACKENDS[backend]:
        raise UserError(
            f"backend {backend} has no precision {precision}: it has {', '.join(BACKENDS[backend])}."
        )


def fastest_backend(device: torch.device, precision: str = "fp32") -> tuple[str, str]:
    """The fastest backend that is installed, and its precision, among those that keep the joints.

    OpenVINO on a CPU, in bf16 if the processor has it (joints move by 0.1 to 0.3 mm); else PyTorch.
    """
    if device.type != "cpu" or any(find_spec(name) is None for name in ("openvino", "onnx", "onnxscript")):
        return "torch", precision
    has_bf16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "openvino", "bf16" if has_bf16 else "fp32"


def best_precision(backend: str, precision: str, device: torch.device) -> str:
    """`precision`, or what PyTorch is faster with; the other engines say themselves what they lack."""
    return usable_precision(device, precision) if backend in ("torch", "compile") else precision


def run_by_onnxruntime(content: bytes) -> Backend:
    """Run a graph of `to_onnx` by ONNX Runtime, on the CPU."""
    onnxruntime = require("onnxruntime", "deploy")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        found = session.run(["joint_uvd", "confidence"], {"image": np.asarray(image)})
        return tuple(map(torch.from_numpy, found))

    return predict


def run_by_openvino(model: Any, precision: str = "fp32") -> Backend:
    """Run an `openvino.Model` of a graph of `to_onnx`, on the CPU; what is int8 in it stays int8."""
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

    Each replaces the signal stack (openvino pull request 11894): after two of them were freed in the order
    of their making, the next signal ended the process with SIGSEGV (OpenVINO 2026.4.1).
    """
    return require("openvino", "deploy").Core()
