"""Everything that changes while a network trains, and its way to disk and back."""

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from config import Config
from model.loss import Loss, awr_loss
from util import UserError
from util.checkpoint import ModelSpec, read_checkpoint, save_checkpoint
from util.device import autocast
from util.training.distributed import Processes

POSITION = ("epoch", "frames", "step", "best_mpe_mm", "waited", "cuts")


class TrainingState:
    """Network, optimizer, scaler, averaged weights, and where the run stands.

    `epoch`: epochs completed; `frames`: frames of the current one that all processes have taken;
    `step`: optimizer steps in all; `best_mpe_mm`: lowest validation error; `waited`: epochs since then, and
    `cuts`: how often a plateau cut lr; `running`: sums of the steps' numbers since the last line of the log;
    `data`: a fingerprint of each split's frames. `forward` is the network and its loss, (image, joint_uvd) ->
    Loss: compiled, and shared between processes.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, config: Config, processes: Processes):
        self.spec, self.config, self.processes = spec, config, processes
        # Convolutions run fastest with channels last; the weights decide what the activations are.
        self.network = network.to(processes.device, memory_format=torch.channels_last)
        _freeze(self.network, config.freeze)
        self.forward = self._forward()
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        self.optimizer = kind(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
        self.averaged = _averaged(self.network, config.ema) if config.ema else None
        self.epoch = self.frames = self.step = self.waited = self.cuts = 0
        self.best_mpe_mm = float("inf")
        self.running: Counter[str] = Counter()
        self.data: dict[str, str] = {}
        self.revision = _git_revision()

    @property
    def scored(self) -> nn.Module:
        """The network that predicts: the averaged one where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    def save(self, path: Path, log_size: int) -> None:
        """Write everything, and the bytes of log.jsonl at this moment, to which resuming cuts it back.

        `model` is the network that predicts, so that test.py reads any checkpoint.
        """
        weights = [*self.network.state_dict().values(), *self.scored.state_dict().values()]
        if not all(weight.isfinite().all() for weight in weights):
            advice = f"{path} is as it was, try a lower lr than {self.config.lr:g}, or clip_grad"
            raise UserError(f"Training diverged: after step {self.step} weights are not finite; {advice}.")
        devices = torch.cuda.get_rng_state_all() if self.processes.device.type == "cuda" else []
        save_checkpoint(
            path,
            self.scored,
            self.spec,
            training_model=self.averaged and self.network.state_dict(),
            averaged_steps=self.averaged and int(self.averaged.n_averaged),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            **{name: getattr(self, name) for name in POSITION},
            running=dict(self.running),
            log_size=log_size,
            random={"torch": torch.get_rng_state(), "cuda": devices},
            config=asdict(self.config),
            data=self.data,
            revision=self.revision,
        )

    def restore(self, path: Path) -> int:
        """Take everything from a checkpoint, and say what differs; returns the bytes that log.jsonl had."""
        content = read_checkpoint(path)
        if "optimizer" not in content or "running" not in content:
            raise UserError(f"{path} holds no training to go on with: start from it with --load_model.")
        self._compare(path, content)
        self.network.load_state_dict(content["training_model"] or content["model"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(content["model"])
            # Where nothing was averaged, averaging starts here: the first update copies the weights.
            self.averaged.n_averaged.fill_(content["averaged_steps"] or 0)
        self.optimizer.load_state_dict(content["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # as set now; every step sets lr
        if content["scaler"]:  # empty where the run was not in fp16
            self.scaler.load_state_dict(content["scaler"])
        for name in POSITION:
            setattr(self, name, content.get(name, 0))  # older checkpoints lack the last two
        self.running = Counter(content["running"])
        torch.set_rng_state(content["random"]["torch"])
        if len(content["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(content["random"]["cuda"])
        return content["log_size"]

    def _compare(self, path: Path, content: dict[str, Any]) -> None:
        """Refuse a checkpoint of another run; say where this run's settings or frames differ from its own."""
        saved, spec = content["config"], self.spec._asdict()
        pairs = {name: (content["spec"].get(name, value), value) for name, value in spec.items()}
        frozen = map(sorted, (saved.get("freeze", ()), self.config.freeze))
        pairs["freeze"] = tuple(map(" ".join, frozen))
        started, named = saved.get("load_model", ""), self.config.load_model
        if named and Path(started).absolute() != Path(named).absolute():
            pairs["load_model"] = (started, named)
        found = [f"{name} {a or 'nothing'}, not {b or 'nothing'}" for name, (a, b) in pairs.items() if a != b]
        if found:
            raise UserError(f"{path} has {'; '.join(found)}: a run goes on with the same.")
        for name in vars(self.config):
            value = getattr(self.config, name)
            skipped = name in ("resume", "freeze", "load_model", *spec)
            if not skipped and saved.get(name, value) != value:
                self.processes.print(f"{path} was trained with {name} {saved[name]}, from here on {value}.")
        data = content.get("data", {})
        for split in (split for split, frames in self.data.items() if data.get(split, frames) != frames):
            what = f"other frames of the split {split} (files, times or labels differ)"
            print(f"warning: {path} was trained with {what}: do not compare the errors.", file=sys.stderr)

    def _forward(self) -> Callable[[Tensor, Tensor], Loss]:
        network, processes = self.network, self.processes
        if processes.world_size > 1:
            # Each process keeps its own batch-norm statistics until they are averaged (see Processes).
            network = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
        precision, kernel_size = self.config.precision, self.spec.kernel_size

        def forward(image: Tensor, joint_uvd: Tensor) -> Loss:
            with autocast(processes.device, precision):
                stages = network(image)
            return awr_loss(stages, image, joint_uvd, kernel_size)

        if not self.config.compile:
            return forward
        # As a CUDA graph, a GPU's many small kernels start at once: one by one they take a processor longer
        # than they run. Not between processes, whose exchange of gradients divides the network.
        graph = processes.device.type == "cuda" and processes.world_size == 1
        return torch.compile(forward, dynamic=False, mode="reduce-overhead" if graph else None)


def _freeze(network: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the weights of these parts as they are; batch norms in them go on measuring."""
    for part in parts:
        weights = [weight for name, weight in network.named_parameters() if f"{name}.".startswith(f"{part}.")]
        if not weights:
            there = ", ".join(name for name, _ in network.named_children())
            raise UserError(f"freeze names {part!r}, which the network does not have; its parts are {there}.")
        for weight in weights:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UserError("freeze leaves no weight to train: name fewer parts.")


def _averaged(network: nn.Module, decay: float) -> AveragedModel:
    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        # A short memory at first: otherwise the initial weights would weigh for thousands of steps.
        reached = min(decay, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(reached)(averaged, current, updates)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _git_revision() -> str:
    """Commit of the running code, `+` where files differ from it; empty outside a repository."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    with contextlib.suppress(OSError):  # there may be no git
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""
