"""Adaptive weighting regression: the method of the paper, in two functions.

`joints_to_dense` says what the network learns: for every pixel and joint a unit vector towards
the joint and a closeness. `dense_to_joints` turns such maps back into joints: every pixel votes
for `pixel + direction * distance`, and a softmax of the closeness weights the votes. The second
is differentiable, so the joints supervise the dense maps end to end.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import threshold_

# Sharpness of the adaptive weights. Closeness lies in [0, 1], so a pixel on the joint outweighs
# one at the kernel's rim by e^30: the weights gather around the joint without being an argmax.
SOFTMAX_TEMPERATURE = 30.0

# Background is +1 after normalisation; what is nearer than this is hand and may vote.
FOREGROUND_DEPTH = 0.99

# A batch's maps at once would not fit into a processor's cache, and take twice the memory.
FRAMES_AT_ONCE = 4

# Stands in for the depth of background, so that it lies beyond every kernel. In half cubes.
FAR_AWAY = 1e6


class AdaptiveWeights(NamedTuple):
    """`weight` and `closeness` (B, J, F²), `foreground` (B, 1, F²) of 0 and 1, `pixel` (B, 3, F²) its uvd."""

    weight: Tensor
    closeness: Tensor
    foreground: Tensor
    pixel: Tensor


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
        batch, joints = joint_uvd.shape[:2]
        dense = image.new_empty(batch, 4 * joints, feature_size, feature_size, dtype=torch.float32)
        for maps, joint, crop in _pieces(dense, joint_uvd, image):
            _encode(maps, joint, crop, kernel_size)
        return dense


def _encode(dense: Tensor, joint_uvd: Tensor, image: Tensor, kernel_size: float) -> None:
    """Write the maps of `joints_to_dense` into `dense`."""
    joints = joint_uvd.shape[1]
    u, v, d = _pixel_uvd(image, dense.shape[-1])
    d = d.masked_fill(d >= FOREGROUND_DEPTH, FAR_AWAY)
    joint_u, joint_v, joint_d = joint_uvd.float()[..., None, None].unbind(2)
    # u differs along columns only and v along rows only: these two stay (B, J, F) in size.
    back_u, back_v, back_d = u - joint_u, v - joint_v, d - joint_d
    distance = (back_u.square() + (back_v.square() + 1e-8)).addcmul_(back_d, back_d).sqrt_()
    _multiply_into(dense[:, 3 * joints :], distance, -1 / kernel_size).add_(1).clamp_min_(0)
    # -1/distance within the kernel and 0 beyond it. A mask of booleans would say the same, but
    # to make and to apply one costs more than all the rest.
    scale = threshold_(distance.neg_(), -_just_beyond(kernel_size), -torch.inf).reciprocal_()
    _multiply_into(dense[:, 0 : 3 * joints : 3], back_u, scale)
    _multiply_into(dense[:, 1 : 3 * joints : 3], back_v, scale)
    _multiply_into(dense[:, 2 : 3 * joints : 3], back_d, scale)


@torch.compiler.assume_constant_result
def _just_beyond(kernel_size: float) -> float:
    """The next larger float32; a compiler, which cannot take a number out of a tensor, asks for it once."""
    return torch.nextafter(torch.tensor(kernel_size), torch.tensor(torch.inf)).item()


def _multiply_into(part: Tensor, factor: Tensor, other: Tensor | float) -> Tensor:
    """Write a product into a part of a larger tensor, and return the part."""
    if torch.compiler.is_compiling():  # which makes one pass of both, but knows no `out` with gaps
        return part.copy_(factor * other)
    return torch.mul(factor, other, out=part)


def dense_to_joints(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """Integrate dense maps into joints with adaptive weights (SPEC §6, paper §3.2).

    Args:
        dense: (B, 4J, F, F) direction and closeness maps, any float dtype.
        image: (B, 1, S, S) normalised depth crop.
        kernel_size: K that the network was trained with.

    Returns:
        (B, J, 3) float32 normalised uvd, differentiable in `dense`.
    """
    # Half precision is enough for the network, not for the sum over F² pixels.
    with torch.autocast(dense.device.type, enabled=False):
        parts = _pieces(dense, image)
        return torch.cat(
            [_integrate(maps, _adaptive_weights(maps, crop), kernel_size) for maps, crop in parts]
        )


def _pieces(*batches: Tensor) -> list[tuple[Tensor, ...]]:
    """The same few frames of each at a time, on a CPU."""
    if batches[0].device.type != "cpu" or torch.compiler.is_compiling() or len(batches[0]) <= FRAMES_AT_ONCE:
        return [batches]
    return list(zip(*(batch.split(FRAMES_AT_ONCE) for batch in batches), strict=True))


def _integrate(dense: Tensor, weights: AdaptiveWeights, kernel_size: float) -> Tensor:
    weight, closeness, foreground, pixel = weights
    reach = (foreground - closeness) * weight  # times K: weight · distance, 0 on background
    # Each joint's three directions times its reach, as one product of (1, F²) and (F², 3).
    direction = dense[:, : 3 * weight.shape[1]].float().flatten(2).unflatten(1, (-1, 3)).flatten(0, 1)
    offset = torch.bmm(reach.flatten(0, 1).unsqueeze(1), direction.transpose(1, 2))
    return weight @ pixel.transpose(1, 2) + kernel_size * offset.view(-1, weight.shape[1], 3)


def adaptive_weights(dense: Tensor, image: Tensor) -> Tensor:
    """How much every pixel's vote counts for every joint (SPEC §6), for looking at.

    Args:
        dense, image: as for `dense_to_joints`.

    Returns:
        (B, J, F, F) float32, each map sums to 1.
    """
    with torch.autocast(dense.device.type, enabled=False):
        return _adaptive_weights(dense, image).weight.unflatten(2, dense.shape[2:])


def joint_confidence(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """How far each joint may be trusted: are the pixels that vote near it, and near each other?

    Expected closeness times closeness of the votes' spread: `Σ w h · (1 - s / K)`, where s is the
    standard deviation of the voting pixels' uvd under the adaptive weights w. Where all weight lies
    on pixels at the joint it is 1; where no foreground pixel claims to be near, 0.

    Args:
        dense, image, kernel_size: as for `dense_to_joints`.

    Returns:
        (B, J) float32 in [0, 1].
    """
    with torch.autocast(dense.device.type, enabled=False):
        return _trust(_adaptive_weights(dense, image), kernel_size)


def joints_and_confidence(dense: Tensor, image: Tensor, kernel_size: float) -> tuple[Tensor, Tensor]:
    """`dense_to_joints` and `joint_confidence` by the same weights, made once."""
    with torch.autocast(dense.device.type, enabled=False):
        joints, confidence = [], []
        for maps, crop in _pieces(dense, image):
            weights = _adaptive_weights(maps, crop)
            joints.append(_integrate(maps, weights, kernel_size))
            confidence.append(_trust(weights, kernel_size))
        return torch.cat(joints), torch.cat(confidence)


def _trust(weights: AdaptiveWeights, kernel_size: float) -> Tensor:
    weight, closeness, _, pixel = weights
    expected = (weight * closeness).sum(-1)
    pixel = pixel.transpose(1, 2)  # (B, F², 3)
    mean = weight @ pixel
    variance = (weight @ pixel.square() - mean.square()).sum(-1)
    spread = variance.clamp(min=0).sqrt()
    return expected.clamp(0, 1) * (1 - spread / kernel_size).clamp(min=0)


def _adaptive_weights(dense: Tensor, image: Tensor) -> AdaptiveWeights:
    u, v, d = _pixel_uvd(image, dense.shape[-1])
    pixel = torch.cat([u.expand_as(d), v.expand_as(d), d], dim=1).flatten(2)
    foreground = (d < FOREGROUND_DEPTH).float().flatten(2)
    closeness = dense[:, dense.shape[1] // 4 * 3 :].float().flatten(2) * foreground
    weight = torch.softmax(SOFTMAX_TEMPERATURE * closeness, dim=-1)
    return AdaptiveWeights(weight, closeness, foreground, pixel)


def _pixel_uvd(image: Tensor, feature_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised u (1, 1, 1, F), v (1, 1, F, 1) and d (B, 1, F, F) of every pixel of the maps."""
    # A compiler sees through the cache, and would warn of it.
    centers_of = _pixel_centers.__wrapped__ if torch.compiler.is_compiling() else _pixel_centers
    centers = centers_of(feature_size, image.device)
    stride = image.shape[-1] // feature_size  # every stride-th pixel: nearest, S is a multiple of F
    depth = image[:, :, ::stride, ::stride].float()
    return centers.view(1, 1, 1, -1), centers.view(1, 1, -1, 1), depth


@lru_cache(maxsize=16)
def _pixel_centers(feature_size: int, device: torch.device) -> Tensor:
    """Pixel centres along one edge, in [-1, 1]; made once per size and device."""
    # A tensor made in inference mode could not be used by a later training step.
    with torch.inference_mode(False):
        return (torch.arange(feature_size, device=device, dtype=torch.float32) + 0.5) / feature_size * 2 - 1
