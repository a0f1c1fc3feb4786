"""Whether a network's answer can be a hand: a network answers for every crop, also for a wall."""

import numpy as np

from dataloader.crop import Crop
from util.camera import Camera

HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck
IN_FRONT = 25.0  # mm that a joint may lie before the surface that is seen there; more floats in the air
BEHIND = 60.0  # mm that it may lie behind; more is hidden by something else
ON_SURFACE = 0.5  # share of the joints that must be seen on the surface, or hidden by the hand itself
REACH = 2  # pixels of the crop to the nearest reading; silhouettes are ragged


def surface_area(crop: Crop, camera: Camera) -> float:
    """Area in mm² of what a crop shows, facing the camera."""
    readings = crop.image[crop.image > 0].astype(np.float64)
    return float((readings**2).sum() / (crop.M[0, 0] ** 2 * camera.fx * camera.fy))


def on_surface(joints_uvd: np.ndarray, crop: Crop) -> float:
    """Share of joints (J, 3), full-frame pixels and mm, that lie on or in what the crop shows."""
    M = crop.M.astype(np.float64)
    uv = np.rint(joints_uvd[:, :2] @ M[:2, :2].T + M[:2, 2])
    size = len(crop.image)
    near = 0
    for (u, v), depth in zip(uv, joints_uvd[:, 2], strict=True):
        if not (-REACH <= u < size + REACH and -REACH <= v < size + REACH):
            continue
        rows, columns = (slice(int(max(x - REACH, 0)), int(x) + REACH + 1) for x in (v, u))
        around = crop.image[rows, columns]
        behind = depth - around[around > 0]
        near += bool(((behind > -IN_FRONT) & (behind < BEHIND)).any())
    return near / len(joints_uvd)


def is_plausible(
    joints_uvd: np.ndarray, confidence: np.ndarray, crop: Crop, camera: Camera, min_confidence: float
) -> bool:
    """Whether what a network answered for a crop is taken for a hand.

    Args:
        joints_uvd: (J, 3) full-frame pixels and mm.
        confidence: (J,) of `joint_confidence`.
        crop: what the network saw.
        camera: that took it.
        min_confidence: that the joints must have in the mean.
    """
    return (
        float(confidence.mean()) >= min_confidence
        and surface_area(crop, camera) >= HAND_AREA
        and on_surface(joints_uvd, crop) >= ON_SURFACE
    )
