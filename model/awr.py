"""Adaptive weighting regression: the method, as the paper writes it (docs/spec.md §5 and §6).

`joints_to_dense` says what the network learns: at every pixel, for every joint, a unit vector towards the
joint and a closeness. `dense_to_joints` turns such maps back into joints: every pixel votes for a place,
and a softmax of the closeness weights the votes. The second is differentiable, so that the joints
supervise the dense maps end to end.

B frames, J joints, F the edge of the dense maps, S the edge of the crop, a multiple of F. All coordinates
are normalised: u, v and d of the crop in [-1, 1], background at d = 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Sharpness of the adaptive weights. Closeness lies in [0, 1], so a pixel on the joint counts e^30 times
# as much as one at the kernel's rim: the weights gather around the joint without being an argmax.
SOFTMAX_TEMPERATURE = 30.0

# What is nearer than this is the hand and may vote; the rest is background.
FOREGROUND_DEPTH = 0.99


def joints_to_dense(joint_uvd: Tensor, image: Tensor, kernel_size: float, feature_size: int) -> Tensor:
    """Encode joints as direction and closeness maps (paper §3.1, docs/spec.md §5).

    Args:
        joint_uvd: (B, J, 3) normalised uvd.
        image: (B, 1, S, S) normalised depth crop.
        kernel_size: K, the distance at which closeness reaches 0.
        feature_size: F.

    Returns:
        (B, 4J, F, F) float32: u, v, d of the direction to joint 0, to joint 1, …, then J closeness maps.
    """
    pixel, foreground = pixel_uvd(image, feature_size)
    offset = joint_uvd.float()[..., None, None] - pixel[:, None]  # (B, J, 3, F, F)
    distance = (offset.square().sum(2) + 1e-8).sqrt()  # never 0, so that a direction always exists
    closeness = (kernel_size - distance) / kernel_size
    mask = (closeness >= 0) & foreground
    direction = offset / distance[:, :, None] * mask[:, :, None]
    return torch.cat([direction.flatten(1, 2), closeness * mask], dim=1)


def dense_to_joints(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """Aggregate the votes of all pixels into joints (paper §3.2, docs/spec.md §6).

    A pixel votes for its own place, moved along the direction by the distance that its closeness means.

    Args:
        dense: (B, 4J, F, F) predicted maps of any float dtype.
        image: (B, 1, S, S) normalised depth crop.
        kernel_size: K that the network was trained with.

    Returns:
        (B, J, 3) float32 normalised uvd, differentiable in `dense`.
    """
    votes = read_votes(dense, image, kernel_size)
    return (votes.weight[:, :, None] * votes.place).sum((-2, -1))


class Decoded(NamedTuple):
    """`joint_uvd` (B, J, 3) of `dense_to_joints`; `confidence` (B, J) in [0, 1]; `weight` (B, J, F, F), the
    adaptive weights, each map sums to 1."""

    joint_uvd: Tensor
    confidence: Tensor
    weight: Tensor


def decode(dense: Tensor, image: Tensor, kernel_size: float) -> Decoded:
    """Joints, how far each may be trusted, and the weights that made it; arguments as of `dense_to_joints`.

    The confidence is ours, not the paper's: are the pixels that vote for a joint near it, and near each
    other? It is the expected closeness h under the adaptive weights w, times the closeness of the voters'
    spread: `Σ w h · (1 - s / K)`, s the standard deviation of the voting pixels' uvd under w. It is 1 where
    all weight lies on pixels at the joint, and 0 where no foreground pixel claims to be near.
    """
    votes = read_votes(dense, image, kernel_size)
    weight, pixel = votes.weight[:, :, None], votes.pixel[:, None]
    joint_uvd = (weight * votes.place).sum((-2, -1))
    expected = (votes.weight * votes.closeness).sum((-2, -1))
    mean = (weight * pixel).sum((-2, -1))  # (B, J, 3)
    variance = (weight * pixel.square()).sum((-2, -1)) - mean.square()
    spread = variance.sum(-1).clamp(min=0).sqrt()
    confidence = expected.clamp(0, 1) * (1 - spread / kernel_size).clamp(min=0)
    return Decoded(joint_uvd, confidence, votes.weight)


class Votes(NamedTuple):
    """What the pixels say: `pixel` (B, 3, F, F) where each is; `place` (B, J, 3, F, F) what it votes for,
    normalised uvd; `closeness` and adaptive `weight` (B, J, F, F). Background has closeness 0."""

    pixel: Tensor
    place: Tensor
    closeness: Tensor
    weight: Tensor


def read_votes(dense: Tensor, image: Tensor, kernel_size: float) -> Votes:
    """Read a dense map (docs/spec.md §6); arguments as of `dense_to_joints`."""
    pixel, foreground = pixel_uvd(image, dense.shape[-1])
    joints = dense.shape[1] // 4
    # In float32: half precision is enough for a network, not for sums over F² pixels.
    direction, closeness = dense.float().split([3 * joints, joints], dim=1)
    direction, closeness = (direction * foreground).unflatten(1, (joints, 3)), closeness * foreground
    distance = kernel_size - kernel_size * closeness
    place = direction * distance[:, :, None] + pixel[:, None]
    weight = torch.softmax(SOFTMAX_TEMPERATURE * closeness.flatten(2), dim=-1).view_as(closeness)
    return Votes(pixel, place, closeness, weight)


def pixel_uvd(image: Tensor, feature_size: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of the dense maps lie.

    Args:
        image: (B, 1, S, S) normalised depth crop.
        feature_size: F.

    Returns:
        (B, 3, F, F) float32 uvd of every pixel's centre; and (B, 1, F, F) bool, whether it is foreground.
    """
    centers = (torch.arange(feature_size, device=image.device) + 0.5) / feature_size * 2 - 1
    stride = image.shape[-1] // feature_size
    d = image[:, :, ::stride, ::stride].float()  # nearest neighbour
    u, v = centers.view(1, 1, 1, -1).expand_as(d), centers.view(1, 1, -1, 1).expand_as(d)
    return torch.cat([u, v, d], dim=1), d < FOREGROUND_DEPTH
