"""A whole training run: prepare or resume, epochs, validation, checkpoints, and leaving when asked to."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

from config import Config
from dataloader import dataset_info
from dataloader.dataset import HandDataset, build_dataset
from dataloader.index import fingerprint
from util import UserError
from util.checkpoint import init_network, load_network, load_or_init_network, spec_from_config
from util.device import usable_precision
from util.files import locked_folder
from util.training.distributed import Processes
from util.training.engine import evaluate, make_training_loader, recalibrate_batch_norm, train_one_epoch
from util.training.log import NoLog, RunLog
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState


def train(config: Config, processes: Processes) -> TrainingState:
    """Train to `max_epoch`, writing last.pth, best.pth, log.jsonl and curves into `output_dir`.

    SIGTERM and Ctrl-C raise KeyboardInterrupt, once last.pth is written. Returns the state at the end.
    """
    precision = usable_precision(processes.device, config.precision)
    if precision != config.precision:
        processes.print(f"{config.precision} is not faster on this {processes.device}: using {precision}.")
    config = replace(config, split="train", precision=precision)
    training = build_dataset(config, augment=True)
    if dataset_info(config.dataset).val_split == "test":
        config = replace(config, val_split="test")  # there is no other
    validation = build_dataset(replace(config, split=config.val_split))
    folder = Path(config.output_dir)
    with locked_folder(folder) if processes.is_main else nullcontext(), _naming(folder):
        return run_epochs(config, processes, training, validation)


def run_epochs(
    config: Config, processes: Processes, training: HandDataset, validation: HandDataset
) -> TrainingState:
    """Start or resume, and train to `max_epoch`; see `train`."""
    batches = ShuffledBatches(
        len(training), config.batch_size, config.seed, processes.rank, processes.world_size
    )
    loader = make_training_loader(training, batches, config.num_workers, processes.device)
    splits = {"train": training, "val": validation} if processes.is_main else {}
    data = {split: fingerprint(dataset.index) for split, dataset in splits.items()}
    state, log_size = start(config, processes, data)
    steps = f"{batches.num_steps} steps of {batches.frames_a_step} an epoch"
    place = f"{processes.world_size} × {processes.device} in {config.precision}"
    processes.print(f"{state.spec.net}: {len(training)} frames, {steps} on {place}, from step {state.step}.")
    with StopRequest() as stop, RunLog(state, batches, log_size) if processes.is_main else NoLog() as log:

        def after_step(means: dict[str, float]) -> None:
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
            stop.raise_at_once(True)  # nothing would be lost
            evaluation = evaluate(state, validation)
            stop.raise_at_once(False)
            log.after_validation(evaluation, validation)
            if finish_epoch(state, evaluation.metrics.mpe_mm):
                log.save("best")  # first, so that last.pth never knows of a record that is not on the disk
            log.save("last")
    return state


def finish_epoch(state: TrainingState, mpe_mm: float) -> bool:
    """Count an epoch and its validation error; whether that is the lowest so far."""
    is_best = mpe_mm < state.best_mpe_mm
    state.best_mpe_mm = min(mpe_mm, state.best_mpe_mm)
    state.waited = 0 if is_best else state.waited + 1
    if state.config.scheduler == "plateau" and state.waited > state.config.patience:
        state.waited, state.cuts = 0, state.cuts + 1
    state.epoch, state.frames = state.epoch + 1, 0
    state.processes.print(
        f"epoch {state.epoch}/{state.config.max_epoch}, step {state.step}: "
        f"validation MPE {mpe_mm:.3f} mm, best {state.best_mpe_mm:.3f} mm"
    )
    return is_best


def start(config: Config, processes: Processes, data: dict[str, str]) -> tuple[TrainingState, int]:
    """A state with random weights, those of --load_model, or where last.pth left it; and the bytes of
    log.jsonl that belong to it."""
    last = Path(config.output_dir, "last.pth")
    resuming = last.is_file()
    if not config.resume and resuming:
        raise UserError(f"{last} is there: go on with --resume, or choose another --output_dir.")
    if config.load_model and resuming:
        # The net, downsample and K of what was loaded at the start go on; the rest must be the same.
        spec = spec_from_config(config)
        network, saved = load_network(last, spec)
        spec = spec._replace(net=saved.net, downsample=saved.downsample, kernel_size=saved.kernel_size)
    elif config.load_model:
        with redirect_stdout(sys.stdout if processes.is_main else None):
            network, spec = load_or_init_network(config, training=True)
    elif config.freeze and not resuming:
        raise UserError("freeze keeps weights as loaded: say with --load_model which.")
    else:
        network, spec = init_network(config), spec_from_config(config)
    state = TrainingState(network, spec, config, processes)
    state.data = data
    log_size = state.restore(last) if resuming else 0
    # Only the main process writes: on machines that share no disk the others would start from the beginning.
    if len(set(processes.gather((state.epoch, state.frames, state.step)))) > 1:
        raise UserError(f"{last} is not the same for all processes: choose a disk that all machines see.")
    return state, log_size


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Say how a stopped run goes on, and which folder's disk is full: the error of a write names no file."""
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = f"{folder}/last.pth is saved: the same command with --resume goes on."
        raise KeyboardInterrupt(*[saved] * (folder / "last.pth").is_file()) from stop
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


class StopRequest:
    """Catches SIGTERM and Ctrl-C, so that a run can save between two steps before it leaves.

    Repeated signals change nothing: torchrun passes on what its processes have received already.
    """

    requested = _raises = False

    def __enter__(self) -> "StopRequest":
        self._before = {n: signal.signal(n, self._receive) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_at_once(self, wanted: bool) -> None:
        """Whether a signal raises KeyboardInterrupt at once, one that came before too."""
        self._raises = wanted
        if wanted and self.requested:
            raise KeyboardInterrupt

    def _receive(self, *_: object) -> None:
        raising, self.requested, self._raises = self._raises, True, False
        if raising:
            raise KeyboardInterrupt
