"""Cut the cube around the hand's centre out of a depth frame (SPEC §2, §4). Pure functions on arrays."""

from typing import NamedTuple

import numpy as np

from util.camera import Camera


class Crop(NamedTuple):
    """A square cut around the hand, still in millimetres.

    `image` (S, S) float32, mm, 0 where nothing was measured; `center_xyz` (3,) and `cube` (3,) mm,
    float64; `M` (3, 3) float32, full-frame pixels -> crop pixels.
    """

    image: np.ndarray
    center_xyz: np.ndarray
    cube: np.ndarray
    M: np.ndarray


class Window(NamedTuple):
    """Where the cube's front face lies in the frame and how it is laid into the crop; all (2,) u, v.

    `start`, `end`: int, full-frame pixels, may lie outside the frame. `size`: int, edges of the
    resized window. `offset`: int, its place in the crop. `M` as in `Crop`.
    """

    start: np.ndarray
    end: np.ndarray
    size: np.ndarray
    offset: np.ndarray
    M: np.ndarray


def crop_hand(
    depth: np.ndarray, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, img_size: int
) -> Crop:
    """Cut, limit in depth, and resize to a square (SPEC §2).

    Args:
        depth: (H, W) depth frame, mm, 0 where nothing was measured; any integer or float dtype.
        camera: the camera that took it.
        center_xyz: (3,) centre of the hand, mm.
        cube: (3,) edge lengths of the cube around it, mm.
        img_size: S, edge of the crop in pixels.

    Raises:
        ValueError: if the window does not touch the frame or is smaller than a pixel.
    """
    window = find_window(camera, center_xyz, cube, img_size)
    height, width = depth.shape
    if (window.end <= 0).any() or (window.start >= (width, height)).any():
        xyz = ", ".join(f"{value:.1f}" for value in center_xyz)
        raise ValueError(f"the crop window around the centre ({xyz} mm) misses the {width}×{height} frame")
    # The nearest source pixel of every crop pixel, instead of cutting a window and resizing it:
    # the window of a hand close to the camera can be larger than the frame.
    columns = _nearest_sources(window, axis=0)
    rows = _nearest_sources(window, axis=1)
    inside_u = (columns >= 0) & (columns < width)
    inside_v = (rows >= 0) & (rows < height)
    image = np.zeros((img_size, img_size), np.float32)
    cut = depth[np.ix_(rows[inside_v], columns[inside_u])].astype(np.float32)
    target = np.ix_(
        np.flatnonzero(inside_v) + window.offset[1],
        np.flatnonzero(inside_u) + window.offset[0],
    )
    image[target] = limit_depth(cut, center_xyz[2], cube[2])
    return Crop(image, np.asarray(center_xyz, np.float64), np.asarray(cube, np.float64), window.M)


def find_window(camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, img_size: int) -> Window:
    """Project the cube's edges at the centre's depth and fit them into the crop (SPEC §2.1, §2.3, §2.4)."""
    center_uvd = camera.xyz_to_uvd(np.asarray(center_xyz, np.float64))
    half = np.asarray(cube[:2]) / 2 / center_uvd[2] * (camera.fx, camera.fy)
    start = np.trunc(center_uvd[:2] - half + 0.5).astype(np.int64)
    end = np.trunc(center_uvd[:2] + half + 0.5).astype(np.int64)
    edges = end - start
    if edges.min() < 1:
        raise ValueError(
            f"the crop window is smaller than a pixel: a cube of {cube[0]:.0f} mm at {center_xyz[2]:.0f} mm "
            "from the camera; check that the centre is in millimetres"
        )
    scale = (img_size / edges).min()
    # A window with a very long edge would leave nothing of the short one.
    size = np.maximum((edges * scale).astype(np.int64), 1)
    offset = ((img_size - size) / 2).astype(np.int64)

    M = np.eye(3)
    M[0, 0] = M[1, 1] = scale
    M[:2, 2] = np.floor(img_size / 2 - size / 2) - scale * start
    return Window(start, end, size, offset, M.astype(np.float32))


def limit_depth(image: np.ndarray, center_z: float, cube_z: float) -> np.ndarray:
    """Nearer than the cube: onto its front face. Beyond it: no reading (SPEC §2.2). mm in, mm out."""
    near, far = center_z - cube_z / 2, center_z + cube_z / 2
    image = np.where((image < near) & (image != 0), np.float32(near), image)
    image[image > far] = 0
    return image


def normalize_depth(image: np.ndarray, farthest: float, center_z: float, cube_z: float) -> np.ndarray:
    """Map depth to [-1, 1] with the background at +1 (SPEC §4).

    Args:
        image: (S, S) crop, mm.
        farthest: maximum of the crop before augmentation, mm; pixels that have it become background.
        center_z: mm.
        cube_z: mm.
    """
    half = cube_z / 2
    background = (image == farthest) | (image == 0)
    image = np.where(background, np.float32(center_z + half), image)
    return ((np.clip(image, center_z - half, center_z + half) - center_z) / half).astype(np.float32)


def _nearest_sources(window: Window, axis: int) -> np.ndarray:
    """Full-frame pixel that each pixel of the resized window shows: nearest, as OpenCV resizes."""
    size = window.size[axis]
    step = 1.0 / (size / (window.end[axis] - window.start[axis]))
    return window.start[axis] + np.floor(np.arange(size) * step).astype(np.int64)
