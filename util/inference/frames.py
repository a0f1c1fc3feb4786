"""Where a frame enters: in millimetres, without noise, its camera and what else was passed checked."""

import warnings

import cv2
import numpy as np

from util import UserError
from util.camera import Camera, to_millimetres

# mm that a filtered pixel is wide at its depth, at most. On 60 clean frames, thinned by 1, 2 and 3, the
# filter costs resnet_18 less than 0.1 mm below 2, 0.1 from 2 to 2.5, 0.3 from 2.5 to 3 and 0.5 beyond; with
# 5 mm of noise an error of 12.9 mm becomes 7.0, with one pixel in ten lost 15.9 become 6.7.
WIDEST_PIXEL = 2.0
FLYING = 15.0  # mm from both the nearest and the farthest of its neighbours: on neither's surface
# Beyond these, intrinsics are another camera's: an Azure's middle lies 0.08 of the height off.
MOST_ASPECT, MOST_OFF = 1.1, 0.09


def enter(depth: np.ndarray, camera: Camera, depth_scale: float, denoise: bool) -> np.ndarray:
    """A camera's frame as this room takes it: (H, W) float32 mm, 0 for no reading.

    Args:
        depth: (H, W), as for `to_millimetres`; what a masked array masks is no reading.
        camera: that took it; checked, with a warning where it cannot be of this frame.
        depth_scale: mm a unit of `depth`.
        denoise: whether to filter it.
    """
    if not isinstance(camera, Camera):
        raise UserError(
            f"camera is a {type(camera).__name__}: pass a util.camera.Camera(fx, fy, cx, cy), "
            "which a row of CAMERAS has as its .camera."
        )
    camera.check()
    if isinstance(depth, np.ma.MaskedArray):
        depth = depth.filled(0)
    frame = to_millimetres(depth, depth_scale)
    height, width = frame.shape
    off = abs(camera.cx / width - 0.5), abs(camera.cy / height - 0.5)
    if not 1 / MOST_ASPECT < camera.fx / camera.fy < MOST_ASPECT or max(off) > MOST_OFF:
        warnings.warn(
            f"{camera} is hardly that of frames of {width}×{height} pixels: fx and fy are nearly equal, "
            "cx, cy lie near the middle.",
            stacklevel=2,
        )
    return denoised(frame, camera) if denoise else frame


def denoised(frame: np.ndarray, camera: Camera) -> np.ndarray:
    """A frame (H, W) float32 mm without noise of single pixels, and without flying pixels.

    These lie between two surfaces, on neither, where one pixel sees both. What is coarser than
    WIDEST_PIXEL stays as it is.
    """
    median = cv2.medianBlur(frame, 3)
    nearest, farthest = cv2.erode(median, np.ones((3, 3))), cv2.dilate(median, np.ones((3, 3)))
    flying = (median - nearest > FLYING) & (farthest - median > FLYING)
    fine = np.maximum(frame, median) <= WIDEST_PIXEL * camera.fx
    return np.where(fine, np.where(flying, 0, median), frame)


def check_max_hands(max_hands: int) -> None:
    """Raise UserError where it is no number of hands."""
    if not isinstance(max_hands, int | np.integer) or max_hands < 1:
        raise UserError(f"max_hands is {max_hands}: it must be at least 1, and a whole number.")


def checked_center(center: np.ndarray | None) -> np.ndarray | None:
    """(3,) float64 mm; None where the hand is to be found."""
    if center is None:
        return None
    center = np.asarray(center, np.float64)
    if center.shape != (3,) or not np.isfinite(center).all() or center[2] <= 0:
        raise UserError(f"center is {center}: expected x, y, z in mm with z above 0.")
    return center
