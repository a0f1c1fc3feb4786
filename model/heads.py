"""The last layer of every network: direction and closeness from the same feature (SPEC §8)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


def dense_map(feature: Tensor, direction: nn.Conv2d, closeness: nn.Conv2d) -> Tensor:
    """Both 1×1 heads at once: one convolution reads the largest feature once, forward and backward.

    Args:
        feature: (B, C, F, F).
        direction: C -> 3J channels.
        closeness: C -> J channels.

    Returns:
        (B, 4J, F, F) dense map: directions, then closeness.
    """
    weight = torch.cat([direction.weight, closeness.weight])
    return conv2d(feature, weight, torch.cat([direction.bias, closeness.bias]))
