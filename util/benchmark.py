"""Time engines, live frames and training steps, each against eager fp32 PyTorch in turn.

python -m util.benchmark --rows frame live --nets resnet_18 --json benchmark.json
"""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from config import MANY, Config, check_numbers
from dataloader import dataset_info
from util import UserError
from util.cli import run
from util.files import write_text

# PyTorch is imported inside the functions: after `run` has set how its idle threads wait.

ENGINE_ROWS = ("frame", "batch32", "moved", "live_found", "live_tracked")
WARM_UP = 2  # runs of each way that are not timed
FEW = 5  # timed runs of what takes long, at most
BATCH, LIVE_FRAMES = 32, 8


@dataclass
class BenchmarkConfig:
    """What is measured, and how often."""

    rows: tuple[str, ...] = ()  # starts of the rows' names: frame live train_resnet_18; none: all rows
    nets: tuple[str, ...] = ("resnet_18", "hourglass_1")  # which networks
    load_model: str = ""  # checkpoint of the one network in nets; empty: results/<net>_<dataset>.pth
    json: str = "output/benchmark.json"  # file that the rows are written to
    dataset: str = "synth"  # a row of config.DATASETS; frames of its test split are used
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of our training step; the plain one is fp32
    compile: bool = False  # torch.compile our training step, and measure the engine compile: takes minutes
    repeats: int = 15  # timed runs of either way; at most 5 where a run takes long
    batch_size: int = 32  # frames a training step

    def resolved(self) -> "BenchmarkConfig":
        """The settings, checked."""
        check_numbers(self, {"repeats": (1, MANY)})
        return self


class Row(NamedTuple):
    """One comparison; `ratio`: how many times faster ours is, 0 where joints move, in mm."""

    name: str
    plain: float
    ours: float
    ratio: float
    unit: str


def main(config: BenchmarkConfig) -> None:
    """Measure the chosen rows; print and write each as soon as it is known."""
    networks = [Benchmark(config, net) for net in config.nets]
    content: dict[str, Any] = {"machine": networks[0].machine, "rows": []}
    print(f"{networks[0].machine}\n{'row':42} {'plain':>12} {'ours':>12} {'ratio':>8}  unit")
    for row in (row for network in networks for row in network.rows()):
        print(f"{row.name:42} {row.plain:12.3f} {row.ours:12.3f} {row.ratio:7.2f}×  {row.unit}", flush=True)
        content["rows"].append(row._asdict())
        write_text(Path(config.json), json.dumps(content, indent=1) + "\n")  # kept, whatever fails later
    for start in config.rows:
        if not any(row["name"].startswith(start) for row in content["rows"]):
            raise UserError(f"No row starts with {start!r}: they start with {', '.join(ENGINE_ROWS)}, train.")
    print(f"Written to {config.json}")


class Benchmark:
    """A network with the weights of `load_model`, or those in results/, and its rows."""

    def __init__(self, config: BenchmarkConfig, net: str):
        import torch

        from dataloader.dataset import build_dataset
        from model.awr import dense_to_joints
        from util.checkpoint import load_or_init_network, shipped_weights
        from util.deployment.int8 import spread_crops
        from util.device import cpu_info, pick_device

        shared = {field.name for field in fields(Config)} & vars(config).keys()
        settings = Config(net=net, **{name: vars(config)[name] for name in shared}).resolved()
        self.chosen, self.repeats, self.device = config.rows, config.repeats, pick_device(config.device)
        self.checkpoint = settings.load_model or shipped_weights(settings)
        network, self.spec = load_or_init_network(settings)
        if self.spec.net != net:
            raise UserError(f"{self.checkpoint} is a {self.spec.net}: give it in --nets, not {net}.")
        self.network = network.to(self.device).eval()
        own = {name: getattr(self.spec, name) for name in ("img_size", "kernel_size", "cube")}
        self.settings = replace(settings, **own).resolved()
        self.dataset = build_dataset(self.settings)
        self.crops = torch.from_numpy(spread_crops(self.dataset, BATCH)).to(self.device)
        self.plain = torch.inference_mode()(  # not fused, channels first
            lambda image: dense_to_joints(self.network(image)[-1], image, self.spec.kernel_size)
        )
        is_gpu = self.device.type == "cuda"
        self.wait = partial(torch.cuda.synchronize, self.device) if is_gpu else lambda: None
        chip = torch.cuda.get_device_name(self.device) if is_gpu else cpu_info().get("model name")
        cores, threads = os.cpu_count(), torch.get_num_threads()
        self.machine = f"{chip}, {cores} cores, {threads} threads, torch {torch.__version__}"

    def rows(self) -> Iterator[Row]:
        """The chosen rows. An engine that cannot be used has none, and is named with the reason."""
        from util.deployment.backends import BACKENDS

        engines = [(backend, precision) for backend, has in BACKENDS.items() for precision in has]
        for backend, precision in [*engines, ("openvino", "int8")]:
            names = [f"{kind}_{self.spec.net}_{backend}_{precision}" for kind in ENGINE_ROWS]
            if self.wants(*names) and (backend != "compile" or self.settings.compile):
                try:
                    yield from self.engine_rows(backend, precision, names)
                except UserError as error:
                    print(f"  without {backend} {precision} of {self.spec.net}: {error}")
        if self.wants(f"train_{self.spec.net}"):
            yield self.train_row(f"train_{self.spec.net}")

    def wants(self, *names: str) -> bool:
        """Whether one of these rows is among those chosen."""
        return not self.chosen or any(name.startswith(self.chosen) for name in names)

    def engine_rows(self, backend: str, precision: str, names: list[str]) -> Iterator[Row]:
        """The rows, with these names, of an engine with the head, and of a predictor with this engine."""
        from util.deployment.backends import best_precision, exported_int8, load_backend, load_engine
        from util.inference.predictor import HandPosePredictor

        (frame, batch, moved, found, tracked), file, is_int8 = names, self.checkpoint, precision == "int8"
        if is_int8:
            file = file and exported_int8(Path(file), self.device)
            if not file:
                raise UserError("no int8 file of the checkpoint lies beside it, or it is not faster here.")
        elif best_precision(backend, precision, self.device) != precision:
            raise UserError(f"it is not faster on this {self.device}.")
        if self.wants(frame, batch, moved):
            what = (self.network, self.spec, backend, precision, self.device)
            ours = load_engine(file)[0] if is_int8 else load_backend(*what)
            for name, image, unit in ((frame, self.crops[:1], "ms"), (batch, self.crops, "images/s")):
                if self.wants(name):
                    yield self.compare(name, self.plain, ours, [(image,)], len(image), unit)
            if self.wants(moved):
                shift = (ours(self.crops)[0] - self.plain(self.crops)).norm(dim=-1).mean()
                edge_mm = max(self.settings.cube or dataset_info(self.settings.dataset).cube)
                yield Row(moved, 0.0, float(shift) * edge_mm / 2, 0.0, "mm")
        if file and self.wants(found, tracked):
            choices = {} if is_int8 else {"precision": precision, "backend": backend}
            predictor = HandPosePredictor(file, str(self.device), min_confidence=0.0, **choices)
            yield from self.live_rows(predictor, found, tracked)

    def live_rows(self, predictor: Any, found: str, tracked: str) -> Iterator[Row]:
        """Whole frames, the hand's centre to be found or known, against a plain pass for each."""
        index, frames = self.dataset.index, range(0, len(self.dataset), -(-len(self.dataset) // LIVE_FRAMES))
        depths = {i: index.read_depth(index.frame_path(i)) for i in frames}
        for name, centers in ((found, dict.fromkeys(frames)), (tracked, index.center_xyz)):
            if self.wants(name):
                calls = [(depths[i], self.dataset.camera.of(i), centers[i], "right") for i in frames]
                one_pass = lambda *_: self.plain(self.crops[:1])  # noqa: E731
                yield self.compare(name, one_pass, predictor.predict, calls, len(calls))

    def train_row(self, name: str) -> Row:
        """A step of train.py against the textbook's: fp32, eager, channels first, PyTorch's default Adam."""
        import torch
        from torch.utils.data import default_collate

        from model.loss import awr_loss
        from util.device import usable_precision
        from util.training.distributed import Processes
        from util.training.engine import to_device, train_step
        from util.training.state import TrainingState

        frames = range(min(self.settings.batch_size, len(self.dataset)))
        batch = to_device(default_collate([self.dataset[i] for i in frames]), self.device)
        network, ours = copy.deepcopy(self.network).train(), copy.deepcopy(self.network).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=self.settings.lr)
        settings = replace(self.settings, precision=usable_precision(self.device, self.settings.precision))
        if settings.precision != self.settings.precision:
            print(f"  {self.settings.precision} is not faster here: our step is in {settings.precision}.")
        state = TrainingState(ours, self.spec, settings, Processes(self.device))

        def plain() -> None:
            loss = awr_loss(network(batch.image), batch.image, batch.joint_uvd, self.spec.kernel_size)
            optimizer.zero_grad()
            sum(loss.terms.values()).backward()
            optimizer.step()

        step = partial(train_step, state, batch, self.dataset, settings.lr, frames)
        return self.compare(name, plain, step, [()], len(frames), "images/s")

    def compare(
        self, name: str, plain: Callable, ours: Callable, calls: list[tuple], frames: int, unit: str = "ms"
    ) -> Row:
        """Median times in which two ways, in turn, do all calls: ms a frame, or frames a second."""
        times: dict[Callable, list[float]] = {plain: [], ours: []}
        for _ in range(WARM_UP + (self.repeats if frames == 1 else min(self.repeats, FEW))):
            for way, seconds in times.items():
                start = time.perf_counter()
                for arguments in calls:
                    way(*arguments)
                self.wait()
                seconds.append(time.perf_counter() - start)
        before, after = (median(seconds[WARM_UP:]) / frames for seconds in times.values())
        values = (before * 1e3, after * 1e3) if unit == "ms" else (1 / before, 1 / after)
        return Row(name, *values, before / after, unit)


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], BenchmarkConfig)
