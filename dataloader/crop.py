"""Cut the cube around the hand out of a depth frame (docs/spec.md §2, §4). Pure functions on arrays."""

from math import floor
from typing import NamedTuple

import numpy as np

from util import UserError
from util.camera import Camera

FARTHEST_PIXEL = 2.0**40  # from the frame's corner; integers hold it


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
    """Where the cube's front face lies in the frame and how it is laid into the crop; all u, v.

    `start`, `end`: full-frame pixels, may lie outside the frame. `size`: edges of the resized
    window. `offset`: its place in the crop. `M` as in `Crop`.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int]
    M: np.ndarray


def crop_hand(
    depth: np.ndarray, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, img_size: int
) -> Crop:
    """Cut, limit in depth, and resize to a square (docs/spec.md §2).

    Args:
        depth: (H, W) frame of `camera`, mm, 0 where nothing was measured; any integer or float dtype.
        center_xyz: (3,) centre of the hand, mm.
        cube: (3,) edge lengths of the cube around it, mm.
        img_size: S, edge of the crop in pixels.
    """
    return finish_crop(cut_window(depth, camera, center_xyz, cube, img_size), camera, center_xyz, cube)


def cut_window(
    depth: np.ndarray, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, img_size: int
) -> np.ndarray:
    """All that a crop, and so any augmentation of it, reads of a frame: (S, S), as stored, 0 outside.

    Arguments are those of `crop_hand`.
    """
    window = find_window(camera, center_xyz, cube, img_size)
    height, width = depth.shape
    if min(window.end) <= 0 or window.start[0] >= width or window.start[1] >= height:
        xyz = ", ".join(f"{value:.1f}" for value in center_xyz)
        raise UserError(f"the crop window around the centre ({xyz} mm) misses the {width}×{height} frame")
    # The nearest source pixel of every crop pixel, instead of cutting a window and resizing it:
    # the window of a hand close to the camera can be larger than the frame.
    columns, to_columns = _nearest_sources(window, width, axis=0)
    rows, to_rows = _nearest_sources(window, height, axis=1)
    cut = np.zeros((img_size, img_size), depth.dtype)
    cut[to_rows, to_columns] = depth[rows].take(columns, axis=1)
    return cut


def finish_crop(cut: np.ndarray, camera: Camera, center_xyz: np.ndarray, cube: np.ndarray) -> Crop:
    """From what `cut_window` read with the same arguments to the crop: the limits of the cube's depth."""
    center_xyz, cube = np.asarray(center_xyz, np.float64), np.asarray(cube, np.float64)
    M = find_window(camera, center_xyz, cube, cut.shape[0]).M
    return Crop(limit_depth(cut.astype(np.float32), center_xyz[2], cube[2]), center_xyz, cube, M)


def network_input(crop: Crop, farthest: float | None = None) -> np.ndarray:
    """What the network sees of a crop: depth in [-1, 1], with the background at +1 (docs/spec.md §4).

    Args:
        crop: what was cut, and maybe augmented.
        farthest: maximum of the crop before augmentation, mm; pixels that have it become background.
            None: the crop was not augmented.

    Returns (1, S, S) float32.
    """
    center_z, half = crop.center_xyz[2], crop.cube[2] / 2
    farthest = crop.image.max() if farthest is None else farthest
    background = (crop.image == farthest) | (crop.image == 0)
    depth = np.where(background, np.float32(center_z + half), crop.image) - center_z
    depth /= half
    return depth.astype(np.float32).clip(-1, 1)[None]


def find_window(camera: Camera, center_xyz: np.ndarray, cube: np.ndarray, img_size: int) -> Window:
    """Project the cube's edges at the centre's depth and fit them into the crop (docs/spec.md §2)."""
    # Plain numbers: with arrays of two entries a sample from the cache takes 17 % longer.
    if not center_xyz[2] > 0:
        raise UserError(f"the centre, z = {center_xyz[2]:.1f} mm, lies at or behind the camera")
    *center_uv, center_z = camera.xyz_to_uvd(np.asarray(center_xyz, np.float64)).tolist()
    start, end = [], []
    for center, edge, focal in zip(center_uv, cube, (camera.fx, camera.fy), strict=False):
        half = float(edge) / 2 / center_z * focal
        # Bounded, as a centre that all but touches the camera projects to infinity; NaN becomes the bound.
        start.append(int(min(FARTHEST_PIXEL, max(-FARTHEST_PIXEL, center - half + 0.5))))
        end.append(int(min(FARTHEST_PIXEL, max(-FARTHEST_PIXEL, center + half + 0.5))))
    edges = [stop - first for first, stop in zip(start, end, strict=True)]
    if min(edges) < 1:
        raise UserError(
            f"the crop window is smaller than a pixel: a cube of {cube[0]:.0f} mm at {center_xyz[2]:.0f} mm "
            "from the camera; check that the centre is in millimetres"
        )
    scale = min(img_size / edge for edge in edges)
    # A window with a very long edge would leave nothing of the short one.
    size = [max(int(edge * scale), 1) for edge in edges]
    offset = [int((img_size - edge) / 2) for edge in size]
    shift = [floor(img_size / 2 - edge / 2) - scale * first for edge, first in zip(size, start, strict=True)]
    M = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]], np.float32)
    return Window(tuple(start), tuple(end), tuple(size), tuple(offset), M)


def limit_depth(image: np.ndarray, center_z: float, cube_z: float) -> np.ndarray:
    """Nearer than the cube: onto its front face. Beyond it: no reading (docs/spec.md §2.2).

    `image` (..., W) float32 mm; `center_z`, `cube_z` mm. Returns another array of the same shape.
    """
    near, far = np.float32(center_z - cube_z / 2), np.float32(center_z + cube_z / 2)
    limited = image.clip(near, far)
    limited *= (image != 0) & (image <= far)
    return limited


def _nearest_sources(window: Window, edge: int, axis: int) -> tuple[np.ndarray, slice]:
    """Full-frame pixels that the pixels of the resized window show, nearest, as OpenCV resizes: those within
    the frame, whose extent along this axis is `edge`; and where they lie in the crop."""
    size = window.size[axis]
    step = 1.0 / (size / (window.end[axis] - window.start[axis]))
    sources = window.start[axis] + np.floor(np.arange(size) * step).astype(np.int64)
    # They ascend, so those within the frame are neighbours.
    first, stop = np.searchsorted(sources, (0, edge))
    return sources[first:stop], slice(window.offset[axis] + first, window.offset[axis] + stop)
