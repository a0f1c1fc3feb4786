"""A network that behaves like a trained one, without the training."""

import numpy as np
import torch
from torch import nn

from util.checkpoint import ModelSpec

SIZE = 64
SPEC = ModelSpec("resnet_18", 14, 4, 1.0, "synth", SIZE)


def trained(spec):
    """A network whose joints depend on its image as a trained one's do, and whose statistics are its own."""
    torch.manual_seed(1)
    network = spec.build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.03)
    if spec.net.startswith("resnet"):
        for head in (network.final1, network.final2):
            nn.init.normal_(head.weight, std=0.02)
    return network


def shift_mm(found, expected, cube_mm=300):
    """Distances (B, J), mm, between joints (B, J, 3) in normalised uvd of a cube with this edge."""
    return (found - expected).norm(dim=-1) * cube_mm / 2


def example_crops(batch, img_size):
    """(batch, 1, S, S) crops: tilted plates at several depths before background."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : img_size * 1j, -1 : 1 : img_size * 1j]
    image = np.ones((batch, 1, img_size, img_size), np.float32)
    for crop in image[:, 0]:
        for _ in range(6):
            u, v, depth, tilt, radius = rng.uniform((-0.6, -0.6, -0.5, -0.5, 0.1), (0.6, 0.6, 0.5, 0.5, 0.4))
            inside = (columns - u) ** 2 + (rows - v) ** 2 < radius**2
            crop[inside] = np.minimum(crop, depth + tilt * (columns - u))[inside]
    return torch.from_numpy(image)
