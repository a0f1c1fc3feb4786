"""The experiments by name, how large they are and what they cost. Imports no PyTorch."""

from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal

from tyro.conf import Positional

from config import Config, check_numbers, find_dataset
from util import UserError

# What a run trains with, beside what its experiment varies. `full` is the released recipe's rates and epochs.
SCALES: dict[str, dict[str, Any]] = {
    "small": {"img_size": 64, "batch_size": 16, "lr": 5e-4, "scheduler": "cosine", "warmup_epochs": 0.05}
    | {"augment_para": (10.0, 0.1, 30.0)},
    "full": {"precision": "bf16", "compile": True},
}
SMALL_CROPS, NYU_CROPS = 60_000, 40 * 72_757  # a run's
FIRST_HALF = -1  # stands for half of a run's epochs

# What an experiment asks; (row, column) of its table -> settings changed. Others are compared with the first
# of a column. Without these nothing is trained.
EXPERIMENTS: dict[str, tuple[str, dict[tuple[str, str], dict[str, Any]]]] = {
    "aggregation": ("Do adaptive weights beat fixed ways to combine the votes?", {}),
    "robustness": ("What do wrong centres, noise, occlusion and other hands cost?", {}),
    "supervision": (
        "Do dense maps and joints together beat either alone?",
        {
            ("both", "resnet_18"): {},
            ("dense maps alone", "resnet_18"): {"coord_weight": 0.0},
            # At 1 half of its gradients are close to Adam's epsilon.
            ("dense maps alone, weight 1000", "resnet_18"): {"coord_weight": 0.0, "dense_weight": 1000.0},
            ("joints alone", "resnet_18"): {"dense_weight": 0.0},
            ("dense maps first, then both", "resnet_18"): {"dense_epochs": FIRST_HALF},
        },
    ),
    "kernel": (
        "Which kernel size suits which network?",
        {
            (f"K = {K}", net): {"net": net, "kernel_size": K}
            for net, kernels in (("resnet_18", (1.0, 0.7, 0.4, 0.2)), ("hourglass_1", (0.4, 0.2, 0.7, 1.0)))
            for K in kernels
        },
    ),
    "downsample": (
        "How fine must the dense maps be?",
        {(f"crop edge / map edge = {d}", "resnet_18"): {"downsample": d} for d in (2, 4, 1)},
    ),
    "backbone": (
        "Does the method work with several networks?",
        {(net, "MPE"): {"net": net} for net in ("resnet_18", "resnet_50", "hourglass_1", "hourglass_2")},
    ),
}

# GFLOP of a forward pass for a crop of 128 pixels; three times as much trains it. GFLOP/s as measured with
# resnet_18 on two cores (EPYC Zen 1, fp32) and on an H100 (bf16, compiled).
GFLOPS = {"resnet_18": 7.55, "resnet_50": 14.3, "hourglass_1": 11.44, "hourglass_2": 17.97}
GFLOPS_A_SECOND = {"cpu": 57.0, "cuda": 99_000.0}


@dataclass
class ExperimentConfig:
    """Which experiment, how large, and where."""

    name: Positional[str] = ""  # of the experiment: see --list
    list: bool = False  # say what each experiment asks and costs, and end
    scale: Literal["small", "full"] = "small"  # 64-pixel crops; or 128 and the data set's epochs, for a GPU
    # That a run trains with, rounded to whole epochs; None: 60,000, at full scale the data set's epochs.
    crops: int | None = None
    img_size: int | None = None  # edge of the crops, pixels; None: the scale's
    # Weights of a run; shipped: those in results/, but for the last layers.
    start: Literal["random", "shipped"] = "random"
    seeds: int = 2  # runs of each variant that is trained
    frames: int = 400  # of the test split, at most, that robustness scores
    nets: str = "resnet_18,hourglass_1"  # whose shipped weights aggregation and robustness score
    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets
    output_dir: str = "output/experiments"  # where results go
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    num_workers: int = 1  # processes that prepare samples beside the network; 0: none

    def resolved(self) -> "ExperimentConfig":
        """Check the settings; raises UserError in one sentence, for one that cannot work."""
        if not self.list and self.name not in EXPERIMENTS:
            known = ", ".join(EXPERIMENTS)
            raise UserError(f"There is no experiment {self.name!r}: use one of {known}; --list tells more.")
        check_numbers(self, ("crops", "seeds", "frames"), lambda value: 1 <= value < inf, "at least 1")
        return self

    @property
    def crops_of_run(self) -> int | None:
        """How many crops a run trains with; None: the data set's epochs."""
        return self.crops or (SMALL_CROPS if self.scale == "small" else None)

    def run_config(self, changes: dict[str, Any], seed: int = 0, frames: int = SMALL_CROPS) -> Config:
        """The settings of one run on a training split of so many frames; errors as of `Config.resolved`."""
        shared = {field.name for field in fields(Config)} & vars(self).keys() - {"img_size"}
        base = Config(**{name: getattr(self, name) for name in shared}, seed=seed, **SCALES[self.scale])
        base = replace(base, cache=True, img_size=self.img_size or base.img_size, **changes)
        crops = self.crops_of_run
        # Two at least, so that the first can have the dense term alone.
        epochs = max(2, round(crops / frames)) if crops else find_dataset(self.dataset).max_epoch
        dense_epochs = epochs // 2 if base.dense_epochs == FIRST_HALF else base.dense_epochs
        return replace(base, max_epoch=epochs, dense_epochs=dense_epochs).resolved()


def forward_seconds(net: str, crops: float, device: str) -> float:
    """Roughly how long a network takes for crops of 128 pixels."""
    return GFLOPS.get(net, 10.0) * crops / GFLOPS_A_SECOND.get(device, GFLOPS_A_SECOND["cpu"])


def training_seconds(config: Config, crops: int, device: str) -> float:
    """Roughly how long a run takes; finer or coarser dense maps cost more or less than this says."""
    return forward_seconds(config.net, 3 * crops * (config.img_size / 128) ** 2, device)


def listing(config: ExperimentConfig) -> str:
    """A line for each experiment: its runs, their hours on two cores and on a GPU, and what it asks; at full
    scale the hours of NYU."""
    crops = config.crops_of_run or NYU_CROPS
    lines = [f"{'experiment':12}{'runs':>6}{'two cores':>14}{'one H100':>14}  question"]
    for name, (question, variants) in EXPERIMENTS.items():
        runs = [config.run_config(changes) for changes in variants.values()] * config.seeds
        cost = [
            sum(training_seconds(run, crops, device) for run in runs) / 3600 for device in ("cpu", "cuda")
        ]
        hours = "".join(f"{hour:12.2f} h" for hour in cost) if runs else "       minutes" * 2
        lines.append(f"{name:12}{len(runs):6}{hours}  {question}")
    return "\n".join(lines)
