"""The settings of `python -m util.benchmark`. Imports no PyTorch."""

from dataclasses import dataclass, fields
from math import inf
from typing import Literal

from config import Config, check_numbers
from util import UserError


@dataclass
class BenchmarkConfig:
    """What is measured, and how often."""

    rows: str = ""  # starts of the rows' names, with commas between: head,frame_resnet_18; empty: all rows
    nets: str = "resnet_18,hourglass_1"  # which networks, with commas between
    load_model: str = ""  # checkpoint of the one network in nets; empty: results/<net>_<dataset>.pth
    json: str = "output/benchmark.json"  # file that the rows are written to
    dataset: str = "synth"  # a row of config.DATASETS; frames of its test split are used
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of our training step; the plain one is fp32
    compile: bool = False  # torch.compile our training step, and measure the engine compile: takes minutes
    threads: int = 0  # of PyTorch and the engines; 0: as many as cores
    repeats: int = 15  # timed runs of either way; at most 5 where a run takes long
    steps: int = 10  # timed training steps of either way
    batch_size: int = 32  # frames a training step
    img_size: int = 128  # edge of the crops, pixels; a checkpoint's own wins for its network
    num_workers: int = 2  # processes of the loaders that are measured
    seed: int = 0  # reaches every random draw

    def resolved(self) -> "BenchmarkConfig":
        """Check the settings.

        Raises:
            UserError: in one sentence, for a setting that cannot work.
        """
        check_numbers(self, ("repeats", "steps"), lambda value: 1 <= value < inf, "at least 1")
        check_numbers(self, ("threads",), lambda value: 0 <= value < inf, "0 or more, and finite")
        if self.load_model and "," in self.nets:
            raise UserError(
                f"--load_model {self.load_model} is one network's weights: give it alone in --nets."
            )
        return self

    def project_config(self, net: str = Config.net) -> Config:
        """The settings as the rest of the project takes them, for one network.

        Raises:
            UserError: see `Config.resolved`.
        """
        shared = {field.name for field in fields(Config)} & vars(self).keys()
        return Config(net=net, **{name: getattr(self, name) for name in shared}).resolved()

    def wants(self, *names: str) -> bool:
        """Whether a row of one of these names is among those chosen."""
        chosen = tuple(filter(None, self.rows.split(",")))
        return not chosen or any(name.startswith(chosen) for name in names)
