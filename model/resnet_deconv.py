"""ResNet with deconvolutions: an encoder, upsampling, and two 1×1 heads (docs/spec.md §8)."""

from math import log2, prod

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from util import UserError

DEPTHS = ("18", "50", "101", "152")
DECONV_CHANNELS = 256


class ResNetDeconv(nn.Module):
    """Args:
    depth: 18, 50, 101 or 152.
    num_joints: J.
    downsample: input edge / output edge, 1, 2 or 4.
    """

    def __init__(self, depth: int, num_joints: int, downsample: int = 2):
        super().__init__()
        encoder = getattr(resnet, f"resnet{depth}")(weights=None)
        self.pre = nn.Sequential(
            # Stride 1: a 128-pixel crop is small already.
            nn.Conv2d(1, 64, kernel_size=5, padding=2, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.layer1, self.layer2 = encoder.layer1, encoder.layer2
        self.layer3, self.layer4 = encoder.layer3, encoder.layer4
        # The encoder leaves 1/16 of the input's edge; each deconvolution doubles it.
        self.deconv_layers = _deconvolutions(encoder.fc.in_features, 4 - int(log2(downsample)))
        self.final1 = nn.Conv2d(DECONV_CHANNELS, 3 * num_joints, kernel_size=1)
        self.final2 = nn.Conv2d(DECONV_CHANNELS, num_joints, kernel_size=1)
        self.apply(_initialise)
        for head in (self.final1, self.final2):
            nn.init.normal_(head.weight, std=0.001)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1, S, S) normalised depth crop -> [(B, 4J, F, F) dense map]."""
        x = self.pre(image)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.deconv_layers(x)
        return [torch.cat([self.final1(x), self.final2(x)], dim=1)]


def build(depth: str, num_joints: int, downsample: int) -> ResNetDeconv:
    """The network `resnet_<depth>`."""
    if depth not in DEPTHS:
        raise UserError(f"There is no network 'resnet_{depth}': a ResNet has depth {', '.join(DEPTHS)}.")
    if downsample not in (1, 2, 4):
        raise UserError(f"downsample {downsample} does not exist for resnet_{depth}: use 1, 2 or 4.")
    return ResNetDeconv(int(depth), num_joints, downsample)


def _deconvolutions(in_channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [
            nn.ConvTranspose2d(in_channels, DECONV_CHANNELS, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(DECONV_CHANNELS),
            nn.ReLU(inplace=True),
        ]
        in_channels = DECONV_CHANNELS
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.001)
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=(2 / (prod(module.kernel_size) * module.out_channels)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
