"""Where a frame enters: in millimetres, without noise, its camera checked."""

import warnings

import cv2
import numpy as np

from util import UserError
from util.camera import Camera, to_millimetres

WIDEST_PIXEL = 2.0  # mm at its depth; of coarser pixels, the filter takes more than the noise: fingers
FLYING = 15.0  # mm from both the nearest and the farthest of its neighbours: on neither's surface
# Beyond these, intrinsics are another camera's: an Azure's middle lies 0.08 of the height off.
MOST_ASPECT, MOST_OFF = 1.1, 0.09


def enter(depth: np.ndarray, camera: Camera, depth_scale: float, denoise: bool) -> np.ndarray:
    """A frame (H, W), `depth_scale` mm a unit -> float32 mm, 0 for no reading, filtered if `denoise`.
    A camera that can hardly be of this frame is warned of."""
    if not isinstance(camera, Camera):
        raise UserError(
            f"camera is a {type(camera).__name__}: pass a util.camera.Camera(fx, fy, cx, cy), "
            "which a row of CAMERAS has as its .camera."
        )
    camera.check()
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
    """A frame (H, W) float32 mm without noise of single pixels and without flying pixels, which see two
    surfaces and lie between them; pixels wider than WIDEST_PIXEL stay."""
    median = cv2.medianBlur(frame, 3)
    nearest, farthest = cv2.erode(median, np.ones((3, 3))), cv2.dilate(median, np.ones((3, 3)))
    flying = (median - nearest > FLYING) & (farthest - median > FLYING)
    fine = np.maximum(frame, median) <= WIDEST_PIXEL * camera.fx
    return np.where(fine, np.where(flying, 0, median), frame)
