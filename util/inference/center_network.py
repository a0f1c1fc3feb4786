"""Refine rough hand centres: this project's own method with one joint, the mean of all of them."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataloader.crop import Crop, crop_hand, network_input
from model.awr import dense_to_joints
from util import UserError
from util.camera import Camera, crop_to_uvd
from util.checkpoint import RESULTS, load_network, spec_from_config
from util.deployment.folding import fuse_conv_bn, last_dense

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
        FileNotFoundError, UserError: see `load_network`; also for a network for joints.
    """
    network, spec = load_network(path, spec_from_config(Config(target="center").resolved()))
    if spec.target != "center" or spec.num_joints != 1:
        raise UserError(f"{path} is a network for the {spec.target}: `train.py --target center` makes one.")
    cube = spec.cube or Config(dataset=spec.dataset, target="center").resolved().cube
    network = fuse_conv_bn(network.to(device))
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
    size = center_network.img_size
    for _ in range(PASSES):
        crops: dict[int, Crop] = {}
        for i, depth in enumerate(depths):
            if centers[i, 2] > 0:  # NaN: there is no centre
                with suppress(UserError):  # no crop to look at
                    crops[i] = crop_hand(depth, camera, centers[i], center_network.cube, size)
        if not crops:
            return centers
        image = torch.from_numpy(np.stack([network_input(crop) for crop in crops.values()]))
        for (i, crop), uvd in zip(crops.items(), _predict(center_network, image), strict=True):
            M = crop.M.astype(np.float64)
            uvd = crop_to_uvd(uvd, crop.center_xyz[2], crop.cube[2], M, size)
            centers[i] = camera.uvd_to_xyz(uvd)[0]
    return centers


@torch.inference_mode()
def _predict(center_network: CenterNetwork, image: Tensor) -> np.ndarray:
    """Crops (B, 1, S, S) -> (B, 1, 3) float64 normalised uvd."""
    image = image.to(center_network.device)
    dense = last_dense(center_network.network, image)
    return dense_to_joints(dense, image, center_network.kernel_size).double().cpu().numpy()
