"""Networks and the head: normalised crops in, dense maps and joints out. Knows tensors, nothing of files."""

from importlib import import_module

from torch import nn

from config import find_network


def build_network(name: str, num_joints: int, downsample: int = 2) -> nn.Module:
    """Build a network with random weights (docs/spec.md §8).

    Args:
        name: a name of config.NETWORKS: `resnet_18`, `hourglass_1`, …
        num_joints: J.
        downsample: edge of the crop / edge of the dense maps.

    Returns:
        A module whose `forward` takes (B, 1, S, S) and gives a list with one dense map
        (B, 4J, S / downsample, S / downsample) per stage.
    """
    module, _, function = find_network(name).builder.partition(":")
    _, _, size = name.partition("_")
    root = __name__.removesuffix("model")  # "awr." where this is part of that package
    return getattr(import_module(root + module), function)(size, num_joints, downsample)
