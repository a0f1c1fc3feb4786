"""What a run leaves in its folder: checkpoints, log.jsonl, TensorBoard, curves; and its progress bar."""

import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataloader import dataset_info
from dataloader.dataset import HandDataset
from util.files import remove_leftovers
from util.plots import draw_gallery, pick_tiles, save_training_curves
from util.training.engine import Evaluation, StepMeans
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState


class RunLog(contextlib.AbstractContextManager):
    """The records of a run; an earlier log.jsonl is cut to the `kept_bytes` that its checkpoint knows.

    log.jsonl has two kinds of lines. Every `log_every` steps: `epoch`, `step`, `lr`, the means since the
    line before of `loss`, its terms and `mpe_mm`, and `images_per_s`. Every validation: `epoch`, `step`,
    `val_mpe_mm`, `val_median_mm`, `val_auc`, `val_frames`.
    """

    def __init__(self, state: TrainingState, batches: ShuffledBatches, kept_bytes: int):
        self.state, self.batches = state, batches
        self.folder = Path(state.config.output_dir)
        self.saved_at = time.monotonic()
        remove_leftovers(self.folder)
        self.file = (self.folder / "log.jsonl").open("a")
        if self.file.tell() > kept_bytes:
            self.file.truncate(kept_bytes)
        self.board = SummaryWriter(self.folder / "tensorboard", purge_step=state.step + 1)
        settings = "\n".join(f"    {name}: {value}" for name, value in asdict(state.config).items())
        self.board.add_text("settings", settings, state.step)
        self.bar = tqdm(disable=True)

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Close the files; draw the curves of a run that came to its end."""
        self.bar.close()
        # What is left in their buffers may not fit on the disk either: the first error is the one to tell.
        for part in (self.file, self.board):
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                part.close()
        if kind is None:
            lines = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
            steps = [line for line in lines if "loss" in line]
            validations = [line for line in lines if "val_mpe_mm" in line]
            save_training_curves(self.folder / "curves.png", steps, validations)

    @property
    def save_is_due(self) -> bool:
        """Whether `save_minutes` have passed since the last checkpoint."""
        return time.monotonic() - self.saved_at >= 60 * self.state.config.save_minutes

    def save(self, name: str) -> None:
        """Write <folder>/<name>.pth."""
        self.state.save(self.folder / f"{name}.pth", log_size=self.file.tell())
        self.saved_at = time.monotonic()

    def start_epoch(self) -> None:
        """Show a new bar; none where nobody looks, as in a job's log file."""
        self.bar = tqdm(
            desc=f"epoch {self.state.epoch + 1}/{self.state.config.max_epoch}",
            total=self.batches.num_steps * self.batches.frames_a_step,
            initial=self.state.frames,
            unit="image",
            disable=None,
        )
        self.timed = (time.perf_counter(), self.state.step)

    def after_step(self, means: StepMeans) -> None:
        """Show a step; write a line when one is due."""
        state, frames_a_step = self.state, self.batches.frames_a_step
        self.bar.set_postfix(loss=f"{means['loss']:.5f}", MPE=f"{means['mpe_mm']:.1f} mm", refresh=False)
        self.bar.update(frames_a_step)
        if state.step % state.config.log_every:
            return
        now, (then, step_then) = time.perf_counter(), self.timed
        steps = state.running.pop("steps")
        numbers = {
            "lr": state.optimizer.param_groups[0]["lr"],
            **{name: total / steps for name, total in state.running.items()},
            "images_per_s": (state.step - step_then) * frames_a_step / (now - then),
        }
        self.timed = (now, state.step)
        state.running.clear()
        self._write(state.epoch + state.frames / (frames_a_step * self.batches.num_steps), numbers)

    def after_validation(self, evaluation: Evaluation, dataset: HandDataset) -> None:
        """Write the scores of the epoch that ends, and draw some of its frames."""
        self.bar.close()
        state, metrics = self.state, evaluation.metrics
        names = ("mpe_mm", "median_mm", "auc", "frames")
        self._write(state.epoch + 1, {f"val_{name}": getattr(metrics, name) for name in names})
        tiles = pick_tiles(dataset, evaluation.joint_uvd, metrics.frame_mm)
        figure = draw_gallery(tiles, dataset_info(state.config.dataset))
        self.board.add_figure("validation frames", figure, state.step)
        self.board.flush()

    def _write(self, epoch: float, numbers: dict[str, float]) -> None:
        line = json.dumps({"epoch": round(epoch, 6), "step": self.state.step, **numbers})
        self.file.write(line + "\n")
        self.file.flush()
        for name, value in numbers.items():
            group = "val" if name.startswith("val_") else "train"
            self.board.add_scalar(f"{group}/{name.removeprefix('val_')}", value, self.state.step)


class NoLog(contextlib.AbstractContextManager):
    """The log of the processes that write nothing: has RunLog's methods, which do nothing."""

    save_is_due = False

    def _do_nothing(self, *_: object) -> None:
        pass

    __exit__ = save = start_epoch = after_step = after_validation = _do_nothing
