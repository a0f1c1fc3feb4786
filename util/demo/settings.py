"""Settings of the demo. Imports no PyTorch, so that --help answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config import MANY, check_numbers
from util import UserError
from util.inference.find_hand import DEPTH_RANGE


@dataclass
class InputSettings:
    """Where frames come from."""

    source: tuple[str, ...] = ("synthetic",)  # or realsense, a file, a folder, a film; --serve takes several
    camera: str = ""  # fx,fy,cx,cy in pixels, or a name: nyu, kinect2, azure, sr305, d435, … (docs/camera.md)
    depth_scale: float | None = None  # mm a unit: 1000 for metres; None: the camera's, else 1
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand to be found, mm
    denoise: bool = True  # take out the sensor's noise before the network
    fps: float | None = None  # frames a second of files; None: the film's own, else 30
    frames: int = 0  # stop after so many; 0: at the end, or at Ctrl-C
    strict: bool = False  # stop at the first frame that cannot be read, instead of naming it and going on
    seed: int = 0  # of the synthetic hand
    leaves: bool = False  # the synthetic hand goes away and comes back
    body: bool = False  # and has a body behind it; with --hands 2 there are two


@dataclass
class PoseSettings:
    """How poses are predicted."""

    # Checkpoint or int8 .xml, or several, whose joints are averaged; empty: results/resnet_18_synth.pth.
    load_model: str | tuple[str, ...] = ""
    net: str = "resnet_18"  # of a checkpoint that does not say, as published ones
    dataset: str = "synth"  # that such a checkpoint was trained on
    device: str = "auto"  # auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1
    # what runs the network; auto: the fastest that is installed and as accurate, with its fastest precision
    backend: Literal["auto", "torch", "compile", "onnxruntime", "openvino"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # as far as the backend has it; auto chooses its own
    hands: int = 1  # at most; each is found and followed
    handedness: Literal["auto", "right", "left"] = "auto"  # a mirrored picture shows the other side
    min_confidence: float | None = None  # joints' mean, below which there is no hand; None: the network's
    track: bool | None = None  # a pose says where to crop the next frame; None: where the hand has not moved
    smooth: bool = False  # One-Euro filter over time; with tracking only


@dataclass
class OutputSettings:
    """Where poses go."""

    show: bool = False  # a window; q or Esc ends it
    serve: bool = False  # a page for the browser with a point cloud and skeleton to turn
    port: int = 8080  # of that page, on this machine alone
    save: str = ""  # out.mp4, out.gif, a folder of PNG files, or out.png for one frame
    json: str = ""  # out.jsonl: one pose a line
    weights: bool = False  # show every joint's adaptive weight map too


GROUPS = (InputSettings, PoseSettings, OutputSettings)


@dataclass
class DemoSettings(OutputSettings, PoseSettings, InputSettings):
    """All settings of the demo."""

    def resolved(self) -> "DemoSettings":
        if not (self.show or self.serve or self.save or self.json):
            raise UserError("No output selected: pass --show, --serve, --save or --json.")
        # What would be said too late, when the page ends, or not at all.
        maps = (self.weights and bool(self.show or self.save)) or self.serve
        unread = (
            (maps and self.backend != "torch", "with --weights or --serve, which need PyTorch", ("backend",)),
            (self.serve, "with --serve", ("show", "save", "json", "smooth", "track", "frames", "strict")),
        )
        for applies, where, names in unread:
            passed = [f"--{name}" for name in names if getattr(self, name) != getattr(DemoSettings, name)]
            if applies and passed:
                raise UserError(f"{', '.join(passed)} has no effect {where}: leave it out.")
        if len(self.source) != 1 and not (self.serve and self.source):
            raise UserError(f"{len(self.source)} sources: without --serve it must be exactly one.")
        if Path(self.save).suffix not in ("", ".mp4", ".gif", ".png"):
            raise UserError(f"--save {self.save}: use a name that ends in .mp4, .gif or .png, or a folder's.")
        if self.save and self.json and Path(self.save) in (Path(self.json), *Path(self.json).parents):
            raise UserError(f"--json {self.json} lies in --save {self.save}: name a place of its own.")
        ranges = {"hands": (1, 20), "frames": (0, MANY), "seed": (0, MANY), "port": (1, 65535)}
        ranges |= {"depth_scale": (1e-4, 1e4), "fps": (0.01, 1000), "min_confidence": (0, 1)}
        if "synthetic" in self.source:
            ranges["hands"] = (1, 2)
        check_numbers(self, ranges)
        return self
