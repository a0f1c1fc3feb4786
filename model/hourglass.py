"""Stacked hourglass: repeated down- and upsampling, a dense map after every stack (docs/spec.md §8).

Attribute names are those of the published weights.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from util import UserError

CHANNELS = 256
HOURGLASS_DEPTH = 4
MAX_STACKS = 16  # published ones have 1 or 2; thousands would fill the memory


class StackedHourglass(nn.Module):
    """Args:
    num_stacks: N ≥ 1.
    num_joints: J.
    """

    def __init__(self, num_stacks: int, num_joints: int):
        super().__init__()
        stacks, merges = range(num_stacks), range(num_stacks - 1)
        self.pre = nn.Sequential(
            Conv(1, 64, kernel_size=5, bn_relu=True),
            Residual(64, 128),
            nn.MaxPool2d(2, 2),
            Residual(128, CHANNELS),
            Residual(CHANNELS, CHANNELS),
        )
        self.hgs = nn.ModuleList(nn.Sequential(Hourglass(HOURGLASS_DEPTH)) for _ in stacks)
        self.features = nn.ModuleList(
            nn.Sequential(Residual(CHANNELS, CHANNELS), Conv(CHANNELS, CHANNELS, bn_relu=True))
            for _ in stacks
        )
        self.outs_1 = nn.ModuleList(nn.Conv2d(CHANNELS, 3 * num_joints, 1) for _ in stacks)
        self.outs_2 = nn.ModuleList(nn.Conv2d(CHANNELS, num_joints, 1) for _ in stacks)
        self.merge_features = nn.ModuleList(Merge(CHANNELS) for _ in merges)
        self.merge_preds = nn.ModuleList(Merge(4 * num_joints) for _ in merges)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1, S, S) normalised depth crop -> N dense maps (B, 4J, S/2, S/2); the last is the answer."""
        x = self.pre(image)
        denses = []
        for stack, hourglass in enumerate(self.hgs):
            feature = self.features[stack](hourglass(x))
            denses.append(torch.cat([self.outs_1[stack](feature), self.outs_2[stack](feature)], dim=1))
            if stack < len(self.merge_preds):
                x = x + self.merge_preds[stack](denses[-1]) + self.merge_features[stack](feature)
        return denses


def build(num_stacks: str, num_joints: int, downsample: int) -> StackedHourglass:
    """The network `hourglass_<num_stacks>`."""
    if not re.fullmatch("[1-9][0-9]?", num_stacks) or int(num_stacks) > MAX_STACKS:
        raise UserError(
            f"There is no network 'hourglass_{num_stacks}': use hourglass_1 to hourglass_{MAX_STACKS}."
        )
    if downsample != 2:
        raise UserError(f"downsample {downsample} does not exist for an hourglass: use 2.")
    return StackedHourglass(int(num_stacks), num_joints)


class Hourglass(nn.Module):
    """`depth` halvings and doublings of the edge, with an additive skip at every level."""

    def __init__(self, depth: int):
        super().__init__()
        self.up1 = Residual(CHANNELS, CHANNELS)
        self.pool1 = nn.MaxPool2d(2, 2)
        self.low1 = Residual(CHANNELS, CHANNELS)
        self.low2 = Hourglass(depth - 1) if depth > 1 else Residual(CHANNELS, CHANNELS)
        self.low3 = Residual(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(self.pool1(x))))
        return self.up1(x) + interpolate(low, scale_factor=2, mode="nearest")


class Residual(nn.Module):
    """Pre-activation bottleneck."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        middle = out_channels // 2
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = Conv(in_channels, middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = Conv(middle, middle, kernel_size=3)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = Conv(middle, out_channels)
        # The published weights hold this convolution even where it goes unused.
        self.skip_layer = Conv(in_channels, out_channels)
        self.needs_skip = in_channels != out_channels
        # Without this, processes that train together would wait for its gradient.
        self.skip_layer.requires_grad_(self.needs_skip)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.skip_layer(x) if self.needs_skip else x
        x = self.conv1(self.bn1(x).relu())
        x = self.conv2(self.bn2(x).relu())
        x = self.conv3(self.bn3(x).relu())
        return x + residual


class Conv(nn.Module):
    """Convolution that keeps the edge, optionally with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, bn_relu: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_channels) if bn_relu else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.bn is None else self.bn(x).relu()


class Merge(nn.Module):
    """1×1 convolution that brings a stack's output back into the stream."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.conv = Conv(in_channels, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
