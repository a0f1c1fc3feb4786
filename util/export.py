"""A trained network and its head as one ONNX graph: a depth crop in, joints and confidence out.

python -m util.export --load_model results/hourglass_1.pth --net hourglass_1 --out model.onnx

Input `image` (batch, 1, S, S) float32, normalised as SPEC §4; outputs `joint_uvd` (batch, J, 3),
normalised uvd, and `confidence` (batch, J). The batch may be of any size. What decoding needs is in
the file's metadata: net, num_joints, kernel_size, img_size, dataset.
"""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from config import Config
from util.checkpoint import ModelSpec, prepare_network
from util.cli import run
from util.deployment import JointNetwork, largest_difference_mm
from util.files import written_whole

TOLERANCE_MM = 0.05  # how far a joint may move by being exported
REQUIREMENTS = "requirements-deploy.txt"


@dataclass
class ExportConfig(Config):
    """Settings of the export, beside config.py's: `load_model`, `net` and the data set count."""

    out: str = "model.onnx"  # file to write


def main(config: ExportConfig) -> None:
    """Write the graph, and only if it computes what the network does."""
    network, spec = prepare_network(config)
    module = JointNetwork(network, spec.kernel_size)
    content = to_onnx(module, spec)
    moved = check(content, module, spec.img_size, max(config.cube))
    if moved > TOLERANCE_MM:
        raise ValueError(
            f"The exported graph moves joints by up to {moved:.3f} mm, more than {TOLERANCE_MM} mm: "
            f"nothing was written to {config.out}."
        )
    with written_whole(Path(config.out)) as temporary:
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


def check(content: bytes, module: JointNetwork, img_size: int, cube_mm: float) -> float:
    """Run the graph on batches of several sizes: the largest distance from PyTorch's joints, mm."""
    session = require("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    moved = 0.0
    for batch in (1, 3):
        image = plate_images(batch, img_size)
        with torch.inference_mode():
            expected, _ = module(image)
        found = torch.from_numpy(session.run(["joint_uvd"], {"image": image.numpy()})[0])
        moved = max(moved, largest_difference_mm(found, expected, cube_mm))
    return moved


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
