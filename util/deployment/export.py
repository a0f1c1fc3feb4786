"""A trained network for others to use: with its head as one ONNX graph, or its weights in half the bytes.

python -m util.deployment.export --dataset nyu --net hourglass_1 --load_model results/hourglass_1.pth --out model.onnx
python -m util.deployment.export --load_model output/synth/resnet_18/best.pth --out results/resnet_18_synth.pth

A graph's input is `image` (batch, 1, S, S) float32, normalised as docs/spec.md §4; its outputs are `joint_uvd`
(batch, J, 3), normalised uvd, and `confidence` (batch, J). The batch may be of any size. What decoding
needs is in the file's metadata: net, num_joints, kernel_size, img_size, dataset, and the cube's edges
in mm, None where they are the data set's own.

A `.pth` file is a checkpoint without the training's state: every convolution in fp16, the rest as it was.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from util.checkpoint import ModelSpec, load_or_init_network, read_checkpoint, save_checkpoint
from util.cli import run
from util.deployment.folding import JointNetwork, joints_as_trained, largest_difference_mm
from util.files import atomic_write

FP16_MANTISSA = 10  # bits
TOLERANCE_MM = 0.05  # how far a joint may move by becoming a graph
HALF_TOLERANCE_MM = 2.0  # and by fp16 weights: rounding moves it by tenths, an overflow by centimetres
ROUNDED_TOLERANCE_MM = 50.0  # and by a shorter mantissa, on crops that show no hand; on hands far less
REQUIREMENTS = "requirements-deploy.txt"


@dataclass
class ExportConfig(Config):
    """Settings of the export, beside config.py's: `load_model`, `net` and the data set count."""

    out: str = "model.onnx"  # file to write: .onnx a graph, .pth weights
    mantissa: int = FP16_MANTISSA  # bits that a .pth keeps of each; with 5, git and zip store a quarter less

    def resolved(self) -> "ExportConfig":
        """See Config; also that `out` says what is to be written, and `mantissa` what there is of it."""
        if Path(self.out).suffix not in (".onnx", ".pth"):
            raise ValueError(f"out is {self.out}: it must end in .onnx, for a graph, or .pth, for weights.")
        if not 1 <= self.mantissa <= FP16_MANTISSA:
            raise ValueError(f"mantissa is {self.mantissa}: fp16 has 1 to {FP16_MANTISSA} bits to keep.")
        if self.mantissa != FP16_MANTISSA and Path(self.out).suffix != ".pth":
            raise ValueError(f"mantissa is of weights, and out is {self.out}: name a .pth.")
        return super().resolved()


def main(config: ExportConfig) -> None:
    """Write the graph or the weights, and only if they compute what the network does."""
    network, spec = load_or_init_network(config)
    if Path(config.out).suffix == ".pth":
        write_weights(config, network, spec)
    else:
        write_graph(config, network, spec)


def write_weights(config: ExportConfig, network: nn.Module, spec: ModelSpec) -> None:
    """Write a checkpoint with half the bytes, and what its training said of itself.

    Raises:
        ValueError: if a joint moves by it, as where a weight is too large for fp16.
    """
    limits = {FP16_MANTISSA: HALF_TOLERANCE_MM}
    limits.setdefault(config.mantissa, ROUNDED_TOLERANCE_MM)
    for bits, limit in limits.items():
        halved = _halved(network, bits)
        as_read = JointNetwork(copy.deepcopy(halved).float(), spec.kernel_size)
        moved = largest_move(lambda image, module=as_read: module(image)[0], network, spec, max(config.cube))
        if not moved <= limit:
            raise ValueError(
                f"fp16 weights move joints by up to {moved:.3f} mm with a mantissa of {bits}, more than "
                f"{limit} mm: nothing was written to {config.out}."
            )
    held = read_checkpoint(Path(config.load_model)) if config.load_model else {}
    about = {name: held[name] for name in ("config", "revision", "step", "best_mpe_mm") if name in held}
    save_checkpoint(Path(config.out), halved, spec, **about)
    size = Path(config.out).stat().st_size / 1e6
    print(f"{spec.net}, {size:.1f} MB, in {config.out}: joints within {moved:.5f} mm of the fp32 weights'")


def _halved(network: nn.Module, bits: int) -> nn.Module:
    halved = copy.deepcopy(network)
    for weight in halved.parameters():
        if weight.dim() > 1:  # all but a fraction of a per cent; batch norms are no place to save
            weight.data = round_mantissa(weight.data, bits).half()
    return halved


def round_mantissa(weight: Tensor, bits: int) -> Tensor:
    """Round numbers to so many bits after the leading one: zeros at the end of each pack well."""
    fraction, exponent = torch.frexp(weight)  # the fraction lies in [0.5, 1)
    steps = 2.0 ** (bits + 1)
    return torch.ldexp(torch.round(fraction * steps) / steps, exponent)


def write_graph(config: ExportConfig, network: nn.Module, spec: ModelSpec) -> None:
    """Write the ONNX graph.

    Raises:
        ValueError: if a package for it is missing, or a joint moves by it.
    """
    content = to_onnx(JointNetwork(network, spec.kernel_size), spec)
    session = require("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])

    def joints_of(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["joint_uvd"], {"image": image.numpy()})[0])

    moved = largest_move(joints_of, network, spec, max(config.cube))
    if not moved <= TOLERANCE_MM:
        raise ValueError(
            f"The exported graph moves joints by up to {moved:.3f} mm, more than {TOLERANCE_MM} mm: "
            f"nothing was written to {config.out}."
        )
    with atomic_write(Path(config.out)) as temporary:
        temporary.write_bytes(content)
    print(
        f"{spec.net} with its head, {len(content) / 1e6:.1f} MB, in {config.out}: "
        f"joints within {moved:.5f} mm of PyTorch's"
    )


def to_onnx(module: JointNetwork, spec: ModelSpec) -> bytes:
    """The graph, weights included.

    Args:
        module: on the CPU.
        spec: what the file says of itself.

    Raises:
        ValueError: if a package for it is missing.
    """
    onnx = require("onnx")
    require("onnxscript")
    image = plate_images(2, spec.img_size)
    module(image)  # makes the pixel grid that the head keeps, outside the trace
    # The exporter reports its progress and its plans; errors it raises.
    quiet = contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with quiet[0], quiet[1], torch.no_grad():
        program = torch.onnx.export(
            module,
            (image,),
            input_names=["image"],
            output_names=["joint_uvd", "confidence"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in spec._asdict().items()})
    return graph.SerializeToString()


def largest_move(
    joints_of: Callable[[Tensor], Tensor], network: nn.Module, spec: ModelSpec, cube_mm: float
) -> float:
    """Largest distance of (B, J, 3) joints from the network's on batches of several sizes, mm; NaN where one
    is not a number."""
    moved = []
    with torch.inference_mode():
        for batch in (1, 3):
            image = plate_images(batch, spec.img_size)
            expected = joints_as_trained(network, spec.kernel_size, image)
            moved.append(largest_difference_mm(joints_of(image), expected, cube_mm))
    return float(np.max(moved))


def plate_images(batch: int, img_size: int) -> Tensor:
    """(batch, 1, S, S) crops for comparisons: tilted plates of several depths before background."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : img_size * 1j, -1 : 1 : img_size * 1j]
    image = np.ones((batch, 1, img_size, img_size), np.float32)
    for crop in image[:, 0]:
        for _ in range(6):
            u, v, depth, tilt, radius = rng.uniform((-0.6, -0.6, -0.5, -0.5, 0.1), (0.6, 0.6, 0.5, 0.5, 0.4))
            inside = (columns - u) ** 2 + (rows - v) ** 2 < radius**2
            crop[inside] = np.minimum(crop, depth + tilt * (columns - u))[inside]
    return torch.from_numpy(image)


def require(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ValueError: saying how to install it.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed: pip install -r {REQUIREMENTS}.") from error


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExportConfig)
