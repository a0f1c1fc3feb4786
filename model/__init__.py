"""Networks by name."""

import re

from torch import nn

from model.hourglass import StackedHourglass
from model.resnet_deconv import DEPTHS, ResNetDeconv


def build_network(name: str, num_joints: int, downsample: int = 2) -> nn.Module:
    """Build a network with initial weights (SPEC §8).

    Args:
        name: `resnet_18`, `resnet_50`, `resnet_101`, `resnet_152`, or `hourglass_N` for any N ≥ 1.
        num_joints: J.
        downsample: input edge / output edge: 1, 2 or 4 for a ResNet, 2 for an hourglass.

    Returns:
        A module whose `forward` takes (B, 1, S, S) and gives a list with one dense map
        (B, 4J, S / downsample, S / downsample) per stage.

    Raises:
        ValueError: for a name or a downsample that no network has.
    """
    family, _, size = name.partition("_")
    if family == "resnet" and size in map(str, DEPTHS):
        if downsample not in (1, 2, 4):
            raise ValueError(f"downsample {downsample} does not exist for {name}: use 1, 2 or 4.")
        return ResNetDeconv(int(size), num_joints, downsample)
    if family == "hourglass" and re.fullmatch("[1-9][0-9]*", size):
        if downsample != 2:
            raise ValueError(f"downsample {downsample} does not exist for {name}: an hourglass has 2.")
        return StackedHourglass(int(size), num_joints)
    depths = ", ".join(f"resnet_{depth}" for depth in DEPTHS)
    raise ValueError(f"There is no network {name!r}: use {depths}, or hourglass_N with N ≥ 1.")
