"""The experiments by name, and how large they are. Imports no PyTorch."""

from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal

from tyro.conf import Positional

from config import Config, check_numbers
from util import UserError

# What a run trains with, beside what its experiment varies. `full` is the released recipe's rates and epochs.
SCALES: dict[str, dict[str, Any]] = {
    "small": {"crops": 60_000, "img_size": 64, "batch_size": 16, "augment_para": (10.0, 0.1, 30.0)}
    | {"lr": 5e-4, "scheduler": "cosine", "warmup_epochs": 0.05},
    "full": {"precision": "bf16", "compile": True},
}
HALF = -1  # of a run's epochs
SUPERVISIONS: dict[str, dict[str, Any]] = {
    "both": {},
    "dense maps alone": {"coord_weight": 0.0},
    # At weight 1 most of its gradients are close to Adam's epsilon (docs/training.md).
    "dense maps alone, weight 1000": {"coord_weight": 0.0, "dense_weight": 1000.0},
    "joints alone": {"dense_weight": 0.0},
    # Adam hardly feels a common factor: 1000 and 1000 are as good as 1 and 1.
    "dense maps (1000) first, then both": {"coord_weight": 1000.0, "dense_weight": 1000.0}
    | {"dense_epochs": HALF},
}
KERNELS = {"resnet_18": (1.0, 0.7, 0.4, 0.2), "hourglass_1": (0.4, 0.2, 0.7, 1.0)}

# What an experiment asks; (row, column) of its table -> settings changed, every run from random weights.
# Rows are compared with the first of their column; "": a row for each way to decode. Without these
# nothing is trained.
EXPERIMENTS: dict[str, tuple[str, dict[tuple[str, str], dict[str, Any]]]] = {
    "aggregation": ("Do adaptive weights beat fixed ways to combine the votes?", {}),
    "training_and_decoding": (
        "Does training through the adaptive weights help, whichever way decodes?",
        {("", name): SUPERVISIONS[name] for name in ("both", "dense maps alone, weight 1000")},
    ),
    "robustness": ("What do wrong centres, noise, occlusion and other hands cost?", {}),
    "supervision": (
        "Do dense maps and joints together beat either alone?",
        {(name, "resnet_18"): changes for name, changes in SUPERVISIONS.items()},
    ),
    "kernel": (
        "Which kernel size suits which network?",
        {(f"K = {K}", net): {"net": net, "kernel_size": K} for net in KERNELS for K in KERNELS[net]},
    ),
    "rotation": (
        "What does blending the depths of a turned crop cost on plain frames?",
        {(name, "resnet_18"): {"rotation": name} for name in ("linear", "nearest")},
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
# Flags that only experiments that train read, and that only the others read.
TRAINING_FLAGS, SCORING_FLAGS = ("scale", "crops", "img_size", "seeds", "num_workers"), ("frames", "nets")


@dataclass
class ExperimentConfig:
    """Which experiment, how large, and where."""

    name: Positional[str] = ""  # of the experiment: see --list
    list: bool = False  # say what each experiment asks and how many runs it trains, and end
    scale: Literal["small", "full"] = "small"  # 64-pixel crops; or 128 and the data set's epochs, for a GPU
    # That a run trains with, rounded to whole epochs; None: 60,000, at full scale the data set's epochs.
    crops: int | None = None
    img_size: int | None = None  # edge of the crops, pixels; None: the scale's
    seeds: int = 5  # runs of each variant that is trained
    frames: int = 400  # of the test split, at most, that aggregation and robustness score
    nets: tuple[str, ...] = ("resnet_18", "hourglass_1")  # whose shipped weights they score
    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets
    output_dir: str = "output/experiments"  # where results go
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    num_workers: int = 1  # processes that prepare samples beside the network; 0: none

    @property
    def trains(self) -> bool:
        """Whether the experiment trains networks, or scores the shipped ones."""
        return bool(EXPERIMENTS[self.name][1])

    def resolved(self) -> "ExperimentConfig":
        """Check the settings."""
        if self.list:
            return self
        if self.name not in EXPERIMENTS:
            known = ", ".join(EXPERIMENTS)
            raise UserError(f"There is no experiment {self.name!r}: use one of {known}; --list tells more.")
        unread, does = TRAINING_FLAGS, "trains nothing"
        if self.trains:
            unread, does = SCORING_FLAGS, "scores the networks that it trains, on all frames"
        for field in fields(self):
            if field.name in unread and getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name} has no effect on {self.name}, which {does}: leave it out.")
        check_numbers(self, ("crops", "seeds", "frames"), lambda value: 1 <= value < inf, "at least 1")
        return self

    @property
    def shared(self) -> dict[str, Any]:
        """The settings of a run that have the same name here."""
        return {name: getattr(self, name) for name in ("dataset", "data_dir", "device", "num_workers")}

    def run_config(self, changes: dict[str, Any], seed: int = 0, frames: int = 1) -> Config:
        """The settings of one run on a training split of so many frames."""
        given = {name: getattr(self, name) for name in ("crops", "img_size") if getattr(self, name)}
        settings = SCALES[self.scale] | given | self.shared | changes
        half, crops = settings.pop("dense_epochs", 0) == HALF, settings.pop("crops", None)
        if crops and crops < 2 * frames:
            raise UserError(f"--crops {crops} is less than two epochs of {frames} training frames.")
        run = Config(**settings, max_epoch=crops and round(crops / frames), seed=seed, cache=True).resolved()
        return replace(run, dense_epochs=run.max_epoch // 2 if half else 0)
