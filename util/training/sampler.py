"""Which frames make up which batch: reshuffled every epoch, shared between processes, resumable."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from util import UserError


class ShuffledBatches(Sampler[list[int]]):
    """One process's batches of an epoch, a pure function of (seed, epoch).

    A step takes `frames_a_step` frames of one permutation, `batch_size` for each process: the same frames
    however many processes share them. The frames left over, fewer than one step's, wait for another epoch's
    permutation. A data set smaller than one step makes one smaller step of it.

    Args:
        num_frames: N.
        batch_size: frames a step and process.
        seed: of the permutations.
        rank, world_size: this process, and number of processes.
    """

    def __init__(self, num_frames: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        if num_frames < world_size:
            raise UserError(f"{num_frames} frames cannot be shared between {world_size} processes.")
        self.num_frames, self.seed, self.rank = num_frames, seed, rank
        self.batch_size = min(batch_size, num_frames // world_size)
        self.frames_a_step = self.batch_size * world_size
        self.num_steps = num_frames // self.frames_a_step
        self.select(epoch=0)

    def select(self, epoch: int, first: int = 0, stop: int | None = None) -> None:
        """The next iteration gives steps first..stop of an epoch; those before are never loaded."""
        self.permutation = np.random.default_rng((self.seed, epoch)).permutation(self.num_frames)
        self.first = first
        self.stop = self.num_steps if stop is None else min(stop, self.num_steps)

    def batch(self, step: int) -> list[int]:
        """Frames of this process in one step of the selected epoch."""
        start = step * self.frames_a_step + self.rank * self.batch_size
        return self.permutation[start : start + self.batch_size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, range(self.first, self.stop))

    def __len__(self) -> int:
        return max(self.stop - self.first, 0)
