"""Measuring two ways of doing the same work: in turn, in one process, so that both meet the same machine."""

import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import torch

from util.device import cpu_info

WARM_UP = 2  # runs of each way that are not timed
FEW = 5  # timed runs of what takes long, at most


class Row(NamedTuple):
    """One comparison; `ratio` above 1 says how many times better ours is: faster, or smaller.

    It is 0 where there is nothing to divide: the plain way moves joints by 0 mm.
    """

    name: str
    plain: float
    ours: float
    ratio: float
    unit: str


def compare(
    name: str,
    plain: Callable[[], object],
    ours: Callable[[], object],
    repeats: int,
    device: torch.device | str = "cpu",
    frames: int = 1,
    unit: str = "ms",
) -> Row:
    """Median times of two ways that take turns, as ms a frame, or frames a second in another `unit`.

    Args:
        name: of the row.
        plain, ours: the two ways.
        repeats: timed runs of each.
        device: where they compute.
        frames: that each run works on.
        unit: ms, or a word for frames a second.
    """
    times: dict[Callable, list[float]] = {plain: [], ours: []}
    for _ in range(repeats + WARM_UP):
        for way, seconds in times.items():
            start = time.perf_counter()
            way()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    before, after = (median(seconds[WARM_UP:]) / frames for seconds in times.values())
    if unit == "ms":
        return Row(name, before * 1e3, after * 1e3, before / after, unit)
    return Row(name, 1 / before, 1 / after, before / after, unit)


def for_each(frames: Sequence[int], way: Callable[[int], object]) -> Callable[[], None]:
    """Does some work for one frame after the other."""
    return lambda: deque(map(way, frames), maxlen=0)


def compare_memory(
    name: str, plain: Callable[[], object], ours: Callable[[], object], device: torch.device
) -> Iterator[Row]:
    """A row of how much more of a GPU's memory both ways take at most while they run; none on a CPU."""
    if device.type == "cuda":
        peaks = []
        for way in (plain, ours):
            way()  # what it keeps from now on is not counted
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            way()
            peaks.append((torch.cuda.max_memory_allocated(device) - before) / 1e6)
        yield Row(name, *peaks, peaks[0] / peaks[1], "MB")


def describe_machine(device: torch.device) -> str:
    """Processor, cores, instruction sets that networks use, and versions."""
    info = cpu_info()
    sets = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"} & set(info.get("flags", "").split())
    parts = [info.get("model name") or platform.machine(), f"{os.cpu_count()} cores", *sorted(sets)]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    parts += [f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    return ", ".join([*parts, f"Python {platform.python_version()}"])
