"""Other ways to make one joint of all pixels' votes, to compare with the paper's (docs/spec.md §6)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.awr import Votes


def weighted(weight: Tensor, place: Tensor) -> Tensor:
    """Mean of the votes' places (B, J, 3, F, F) under weights (B, J, F, F) of any sum: (B, J, 3)."""
    total = weight.sum((-2, -1)).clamp(min=1e-9)
    return (weight[:, :, None] * place).sum((-2, -1)) / total[..., None]


def adaptive(votes: Votes, temperature: float) -> Tensor:
    """The paper's: a softmax of the closeness; at 30, `dense_to_joints`."""
    weight = torch.softmax(temperature * votes.closeness.flatten(2), dim=-1)
    return weighted(weight.view_as(votes.closeness), votes.place)


def nearest(votes: Votes, k: int, of_pixels: bool = False) -> Tensor:
    """Mean of what the k pixels of largest closeness vote for, or of where they are."""
    picked = votes.closeness.flatten(2).topk(k).indices[:, :, None].expand(-1, -1, 3, -1)
    points = votes.pixel[:, None].expand_as(votes.place) if of_pixels else votes.place
    return points.flatten(-2).gather(-1, picked).mean(-1)


def mean_shift(votes: Votes, bandwidth: float) -> Tensor:
    """The mode of the votes near the best pixel's: closeness times a Gaussian, `bandwidth` half cubes wide,
    around the last mean."""
    mean, closeness = nearest(votes, 1), votes.closeness.clamp(min=0)
    for _ in range(10):  # it hardly moves after
        squared = (votes.place - mean[..., None, None]).square().sum(2)
        mean = weighted(closeness * torch.exp(-squared / (2 * bandwidth**2)), votes.place)
    return mean


AGGREGATIONS: dict[str, Callable[[Votes], Tensor]] = {
    **{f"adaptive weights, temperature {t}": partial(adaptive, temperature=t) for t in (30, 100, 10, 3, 1)},
    "place of the best pixel": partial(nearest, k=1, of_pixels=True),
    "vote of the best pixel": partial(nearest, k=1),
    **{f"mean of the {k} best votes": partial(nearest, k=k) for k in (4, 16, 64)},
    "uniform weights within the kernel": lambda votes: weighted((votes.closeness > 0).float(), votes.place),
    **{f"mean shift, bandwidth {b:g} half cubes": partial(mean_shift, bandwidth=b) for b in (0.03, 0.1)},
}
