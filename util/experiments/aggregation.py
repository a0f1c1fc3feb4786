"""Other ways to make one joint of all pixels' votes, to compare with the paper's (docs/spec.md §6)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model import awr

SHIFTS = 10  # of the mean shift: it hardly moves after


class Votes(NamedTuple):
    """P pixels' `vote` (B, J, P, 3) and own `place` (B, 1, P, 3), normalised uvd; `closeness` (B, J, P)."""

    vote: Tensor
    place: Tensor
    closeness: Tensor


def votes_of(dense: Tensor, image: Tensor, kernel_size: float) -> Votes:
    """What every pixel says of every joint; arguments as of `dense_to_joints`."""
    read = awr.read_votes(dense, image, kernel_size)
    place, vote = read.pixel.flatten(2).mT[:, None], read.place.flatten(-2).mT
    return Votes(vote, place, read.closeness.flatten(-2))


def weighted(weight: Tensor, vote: Tensor) -> Tensor:
    """Mean of the votes (B, J, P, 3) under weights (B, J, P) of any sum: (B, J, 3)."""
    return (weight[..., None] * vote).sum(2) / weight.sum(2, keepdim=True).clamp(min=1e-9)


def adaptive(votes: Votes, temperature: float) -> Tensor:
    """The paper's: a softmax of the closeness; at 30, `dense_to_joints`."""
    return weighted(torch.softmax(temperature * votes.closeness, dim=-1), votes.vote)


def nearest(votes: Votes, k: int, of_places: bool = False) -> Tensor:
    """Mean of what the k pixels of largest closeness vote for, or of where they are."""
    picked = votes.closeness.topk(k, dim=-1).indices[..., None].expand(-1, -1, -1, 3)
    points = votes.place.expand_as(votes.vote) if of_places else votes.vote
    return points.gather(2, picked).mean(2)


def uniform(votes: Votes) -> Tensor:
    """Mean of all votes within the kernel."""
    return weighted((votes.closeness > 0).float(), votes.vote)


def mean_shift(votes: Votes, bandwidth: float) -> Tensor:
    """The mode of the votes near the best pixel's: closeness times a Gaussian, `bandwidth` half cubes wide,
    around the last mean."""
    mean, closeness = nearest(votes, 1), votes.closeness.clamp(min=0)
    for _ in range(SHIFTS):
        squared = (votes.vote - mean[:, :, None]).square().sum(-1)
        mean = weighted(closeness * torch.exp(-squared / (2 * bandwidth**2)), votes.vote)
    return mean


AGGREGATIONS: dict[str, Callable[[Votes], Tensor]] = {
    **{f"adaptive weights, temperature {t}": partial(adaptive, temperature=t) for t in (30, 100, 10, 3, 1)},
    "place of the best pixel": partial(nearest, k=1, of_places=True),
    "vote of the best pixel": partial(nearest, k=1),
    **{f"mean of the {k} best votes": partial(nearest, k=k) for k in (4, 16, 64)},
    "uniform weights within the kernel": uniform,
    **{f"mean shift, bandwidth {b:g} half cubes": partial(mean_shift, bandwidth=b) for b in (0.03, 0.1)},
}
