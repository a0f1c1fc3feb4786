"""A network made faster: batch norms folded into convolutions, channels last, weights in bf16 or fp16."""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from util.device import DTYPES

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def fuse_conv_bn(network: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy for prediction, channels last, with every batch norm behind a convolution folded into it.

    A batch norm scales and shifts channels, and so does a convolution: its weights can do both. A
    pre-activation block's first batch norm follows a sum and stays, in fp32. The convolutions' weights are
    converted to `precision` once: autocast would do it for every image, half of a single frame's time.
    The copy is in evaluation mode, without gradients; `last_dense` runs it.
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
    """(B, 1, S, S) float32 normalised depth crop -> the last stage's dense map (B, 4J, F, F)."""
    dtype = next(network.parameters()).dtype
    return network(image.to(dtype, memory_format=torch.channels_last))[-1]
