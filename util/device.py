"""Where a network runs, and in which precision."""

import contextlib
import ctypes
import os
from pathlib import Path

import torch

# glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: no piece of memory has a mapping of its own, nothing
# goes back to the system, and the heap grows by 256 MB at a time.
GLIBC_KEEPS = ((-4, 0), (-1, -1), (-2, 1 << 28))

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that is really there.

    Of the processes that torchrun starts, `auto` and `cuda` give each a GPU of its own.

    Raises:
        ValueError: if it is not.
        torch.OutOfMemoryError: if its memory is full.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # what is there can also be read back
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"Device {name!r} is not available here: use --device cpu, or cuda where PyTorch can use one."
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run the network in `bf16` or `fp16` where asked for; `fp32` changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def usable_precision(device: torch.device, asked: str) -> str:
    """`asked`, or where the hardware gains nothing by it, the next best: fp16 on a GPU, else fp32."""
    if asked == "fp16" and device.type == "cpu":
        return "fp32"
    if asked != "bf16":
        return asked
    if device.type == "cuda":
        with torch.cuda.device(device):  # the question has no argument
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and _cpu_features():
        return "bf16" if _gains_by_bf16() else "fp32"
    return "bf16"


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees, where its C library is glibc.

    A training step frees and takes the same hundreds of MB again. glibc gives large pieces back to the
    system, which hands them out page by page, each filled with zeros: a tenth of a step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for setting, value in GLIBC_KEEPS:
        mallopt(setting, value)


def sums_int8_in_32_bits() -> bool:
    """Whether this processor adds products of int8 in 32 bits; where it has 16, weights must keep to 7."""
    return not _cpu_features().isdisjoint({"avx_vnni", "avx512_vnni", "amx_int8"})


def _gains_by_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than fp32.

    Not every one that has instructions for it: Intel's without AMX do half of what they do in fp32, and
    a training step took them 1.4 times as long.
    """
    if "amx_bf16" in _cpu_features():
        return True
    return has_bf16() and not _is_intel()


def has_bf16() -> bool:
    """Whether this processor has instructions for bf16; others only emulate it."""
    return any("bf16" in name for name in _cpu_features())


def _is_intel() -> bool:
    told = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")
    return "Intel" in told or processor().get("vendor_id") == "GenuineIntel"


def _cpu_features() -> set[str]:
    """What the processor has; empty where nothing says."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    return set(processor().get("flags", "").split())


def processor() -> dict[str, str]:
    """What Linux tells of the first processor: `vendor_id`, `model name`, `flags`, …; empty elsewhere."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        told = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in told}
    return {}
