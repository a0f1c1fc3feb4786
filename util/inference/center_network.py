"""Refine rough hand centres: this project's own method with one joint, the mean of all of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader.base import Sample, make_sample
from model.awr import dense_to_joints
from util.camera import Camera, crop_to_uvd
from util.checkpoint import RESULTS, load_network, spec_from_config
from util.deployment.folding import deployed, last_dense

CENTER_CHECKPOINT = RESULTS / "center_hourglass_1_synth.pth"
# The first look moves most of the way; the second sees the whole hand in the middle of its crop.
PASSES = 2


class CenterNetwork(NamedTuple):
    """A network with one joint, on its device; the crops it was trained on; and K of docs/spec.md §5.

    `img_size`: pixels; `cube` (3,) mm.
    """

    network: nn.Module
    device: torch.device
    img_size: int
    cube: tuple[float, float, float]
    kernel_size: float


def load_center_network(path: Path, device: torch.device) -> CenterNetwork:
    """Load what `train.py --target center` trained.

    Raises:
        FileNotFoundError, ValueError: see `load_network`; also for a network for joints.
    """
    network, spec = load_network(path, spec_from_config(Config(target="center").resolved()))
    if spec.target != "center":
        raise ValueError(f"{path} is a network for the {spec.target}: `train.py --target center` makes one.")
    cube = spec.cube or Config(dataset=spec.dataset, target="center").resolved().cube
    network = deployed(network.to(device))
    return CenterNetwork(network, device, spec.img_size, cube, spec.kernel_size)


def refine_centers(
    center_network: CenterNetwork, depths: list[np.ndarray], camera: Camera, centers: np.ndarray
) -> np.ndarray:
    """Move rough centres to where the network sees the mean of the hand's joints.

    Args:
        center_network: of `load_center_network`.
        depths: B frames (H, W), mm, 0 where nothing was measured.
        camera: the camera that took them.
        centers: (B, 3) rough centres, mm; NaN where none was found.

    Returns:
        (B, 3) mm. A centre that is NaN, or whose crop would miss the frame, stays as it is.
    """
    centers = np.array(centers, np.float64)
    for _ in range(PASSES):
        crops: dict[int, Sample] = {}
        for i, depth in enumerate(depths):
            if np.isfinite(centers[i]).all() and centers[i, 2] > 0:
                try:
                    crops[i] = _crop(center_network, depth, camera, centers[i])
                except ValueError:
                    continue  # no crop to look at
        if not crops:
            return centers
        batch = Sample(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops.values(), strict=True)))
        centers[list(crops)] = camera.uvd_to_xyz(_predict(center_network, batch).double().numpy())
    return centers


def _crop(center_network: CenterNetwork, depth: np.ndarray, camera: Camera, center_xyz: np.ndarray) -> Sample:
    unknown = np.full((1, 3), np.nan)
    return make_sample(depth, camera, center_xyz, center_network.cube, unknown, center_network.img_size)


@torch.inference_mode()
def _predict(center_network: CenterNetwork, batch: Sample) -> Tensor:
    """A batch of crops -> (B, 3) full-frame uvd on the CPU."""
    image = batch.image.to(center_network.device)
    dense = last_dense(center_network.network, image)
    joint_uvd = dense_to_joints(dense, image, center_network.kernel_size).cpu()
    uvd = crop_to_uvd(joint_uvd, batch.center_xyz[:, 2], batch.cube[:, 2], batch.M, center_network.img_size)
    return uvd[:, 0]
