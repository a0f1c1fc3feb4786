"""A whole training run: prepare or resume, epochs, validation, checkpoints, and leaving when asked to."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

from config import DATASETS, Config
from dataloader import build_dataset
from dataloader.dataset import HandDataset
from util import UserError
from util.checkpoint import init_network, load_network, load_or_init_network, spec_from_config
from util.device import usable_precision
from util.files import locked_folder
from util.training.distributed import Processes
from util.training.engine import (
    StepMeans,
    evaluate,
    make_training_loader,
    recalibrate_batch_norm,
    train_one_epoch,
)
from util.training.log import RunLog
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState


def train(config: Config, processes: Processes) -> TrainingState:
    """Train to `max_epoch`, writing last.pth, best.pth, log.jsonl and curves into `output_dir`.

    Returns:
        The state at the end.

    Raises:
        FileNotFoundError, UserError, OSError: for data, settings, a diverged loss, a full disk; also if
            another run writes into `output_dir`.
        KeyboardInterrupt: after SIGTERM or Ctrl-C, once last.pth is written.
    """
    config = _usable(config, processes)
    val_split = DATASETS[config.dataset].val_split
    training = build_dataset(config, augment=True)
    validation = build_dataset(replace(config, split=val_split))
    if val_split == "test":
        processes.print(f"{config.dataset} has no val split: best.pth is picked by the error on test.")
    with locked_folder(Path(config.output_dir)) if processes.is_main else nullcontext():
        return run_epochs(config, processes, training, validation)


def run_epochs(
    config: Config, processes: Processes, training: HandDataset, validation: HandDataset
) -> TrainingState:
    """Start or resume, and train to `max_epoch`; see `train`."""
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
    with _saying_how_to_go_on(config), StopRequest() as stop, RunLog(state, batches, log_size) as log:

        def after_step(means: StepMeans) -> None:
            log.after_step(means)
            stopping, due = processes.agree(stop.requested, log.save_is_due)
            if stopping or due:
                log.save("last")
            if stopping:
                raise KeyboardInterrupt

        while state.epoch < config.max_epoch:
            log.start_epoch()
            train_one_epoch(state, loader, after_step)
            recalibrate_batch_norm(state, loader)
            log.save("last")  # validation may take minutes, and the epoch before it hours
            with stop.at_once():
                evaluation = evaluate(state, validation)
            log.after_validation(evaluation, validation)
            is_best = finish_epoch(state, evaluation.metrics.mpe_mm)
            if is_best:  # first, so that last.pth never knows of a record that is not on the disk
                log.save("best")
            log.save("last")
    return state


@contextmanager
def _saying_how_to_go_on(config: Config) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        last = Path(config.output_dir, "last.pth")
        there = f"{last} is saved: the same command with --resume goes on." if last.is_file() else ""
        raise KeyboardInterrupt(*filter(None, [there])) from stop


def finish_epoch(state: TrainingState, mpe_mm: float) -> bool:
    """Count an epoch and its validation error; whether that is the lowest so far."""
    is_best = mpe_mm < state.best_mpe_mm
    state.best_mpe_mm = min(mpe_mm, state.best_mpe_mm)
    state.epoch, state.frames = state.epoch + 1, 0
    state.processes.print(
        f"epoch {state.epoch}/{state.config.max_epoch}, step {state.step}: "
        f"validation MPE {mpe_mm:.3f} mm, best {state.best_mpe_mm:.3f} mm"
    )
    return is_best


def start(config: Config, processes: Processes) -> tuple[TrainingState, int]:
    """A state with random weights, those of --load_model, or where last.pth left it.

    Returns:
        The state, and the bytes of log.jsonl that belong to it.

    Raises:
        FileNotFoundError, UserError: for a checkpoint that does not fit; if the folder holds another run,
            one that would be overwritten, or not the same for every process; if random weights are frozen.
    """
    last = Path(config.output_dir, "last.pth")
    if last.is_file() and not config.resume:
        raise UserError(
            f"{last} is there: go on with it with --resume, or choose another --output_dir for a new run."
        )
    resume = config.resume and last.is_file()
    if config.load_model and resume:
        # The net, downsample and K of what was loaded at the start go on; the rest must be the same.
        spec = spec_from_config(config)
        network, saved = load_network(last, spec)
        spec = spec._replace(net=saved.net, downsample=saved.downsample, kernel_size=saved.kernel_size)
    elif config.load_model:
        with redirect_stdout(sys.stdout if processes.is_main else None):
            network, spec = load_or_init_network(config, training=True)
    elif config.freeze and not resume:
        raise UserError("freeze keeps weights as loaded: say with --load_model which.")
    else:
        network, spec = init_network(config), spec_from_config(config)
    state = TrainingState(network, spec, config, processes)
    if config.resume and not resume:
        processes.print(f"{last} is not there yet: starting from the beginning.")
    log_size = state.restore(last) if resume else 0
    # Only the main process writes: on machines that share no disk the others would start from the beginning.
    if len(set(processes.gather((state.epoch, state.frames, state.step)))) > 1:
        raise UserError(
            f"{last} is not the same for all processes: give an --output_dir on a disk that all machines "
            "see, or copy the file to each."
        )
    return state, log_size


def _usable(config: Config, processes: Processes) -> Config:
    if config.centers:
        raise UserError("centers is for test.py: train.py takes the centre files of the splits it reads.")
    precision = usable_precision(processes.device, config.precision)
    if precision != config.precision:
        processes.print(f"{config.precision} is not faster on this {processes.device}: using {precision}.")
    return replace(config, split="train", precision=precision)


class StopRequest:
    """Catches SIGTERM and Ctrl-C, so that a run can save between two steps before it leaves.

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
        """Inside, a signal raises KeyboardInterrupt at once: nothing would be lost."""
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
