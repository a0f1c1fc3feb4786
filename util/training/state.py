"""Everything that changes while a network trains, and its way to disk and back."""

import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
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


@dataclass
class RunningMean:
    """Sums over `steps` steps: a checkpoint in the middle of an interval keeps its first half.

    `loss`, `dense`, `coord` are those of model.loss.Loss; `mpe_mm` is the error on the augmented frames.
    """

    steps: int = 0
    loss: float = 0.0
    dense: float = 0.0
    coord: float = 0.0
    mpe_mm: float = 0.0

    def add(self, loss: float, dense: float, coord: float, mpe_mm: float) -> None:
        """Count one step."""
        self.steps += 1
        self.loss += loss
        self.dense += dense
        self.coord += coord
        self.mpe_mm += mpe_mm

    def means(self) -> dict[str, float]:
        """Means over the steps counted."""
        return {name: value / self.steps for name, value in asdict(self).items() if name != "steps"}


class TrainingState:
    """Network, optimizer, scaler, averaged weights, and where the run stands.

    `epoch`: epochs completed; `frames`: frames of the current one that all processes have taken;
    `step`: optimizer steps in all; `best_mpe_mm`: lowest validation error; `running`: means since
    the last line of the log. `forward` is the network and its loss as the step calls them, (image,
    joint_uvd, dense_weight, coord_weight) -> Loss: compiled, and shared between processes.

    Args:
        network: with the weights to start from.
        spec: what it is.
        config: the run's settings.
        processes: who trains it.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, config: Config, processes: Processes):
        self.spec = spec
        self.config = config
        self.processes = processes
        # Convolutions run fastest with channels last; the weights decide what the activations are.
        self.network = network.to(processes.device, memory_format=torch.channels_last)
        _freeze(self.network, config.freeze)
        self.forward = self._forward()
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
        self.averaged = _averaged(self.network, config.ema) if config.ema else None
        self.epoch = self.frames = self.step = 0
        self.best_mpe_mm = float("inf")
        self.running = RunningMean()
        self.revision = _git_revision()

    @property
    def scored(self) -> nn.Module:
        """The network that predicts: the averaged one where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    def save(self, path: Path, log_size: int) -> None:
        """Write everything; `model` is the network that predicts, so that test.py reads any checkpoint.

        Args:
            path: the checkpoint.
            log_size: bytes of log.jsonl at this moment, to which resuming cuts it back.
        """
        devices = torch.cuda.get_rng_state_all() if self.processes.device.type == "cuda" else []
        save_checkpoint(
            path,
            self.scored,
            self.spec,
            training_model=None if self.averaged is None else self.network.state_dict(),
            averaged_steps=None if self.averaged is None else int(self.averaged.n_averaged),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            epoch=self.epoch,
            frames=self.frames,
            step=self.step,
            best_mpe_mm=self.best_mpe_mm,
            running=asdict(self.running),
            log_size=log_size,
            random={"torch": torch.get_rng_state(), "cuda": devices},
            config=asdict(self.config),
            revision=self.revision,
        )

    def restore(self, path: Path) -> int:
        """Take everything from a checkpoint.

        Returns:
            The bytes that log.jsonl had.

        Raises:
            UserError: if the file is damaged, or belongs to another network or data set.
        """
        content = read_checkpoint(path)
        if "optimizer" not in content or "running" not in content:
            raise UserError(f"{path} holds no training to go on with: start from it with --load_model.")
        saved = content["config"]
        differences = self._differences(content["spec"], saved)
        if differences:
            raise UserError(f"{path} has {'; '.join(differences)}: a run goes on with the same.")
        self._print_changes(path, saved)
        self._restore_weights(content)
        self.optimizer.load_state_dict(content["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # as set now; every step sets lr
        if content["scaler"]:  # empty where the run was not in fp16
            self.scaler.load_state_dict(content["scaler"])
        for name in ("epoch", "frames", "step", "best_mpe_mm"):
            setattr(self, name, content[name])
        self.running = RunningMean(**content["running"])
        torch.set_rng_state(content["random"]["torch"])
        if len(content["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(content["random"]["cuda"])
        return content["log_size"]

    def _differences(self, spec: dict[str, Any], saved: dict[str, Any]) -> list[str]:
        """How a checkpoint's run differs from this one in what a run cannot change."""
        own = self.spec._asdict()
        found = [f"{key} {value}, not {own[key]}" for key, value in spec.items() if value != own[key]]
        parts, frozen = saved.get("freeze", ()), self.config.freeze
        if sorted(parts) != sorted(frozen):
            found.append(f"freeze {' '.join(parts) or 'nothing'}, not {' '.join(frozen) or 'nothing'}")
        started, named = saved.get("load_model", ""), self.config.load_model
        if named and Path(started).absolute() != Path(named).absolute():
            found.append(f"load_model {started or 'nothing'}, not {named}")
        return found

    def _restore_weights(self, content: dict[str, Any]) -> None:
        raw: dict[str, Tensor] | None = content["training_model"]
        self.network.load_state_dict(content["model"] if raw is None else raw)
        if self.averaged is None:
            return
        self.averaged.module.load_state_dict(content["model"])
        # Where nothing was averaged, averaging starts here: the first update copies the weights.
        self.averaged.n_averaged.fill_(content["averaged_steps"] or 0)

    def _print_changes(self, path: Path, saved: dict[str, Any]) -> None:
        """The settings win over the checkpoint's: say where they differ."""
        skipped = ("resume", "load_model", "freeze", *self.spec._fields)
        for name, value in asdict(self.config).items():
            if name not in skipped and name in saved and saved[name] != value:
                self.processes.print(f"{path} was trained with {name} {saved[name]}, from here on {value}.")

    def _forward(self) -> Callable[..., Loss]:
        network, processes = self.network, self.processes
        if processes.world_size > 1:
            # Each process keeps its own batch-norm statistics until they are averaged (see Processes).
            network = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
        precision, kernel_size = self.config.precision, self.spec.kernel_size

        def forward(image: Tensor, joint_uvd: Tensor, dense_weight: float, coord_weight: float) -> Loss:
            with autocast(processes.device, precision):
                stages = network(image)
            return awr_loss(stages, image, joint_uvd, kernel_size, dense_weight, coord_weight)

        if not self.config.compile:
            return forward
        # As a CUDA graph, a GPU's many small kernels start at once: one by one they take a processor longer
        # than they run. Not between processes, whose exchange of gradients divides the network.
        graph = processes.device.type == "cuda" and processes.world_size == 1
        return torch.compile(forward, dynamic=False, mode="reduce-overhead" if graph else None)


def _freeze(network: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the weights of these parts as they are; batch norms in them go on measuring.

    Raises:
        UserError: for a part that the network does not have, or if no weight is left.
    """
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
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
