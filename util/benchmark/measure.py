"""Measuring two ways of doing the same work: in turn, in one process, so that both meet the same machine."""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from config import Config
from util.device import cpu_info

WARM_UP = 2  # runs of each way that are not timed


@dataclass
class BenchmarkConfig(Config):
    """Settings of the benchmark, beside those of training; `net` is looked at for the curves alone."""

    rows: str = ""  # which rows, by the start of their names, comma between: head,frame_resnet_18; empty: all
    nets: str = "resnet_18,hourglass_1"  # which networks, comma between
    json: str = ""  # file to write the rows to; empty: benchmark.json in the output folder
    sweeps: bool = False  # also how cost grows with batch, workers and frames
    most_frames: int = 100_000  # where the sweep over frames ends; 1000000 takes minutes
    threads: int = 0  # of PyTorch and the engines; 0: as many as cores
    repeats: int = 15  # timed runs of either way of a short work
    precision: str = "bf16"  # of our training step, where the hardware has it; the plain way is fp32
    steps: int = 10  # timed training steps of either way
    curve_steps: int = 0  # train both ways for so many steps and compare their losses; 0: do not
    pool: int = 256  # frames that the batches are drawn from, held in memory

    def resolved(self) -> "BenchmarkConfig":
        """Check the settings and fill what is None from the tables.

        Raises:
            ValueError: in one sentence, for a setting that cannot work.
        """
        if self.precision == "int8" or self.threads < 0:
            raise ValueError(
                "precision is of the training step, fp32, bf16 or fp16, and threads is 0 or more."
            )
        if self.load_model and "," in self.nets:
            raise ValueError(
                f"--load_model {self.load_model} is one network's weights: give it alone in --nets."
            )
        for name in ("repeats", "steps", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        return super().resolved()


class Row(NamedTuple):
    """One comparison; `ratio` above 1 says how many times better ours is: faster, or smaller.

    It is 0 where both are not to be divided: the plain way moves joints by 0 mm.
    """

    name: str
    plain: float
    ours: float
    ratio: float
    unit: str


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has done what it was asked."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def time_in_turn(
    ways: Sequence[Callable[[], object]], repeats: int, device: torch.device | str = "cpu"
) -> list[float]:
    """Median seconds of each of several ways, which take turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + WARM_UP):
        for way, times in zip(ways, seconds, strict=True):
            synchronize(device)
            start = time.perf_counter()
            way()
            synchronize(device)
            times.append(time.perf_counter() - start)
    return [median(times[WARM_UP:]) for times in seconds]


def duration_row(name: str, plain: float, ours: float) -> Row:
    """Seconds of both ways as a row in ms."""
    return Row(name, plain * 1e3, ours * 1e3, plain / ours, "ms")


def rate_row(name: str, plain: float, ours: float, work: float, unit: str) -> Row:
    """Seconds of both ways for the same amount of work as a row of amounts a second."""
    return Row(name, work / plain, work / ours, plain / ours, unit)


def peak_memory_mb(work: Callable[[], object], device: torch.device | str = "cpu") -> float | None:
    """How far memory grows at most while some work runs, MB; None where the system does not tell."""
    work()  # what it keeps from now on is not counted
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed, not returned, would hide the growth
    reset.write_text("5")  # sets the peak to what is there now
    before = _status_kb("VmRSS")
    work()
    return max(_status_kb("VmHWM") - before, 0) * 1024 / 1e6


def memory_rows(
    name: str, plain: Callable[[], object], ours: Callable[[], object], device: torch.device | str = "cpu"
) -> Iterator[Row]:
    """A row of both ways' peak memory, none where the system does not tell it.

    What is too little to be seen counts as 0.1 MB.
    """
    peaks = [peak_memory_mb(way, device) for way in (plain, ours)]
    if None not in peaks:
        seen = [max(peak, 0.1) for peak in peaks]
        yield Row(f"memory_{name}", *seen, seen[0] / seen[1], "MB")


def describe_machine(device: torch.device) -> str:
    """Processor, cores, what it computes in, and versions."""
    told = cpu_info()
    name = told.get("model name") or platform.processor() or platform.machine()
    flags = told.get("flags", "").split()
    there = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    gpu = f"; {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return (
        f"{name}, {os.cpu_count()} cores ({', '.join(there)}), {torch.get_num_threads()} threads{gpu}; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _status_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return 0
