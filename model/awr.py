"""Adaptive weighting regression: the method of the paper, in two functions.

`joints_to_dense` says what the network learns: for every pixel and joint a unit vector towards
the joint and a closeness. `dense_to_joints` turns such maps back into joints: every pixel votes
for `pixel + direction * distance`, and a softmax of the closeness weights the votes. The second
is differentiable, so the joints supervise the dense maps end to end.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Sharpness of the adaptive weights. Closeness lies in [0, 1], so a pixel on the joint outweighs
# one at the kernel's rim by e^30: the weights gather around the joint without being an argmax.
SOFTMAX_TEMPERATURE = 30.0

# Background is +1 after normalisation; what is nearer than this is hand and may vote.
FOREGROUND_DEPTH = 0.99


def joints_to_dense(joint_uvd: Tensor, image: Tensor, kernel_size: float, feature_size: int) -> Tensor:
    """Encode joints as direction and closeness maps (SPEC §5, paper §3.1).

    Args:
        joint_uvd: (B, J, 3) normalised uvd.
        image: (B, 1, S, S) normalised depth crop, S a multiple of F.
        kernel_size: K, the distance in normalised units at which closeness reaches 0.
        feature_size: F, edge of the maps.

    Returns:
        (B, 4J, F, F) float32: 3J direction channels, joint-major (u, v, d of joint 0, then of
        joint 1, ...), then J closeness channels. A target: no gradient flows through it.
    """
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        u, v, d = _pixel_uvd(image, feature_size)
        joint_u, joint_v, joint_d = joint_uvd.float()[..., None, None].unbind(2)
        # u differs along columns only and v along rows only: these two stay (B, J, F) in size.
        offset_u, offset_v = joint_u - u, joint_v - v
        offset_d = joint_d - d
        distance = (offset_u.square() + (offset_v.square() + 1e-8)).addcmul_(offset_d, offset_d).sqrt_()
        within_kernel = distance <= kernel_size
        foreground = (d < FOREGROUND_DEPTH).float()

        batch, joints = joint_uvd.shape[:2]
        dense = image.new_empty(batch, 4 * joints, feature_size, feature_size, dtype=torch.float32)
        closeness = torch.mul(distance, -1 / kernel_size, out=dense[:, 3 * joints :])
        closeness.add_(1).clamp_min_(0).mul_(foreground)
        scale = torch.div(foreground, distance, out=distance).mul_(within_kernel)
        torch.mul(offset_u, scale, out=dense[:, 0 : 3 * joints : 3])
        torch.mul(offset_v, scale, out=dense[:, 1 : 3 * joints : 3])
        torch.mul(offset_d, scale, out=dense[:, 2 : 3 * joints : 3])
        return dense


def dense_to_joints(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """Integrate dense maps into joints with adaptive weights (SPEC §6, paper §3.2).

    Args:
        dense: (B, 4J, F, F) direction and closeness maps, any float dtype.
        image: (B, 1, S, S) normalised depth crop.
        kernel_size: K that the network was trained with.

    Returns:
        (B, J, 3) float32 normalised uvd, differentiable in `dense`.
    """
    joints = dense.shape[1] // 4
    # Half precision is enough for the network, not for the sum over F² pixels.
    with torch.autocast(dense.device.type, enabled=False):
        u, v, d = _pixel_uvd(image, dense.shape[-1])
        pixel = torch.cat([u.expand_as(d), v.expand_as(d), d], dim=1).flatten(2)  # (B, 3, F²)
        foreground = (d < FOREGROUND_DEPTH).float().flatten(2)  # (B, 1, F²)
        direction = dense[:, : 3 * joints].float().flatten(2)  # (B, 3J, F²)
        closeness = dense[:, 3 * joints :].float().flatten(2) * foreground  # (B, J, F²)

        weight = torch.softmax(SOFTMAX_TEMPERATURE * closeness, dim=-1)
        reach = weight * (foreground - closeness)  # times K: weight · distance, 0 on background
        # One product of all directions with all reaches reads the maps once and copies nothing;
        # those that belong together, joint i with joint i, lie on its diagonal.
        offset = (direction @ reach.transpose(1, 2)).unflatten(1, (joints, 3)).diagonal(dim1=1, dim2=3)
        return weight @ pixel.transpose(1, 2) + kernel_size * offset.transpose(1, 2)


def _pixel_uvd(image: Tensor, feature_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised u (1, 1, 1, F), v (1, 1, F, 1) and d (B, 1, F, F) of every pixel of the maps."""
    centers = _pixel_centers(feature_size, image.device)
    stride = image.shape[-1] // feature_size  # every stride-th pixel: nearest, S is a multiple of F
    depth = image[:, :, ::stride, ::stride].float()
    return centers.view(1, 1, 1, -1), centers.view(1, 1, -1, 1), depth


@lru_cache(maxsize=16)
def _pixel_centers(feature_size: int, device: torch.device) -> Tensor:
    """Pixel centres along one edge, in [-1, 1]; made once per size and device."""
    # A tensor made in inference mode could not be used by a later training step.
    with torch.inference_mode(False):
        return (torch.arange(feature_size, device=device, dtype=torch.float32) + 0.5) / feature_size * 2 - 1
