"""Engines that run a network with its head, behind one call: image in, joints and confidence out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader import build_dataset
from dataloader.base import HandDataset
from model.awr import dense_to_joints
from model.confidence import joint_confidence
from util.checkpoint import ModelSpec
from util.deployment.export import require, to_onnx
from util.deployment.folding import JointNetwork, deployed, joints_as_trained, last_dense, moved_mm
from util.deployment.int8 import quantize_onnx, quantize_openvino
from util.device import usable_precision

BACKENDS = {
    "torch": ("fp32", "bf16", "fp16"),
    "compile": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
CALIBRATION_FRAMES = 128  # what int8's ranges are measured on

CHECKED_FRAMES = 32  # what int8 is compared on
MOST_MOVED_MM = 2.0  # mean; beyond it int8 is broken, not rounded

# Takes (B, 1, S, S) float32 normalised crops, a tensor or an array; gives joints (B, J, 3) normalised
# uvd and their confidence (B, J), float32 tensors on the backend's device.
Backend = Callable[[Tensor | np.ndarray], tuple[Tensor, Tensor]]


def load_backend(
    network: nn.Module,
    spec: ModelSpec,
    backend: str = "torch",
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    calibration: np.ndarray | None = None,
) -> Backend:
    """Prepare a network to run by one of the engines; it is left as it is.

    Args:
        network: with its weights.
        spec: what it is.
        backend: a key of BACKENDS.
        precision: one of those that the backend has there.
        device: where torch and compile run; the others run on the CPU.
        calibration: (N, 1, S, S) float32 crops of the kind that will be seen, for int8.

    Raises:
        ValueError: for a backend or precision that does not exist or is not there, saying what to do.
    """
    device = torch.device(device)
    require_precision(backend, precision)
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise ValueError("precision int8 needs frames to measure its ranges on: none were given.")
    network = network.to(device)
    if backend in ("torch", "compile"):
        return _torch_backend(network, spec, precision, compiled=backend == "compile")
    if device.type != "cpu":
        raise ValueError(f"backend {backend} runs on the CPU here: use --device cpu, or backend torch.")
    if precision == "bf16":
        _require_bf16()
    content = to_onnx(JointNetwork(network, spec.kernel_size), spec)
    start = _onnxruntime_backend if backend == "onnxruntime" else _openvino_backend
    return start(content, precision, calibration)


def prepare_backend(
    network: nn.Module, spec: ModelSpec, config: Config, device: torch.device, dataset: HandDataset
) -> Backend:
    """The backend that the settings ask for; for int8, says what it costs in accuracy.

    Args:
        network, spec: what to run.
        config: of `dataset`; its `backend` and `precision` count.
        device: as for `load_backend`.
        dataset: what will be predicted; int8's outcome is compared on some of it.

    Raises:
        ValueError: see `load_backend`; also if int8 moves joints by more than MOST_MOVED_MM.
    """
    require_precision(config.backend, config.precision)
    if best_precision(config.backend, config.precision, device) != config.precision:
        print(f"{config.precision} gains nothing on this {device}; it is computed as asked for.")
    if config.precision != "int8":
        return load_backend(network, spec, config.backend, config.precision, device)
    calibration = calibration_crops(config, dataset)
    backend = load_backend(network, spec, config.backend, config.precision, device, calibration)
    checked = spread_crops(dataset, CHECKED_FRAMES)
    expected = joints_as_trained(network, spec.kernel_size, torch.from_numpy(checked))
    moved = moved_mm(backend(checked)[0], expected, max(config.cube))
    outcome = f"int8 by {config.backend} moves joints by {moved.mean():.2f} mm in the mean"
    if not moved.mean() <= MOST_MOVED_MM:
        raise ValueError(f"{outcome} on this processor: use another backend or precision.")
    print(f"{outcome}, {moved.max():.2f} mm at most, over {len(checked)} frames.")
    return backend


def calibration_crops(config: Config, dataset: HandDataset) -> np.ndarray:
    """Crops (N, 1, S, S) to measure int8's ranges on: training frames.

    Where they cannot be had, some of what is predicted, `dataset`: that flatters int8 and is said.
    """
    reason: str | Exception = "The training split is what is predicted."
    if config.split != "train":
        try:
            # No cache: it would be made for all of them.
            frames = build_dataset(replace(config, split="train", centers="", cache=False))
            return spread_crops(frames, CALIBRATION_FRAMES)
        except (FileNotFoundError, ValueError) as error:
            reason = error
    print(f"int8 measures its ranges on frames that it is scored on. {reason}")
    return spread_crops(dataset, CALIBRATION_FRAMES)


def spread_crops(dataset: HandDataset, count: int) -> np.ndarray:
    """(count, 1, S, S) crops or fewer, spread over a data set."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
    return np.stack([dataset[int(i)].image for i in chosen])


def require_precision(backend: str, precision: str) -> None:
    """Raise ValueError where a backend does not exist or lacks a precision."""
    if backend not in BACKENDS:
        raise ValueError(f"There is no backend {backend!r}: use one of {', '.join(BACKENDS)}.")
    if precision not in BACKENDS[backend]:
        there = ", ".join(BACKENDS[backend])
        others = [name for name, precisions in BACKENDS.items() if precision in precisions]
        raise ValueError(
            f"backend {backend} has no precision {precision}: it has {there}; "
            f"{precision} is in {', '.join(others) or 'none'}."
        )


def best_precision(backend: str, precision: str, device: torch.device) -> str:
    """`precision`, or what PyTorch is faster with; the other engines say themselves what they lack."""
    return usable_precision(device, precision) if backend in ("torch", "compile") else precision


def _torch_backend(network: nn.Module, spec: ModelSpec, precision: str, compiled: bool) -> Backend:
    device = next(network.parameters()).device
    network = deployed(network, precision)
    if compiled:
        network = torch.compile(network, dynamic=False)

    @torch.inference_mode()
    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        image = torch.as_tensor(image).to(device)
        dense = last_dense(network, image)
        return dense_to_joints(dense, image, spec.kernel_size), joint_confidence(
            dense, image, spec.kernel_size
        )

    return predict


def _onnxruntime_backend(content: bytes, precision: str, calibration: np.ndarray | None) -> Backend:
    onnxruntime = require("onnxruntime")
    if precision == "int8":
        content = quantize_onnx(content, calibration)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        found = session.run(["joint_uvd", "confidence"], {"image": _as_array(image)})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    return predict


def _openvino_backend(content: bytes, precision: str, calibration: np.ndarray | None) -> Backend:
    core = require("openvino").Core()
    model = core.read_model(content)
    if precision == "int8":
        model = quantize_openvino(model, calibration)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def predict(image: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        request.infer([_as_array(image)], share_inputs=True)
        # Copies: the next call writes into the same memory.
        return tuple(torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in range(2))

    return predict


def _require_bf16() -> None:
    if "BF16" not in require("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("This processor has no bf16, openvino would only emulate it: use fp32 or int8.")


def _as_array(image: Tensor | np.ndarray) -> np.ndarray:
    return image.numpy() if isinstance(image, Tensor) else image
