"""Where a network runs, and in which precision."""

import contextlib

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that is really there.

    Raises:
        ValueError: if it is not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # what is there can also be read back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"Device {name!r} is not available here: use auto, cpu, or cuda where there is one."
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run the network in `bf16` or `fp16` where asked for; `fp32` changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def usable_precision(device: torch.device, asked: str) -> str:
    """`asked`, or where the hardware only emulates bf16, the next best: fp16 on a GPU, fp32 on a CPU."""
    if asked != "bf16":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return "bf16" if any("bf16" in name and there for name, there in features.items()) else "fp32"
    return "bf16"
