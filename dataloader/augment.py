"""The augmentations of training (docs/spec.md §3): translate, scale, rotate, none. Functions on arrays."""

import sys
from typing import Literal, NamedTuple

import cv2
import numpy as np

from dataloader.crop import Crop, find_window, limit_depth
from util.camera import Camera

# The loader's workers are the parallelism. Threads of OpenCV's own would also not survive into a
# forked worker: it would wait for them forever.
cv2.setNumThreads(0)

if int(cv2.__version__.partition(".")[0]) < 5:
    print(
        f"warning: OpenCV {cv2.__version__} rounds warps otherwise than the released code's reference: "
        "pip install 'opencv-python>=5' (an opencv-python-headless beside it may hide it).",
        file=sys.stderr,
    )


class Augmentation(NamedTuple):
    """What was drawn for one sample: one of the three, the others None.

    `translate_mm` (3,) mm in xyz; `scale` factor of the cube; `rotate_deg` in-plane angle, degrees;
    `blend`: whether a rotation mixes neighbouring depths.
    """

    translate_mm: np.ndarray | None = None
    scale: float | None = None
    rotate_deg: float | None = None
    blend: bool = True


def draw_augmentation(
    rng: np.random.Generator,
    strength: tuple[float, float, float] = (10.0, 0.1, 180.0),
    rotation: Literal["linear", "nearest", "both"] = "linear",
) -> Augmentation:
    """Draw one of {translate, scale, rotate, none}, each with probability 1/4.

    Args:
        rng: the only source of randomness.
        strength: standard deviation of the translation, mm, and of the scale; largest rotation, degrees.
        rotation: linear blends neighbouring depths, as released; nearest does not; both: one in two each.
    """
    translate_mm, scale, rotate_deg = strength
    match rng.integers(4):
        case 0:
            return Augmentation(translate_mm=rng.normal(0.0, translate_mm, size=3))
        case 1:
            return Augmentation(scale=abs(1.0 + scale * rng.standard_normal()))
        case 2:
            degrees = rng.uniform(-rotate_deg, rotate_deg)
            blend = rotation == "linear" or (rotation == "both" and rng.random() < 0.5)
            return Augmentation(rotate_deg=degrees, blend=blend)
        case _:
            return Augmentation()


def apply_augmentation(
    drawn: Augmentation, crop: Crop, joint_uvd: np.ndarray, camera: Camera
) -> tuple[Crop, np.ndarray]:
    """Change a crop of `camera`'s frame as drawn, and move the joints (J, 3), full-frame uvd, with it."""
    if drawn.translate_mm is not None:
        return recrop(crop, camera, crop.center_xyz + drawn.translate_mm, crop.cube), joint_uvd
    if drawn.scale is not None:
        return recrop(crop, camera, crop.center_xyz, crop.cube * drawn.scale), joint_uvd
    if drawn.rotate_deg is not None:
        return rotate(crop, joint_uvd, camera, drawn.rotate_deg, drawn.blend)
    return crop, joint_uvd


def recrop(crop: Crop, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray) -> Crop:
    """Warp the crop to another centre (3,) or cube (3,), mm, as if the frame had been cut there."""
    size = crop.image.shape[0]
    M = find_window(camera, center_xyz, cube, size).M
    image = cv2.warpPerspective(crop.image, M @ np.linalg.inv(crop.M), (size, size), flags=cv2.INTER_LINEAR)
    # Interpolation against "no reading" invents depths between 0 and the hand: cut them off.
    measured = crop.image[crop.image > 0]
    image[image < (measured.min() if measured.size else 0) - 1] = 0
    return Crop(limit_depth(image, center_xyz[2], cube[2]), center_xyz, cube, M)


def rotate(
    crop: Crop, joint_uvd: np.ndarray, camera: Camera, degrees: float, blend: bool = True
) -> tuple[Crop, np.ndarray]:
    """Rotate the crop about its middle and the joints about the centre's pixel; M stays.

    `blend`: as released, neighbours are mixed, also the hand with what was not measured: about 15 % of a
    turned hand's pixels then lie on a false near face (docs/spec.md §3).
    """
    size = crop.image.shape[0]
    # OpenCV counts angles the other way round: its y axis points down.
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), -degrees, 1.0)
    flags = cv2.INTER_LINEAR if blend else cv2.INTER_NEAREST
    image = cv2.warpAffine(crop.image, turn, (size, size), flags=flags)

    center_uv = camera.xyz_to_uvd(crop.center_xyz)[:2]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotated = joint_uvd.copy()
    rotated[:, :2] = (joint_uvd[:, :2] - center_uv) @ np.array([[cos, sin], [-sin, cos]]) + center_uv
    return crop._replace(image=image), rotated
