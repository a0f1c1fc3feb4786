"""Whether a network's answer can be a hand: a network answers for every crop, also for a wall."""

import numpy as np

from dataloader.crop import Crop
from util.camera import Camera

HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck


def surface_area(crop: Crop, camera: Camera) -> float:
    """Area in mm² of what a crop shows, facing the camera."""
    readings = crop.image[crop.image > 0].astype(np.float64)
    return float((readings**2).sum() / (float(crop.M[0, 0]) ** 2 * camera.fx * camera.fy))


def is_plausible(confidence: np.ndarray, crop: Crop, camera: Camera, min_confidence: float) -> bool:
    """Whether what a network answered for a crop is taken for a hand.

    Args:
        confidence: (J,) of `joint_confidence`.
        crop: what the network saw.
        camera: that took it.
        min_confidence: that the joints must have in the mean.
    """
    return float(confidence.mean()) >= min_confidence and surface_area(crop, camera) >= HAND_AREA
