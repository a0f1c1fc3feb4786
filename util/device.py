"""Where a network runs, and in which precision."""

import contextlib
import os
from pathlib import Path

import torch

from util import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` -> a device that is really there.

    `auto` is CUDA, else a Mac's GPU, else the CPU. Each process that torchrun starts gets a GPU of its own.
    """
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # what is there can also be read back
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"Device {name!r} is not available here: use --device cpu, or auto.") from error
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run a network in `bf16` or `fp16`; `fp32` changes nothing."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


def usable_precision(device: torch.device, precision: str) -> str:
    """`precision`, or where it is not faster on this hardware, the next best: fp16 on a GPU, else fp32."""
    if device.type == "cuda":
        lacks_bf16 = torch.cuda.get_device_capability(device) < (8, 0)
        return "fp16" if precision == "bf16" and lacks_bf16 else precision
    return "fp32" if device.type == "cpu" and not (precision == "bf16" and has_fast_bf16()) else precision


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than fp32: AMX and AMD's AVX-512 do.

    Intel's AVX-512 bf16 without AMX takes 1.4 times as long for a training step.
    """
    info = cpu_info()
    flags, is_amd = info.get("flags", "").split(), info.get("vendor_id") == "AuthenticAMD"
    return "amx_bf16" in flags or (is_amd and "avx512_bf16" in flags)


def has_vnni() -> bool:
    """Whether this processor sums int8 products in 32 bits; where it has 16, weights keep to 7 bits."""
    return bool({"avx_vnni", "avx512_vnni", "amx_int8"} & set(cpu_info().get("flags", "").split()))


def cpu_info() -> dict[str, str]:
    """What Linux tells of the first processor: `vendor_id`, `model name`, `flags`, …; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
