"""A network and its head as one module, and as the ONNX graph that other engines run."""

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from model.awr import dense_to_joints
from model.confidence import joint_confidence
from util.checkpoint import ModelSpec
from util.deployment.folding import example_crops, fuse_conv_bn, last_dense

REQUIREMENTS = "requirements-deploy.txt"


class JointNetwork(nn.Module):
    """A network in evaluation mode, fused, with adaptive weighting behind it.

    Args:
        network, precision: as for `fuse_conv_bn`.
        kernel_size: K that the network was trained with.
    """

    def __init__(self, network: nn.Module, kernel_size: float, precision: str = "fp32"):
        super().__init__()
        self.network = fuse_conv_bn(network, precision)
        self.kernel_size = kernel_size
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) normalised depth crop -> joints (B, J, 3) normalised uvd, confidence (B, J)."""
        dense = last_dense(self.network, image)
        joint_uvd = dense_to_joints(dense, image, self.kernel_size)
        return joint_uvd, joint_confidence(dense, image, self.kernel_size)


def to_onnx(network: nn.Module, spec: ModelSpec) -> bytes:
    """The ONNX graph of a network and its head, weights included.

    Args:
        network: as trained, on the CPU; it is not changed.
        spec: what it is; goes into the graph's metadata.

    Raises:
        ValueError: if a package is missing.
    """
    onnx = require("onnx")
    require("onnxscript")
    with torch.no_grad():
        program = torch.onnx.export(
            JointNetwork(network, spec.kernel_size),
            (example_crops(2, spec.img_size),),
            input_names=["image"],
            output_names=["joint_uvd", "confidence"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in spec._asdict().items()})
    return graph.SerializeToString()


def require(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ValueError: naming the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed: pip install -r {REQUIREMENTS}.") from error
