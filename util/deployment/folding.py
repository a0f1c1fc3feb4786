"""A network made faster: batch norms folded into convolutions, channels last, weights in bf16 or fp16."""

import copy

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from util.device import DTYPES

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def fuse_conv_bn(network: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy for prediction, channels last, with every batch norm behind a convolution folded into it.

    A batch norm scales and shifts channels, and so does a convolution: its weights can do both. A
    pre-activation block's first batch norm follows a sum and stays.

    Args:
        network: as trained, on its device; it is not changed.
        precision: of the convolutions' weights: fp32, bf16 or fp16. Autocast would convert them for every
            image: half of a single frame's time. Batch norms that stay compute in fp32, as under autocast.

    Returns:
        An evaluation-mode module for `last_dense`, whose weights need no gradient.
    """
    traced = fx.symbolic_trace(copy.deepcopy(network).eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = modules.get(before.target) if before.op == "call_module" else None
        # Folding changes what the convolution gives: nothing else may use that.
        if isinstance(convolution, CONVOLUTIONS) and len(before.users) == 1:
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            fused = fuse_conv_bn_eval(convolution, modules[node.target], transpose=transposed)
            traced.set_submodule(before.target, fused)
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    for module in traced.modules():
        if precision in DTYPES and isinstance(module, CONVOLUTIONS):
            module.to(DTYPES[precision])
    return traced.to(memory_format=torch.channels_last).requires_grad_(False)


def last_dense(network: nn.Module, image: Tensor) -> Tensor:
    """The last stage's dense map (B, 4J, F, F) of a network from `fuse_conv_bn`.

    Args:
        network: its convolutions have one precision.
        image: (B, 1, S, S) float32 normalised depth crop.
    """
    dtype = next(network.parameters()).dtype
    return network(image.to(dtype, memory_format=torch.channels_last))[-1]


def joint_shift_mm(found: Tensor, expected: Tensor, cube_mm: float) -> Tensor:
    """Distances (B, J), mm, between joints (B, J, 3) in normalised uvd of a cube with this edge."""
    return (found - expected).norm(dim=-1) * cube_mm / 2


def example_crops(batch: int, img_size: int) -> Tensor:
    """(batch, 1, S, S) crops to compare networks on: tilted plates at several depths before background."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : img_size * 1j, -1 : 1 : img_size * 1j]
    image = np.ones((batch, 1, img_size, img_size), np.float32)
    for crop in image[:, 0]:
        for _ in range(6):
            u, v, depth, tilt, radius = rng.uniform((-0.6, -0.6, -0.5, -0.5, 0.1), (0.6, 0.6, 0.5, 0.5, 0.4))
            inside = (columns - u) ** 2 + (rows - v) ** 2 < radius**2
            crop[inside] = np.minimum(crop, depth + tilt * (columns - u))[inside]
    return torch.from_numpy(image)
