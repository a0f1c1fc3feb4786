"""Running a network over a data set: free functions."""

import contextlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataloader.base import HandDataset, Sample
from model.awr import dense_to_joints
from util.camera import crop_to_uvd

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that is really there.

    Raises:
        ValueError: if it is not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Device {name!r} is not available here: use auto, cpu, or cuda where there is one."
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run the network in `bf16` or `fp16` where asked for; `fp32` changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def make_loader(dataset: HandDataset, batch_size: int, num_workers: int, device: torch.device) -> DataLoader:
    """Batches in the data set's order, prepared by other processes while the network runs."""
    return DataLoader(
        dataset,
        batch_size,
        num_workers=min(num_workers, -(-len(dataset) // batch_size)),
        pin_memory=device.type == "cuda",
    )


@torch.inference_mode()
def predict_joints(
    network: nn.Module,
    loader: DataLoader,
    kernel_size: float,
    device: torch.device,
    precision: str = "fp32",
) -> np.ndarray:
    """Joints of every frame of a loader, in its order (SPEC §6, §10).

    Args:
        network: on `device`; put into evaluation mode here.
        loader: batches of a HandDataset.
        kernel_size: K that the network was trained with.
        device: where the network lies.
        precision: fp32, bf16 or fp16.

    Returns:
        (N, J, 3) float64 full-frame uvd: pixels and mm.

    Raises:
        ValueError: if a joint comes out as not a number, naming the frame.
    """
    network.eval()
    batches = []
    for batch in tqdm(loader, desc="frames", unit="batch", leave=False):
        sample = Sample(*(tensor.to(device, non_blocking=True) for tensor in batch))
        with autocast(device, precision):
            dense = network(sample.image)[-1]
        joint_uvd = dense_to_joints(dense, sample.image, kernel_size)
        center_z, cube_z = sample.center_xyz[:, 2], sample.cube[:, 2]
        batches.append(crop_to_uvd(joint_uvd, center_z, cube_z, sample.M, loader.dataset.img_size))
    joint_uvd = torch.cat(batches).double().cpu().numpy()
    finite = np.isfinite(joint_uvd).all((1, 2))
    if not finite.all():
        name = loader.dataset.index.frame_path(int(np.argmin(finite)))
        raise ValueError(
            f"The network's joints for {name} are not finite: "
            f"the weights are damaged or {precision} overflows."
        )
    return joint_uvd
