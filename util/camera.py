"""Pinhole camera: camera space in millimetres <-> image space in pixels and millimetres."""

from typing import NamedTuple, TypeVar

import numpy as np
import torch

Points = TypeVar("Points", np.ndarray, torch.Tensor)


class Camera(NamedTuple):
    """Intrinsics of a depth camera (SPEC §1).

    `u = fx * x / z + cx` and `v = flip * fy * y / z + cy`, in pixels of the full frame;
    `flip` is -1 where the data set's y axis points up, +1 where it points down.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    flip: int = 1

    def xyz_to_uvd(self, xyz: Points) -> Points:
        """Project points.

        Args:
            xyz: (..., 3) camera space, mm, z > 0; NumPy array or tensor.

        Returns:
            (..., 3) u and v in pixels, d = z in mm; same type and dtype as the input.
        """
        x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
        return _stack(self.fx * x / z + self.cx, self.flip * self.fy * y / z + self.cy, z)

    def uvd_to_xyz(self, uvd: Points) -> Points:
        """Back-project points, the inverse of `xyz_to_uvd`.

        Args:
            uvd: (..., 3) u and v in pixels, d in mm; NumPy array or tensor.

        Returns:
            (..., 3) camera space, mm; same type and dtype as the input.
        """
        u, v, d = uvd[..., 0], uvd[..., 1], uvd[..., 2]
        return _stack((u - self.cx) * d / self.fx, self.flip * (v - self.cy) * d / self.fy, d)


def _stack(*components: Points) -> Points:
    if isinstance(components[0], torch.Tensor):
        return torch.stack(components, -1)
    # What np.stack does, in a fifth of its time: a loader's sample does it six times.
    stacked = np.empty((*components[0].shape, len(components)), np.result_type(*components))
    for i, component in enumerate(components):
        stacked[..., i] = component
    return stacked


def uvd_to_crop(uvd: Points, center_z: Points, cube_z: Points, M: Points, img_size: int) -> Points:
    """Full-frame uvd -> normalised uvd of the crop (SPEC §1).

    Args:
        uvd: (..., J, 3) pixels and mm; NumPy array or tensor.
        center_z: (...,) depth of the crop's centre, mm.
        cube_z: (...,) depth of the cube, mm.
        M: (..., 3, 3) full-frame pixels -> crop pixels.
        img_size: S, edge of the crop in pixels.
    """
    u, v = _apply_to_pixels(M, uvd)
    d = (uvd[..., 2] - center_z[..., None]) / (cube_z[..., None] / 2)
    return _stack(u / (img_size / 2) - 1, v / (img_size / 2) - 1, d)


def crop_to_uvd(uvd: Points, center_z: Points, cube_z: Points, M: Points, img_size: int) -> Points:
    """Normalised uvd of the crop -> full-frame uvd, the inverse of `uvd_to_crop` (SPEC §10)."""
    # inv would make the processor wait for the GPU to hear that M, a crop's, is not singular.
    inverse = torch.linalg.inv_ex(M).inverse if isinstance(M, torch.Tensor) else np.linalg.inv(M)
    pixels = (uvd[..., :2] + 1) * (img_size / 2)
    u, v = _apply_to_pixels(inverse, pixels)
    d = uvd[..., 2] * (cube_z[..., None] / 2) + center_z[..., None]
    return _stack(u, v, d)


def _apply_to_pixels(M: Points, pixels: Points) -> tuple[Points, Points]:
    """Affine map of (..., J, 2 or more) pixels."""
    u, v, M = pixels[..., 0], pixels[..., 1], M[..., None, :, :]
    return (
        M[..., 0, 0] * u + M[..., 0, 1] * v + M[..., 0, 2],
        M[..., 1, 0] * u + M[..., 1, 1] * v + M[..., 1, 2],
    )
