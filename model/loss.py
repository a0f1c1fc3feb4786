"""The training loss: Huber on the dense maps and on the joints, summed over stages (docs/spec.md §7)."""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import huber_loss

from model.awr import dense_to_joints, joints_to_dense

# Quadratic within 1 % of half a cube edge, so that well-predicted pixels stop pulling.
HUBER_DELTA = 0.01


class Loss(NamedTuple):
    """`terms`: unweighted scalars by name; `joint_uvd` (B, J, 3): the last stage's joints, decoded once."""

    terms: dict[str, Tensor]
    joint_uvd: Tensor

    def total(self, weights: dict[str, float]) -> Tensor:
        """What is minimised: the sum of all terms, each times the weight of its name."""
        return sum(weights[name] * term for name, term in self.terms.items())


def huber(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean Huber loss over all elements, in float32: 0.5·z² inside δ, δ·(|z| - δ/2) outside."""
    return huber_loss(predicted.float(), target.float(), delta=HUBER_DELTA)


def awr_loss(stages: list[Tensor], image: Tensor, joint_uvd: Tensor, kernel_size: float) -> Loss:
    """Score the dense maps of one forward pass.

    Args:
        stages: dense maps (B, 4J, F, F), one a stage, as the network returns them.
        image: (B, 1, S, S) normalised depth crop.
        joint_uvd: (B, J, 3) true joints, normalised uvd.
        kernel_size: K of docs/spec.md §5.
    """
    target = joints_to_dense(joint_uvd, image, kernel_size, stages[-1].shape[-1])
    joints = [dense_to_joints(dense, image, kernel_size) for dense in stages]
    terms = {
        "dense": sum(huber(dense, target) for dense in stages),
        "coord": sum(huber(joint, joint_uvd) for joint in joints),
    }
    return Loss(terms, joints[-1])
