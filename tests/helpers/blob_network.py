"""A stand-in for a trained pose network: its joints lie on what the crop shows, and it is sure of them."""

import torch
from torch import nn

from model.awr import FOREGROUND_DEPTH, joints_to_dense
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint
from util.inference import load
from util.inference.predictor import HandPosePredictor

SIZE, FEATURES, K = 64, 32, 1.0


class BlobNetwork(nn.Module):
    """Answers with 14 joints around the foreground's middle, each a little further to the right and up."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))  # its type says what the image is to be

    def forward(self, image):
        depth = image[:, 0, 1::2, 1::2]
        places = (torch.arange(FEATURES) + 0.5) / FEATURES * 2 - 1
        hand = (depth < FOREGROUND_DEPTH).float()
        count = hand.sum((1, 2)).clamp_min(1)
        middle = [
            (hand * places).sum((1, 2)) / count,
            (hand * places[:, None]).sum((1, 2)) / count,
            (hand * depth).sum((1, 2)) / count,
        ]
        offset = torch.linspace(-0.12, 0.12, 14)
        joints = torch.stack(middle, dim=-1)[:, None] + torch.stack([offset, -offset / 2, 0 * offset], dim=-1)
        return [joints_to_dense(joints, image, K, FEATURES)]


def stand_in(monkeypatch):
    """Whatever checkpoint a predictor loads, it gets a BlobNetwork."""
    spec = ModelSpec("resnet_18", 14, 2, K, "synth", SIZE)
    monkeypatch.setattr(load, "load_network", lambda *_: (BlobNetwork(), spec))
    monkeypatch.setattr(load, "fuse_conv_bn", lambda network, _: network)  # nothing to fold


def blob_predictor(folder, **arguments):
    """A predictor around a BlobNetwork; its checkpoint is written into a folder."""
    spec = ModelSpec("resnet_18", 14, 2, K, "synth", SIZE)
    path = folder / "blob.pth"
    if not path.is_file():
        save_checkpoint(path, spec.build(), spec)
    predictor = HandPosePredictor(path, "cpu", **arguments)
    predictor.networks = [predictor.networks[0]._replace(network=BlobNetwork())]
    return predictor


CAMERA = NYU_CAMERA._replace(fx=294.0, fy=293.5, cx=159.5, cy=119.5, flip=1)
