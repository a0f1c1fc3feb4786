"""train.py in processes of their own, started in a moment: forked from one that has imported everything."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import train
from util.cli import run

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["train", "util.training.trainer", "torch.utils.tensorboard"])


def start_training(arguments: list[str], output: Path) -> BaseProcess:
    """Start `python train.py <arguments>`; what it prints goes to the file `output`."""
    process = context.Process(target=_run, args=(arguments, output))
    process.start()
    return process


def _run(arguments: list[str], output: Path) -> None:
    os.setpgid(0, 0)  # as a shell starts it
    # One thread: the same sums in the same order, on a machine that others may use too.
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as `python` does it
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["train.py", *arguments]
    run(train.main, train.__doc__, train.Config, train.GROUPS)


def wait_for_step(
    process: BaseProcess, folder: Path, step: int, before: Sequence[dict] = (), seconds: float = 60
) -> None:
    """Wait until a running process has logged a step itself, a line that was not there `before`."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        lines = read_log(folder)
        if lines and lines[-1]["step"] >= step and lines[-1] not in before:
            return
        assert process.is_alive(), f"ended with {process.exitcode} before step {step}"
        time.sleep(0.01)
    raise TimeoutError(f"step {step} was not reached")


def read_log(folder: Path) -> list[dict]:
    """The whole lines of log.jsonl; the last one may be in the making."""
    path = folder / "log.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
