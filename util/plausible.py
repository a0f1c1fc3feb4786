"""Whether a network's answer can be a hand: a network answers for every crop, also for a wall."""

from typing import NamedTuple

import numpy as np

from dataloader.crop import Crop
from util.camera import Camera

HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck


class Confidence(NamedTuple):
    """Means of `joint_confidence`: below `least` there is no hand, below `sure` perhaps none."""

    least: float
    sure: float


# By family, as K of SPEC §5 scales it: of the shipped networks, 1 of 100 hands of the bundled test split has
# less than about `least`, 1 of 20 less than `sure`. On forearms, walls and bodies beside those hands,
# 6 of 100 were above resnet's `least`; hourglass_1 gave none of 32 more than 0.13.
CONFIDENCE = {"resnet": Confidence(0.55, 0.6), "hourglass": Confidence(0.3, 0.4)}


def usual_confidence(net: str) -> Confidence:
    """What tells hands from others for a network of that name."""
    return CONFIDENCE[net.partition("_")[0]]


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
