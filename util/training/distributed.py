"""Processes that train together, started by `torchrun`; without it, one process alone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process (`rank`) among `world_size`, and the device it computes on."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def print(self, line: str) -> None:
        """Say something once."""
        if self.is_main:
            print(line, flush=True)

    def mean(self, numbers: Tensor) -> Tensor:
        """Mean over the processes, each number by itself; not finite where any process's is not."""
        if self.world_size > 1:
            dist.all_reduce(numbers)
        return numbers / self.world_size

    def agree(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any process has it: all get the same answer, so none waits in vain."""
        if self.world_size == 1:
            return list(wishes)
        flags = torch.tensor(wishes, dtype=torch.uint8, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return flags.bool().tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def average_buffers(self, network: nn.Module) -> None:
        """Give every process the mean of all batch-norm statistics: each has seen its own shard only."""
        for buffer in filter(Tensor.is_floating_point, network.buffers()):
            buffer.copy_(self.mean(buffer))


@contextmanager
def init_distributed(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started: nccl between GPUs, each with its own, gloo between CPUs."""
    if "LOCAL_RANK" not in os.environ:  # torchrun's; clusters set WORLD_SIZE and RANK for all programs
        yield Processes(device)
        return
    # In joining, which runs in C++, no handler of Python's would be heard.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Processes(device, rank, world_size)
    # Only after success: after an error the others may be waiting, and this would wait for them.
    dist.destroy_process_group()
