"""The last layer of every network: direction and closeness from the same feature (SPEC §8)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


def dense_map(feature: Tensor, direction: nn.Conv2d, closeness: nn.Conv2d) -> Tensor:
    """Both 1×1 heads; in training as one convolution, which reads the largest feature once, there and back.

    Args:
        feature: (B, C, F, F).
        direction: C -> 3J channels.
        closeness: C -> J channels.

    Returns:
        (B, 4J, F, F) dense map: directions, then closeness.
    """
    if not direction.training:  # layers of their own, as engines want them
        return torch.cat([direction(feature), closeness(feature)], dim=1)
    weight = torch.cat([direction.weight, closeness.weight])
    return conv2d(feature, weight, torch.cat([direction.bias, closeness.bias]))
