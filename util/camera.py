"""Pinhole cameras: camera space in millimetres <-> image space in pixels and millimetres; models by name."""

from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np

from util import UserError

Points = TypeVar("Points")  # a NumPy array or a tensor
NO_READING = 65535  # what several cameras write beside 0
FARTHEST_MM = 10_000.0  # no depth camera measures a hand beyond
# Frames are rounded to this, far below any sensor's step, so that the same frame in metres and in
# millimetres is the same to the last bit.
STEP_MM = 1 / 64
ACROSS = (-1.0, 1.0, 1.0)  # times xyz: mirrored left to right


class Camera(NamedTuple):
    """Intrinsics of a depth camera (docs/spec.md §1).

    `u = fx * x / z + cx` and `v = flip * fy * y / z + cy`, in pixels of the full frame;
    `flip` is -1 where the y axis of camera space points up, +1 where it points down.
    Of N frames, each with a camera of its own, the others are arrays (N, 1), and points (N, J, 3).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    flip: int = 1

    def xyz_to_uvd(self, xyz: Points) -> Points:
        """Project (..., 3) camera space, mm, z > 0 -> (..., 3) u and v in pixels, d = z in mm."""
        x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
        return _stack(self.fx * x / z + self.cx, self.flip * self.fy * y / z + self.cy, z)

    def uvd_to_xyz(self, uvd: Points) -> Points:
        """Back-project (..., 3) pixels and mm -> (..., 3) camera space, mm: the inverse of `xyz_to_uvd`."""
        u, v, d = uvd[..., 0], uvd[..., 1], uvd[..., 2]
        return _stack((u - self.cx) * d / self.fx, self.flip * (v - self.cy) * d / self.fy, d)

    def of(self, frames: int | slice) -> "Camera":
        """The camera of one frame, or those of several: their own, or the one of all."""
        own = (value[frames] if isinstance(value, np.ndarray) else value for value in self)
        return Camera(*(value.item() if np.shape(value) == (1,) else value for value in own))

    def mirrored(self, width: int) -> "Camera":
        """The camera of the frame mirrored left to right: the first of `width` pixels becomes the last."""
        return self._replace(cx=width - 1 - self.cx)

    def check(self) -> None:
        """Refuse intrinsics that no camera has."""
        in_range = min(self.fx, self.fy) >= 1 and max(map(abs, self)) <= 1e5
        if not (np.isfinite(self).all() and in_range and self.flip in (-1, 1)):
            raise UserError(f"{self} cannot be: all are pixels, fx and fy above 1, but flip, 1 or -1.")


class DepthCamera(NamedTuple):
    """A model of camera: `camera`, intrinsics in pixels of a (height, width) `frame_size`; `depth_scale`,
    mm a unit of its frames."""

    camera: Camera
    frame_size: tuple[int, int]
    depth_scale: float = 1.0


# The data sets' cameras as published; of the others nominal values, from the maker or from the field of view.
# Two cameras of one model differ by a percent or two, and so will the joints: calibrate yours.
CAMERAS = {
    "nyu": DepthCamera(Camera(588.03, 587.07, 320, 240, flip=-1), (480, 640)),
    "icvl": DepthCamera(Camera(240.99, 240.96, 160, 120), (240, 320)),
    "msra": DepthCamera(Camera(241.42, 241.42, 160, 120, flip=-1), (240, 320)),
    "hands17": DepthCamera(Camera(475.065948, 475.065857, 315.944855, 245.287079), (480, 640)),
    "hands19": DepthCamera(Camera(475.065948, 475.065857, 315.944855, 245.287079), (480, 640)),
    # Nominal: each frame of these two is of one of several cameras, whose intrinsics come with it.
    "dexycb": DepthCamera(Camera(616.0, 616.0, 320, 240), (480, 640)),  # D415's colour camera, 43° high
    "ho3d": DepthCamera(Camera(616.0, 616.0, 320, 240), (480, 640), 0.12498664727900177),
    "kinect1": DepthCamera(Camera(571.26, 571.26, 320, 240), (480, 640)),  # Microsoft's nominal
    "kinect2": DepthCamera(Camera(365.46, 365.46, 254.88, 205.40), (424, 512)),  # libfreenect2's
    "azure": DepthCamera(Camera(504.0, 504.0, 320, 332), (576, 640)),  # narrow, unbinned
    "sr300": DepthCamera(Camera(475.07, 475.07, 315.94, 245.29), (480, 640), 0.125),
    "sr305": DepthCamera(Camera(476.01, 476.01, 313.68, 242.76), (480, 640), 0.125),
    "d405": DepthCamera(Camera(389.7, 389.7, 320, 240), (480, 640), 0.1),  # 58° high at 1280×720, data sheet
    "d415": DepthCamera(Camera(610.0, 610.0, 320, 240), (480, 640)),
    "d435": DepthCamera(Camera(384.0, 384.0, 320, 240), (480, 640)),
    "d455": DepthCamera(Camera(386.0, 386.0, 320, 240), (480, 640)),
    "l515": DepthCamera(Camera(460.0, 460.0, 320, 240), (480, 640), 0.25),
    "femto": DepthCamera(Camera(505.0, 505.0, 320, 332), (576, 640)),  # Bolt, Mega; OrbbecSDK #56
    "astra": DepthCamera(Camera(579.65, 579.65, 323.62, 236.54), (480, 640)),  # S; ros_astra_camera #147
    # The app gives the colour image's intrinsics (1920×1440): divide by 7.5. Depth is in metres.
    "iphone": DepthCamera(Camera(200.0, 200.0, 128, 96), (192, 256), 1000.0),
}

NYU_CAMERA = CAMERAS["nyu"].camera  # of the rendered hands, too


def parse_camera(text: str) -> DepthCamera | Camera:
    """A name of CAMERAS, or `fx,fy,cx,cy` in pixels."""
    if text in CAMERAS:
        return CAMERAS[text]
    try:
        fx, fy, cx, cy = (float(number) for number in text.split(","))
    except ValueError:
        known = ", ".join(CAMERAS)
        raise UserError(f"--camera {text!r} is neither one of {known} nor fx,fy,cx,cy in pixels.") from None
    camera = Camera(fx, fy, cx, cy)
    camera.check()
    return camera


def scale_camera(known: DepthCamera, frame_size: tuple[int, int]) -> Camera:
    """The intrinsics for frames of another resolution, (height, width), of the same field of view.

    Frames of another shape were cut, and nobody knows where: they are refused.
    """
    (height, width), (rows, columns) = known.frame_size, frame_size
    scale = columns / width
    if abs(rows - height * scale) > 1:
        frames = f"The frames have {columns}×{rows} pixels, the camera's intrinsics are for {width}×{height}"
        raise UserError(f"{frames}: pass --camera fx,fy,cx,cy for these frames.")
    fx, fy, cx, cy, flip = known.camera
    # Pixel i is centred at i: its edges, which scale, lie half a pixel off.
    return Camera(fx * scale, fy * scale, (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5, flip)


def to_millimetres(depth: np.ndarray, depth_scale: float = 1.0) -> np.ndarray:
    """A camera's frame (H, W), of which a unit is `depth_scale` mm -> (H, W) float32 mm, 0 for no reading.

    NaN, infinity, 0, 65535 and below 0 are no readings.
    """
    if not (isinstance(depth, np.ndarray) and depth.ndim == 2 and depth.size and depth.dtype.kind in "fiu"):
        shape, holds = getattr(depth, "shape", "none"), getattr(depth, "dtype", type(depth).__name__)
        found = f"this one has shape {shape} and holds {holds}"
        raise UserError(f"A depth frame is a NumPy array (H, W) of integers or floats, {found}.")
    if not 0 < depth_scale < np.inf:
        raise UserError(f"depth_scale is {depth_scale}: it is the mm of one unit, so positive and finite.")
    whole = depth.dtype.kind in "iu" and depth_scale == 1  # float32 holds them
    depth = np.ma.filled(depth, 0).astype(np.float32 if whole else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        depth_mm = depth if whole else np.rint(depth * (depth_scale / STEP_MM)) * STEP_MM
        measured = (depth > 0) & (depth != NO_READING) & (depth_mm < FARTHEST_MM)
    return np.where(measured, depth_mm, 0).astype(np.float32, copy=False)


def uvd_to_crop(uvd: Points, center_z: Points, cube_z: Points, M: Points, img_size: int) -> Points:
    """Full-frame uvd (..., J, 3), pixels and mm -> normalised uvd of the crop (docs/spec.md §1).

    `center_z`, `cube_z` (...,): depths of the crop's centre, and of its cube, mm; `M` (..., 3, 3): full-frame
    pixels -> crop pixels; `img_size`: S, edge of the crop in pixels. Arrays or tensors.
    """
    u, v = _apply_to_pixels(M, uvd)
    d = (uvd[..., 2] - center_z[..., None]) / (cube_z[..., None] / 2)
    return _stack(u / (img_size / 2) - 1, v / (img_size / 2) - 1, d)


def crop_to_uvd(uvd: Points, center_z: Points, cube_z: Points, M: Points, img_size: int) -> Points:
    """Normalised uvd of the crop -> full-frame uvd, the inverse of `uvd_to_crop` (docs/spec.md §10)."""
    library = _library(M)
    # PyTorch's inv would wait for the GPU to hear that M, a crop's, is not singular.
    inverse = library.linalg.inv(M) if library is np else library.linalg.inv_ex(M).inverse
    u, v = _apply_to_pixels(inverse, (uvd[..., :2] + 1) * (img_size / 2))
    return _stack(u, v, uvd[..., 2] * (cube_z[..., None] / 2) + center_z[..., None])


def _apply_to_pixels(M: Points, pixels: Points) -> tuple[Points, Points]:
    """Affine map of (..., J, 2 or more) pixels."""
    u, v, M = pixels[..., 0], pixels[..., 1], M[..., None, :, :]
    return tuple(M[..., row, 0] * u + M[..., row, 1] * v + M[..., row, 2] for row in (0, 1))


def _stack(*components: Points) -> Points:
    return _library(components[0]).stack(components, -1)


def _library(points: Points) -> ModuleType:
    """NumPy, or where a tensor is at hand PyTorch: without one, the commands' --help does not wait for it."""
    if isinstance(points, np.ndarray | np.generic):
        return np
    import torch

    return torch
