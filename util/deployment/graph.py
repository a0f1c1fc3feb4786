"""A network and its head as one module, and as the ONNX graph that other engines run."""

import json

import torch
from torch import Tensor, nn

from config import DATASETS, VERSION
from dataloader import dataset_info
from model.awr import decode
from util import UserError, require
from util.checkpoint import ModelSpec
from util.deployment.folding import fuse_conv_bn, last_dense

OPSET = 20  # version of ONNX's operators
IMAGE_AND_JOINTS = {
    "image": "(batch, 1, img_size, img_size): (depth - center z) / (cube[2] / 2) in [-1, 1]; background 1",
    "joint_uvd": "(batch, joints, 3): u right, v down, in [-1, 1] across the crop; d as the image's depth",
    "confidence": "(batch, joints) in [0, 1]",
}


class JointNetwork(nn.Module):
    """A network in evaluation mode, fused, with adaptive weighting by its K, `kernel_size`, behind it."""

    def __init__(self, network: nn.Module, kernel_size: float, precision: str = "fp32"):
        super().__init__()
        self.network = fuse_conv_bn(network, precision)
        self.kernel_size = kernel_size
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) normalised depth crop -> joints (B, J, 3) normalised uvd, confidence (B, J)."""
        found = decode(last_dense(self.network, image), image, self.kernel_size)
        return found.joint_uvd, found.confidence


def to_onnx(network: nn.Module, spec: ModelSpec, opset: int = OPSET) -> bytes:
    """The ONNX graph of a network, as trained and on the CPU, and its head, with weights and metadata."""
    onnx = require("onnx", "deploy")
    require("onnxscript", "deploy")
    with torch.no_grad():
        program = torch.onnx.export(
            JointNetwork(network, spec.kernel_size),
            (torch.zeros(2, 1, spec.img_size, spec.img_size),),
            input_names=["image"],
            output_names=["joint_uvd", "confidence"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    made = next(entry.version for entry in graph.opset_import if not entry.domain)
    if made != opset != OPSET:  # PyTorch keeps its own where it cannot convert
        raise UserError(f"The graph cannot be written for opset {opset}: pass --opset {made}.")
    onnx.helper.set_model_props(graph, graph_metadata(spec))
    return graph.SerializeToString()


def graph_metadata(spec: ModelSpec) -> dict[str, str]:
    """What a program without this project needs to know of the graph, as docs/deployment.md lists it."""
    entries: dict = spec._asdict()
    if spec.dataset in DATASETS:
        info = dataset_info(spec.dataset)
        entries |= {"cube": spec.cube or info.cube, "joint_names": info.joint_names}
    entries |= IMAGE_AND_JOINTS | {"awr_version": VERSION}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
