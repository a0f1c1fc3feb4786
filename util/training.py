"""A whole training run: prepare or resume, epochs, validation, checkpoints, and leaving when asked to."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from config import DATASETS, Config
from dataloader import build_dataset
from dataloader.base import HandDataset
from dataloader.sampler import ShuffledBatches
from util.checkpoint import asked_spec, initial_network, load_network, prepare_network
from util.device import keep_freed_memory, usable_precision
from util.distributed import Processes
from util.engine import (
    Evaluation,
    StepMeans,
    evaluate,
    make_training_loader,
    settle_batch_norm,
    train_one_epoch,
)
from util.files import remove_leftovers
from util.training_log import TrainingLog
from util.training_state import TrainingState


def train(config: Config, processes: Processes) -> TrainingState:
    """Train to `max_epoch`, writing last.pth, best.pth, log.jsonl and curves into `output_dir`.

    Returns:
        The state at the end.

    Raises:
        FileNotFoundError, ValueError, OSError: for data, settings, a diverged loss, a full disk.
        KeyboardInterrupt: after SIGTERM or Ctrl-C, once last.pth is written.
    """
    config = _usable(config, processes)
    if processes.device.type == "cpu":
        keep_freed_memory()
    val_split = DATASETS[config.dataset].val_split
    training = build_dataset(config, augment=True)
    validation = build_dataset(replace(config, split=val_split))
    if val_split == "test":
        processes.print(f"{config.dataset} has no val split: best.pth is picked by the error on test.")
    batches = ShuffledBatches(
        len(training), config.batch_size, config.seed, processes.rank, processes.world_size
    )
    loader = make_training_loader(training, batches, config.num_workers, processes.device)
    state, log_size = start(config, processes)
    processes.print(
        f"{state.spec.net}: {len(training)} frames, {batches.num_steps} steps of {batches.frames_a_step} "
        f"an epoch on {processes.world_size} × {processes.device} in {config.precision}, "
        f"from step {state.step}."
    )
    with StopRequest() as stop, Records(state, batches, log_size) as records:

        def after_step(means: StepMeans) -> None:
            records.after_step(means)
            stopping, due = processes.agree(stop.requested, records.is_due)
            if stopping or due:
                records.save("last")
            if stopping:
                raise KeyboardInterrupt

        while state.epoch < config.max_epoch:
            records.start_epoch()
            train_one_epoch(state, loader, after_step)
            settle_batch_norm(state, loader)
            # Validation may take minutes, and the epoch before it hours.
            records.save("last")
            with stop.at_once():
                evaluation = evaluate(state, validation)
            records.after_validation(evaluation, validation)
    return state


def start(config: Config, processes: Processes) -> tuple[TrainingState, int]:
    """A state from initial weights, from --load_model, or from where last.pth left it.

    Returns:
        The state, and the bytes of log.jsonl that belong to it.

    Raises:
        FileNotFoundError, ValueError: for a checkpoint that does not fit; also if the folder holds a run
            that would be overwritten, or another than is asked for, or not the same for every process; or
            if initial weights are frozen.
    """
    last = Path(config.output_dir, "last.pth")
    if last.is_file() and not config.resume:
        raise ValueError(
            f"{last} is there: go on with it with --resume, or choose another --output_dir for a new run."
        )
    resume = config.resume and last.is_file()
    if config.load_model and resume:
        # What was loaded then is in there now: its net, downsample and K go on, the rest must be the same.
        asked = asked_spec(config)
        network, held = load_network(last, asked)
        spec = asked._replace(net=held.net, downsample=held.downsample, kernel_size=held.kernel_size)
    elif config.load_model:
        # What it says of the checkpoint is said once.
        with redirect_stdout(sys.stdout if processes.is_main else None):
            network, spec = prepare_network(config, training=True)
    elif config.freeze and not resume:
        raise ValueError("freeze keeps weights as loaded: say with --load_model which.")
    else:
        network, spec = initial_network(config), asked_spec(config)
    state = TrainingState(network, spec, config, processes)
    if config.resume and not resume:
        processes.print(f"{last} is not there yet: starting from the beginning.")
    log_size = state.restore(last) if resume else 0
    # Only the main process writes: on machines that share no disk the others would begin anew.
    if len(set(processes.gather((state.epoch, state.frames, state.step)))) > 1:
        raise ValueError(
            f"{last} is not the same for all processes: give an --output_dir on a disk that all machines "
            "see, or copy the file to each."
        )
    return state, log_size


def _usable(config: Config, processes: Processes) -> Config:
    if config.precision == "int8":
        raise ValueError("precision int8 is for test.py, whose backends measure it: train in another.")
    if config.centers:
        raise ValueError(
            "--centers is for test.py: train.py takes those that lie beside the train and validation splits."
        )
    precision = usable_precision(processes.device, config.precision)
    if precision != config.precision:
        processes.print(f"{config.precision} gains nothing on this {processes.device}: using {precision}.")
    return replace(config, split="train", precision=precision)


class Records:
    """What a run leaves in its folder; only the main process writes.

    Args:
        state: what trains.
        batches: how long an epoch is.
        log_size: bytes of log.jsonl that belong to the state.
    """

    def __init__(self, state: TrainingState, batches: ShuffledBatches, log_size: int):
        self.state = state
        self.batches = batches
        self.folder = Path(state.config.output_dir)
        self.log: TrainingLog | None = None
        if state.processes.is_main:
            remove_leftovers(self.folder)
            self.log = TrainingLog(state, self.folder, log_size)
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.log is not None:
            self.log.close(finished=kind is None)

    @property
    def is_due(self) -> bool:
        """Whether the main process finds it time to save."""
        minutes = (time.monotonic() - self.saved_at) / 60
        return self.log is not None and minutes >= self.state.config.save_minutes

    def save(self, name: str) -> None:
        """Write <folder>/<name>.pth."""
        if self.log is not None:
            self.state.save(self.folder / f"{name}.pth", self.log.size)
        self.saved_at = time.monotonic()

    def start_epoch(self) -> None:
        """Show a new bar."""
        if self.log is not None:
            self.log.start_epoch(self.batches.num_steps, self.batches.frames_a_step)

    def after_step(self, means: StepMeans) -> None:
        """Show and log a step."""
        if self.log is not None:
            self.log.after_step(means, self.batches.frames_a_step, self.batches.num_steps)

    def after_validation(self, evaluation: Evaluation, dataset: HandDataset) -> None:
        """Log the scores, end the epoch, and save: best.pth first, so that last.pth never knows of a
        record that is not on the disk."""
        state, mpe_mm = self.state, evaluation.metrics.mpe_mm
        if self.log is not None:
            self.log.after_validation(evaluation, dataset)
        is_best = mpe_mm < state.best_mpe_mm
        state.best_mpe_mm = min(mpe_mm, state.best_mpe_mm)
        state.epoch, state.frames = state.epoch + 1, 0
        state.processes.print(
            f"epoch {state.epoch}/{state.config.max_epoch}, step {state.step}: "
            f"validation MPE {mpe_mm:.3f} mm, best {state.best_mpe_mm:.3f} mm"
        )
        if is_best:
            self.save("best")
        self.save("last")


class StopRequest:
    """SIGTERM and Ctrl-C as a wish that the run takes up between two steps, to save before it leaves.

    Repeated signals change nothing: torchrun passes on what its processes have received already.
    """

    def __init__(self) -> None:
        self.requested = False
        self._raises = False

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, nothing is lost by leaving: a request raises KeyboardInterrupt where it arrives."""
        if self.requested:
            raise KeyboardInterrupt
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _receive(self, *_: object) -> None:
        self.requested = True
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt
