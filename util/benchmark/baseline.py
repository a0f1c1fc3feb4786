"""The plain way of each work that the benchmark measures ours against: its formula as it is written down."""

import cv2
import numpy as np
import torch
from torch import Tensor

from util.camera import Camera
from util.metrics import Metrics


def joints_of_dense(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """docs/spec.md §6 with coordinate maps tiled per joint; arguments and result of `dense_to_joints`."""
    batch, joints, size = len(dense), dense.shape[1] // 4, dense.shape[-1]
    pixel = tiled_pixels(image, size, joints).view(batch, joints, 3, -1)
    mask = (depth_of(image, size) < 0.99).float()
    direction = (dense[:, : 3 * joints] * mask).view(batch, joints, 3, -1)
    closeness = (dense[:, 3 * joints :] * mask).view(batch, joints, -1)
    weight = torch.softmax(30 * closeness, dim=-1)
    distance = kernel_size - kernel_size * closeness
    return (weight[:, :, None] * (direction * distance[:, :, None] + pixel)).sum(-1)


def dense_of_joints(joint_uvd: Tensor, image: Tensor, kernel_size: float, feature_size: int) -> Tensor:
    """docs/spec.md §5 with coordinate maps tiled per joint; arguments and result of `joints_to_dense`."""
    batch, joints, size = *joint_uvd.shape[:2], feature_size
    pixel = tiled_pixels(image, size, joints).view(batch, joints, 3, size, size)
    offset = joint_uvd[..., None, None].repeat(1, 1, 1, size, size) - pixel
    distance = torch.sqrt((offset**2).sum(2) + 1e-8)
    closeness = (kernel_size - distance) / kernel_size
    mask = (closeness >= 0).float() * (depth_of(image, size) < 0.99).float()
    direction = offset / distance[:, :, None] * mask[:, :, None]
    return torch.cat([direction.view(batch, -1, size, size), closeness * mask], dim=1)


def tiled_pixels(image: Tensor, size: int, joints: int) -> Tensor:
    """(B, 3J, F, F): every pixel's uvd, once for each joint."""
    centers = (torch.arange(size, device=image.device) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(centers, centers, indexing="ij")
    maps = torch.stack([u, v]).repeat(len(image), 1, 1, 1)
    return torch.cat([maps, depth_of(image, size)], dim=1).repeat(1, joints, 1, 1)


def depth_of(image: Tensor, size: int) -> Tensor:
    """(B, 1, F, F): depth as the maps see it."""
    return torch.nn.functional.interpolate(image, size=(size, size), mode="nearest")


def metrics(predicted_xyz: np.ndarray, true_xyz: np.ndarray) -> Metrics:
    """docs/spec.md §10, frame by frame: (N, J, 3) mm."""
    frames, joints, _ = true_xyz.shape
    thresholds, limits = np.linspace(0, 50, 100), np.arange(81)
    errors = np.empty((frames, joints))
    pck, worst, mean = np.zeros(100), np.zeros(81), np.zeros(81)
    for i in range(frames):
        errors[i] = np.sqrt(((predicted_xyz[i] - true_xyz[i]) ** 2).sum(-1))
        pck += (errors[i][:, None] <= thresholds).mean(0) / frames
        worst += (errors[i].max() <= limits) / frames
        mean += (errors[i].mean() <= limits) / frames
    per_joint, median = errors.mean(0), np.median(errors, axis=0).mean()
    return Metrics(
        frames, per_joint.mean(), median, np.trapezoid(pck, thresholds) / 50, per_joint, pck, worst, mean
    )


def crop(
    depth: np.ndarray, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, size: int
) -> np.ndarray:
    """docs/spec.md §2 and §4: pad the window, limit it, resize it, lay it into a square, normalise."""
    u, v, d = camera.xyz_to_uvd(np.asarray(center_xyz, np.float64))
    half_u, half_v = cube[0] / 2 / d * camera.fx, cube[1] / 2 / d * camera.fy
    left, right = int(u - half_u + 0.5), int(u + half_u + 0.5)
    top, bottom = int(v - half_v + 0.5), int(v + half_v + 0.5)
    near, far = d - cube[2] / 2, d + cube[2] / 2
    height, width = depth.shape
    window = depth[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)].astype(np.float32)
    outside = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)))
    window = np.pad(window, outside)
    window[(window < near) & (window != 0)] = near
    window[window > far] = 0
    scale = min(size / (right - left), size / (bottom - top))
    columns, rows = int((right - left) * scale), int((bottom - top) * scale)
    resized = cv2.resize(window, (columns, rows), interpolation=cv2.INTER_NEAREST)
    image = np.zeros((size, size), np.float32)
    top, left = (size - rows) // 2, (size - columns) // 2
    image[top : top + rows, left : left + columns] = resized
    image[(image == image.max()) | (image == 0)] = far
    return (np.clip(image, near, far) - d) / (cube[2] / 2)
