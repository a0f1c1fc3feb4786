"""What is deployed: a network made faster that, but for rounding, computes the same, and its head."""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.awr import dense_to_joints
from model.confidence import joint_confidence
from util.device import DTYPES

NETWORK_FRAMES = 2  # through a network at once on a CPU: the features of more do not fit into its cache


class JointNetwork(nn.Module):
    """A network in evaluation mode with batch norm folded in, and adaptive weighting behind it.

    Args:
        network: as trained; left as it is.
        kernel_size: K that it was trained with.
    """

    def __init__(self, network: nn.Module, kernel_size: float):
        super().__init__()
        self.network = fuse_conv_bn(network)
        self.kernel_size = kernel_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) normalised depth crop -> joints (B, J, 3) normalised uvd, confidence (B, J)."""
        dense = self.network(image)[-1]
        return dense_to_joints(dense, image, self.kernel_size), joint_confidence(
            dense, image, self.kernel_size
        )


def fuse_conv_bn(network: nn.Module) -> nn.Module:
    """A copy that computes the same: every batch norm that follows a convolution is folded into it.

    A batch norm scales and shifts channels, and so does a convolution: its weights can do both. A
    pre-activation block's first batch norm follows a sum and stays.

    Args:
        network: as trained; left as it is, with the published keys.

    Returns:
        An evaluation-mode module whose weights need no gradient.
    """
    traced = fx.symbolic_trace(copy.deepcopy(network).eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = modules.get(before.target) if before.op == "call_module" else None
        # Folding changes what the convolution gives: nothing else may use that.
        if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and len(before.users) == 1:
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            traced.set_submodule(
                before.target, fuse_conv_bn_eval(convolution, modules[node.target], transpose=transposed)
            )
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.requires_grad_(False)


def deployed(network: nn.Module, precision: str = "fp32") -> nn.Module:
    """A folded copy, channels last, whose convolutions have their weights in bf16 or fp16 where asked for.

    Autocast would convert the weights anew for every image: half of a single frame's time.

    Args:
        network: as trained, on its device; left as it is.
        precision: fp32, bf16 or fp16; normalisations keep fp32 in each, as under autocast.

    Returns:
        A module for `last_dense`.
    """
    folded = fuse_conv_bn(network).to(memory_format=torch.channels_last)
    for module in folded.modules():
        if precision in DTYPES and isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(DTYPES[precision])
    return folded


def last_dense(network: nn.Module, image: Tensor) -> Tensor:
    """The last stage's dense map (B, 4J, F, F) of a `deployed` network; on a CPU a few frames at a time.

    Args:
        network: with its convolutions in one precision.
        image: (B, 1, S, S) float32 normalised depth crop.
    """
    # Of a network without weights, as tests have, it is the image's.
    dtype = next((weight.dtype for weight in network.parameters()), image.dtype)
    pieces = image.split(NETWORK_FRAMES) if image.device.type == "cpu" else [image]
    pieces = [piece.to(dtype, memory_format=torch.channels_last) for piece in pieces]
    return torch.cat([network(piece)[-1] for piece in pieces])


@torch.inference_mode()
def joints_as_trained(network: nn.Module, kernel_size: float, image: Tensor) -> Tensor:
    """Joints (B, J, 3) of a network with nothing folded or rounded, to compare its faster forms with."""
    return dense_to_joints(network.eval()(image)[-1], image, kernel_size)


@torch.inference_mode()
def moved_mm(found: Tensor, expected: Tensor, cube_mm: float) -> Tensor:
    """Distances (B, J) between joints (B, J, 3) in normalised uvd, in mm of a cube with this edge."""
    return (found - expected).norm(dim=-1) * cube_mm / 2


def largest_difference_mm(found: Tensor, expected: Tensor, cube_mm: float) -> float:
    """The largest of `moved_mm`."""
    return float(moved_mm(found, expected, cube_mm).max())
