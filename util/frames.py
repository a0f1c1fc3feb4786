"""Depth frames of any camera: into millimetres, and mirrored."""

import numpy as np

from util.camera import Camera

NO_READING = 65535  # what several cameras write beside 0
FARTHEST = 10_000.0  # mm; no depth camera measures a hand beyond
# Frames are rounded to this, far below any sensor's step, so that the same frame in metres and in
# millimetres is the same to the last bit.
STEP = 1 / 64  # mm


def in_millimetres(depth: np.ndarray, depth_scale: float = 1.0) -> np.ndarray:
    """A camera's frame -> (H, W) float32 mm, 0 where nothing was measured.

    Args:
        depth: (H, W) integers or floats; NaN, infinity, 0, 65535 and below 0 are no readings.
        depth_scale: mm a unit of `depth`.

    Raises:
        ValueError: for another shape or dtype, or a scale that is not positive.
    """
    if not isinstance(depth, np.ndarray):
        raise ValueError(f"A depth frame is a NumPy array (H, W), this is a {type(depth).__name__}.")
    if depth.ndim != 2 or not depth.size or depth.dtype.kind not in "fiu":
        raise ValueError(
            f"A depth frame has shape (H, W) and holds integers or floats, "
            f"this one has shape {depth.shape} and holds {depth.dtype}."
        )
    if not 0 < depth_scale < np.inf:
        raise ValueError(f"depth_scale is {depth_scale}: it is the mm of one unit, so positive and finite.")
    depth = depth.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        depth_mm = np.rint(depth * (depth_scale / STEP)) * STEP
        measured = (depth > 0) & (depth != NO_READING) & (depth_mm < FARTHEST)
    return np.where(measured, depth_mm, 0).astype(np.float32)


def check_camera(camera: Camera) -> None:
    """Raise a ValueError for intrinsics that no camera has."""
    if not (np.isfinite(camera).all() and camera.fx > 0 and camera.fy > 0 and camera.flip in (-1, 1)):
        raise ValueError(f"{camera} cannot be: fx and fy are above 0, all are finite, flip is 1 or -1.")


def mirrored_camera(camera: Camera, width: int) -> Camera:
    """The camera of a frame mirrored left to right: the first pixel becomes the last."""
    return camera._replace(cx=width - 1 - camera.cx)
