"""The experiments by name, and how large they are. Imports no PyTorch."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from tyro.conf import Positional

from config import MANY, Config, check_numbers
from util import UserError

# What a run trains with, beside what its experiment varies. `full` is the released recipe's rates and epochs.
SCALES: dict[str, dict[str, Any]] = {
    "small": {"img_size": 64, "batch_size": 16, "augment_para": (10.0, 0.1, 30.0)}
    | {"lr": 5e-4, "scheduler": "cosine", "warmup_epochs": 0.05},
    "full": {"img_size": 128, "compile": True},
}
SUPERVISIONS: dict[str, dict[str, Any]] = {
    "both": {},
    "dense maps alone": {"coord_weight": 0.0},
    # At weight 1 most of its gradients are close to Adam's epsilon (docs/training.md).
    "dense maps alone, weight 1000": {"coord_weight": 0.0, "dense_weight": 1e3},
    "joints alone": {"dense_weight": 0.0},
    # Adam hardly feels a common factor: 1000 and 1000 are as good as 1 and 1. Here `dense_epochs` is a share.
    "dense maps (1000) first, then both": {"coord_weight": 1e3, "dense_weight": 1e3, "dense_epochs": 0.5},
}

QUESTIONS = {
    "aggregation": "Do adaptive weights beat fixed ways to combine the votes?",
    "training_and_decoding": "Does training through the adaptive weights help, whichever way decodes?",
    "robustness": "What do wrong centres, noise, occlusion and other hands cost?",
    "supervision": "Do dense maps and joints together beat either alone?",
    "kernel": "What does the hourglass's kernel size, 0.4, cost the ResNet?",
    "rotation": "What does blending the depths of a turned crop cost on plain frames?",
}
# (row, column) of an experiment's table -> settings changed, every run from random weights. Rows are compared
# with the first of their column; "": a row for each way to decode. The other experiments train nothing.
VARIANTS: dict[str, dict[tuple[str, str], dict[str, Any]]] = {
    "training_and_decoding": {("", n): SUPERVISIONS[n] for n in ("both", "dense maps alone, weight 1000")},
    "supervision": {(name, "resnet_18"): changes for name, changes in SUPERVISIONS.items()},
    "kernel": {(f"K = {k}", "resnet_18"): {"kernel_size": k} for k in (1.0, 0.4)},
    "rotation": {(name, "resnet_18"): {"rotation": name} for name in ("linear", "nearest")},
}


@dataclass
class ExperimentConfig:
    """Which experiment, how large, and where."""

    name: Positional[str] = ""  # of the experiment: see --list
    list: bool = False  # say what each experiment asks and how many runs it trains, and end
    scale: Literal["small", "full"] = "small"  # 64-pixel crops; or 128 and the data set's epochs, for a GPU
    crops: int | None = None  # of a run, in whole epochs; None: 60,000, at full scale the data set's epochs
    img_size: int | None = None  # edge of the crops, pixels; None: the scale's
    seeds: int = 5  # runs of each variant that is trained
    frames: int = 400  # of the test split, at most, that aggregation and robustness score
    nets: tuple[str, ...] = ("resnet_18", "hourglass_1")  # whose shipped weights they score
    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets
    output_dir: str = "output/experiments"  # where results go
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    num_workers: int = 1  # processes that prepare samples beside the network; 0: none

    def resolved(self) -> "ExperimentConfig":
        """Check the settings."""
        if self.list:
            return self
        if self.name not in QUESTIONS:
            known = ", ".join(QUESTIONS)
            raise UserError(f"There is no experiment {self.name!r}: use one of {known}; --list tells more.")
        check_numbers(self, dict.fromkeys(("crops", "seeds", "frames"), (1, MANY)))
        return self

    def run_config(self, changes: dict[str, Any], seed: int = 0, frames: int = 1) -> Config:
        """The settings of one run on a training split of so many frames."""
        crops = self.crops or (60_000 if self.scale == "small" else 0)
        if 0 < crops < 2 * frames:
            raise UserError(f"--crops {crops} is less than two epochs of {frames} training frames.")
        scale = SCALES[self.scale] | ({"img_size": self.img_size} if self.img_size else {})
        own = {"max_epoch": round(crops / frames) or None, "seed": seed, "cache": True, "precision": "bf16"}
        run = self.data_config(scale | own | changes | {"dense_epochs": 0})
        return replace(run, dense_epochs=int(changes.get("dense_epochs", 0) * run.max_epoch))

    def data_config(self, changes: dict[str, Any]) -> Config:
        """The settings that name data and device, and some of a run's."""
        names = ("dataset", "data_dir", "device", "num_workers")
        return Config(**{name: getattr(self, name) for name in names} | changes).resolved()
