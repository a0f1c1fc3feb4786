"""How far a predicted joint may be trusted. This is ours, not the paper's, and no loss uses it."""

from torch import Tensor

from model.awr import adaptive_weights, pixel_uvd, split_dense


def joint_confidence(dense: Tensor, image: Tensor, kernel_size: float) -> Tensor:
    """Are the pixels that vote for a joint near it, and near each other?

    The expected closeness under the adaptive weights w, times the closeness of the voters' spread:
    `Σ w h · (1 - s / K)`, s the standard deviation of the voting pixels' uvd under w. It is 1 where all
    weight lies on pixels at the joint, and 0 where no foreground pixel claims to be near.

    Args:
        dense: (B, 4J, F, F) predicted maps.
        image: (B, 1, S, S) normalised depth crop.
        kernel_size: K that the network was trained with.

    Returns:
        (B, J) float32 in [0, 1].
    """
    pixel, _ = pixel_uvd(image, dense.shape[-1])
    _, closeness = split_dense(dense, image)
    weight = adaptive_weights(dense, image)
    expected = (weight * closeness).sum((-2, -1))
    weight, pixel = weight[:, :, None], pixel[:, None]
    mean = (weight * pixel).sum((-2, -1))  # (B, J, 3)
    variance = (weight * pixel.square()).sum((-2, -1)) - mean.square()
    spread = variance.sum(-1).clamp(min=0).sqrt()
    return expected.clamp(0, 1) * (1 - spread / kernel_size).clamp(min=0)
