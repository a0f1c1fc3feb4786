"""Every setting once. Edit this file or pass the same name as a flag: `python test.py --net hourglass_1`."""

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple

from util.camera import Camera


@dataclass
class Config:
    """Settings of test.py and train.py. What is None follows from the tables below."""

    # -- data
    dataset: str = "synth"  # a row of DATASETS; lies in <data_dir>/<dataset>
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test"] = "test"  # what test.py scores; val exists for synth and hands17
    test_subject: int | Literal["all"] = 0  # msra: who is left out of training, 0 to 8; all: nine folds
    img_size: int = 128  # edge of the depth crop, pixels; what the published weights were trained on
    cube: tuple[float, float, float] | None = None  # edges of the cropped volume, mm; None: the data set's
    centers: str = ""  # file of hand centres that test.py crops around; empty: the data set's own
    center_noise: float | None = None  # mm an axis, spread of crops; None: 0, for target center CENTER_NOISE
    augment_para: tuple[float, float, float] = (10.0, 0.1, 180.0)  # translation mm, scale, rotation degrees
    cache: bool = False  # keep what crops are made from on disk: only the first pass decodes frames
    num_workers: int = 2  # processes that prepare samples beside the network; 0: none

    # -- network
    target: Literal["joints", "center"] = "joints"  # center: one joint, the mean of all; crops are wider
    net: str = "resnet_18"  # resnet_18, resnet_50, resnet_101, resnet_152, or hourglass_N
    downsample: Literal[1, 2, 4] = 2  # crop edge / edge of the dense maps; an hourglass has 2
    kernel_size: float | None = None  # K of the closeness, in half cubes; None: the network's own, see below
    load_model: str = ""  # checkpoint; empty: test.py takes results/<net>_<dataset>.pth, train.py starts anew
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    backend: Literal["torch", "compile", "onnxruntime", "openvino"] = "torch"  # what test.py runs it with
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"  # the head always sums in fp32; see backends
    seed: int = 0  # reaches every random draw

    # -- scoring
    batch_size: int = 32  # frames a step
    predictions: str = ""  # score this file of predictions instead of running a network
    compare: tuple[str, ...] = ()  # NAME=FILE of further predictions, drawn into the same curves
    output_dir: str | None = None  # where results go; None: output/<dataset>/<net>, see README

    # -- training
    max_epoch: int | None = None  # None: the data set's
    lr: float = 1e-3  # Adam's usual rate; also the released recipe's
    weight_decay: float = 0.0  # the networks are small for the data: none in the released recipe
    scheduler: Literal["step", "cosine"] = "step"  # lr × 0.1 every `step` epochs, or down to 0 at max_epoch
    step: int | None = None  # epochs; None: the data set's
    warmup_epochs: float = 0.0  # epochs over which lr rises from 0; steadies a large lr or batch
    dense_weight: float = 1.0  # of the dense maps' Huber loss
    coord_weight: float = 1.0  # of the joints' Huber loss
    freeze: tuple[str, ...] = ()  # parts whose weights stay as loaded, say layer1 layer4: a cheaper step
    dense_epochs: int = 0  # epochs with the dense term alone, then both: the released recipe's two phases
    clip_grad: float = 0.0  # largest norm of all gradients together; 0: no limit
    ema: float = 0.0  # decay a step of the averaged weights that are scored and saved, say 0.999; 0: none
    bn_batches: int = 50  # batches that measure the averaged weights' batch-norm statistics; 0: averaged too
    compile: bool = False  # torch.compile: up to minutes at the start; faster steps on a GPU, not on a CPU
    resume: bool = False  # go on from <output_dir>/last.pth, from the start where there is none yet
    save_minutes: float = 10.0  # time between checkpoints within an epoch: what a crash may cost
    log_every: int = 50  # steps a line of log.jsonl and a point of the curves

    def resolved(self) -> "Config":
        """Check the settings and fill what is None from the tables.

        Raises:
            ValueError: in one sentence, for a setting that cannot work.
        """
        if self.dataset not in DATASETS:
            raise ValueError(f"There is no data set {self.dataset!r}: use one of {', '.join(DATASETS)}.")
        for name in ("img_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if self.img_size % 32:
            raise ValueError(
                f"img_size is {self.img_size}: the networks halve it 5 times, use a multiple of 32."
            )
        if self.center_noise is not None and not 0 <= self.center_noise < inf:
            raise ValueError(f"center_noise is {self.center_noise}: it cannot be negative.")
        if self.cache and (self.center_noise or (self.target == "center" and self.center_noise is None)):
            raise ValueError(
                "cache keeps crops around fixed centres and center_noise moves them: leave one of them out."
            )
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}: it cannot be negative.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it cannot be negative.")
        if self.kernel_size is not None and not 0 < self.kernel_size < inf:
            raise ValueError(f"kernel_size is {self.kernel_size}: it must be positive and finite.")
        if not all(0 <= strength < inf for strength in self.augment_para):
            raise ValueError(f"augment_para is {self.augment_para}: none of the three can be negative.")
        self._check_training()
        if self.cube is not None and not all(0 < edge < inf for edge in self.cube):
            raise ValueError(f"cube is {self.cube}: its three edges in mm must be positive and finite.")
        if self.test_subject != "all" and not 0 <= self.test_subject <= 8:
            raise ValueError(f"test_subject is {self.test_subject}: use 0 to 8, or all.")
        info, center = DATASETS[self.dataset], self.target == "center"
        return replace(
            self,
            cube=self.cube or tuple(edge * (CENTER_CUBE if center else 1) for edge in info.cube),
            center_noise=self.center_noise if self.center_noise is not None else CENTER_NOISE * center,
            kernel_size=self.kernel_size or network_family(self.net).kernel_size,
            max_epoch=self.max_epoch or info.max_epoch,
            step=self.step or info.step,
            output_dir=self.output_dir or self.usual_output_dir,
        )

    @property
    def usual_output_dir(self) -> str:
        """Where results go if nothing else is said."""
        fold = (f"P{self.test_subject}",) if DATASETS[self.dataset].subject_scales else ()
        network = ("center_" if self.target == "center" else "") + self.net
        # Not where a network of ours leaves its own predictions.
        folder = f"scored_{Path(self.predictions).stem}" if self.predictions else network
        return str(Path("output", self.dataset, folder, *fold))

    @property
    def info(self) -> "DatasetInfo":
        """The data set's row; with one joint where the target is the centre."""
        info = DATASETS[self.dataset]
        if self.target == "joints":
            return info
        return replace(info, joint_names=("center",), chains=((0,),))

    def _check_training(self) -> None:
        for name in ("max_epoch", "step", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1.")
        for name in (
            *("weight_decay", "warmup_epochs", "dense_weight", "coord_weight"),
            *("dense_epochs", "clip_grad", "bn_batches", "save_minutes"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it cannot be negative.")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}: it must be positive.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}: a decay lies in [0, 1).")


@dataclass(frozen=True)
class DatasetInfo:
    """What is fixed for a data set (SPEC §1, §9)."""

    joint_names: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]  # joints from pinky to thumb, then wrist or knuckles, for drawing
    camera: Camera
    frame_size: tuple[int, int]  # height, width of the camera's frames, pixels
    cube: tuple[float, float, float]  # mm
    max_epoch: int
    step: int  # epochs between cuts of the learning rate
    source: str  # where it comes from, for the error when it is missing; see `origin`
    val_split: str = "val"  # scored after every epoch; best.pth is picked by it
    smaller_hand_from: int | None = None  # first test frame of a subject whose cube is × 5/6
    subject_scales: tuple[float, ...] = ()  # of the cube by subject, where subjects are left out in turn

    def origin(self, root: Path, split: str) -> str:
        """Where a split that is missing comes from, or the command that makes it."""
        return self.source.format(root=root, split=split, frames=20000 if split == "train" else 2000)


NYU_JOINTS = (
    *("pinky tip", "pinky PIP", "ring tip", "ring PIP", "middle tip", "middle PIP", "index tip", "index PIP"),
    *("thumb tip", "thumb IP", "thumb MCP", "wrist ulnar", "wrist radial", "palm"),
)
NYU_CHAINS = ((13, 1, 0), (13, 3, 2), (13, 5, 4), (13, 7, 6), (13, 10, 9, 8), (11, 13, 12))
NYU_CAMERA = Camera(fx=588.03, fy=587.07, cx=320, cy=240, flip=-1)

ICVL_JOINTS = (
    *("palm", "thumb root", "thumb mid", "thumb tip", "index root", "index mid", "index tip"),
    *("middle root", "middle mid", "middle tip", "ring root", "ring mid", "ring tip"),
    *("pinky root", "pinky mid", "pinky tip"),
)
ICVL_CHAINS = ((0, 13, 14, 15), (0, 10, 11, 12), (0, 7, 8, 9), (0, 4, 5, 6), (0, 1, 2, 3), (4, 7, 10, 13))

MSRA_JOINTS = (
    *("wrist", "index MCP", "index PIP", "index DIP", "index tip"),
    *("middle MCP", "middle PIP", "middle DIP", "middle tip", "ring MCP", "ring PIP", "ring DIP", "ring tip"),
    *("pinky MCP", "pinky PIP", "pinky DIP", "pinky tip"),
    *("thumb MCP", "thumb PIP", "thumb DIP", "thumb tip"),
)
MSRA_CHAINS = (
    *((0, 13, 14, 15, 16), (0, 9, 10, 11, 12), (0, 5, 6, 7, 8), (0, 1, 2, 3, 4)),
    *((0, 17, 18, 19, 20), (1, 5, 9, 13)),
)

HANDS17_JOINTS = (
    *("wrist", "thumb MCP", "index MCP", "middle MCP", "ring MCP", "pinky MCP"),
    *("thumb PIP", "thumb DIP", "thumb tip", "index PIP", "index DIP", "index tip"),
    *("middle PIP", "middle DIP", "middle tip", "ring PIP", "ring DIP", "ring tip"),
    *("pinky PIP", "pinky DIP", "pinky tip"),
)
HANDS17_CHAINS = (
    *((0, 5, 18, 19, 20), (0, 4, 15, 16, 17), (0, 3, 12, 13, 14), (0, 2, 9, 10, 11)),
    *((0, 1, 6, 7, 8), (2, 3, 4, 5)),
)

NYU = DatasetInfo(
    joint_names=NYU_JOINTS,
    chains=NYU_CHAINS,
    camera=NYU_CAMERA,
    frame_size=(480, 640),
    cube=(300, 300, 300),
    max_epoch=40,
    step=30,
    source="the NYU Hand Pose Dataset is at https://jonathantompson.github.io/NYU_Hand_Pose_Dataset.htm",
    val_split="test",  # there is no other
    smaller_hand_from=2440,
)

DATASETS = {
    "nyu": NYU,
    # Rendered hands in NYU's own layout: the same loader reads them.
    "synth": replace(
        NYU,
        source="`python -m dataloader.synthetic --out {root} --split {split} --frames {frames}` makes it",
        val_split="val",
        smaller_hand_from=None,
    ),
    "icvl": DatasetInfo(
        joint_names=ICVL_JOINTS,
        chains=ICVL_CHAINS,
        camera=Camera(fx=240.99, fy=240.96, cx=160, cy=120),
        frame_size=(240, 320),
        cube=(200, 200, 200),
        max_epoch=40,
        step=10,
        val_split="test",  # there is no other
        source="the ICVL Hand Posture Dataset is at https://labicvl.github.io/hand.html",
    ),
    "msra": DatasetInfo(
        joint_names=MSRA_JOINTS,
        chains=MSRA_CHAINS,
        camera=Camera(fx=241.42, fy=241.42, cx=160, cy=120, flip=-1),
        frame_size=(240, 320),
        cube=(200, 200, 200),
        max_epoch=25,
        step=10,
        val_split="test",  # there is no other
        source="the MSRA Hand Gesture database is linked from https://jimmysuen.github.io",
        subject_scales=(1, 1, 1, 0.9, 0.9, 0.9, 0.85, 0.8, 0.75),
    ),
    "hands17": DatasetInfo(
        joint_names=HANDS17_JOINTS,
        chains=HANDS17_CHAINS,
        camera=Camera(fx=475.065948, fy=475.065857, cx=315.944855, cy=245.287079),
        frame_size=(480, 640),
        cube=(200, 200, 200),
        max_epoch=10,
        step=5,
        source="the HANDS 2017 challenge is at http://icvl.ee.ic.ac.uk/hands17/challenge",
    ),
}

# A network that refines centres sees rough ones: it needs a wider crop to find the hand in, and learns from
# crops that miss it by as much as a centre from depth does.
CENTER_CUBE = 4 / 3  # of the data set's cube
CENTER_NOISE = 40.0  # mm; networks for the joints get none


class Family(NamedTuple):
    """What goes with a kind of network.

    `kernel_size`: K of SPEC §5, that its published weights were trained with; decoding with another than
    in training ruins the joints. `least`, `sure`: means of `joint_confidence`, at that K: below `least`
    there is no hand, below `sure` perhaps none.
    """

    kernel_size: float
    least: float
    sure: float


# Of the shipped networks, 1 of 100 hands of the bundled test split has less confidence than about `least`,
# 1 of 20 to 30 less than `sure`. On forearms, walls and bodies beside those hands, 6 of 100 were above
# resnet's `least`, with weights of before; hourglass_1 gave none of 32 more than 0.13.
FAMILIES = {"resnet": Family(1.0, 0.58, 0.64), "hourglass": Family(0.4, 0.3, 0.4)}


def network_family(net: str) -> Family:
    """The row of a network's name.

    Raises:
        ValueError: for a network of no known family.
    """
    family = net.partition("_")[0]
    if family not in FAMILIES:
        raise ValueError(f"There is no network {net!r}: use resnet_18/50/101/152 or hourglass_N with N ≥ 1.")
    return FAMILIES[family]
