"""Hand poses from your own depth: a file, a folder, a video, a camera, or a hand that is rendered.

python demo.py --source frame.png --camera sr305 --save out
python demo.py --source synthetic --serve
"""

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from config import Config
from util import recording
from util.cameras import parse_camera
from util.checkpoint import asked_spec
from util.cli import run
from util.find_hand import DEPTH_RANGE, check_depth_range
from util.frames import in_millimetres
from util.live_page import serve
from util.overlay import draw_panel
from util.predictor import DEFAULT_CHECKPOINT, HandPosePredictor
from util.recording import record, window, write_poses
from util.sources import Source, SourceOptions, open_source
from util.tracker import make_poser


@dataclass
class DemoSettings:
    """Settings of the demo."""

    # synthetic, realsense, or a file, folder or video of depth frames; --serve takes several
    source: tuple[str, ...] = ("synthetic",)
    camera: str = ""  # nyu, kinect1, kinect2, azure, sr300, sr305, d415, d435, d455, l515, or fx,fy,cx,cy
    depth_scale: float | None = None  # mm a unit: 1000 for metres; None: the camera's, else 1
    handedness: Literal["right", "left"] = "right"
    track: bool | None = None  # a pose says where to look in the next frame; None: not in PNG files
    smooth: bool = False  # One-Euro filter over time; with tracking only

    show: bool = False  # a window; q or Esc ends it
    serve: bool = False  # a page for the browser with a point cloud and skeleton to turn
    port: int = 8080  # of that page, on this machine alone
    save: str = ""  # out.mp4, out.gif, a folder of PNG files, or out.png: all frames on one sheet
    json: str = ""  # out.jsonl: one pose a line
    weights: bool = False  # show every joint's adaptive weight map too
    min_confidence: float | None = None  # joints' mean, below which there is no hand; None: the network's
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand to be found, mm
    frames: int = 0  # stop after so many; 0: at the end, or at Ctrl-C

    load_model: str = str(DEFAULT_CHECKPOINT)
    net: str = "resnet_18"  # of a checkpoint that does not say, as published ones
    dataset: str = "synth"  # that it was trained on
    center_model: str = ""  # weights that refine found centres, 80 ms a frame; empty: depth alone
    device: str = "auto"
    backend: Literal["torch", "compile", "onnxruntime", "openvino"] = "torch"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # as far as the backend has it
    seed: int = 0  # of the synthetic hand
    leaves: bool = False  # the synthetic hand goes away and comes back
    body: bool = False  # and has a body behind it

    def resolved(self) -> "DemoSettings":
        """Check the settings.

        Raises:
            ValueError: in one sentence, for one that cannot work.
        """
        if not (self.show or self.serve or self.save or self.json):
            raise ValueError("Nothing would come of it: pass --show, --serve, --save or --json.")
        if self.serve and (self.show or self.save or self.json):
            raise ValueError("--serve shows poses in the browser alone: leave --show, --save, --json out.")
        if self.serve and (self.smooth or self.frames or self.track is not None):
            raise ValueError(
                "--serve plays frames one by one, back and forth: leave --smooth, --track, --frames out."
            )
        if self.save and self.json and Path(self.save) in (Path(self.json), *Path(self.json).parents):
            raise ValueError(f"--json {self.json} lies in --save {self.save}: name a place of its own.")
        if self.backend != "torch" and (self.weights or self.serve):
            raise ValueError(
                f"--weights and --serve show weight maps, which backend {self.backend} does not give: "
                "leave --backend out."
            )
        if "realsense" in self.source and (self.camera or self.depth_scale):
            raise ValueError(
                "A RealSense brings its own intrinsics and unit: leave --camera, --depth_scale out."
            )
        if "synthetic" in self.source and self.depth_scale:
            raise ValueError("The synthetic hand is rendered in mm: leave --depth_scale out.")
        if len(self.source) != 1 and not (self.serve and self.source):
            raise ValueError(f"{len(self.source)} sources: without --serve it must be exactly one.")
        if self.frames < 0:
            raise ValueError(f"frames is {self.frames}: it cannot be negative.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it cannot be negative.")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: it must be 1 to 65535.")
        if self.depth_scale is not None and not 0 < self.depth_scale < float("inf"):
            raise ValueError(f"depth_scale is {self.depth_scale}: it must be positive and finite.")
        check_depth_range(self.depth_range)
        return self


def main(settings: DemoSettings) -> None:
    """Predict and show."""
    camera = parse_camera(settings.camera) if settings.camera else None
    options = SourceOptions(camera, settings.depth_scale, settings.seed, settings.leaves, settings.body)
    predictor = load_predictor(settings)
    with ExitStack() as stack:
        sources = []
        for name in settings.source:
            sources.append(open_source(name, options))
            stack.callback(sources[-1].close)
        if settings.serve:
            serve(sources, predictor, settings.handedness, settings.port)
        else:
            run_stream(sources[0], predictor, settings)


def load_predictor(settings: DemoSettings) -> HandPosePredictor:
    """The networks that the settings name."""
    assumed = asked_spec(Config(net=settings.net, dataset=settings.dataset).resolved())
    predictor = HandPosePredictor(
        settings.load_model,
        settings.device,
        settings.precision,
        settings.center_model or None,
        settings.min_confidence,
        assumed=assumed,
        backend=settings.backend,
        depth_range=settings.depth_range,
    )
    if predictor.precision != settings.precision:
        print(f"{settings.precision} gains nothing on this {predictor.device}: using {predictor.precision}.")
    return predictor


def run_stream(source: Source, predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Every frame of a source through the network and to where the settings say."""
    pose_of = make_poser(
        source, predictor, settings.handedness, settings.track, settings.smooth, settings.weights
    )
    length = min(filter(None, (source.length, settings.frames)), default=None)
    if settings.save.endswith(".png") and not 0 < (length or 0) <= recording.SHEET_PICTURES:
        raise ValueError(f"A sheet holds {recording.SHEET_PICTURES} frames: pass --frames, or --save a film.")
    done = seen = rate = 0
    failure: ValueError | None = None
    started = time.perf_counter()
    with ExitStack() as stack:
        pictures = stack.enter_context(record(Path(settings.save))) if settings.save else None
        lines = stack.enter_context(write_poses(Path(settings.json))) if settings.json else None
        show = stack.enter_context(window("AWR")) if settings.show else None
        # Ctrl-C is how an endless stream ends: what was saved until then is kept.
        stack.enter_context(suppress(KeyboardInterrupt))
        for i in tqdm(range(length) if length else count(), desc="frames", unit="frame"):
            try:
                depth = source.read(i)
            except ValueError as error:
                if not (source.live and done):
                    raise
                failure = error  # a camera that was pulled out: what it has sent is kept
                break
            pose = pose_of(depth)
            done, seen = i + 1, seen + (pose is not None)
            elapsed = time.perf_counter() - started
            rate, seconds = done / elapsed, elapsed if source.live else None
            if lines:
                lines(source.label(i), pose, seconds)
            if pictures or show:
                sure = f"confidence {pose.confidence.mean():.2f}" if pose is not None else "no hand"
                headline = f"{source.label(i)}   {rate:.1f} frames/s   {sure}"
                depth_mm = in_millimetres(depth, source.depth_scale)
                picture = draw_panel(
                    depth_mm, pose, predictor.info, source.camera, headline, settings.weights
                )
                if pictures:
                    pictures(picture, seconds)
                if show and show(picture):
                    break
    print(f"A hand in {seen} of {done} frames; {rate:.1f} frames a second from end to end.")
    if failure is not None:
        raise failure


if __name__ == "__main__":
    run(main, __doc__, DemoSettings)
