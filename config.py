"""The settings of train.py and test.py, each once: edit this file, or pass a flag of the same name."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from util import UserError

VERSION = "1.0.0"  # of this software; saved poses and exported graphs carry it


@dataclass
class DataSettings:
    """What is read, and where results go."""

    dataset: str = "synth"  # a row of DATASETS; lies in <data_dir>/<dataset>
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    setup: Literal["s0", "s1", "s2", "s3"] = "s0"  # dexycb: how it is split
    test_subject: int | Literal["all"] = 0  # msra: the subject left out of training, 0 to 8; all: nine folds
    img_size: int = 128  # edge of the depth crop, pixels; what the published weights were trained on
    cube: tuple[float, float, float] | None = None  # edges of the cropped volume, mm; None: the data set's
    # File of hand centres to crop around; labels: the mean of the true joints; empty: the data set's own.
    centers: str = ""
    centers_format: str = "xyz"  # of files of centres: xyz or uvd; x-yz: other sign of y; xyz_m: metres
    sensor: float = 0.0  # 0 to 1, strength of a camera's faults put into crops, train.py's and test.py's
    batch_size: int = 32  # frames a step
    num_workers: int = 2  # processes that prepare samples beside the network; 0: none
    output_dir: str | None = None  # None: output/<dataset>/<net>; test.py: beside the checkpoint


@dataclass
class NetworkSettings:
    """Which network, its weights, and how it is computed."""

    net: str = "resnet_18"  # resnet_18, resnet_50, resnet_101, resnet_152, or hourglass_N
    downsample: Literal[1, 2, 4] = 2  # crop edge / edge of the dense maps; an hourglass has 2
    kernel_size: float | None = None  # K of the closeness, in half cubes; None: the network's own
    # .pth; for test.py also int8 .xml, or several to average; empty: it takes results/<net>_<dataset>.pth
    load_model: str | tuple[str, ...] = ""
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the network; the head always sums in fp32
    seed: int = 0  # reaches every random draw


@dataclass
class ScoringSettings:
    """What test.py scores."""

    # What is scored; icvl and msra have no val, synth alone has val_hard.
    split: Literal["train", "val", "test", "val_hard"] = "test"
    backend: Literal["torch", "compile", "onnxruntime", "openvino"] = "torch"  # what runs the network
    predictions: str | tuple[str, ...] = ""  # score this file, or the mean of several, without a network
    predictions_format: str = "uvd"  # of it and of those compared, as centers_format
    predictions_order: str = ""  # of joints in these: dexycb, ho3d, mano, hands, msra; empty: the data set's
    compare: tuple[str, ...] = ()  # NAME=FILE of further predictions, drawn into the same curves
    per_joint: bool = False  # also print every joint's error
    figures: Literal["png", "svg", "pdf"] = "png"  # format of the curves and pictures


@dataclass
class TrainingSettings:
    """How train.py trains."""

    augment_para: tuple[float, float, float] = (10.0, 0.1, 180.0)  # translation mm, scale, rotation degrees
    recipe: Literal["default", "released_phase1", "released_phase2", "ipnet", "ours"] = "default"
    # linear mixes neighbouring depths, as the released code does; nearest does not; both: half of the crops
    rotation: Literal["linear", "nearest", "both"] = "linear"
    cache: bool = False  # keep what crops are made from on disk: only the first epoch decodes frames
    max_epoch: int | None = None  # None: the data set's
    # Those with None that follow are the recipe's: see RECIPES.
    optimizer: Literal["adam", "adamw"] | None = None
    lr: float | None = None
    weight_decay: float | None = None
    # lr × 0.1 every `step` epochs, down to 0 at max_epoch, or × 0.1 where validation stagnates
    scheduler: Literal["step", "cosine", "plateau"] | None = None
    warmup_epochs: float | None = None  # epochs over which lr rises from 0; steadies a large lr or batch
    dense_weight: float | None = None  # of the dense maps' Huber loss
    coord_weight: float | None = None  # of the joints' Huber loss
    clip_grad: float | None = None  # largest norm of all gradients together; 0: no limit
    ema: float | None = None  # decay a step of the averaged weights that are scored and saved; 0: none
    step: int | None = None  # epochs; None: the data set's
    patience: int = 3  # epochs without a new best after which a plateau cuts lr
    val_split: Literal["val", "test"] = "val"  # best.pth is picked by it; test: as many papers do
    freeze: tuple[str, ...] = ()  # parts whose weights stay as loaded, say layer1 layer4: a cheaper step
    dense_epochs: int = 0  # epochs with the dense term alone, then both
    bn_batches: int = 50  # batches that measure the averaged weights' batch-norm statistics; 0: averaged too
    compile: bool = False  # torch.compile: up to minutes at the start; faster steps on a GPU, not on a CPU
    resume: bool = False  # go on from <output_dir>/last.pth, from the start where there is none yet
    save_minutes: float = 10.0  # time between checkpoints within an epoch: what a crash may cost
    log_every: int = 50  # steps a line of log.jsonl and a point of the curves


# What `--recipe` sets where no flag says otherwise; sources in docs/training.md.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {
        **{"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "scheduler": "step", "warmup_epochs": 0.0},
        **{"dense_weight": 1.0, "coord_weight": 1.0, "clip_grad": 0.0, "ema": 0.0},
    },
    # The released config, its dense term at a weight that Adam's epsilon does not swallow.
    "released_phase1": {"dense_weight": 1000.0, "coord_weight": 0.0},
    # The author's words: then both terms, lr lowered where validation stagnates; from phase 1's weights.
    "released_phase2": {"dense_weight": 1000.0, "coord_weight": 1000.0, "lr": 1e-4, "scheduler": "plateau"},
    "ipnet": {"coord_weight": 100.0, "optimizer": "adamw", "weight_decay": 0.01, "scheduler": "cosine"},
    "ours": {
        **{"lr": 4e-4, "scheduler": "cosine", "warmup_epochs": 0.5, "clip_grad": 3.0, "ema": 0.999},
        **{"dense_weight": 1000.0, "coord_weight": 400.0},
    },
}

MANY = 2**32 - 1  # more than anything is counted to; the largest seed
MAX_WORKERS = 1000
FINITE = (0, sys.float_info.max)
# What a number must be, at least and at most; None, which the tables fill, is always allowed.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size", "max_epoch", "step", "log_every", "patience"), (1, MANY)),
    **dict.fromkeys(("seed", "dense_epochs", "bn_batches"), (0, MANY)),
    **dict.fromkeys(("weight_decay", "warmup_epochs", "dense_weight", "coord_weight", "clip_grad"), FINITE),
    "save_minutes": FINITE,
    "lr": (1e-12, FINITE[1]),
    "num_workers": (0, MAX_WORKERS),
    "img_size": (1, 1024),  # pixels; a larger crop is a mistyped one, and would fill the memory
    "kernel_size": (0.01, 4),  # half cubes; nothing in a cube is farther from anything
    "cube": (1, 10_000),  # mm
    "augment_para": (0, 1000),
    "sensor": (0, 1),
    "ema": (0, 0.99999),
    "test_subject": (0, 8),
}


@dataclass
class Config(TrainingSettings, ScoringSettings, NetworkSettings, DataSettings):
    """All settings together. What is None follows from the tables below, or is the data set's own."""

    def resolved(self) -> "Config":
        """The settings, checked, with what is None filled from the tables."""
        row = find_dataset(self.dataset)
        check_numbers(self, RANGES)
        if self.img_size % 32:
            raise UserError(f"img_size is {self.img_size}: it is halved 5 times, use a multiple of 32.")
        max_epoch = self.max_epoch or row.max_epoch
        if self.dense_epochs >= max_epoch:
            both = f"of {max_epoch} epochs the last must train by both terms"
            raise UserError(f"dense_epochs is {self.dense_epochs}: {both}; for none, set coord_weight to 0.")
        if self.test_subject == "all" and row.folds != "test_subject":
            raise UserError(f"--test_subject all is for msra: {self.dataset} has no subjects to leave out.")
        return replace(
            self,
            **{name: value for name, value in self.recipe_row.items() if getattr(self, name) is None},
            kernel_size=self.kernel_size or find_network(self.net).kernel_size,
            max_epoch=max_epoch,
            step=self.step or row.step,
            output_dir=self.output_dir or self.default_output_dir,
        )

    @property
    def recipe_row(self) -> dict[str, Any]:
        """What the recipe sets."""
        return RECIPES["default"] | RECIPES[self.recipe]

    @property
    def fold(self) -> str:
        """The folder of a fold's results, as P3 or s0; empty for a data set without folds."""
        name = DATASETS[self.dataset].folds
        return f"P{self.test_subject}" if name == "test_subject" else self.setup if name else ""

    @property
    def default_output_dir(self) -> str:
        """Where results go if nothing else is said."""
        return str(self.results_folder("scored" if self.predictions else self.net))

    def results_folder(self, name: str) -> Path:
        """The folder of the results of a run of this name; one for all folds together."""
        return Path("output", self.dataset, name, "" if self.fold == "Pall" else self.fold)


def check_numbers(settings: object, ranges: dict[str, tuple[float, float]]) -> None:
    """Raise UserError where a setting, or one of its numbers, lies outside its range, the ends included.

    `settings`: a dataclass; what is None, or all, is allowed. `ranges`: by the fields' names.
    """
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(least <= number <= most for number in numbers if number not in (None, "all")):
            end = f"at most {most:,}" if most < FINITE[1] else "finite"
            raise UserError(f"{name} is {value}: it must be at least {least:,} and {end}.")


class DatasetRow(NamedTuple):
    """A data set: the module of dataloader/ that reads its files and holds its facts; and for how long it is
    trained, epochs in all and between cuts of the learning rate (docs/spec.md §9). `folds`: the setting that
    says how it is split, where there are several ways."""

    module: str
    max_epoch: int
    step: int
    folds: Literal["", "test_subject", "setup"] = ""


DATASETS = {
    "nyu": DatasetRow("nyu", 40, 30),
    "synth": DatasetRow("nyu", 40, 30),  # rendered hands in NYU's own layout
    "icvl": DatasetRow("icvl", 40, 10),
    "msra": DatasetRow("msra", 25, 10, folds="test_subject"),
    "hands17": DatasetRow("hands17", 10, 5),
    "hands19": DatasetRow("hands19", 10, 5),
    "dexycb": DatasetRow("dexycb", 10, 5, folds="setup"),
    "ho3d": DatasetRow("ho3d", 25, 10),
}


class NetworkInfo(NamedTuple):
    """What goes with a kind of network, all sizes of it.

    `builder`: "module:function" that takes the name's size, the number of joints and the downsampling, and
    gives the network. `kernel_size`: K of docs/spec.md §5; decoding with another than in training ruins the
    joints. Means of the joints' confidence at that K, where they were measured: below `min_confidence`
    there is no hand, below `reacquire_below` a tracker searches for the hand again.
    """

    builder: str
    kernel_size: float
    min_confidence: float | None = None
    reacquire_below: float | None = None


# By the name's part before `_`. Of 100 hands of the bundled test split 1 or 2 have less confidence than
# `min_confidence` in the shipped networks, 3 to 5 less than `reacquire_below`.
NETWORKS = {
    "resnet": NetworkInfo("model.resnet_deconv:build", 1.0, 0.6, 0.64),
    "hourglass": NetworkInfo("model.hourglass:build", 0.4, 0.31, 0.38),
}


def find_network(net: str) -> NetworkInfo:
    """The row of a network's name."""
    kind = net.partition("_")[0]
    if kind not in NETWORKS:
        kinds = " or ".join(f"{name}_…" for name in NETWORKS)
        raise UserError(f"There is no network {net!r}: use {kinds}, or add a row to NETWORKS in config.py.")
    return NETWORKS[kind]


def find_dataset(dataset: str) -> DatasetRow:
    """The row of a data set's name."""
    if dataset not in DATASETS:
        raise UserError(f"There is no data set {dataset!r}: use one of {', '.join(DATASETS)}.")
    return DATASETS[dataset]
