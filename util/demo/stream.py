"""From a source's frames, through the network, to where the settings say."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import Config
from util import UserError
from util.camera import NO_READING, parse_camera, to_millimetres
from util.checkpoint import spec_from_config
from util.demo import recording
from util.demo.live_page import serve
from util.demo.overlay import draw_panel
from util.demo.recording import pose_header, record, window, write_poses
from util.demo.settings import DemoSettings
from util.demo.sources import Source, SourceOptions, open_source
from util.inference.predictor import DEFAULT_CHECKPOINT, Handedness, HandPose, HandPosePredictor
from util.inference.tracker import HandTracker, OneEuro

LOOKED_AT = 30  # frames without a hand, to say why
# mm a unit that a camera or a file may have, tried in this order where no reading is near.
UNITS = (
    (1000.0, "metres"),
    (10.0, "centimetres"),
    (0.1, "tenths of a millimetre, as of a D405"),
    (0.125, "eighths of a millimetre, as of an SR305"),
    (0.25, "quarters of a millimetre, as of an L515"),
    (0.2, "fifths of a millimetre, as of 5,000 units a metre"),
)


def run_demo(settings: DemoSettings) -> None:
    """Predict the frames of every source, and show or save the poses.

    Raises:
        FileNotFoundError, UserError, OSError: for a source or an output that cannot be used.
    """
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
    assumed = spec_from_config(Config(net=settings.net, dataset=settings.dataset).resolved())
    predictor = HandPosePredictor(
        settings.load_model or DEFAULT_CHECKPOINT,
        settings.device,
        settings.precision,
        min_confidence=settings.min_confidence,
        assumed=assumed,
        backend=settings.backend,
        depth_range=settings.depth_range,
    )
    if predictor.network is None and (settings.weights or settings.serve):
        raise UserError(
            f"--weights and --serve show weight maps, which {settings.load_model} does not give: "
            "use the checkpoint that it was made from."
        )
    if predictor.precision not in (settings.precision, "int8"):
        print(f"{settings.precision} is not faster on this {predictor.device}: using {predictor.precision}.")
    return predictor


def run_stream(source: Source, predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Every frame of a source through the network and to where the settings say."""
    pose_of = make_poser(
        source, predictor, settings.handedness, settings.track, settings.smooth, settings.weights
    )
    length = min(filter(None, (source.length, settings.frames)), default=None)
    if settings.save.endswith(".png") and not 0 < (length or 0) <= recording.SHEET_PICTURES:
        raise UserError(f"A sheet holds {recording.SHEET_PICTURES} frames: pass --frames, or --save a film.")
    done = seen = rate = 0
    failures: list[str] = []
    nothing = NoHand(settings.depth_range)
    started = time.perf_counter()
    with ExitStack() as stack:
        pictures = stack.enter_context(record(Path(settings.save))) if settings.save else None
        header = pose_header(predictor, source.camera, settings.handedness)
        lines = stack.enter_context(write_poses(Path(settings.json), header)) if settings.json else None
        show = stack.enter_context(window("AWR")) if settings.show else None
        # Ctrl-C is how an endless stream ends: what was saved until then is kept.
        stack.enter_context(suppress(KeyboardInterrupt))
        for i in tqdm(range(length) if length else count(), desc="frames", unit="frame"):
            try:
                depth = source.read(i)
                pose = pose_of(depth)
            except (UserError, OSError) as error:
                failures.append(str(error))
                last = settings.strict or source.live or (length is not None and i == length - 1)
                if last and not done:
                    raise  # there is nothing to keep
                if lines:
                    lines(source.label(i), None, error=str(error))
                if settings.strict or source.live:
                    break  # what was computed is kept
                continue
            done, seen = done + 1, seen + (pose is not None)
            if not seen:
                nothing.look_at(depth, source.depth_scale)
            elapsed = time.perf_counter() - started
            rate, seconds = done / elapsed, elapsed if source.live else None
            if lines:
                lines(source.label(i), pose, seconds)
            if pictures or show:
                sure = f"confidence {pose.confidence.mean():.2f}" if pose is not None else "no hand"
                headline = f"{source.label(i)}   {rate:.1f} frames/s   {sure}"
                depth_mm = to_millimetres(depth, source.depth_scale)
                picture = draw_panel(
                    depth_mm, pose, predictor.info, source.camera, headline, settings.weights
                )
                if pictures:
                    pictures(picture, seconds)
                if show and show(picture):
                    break
    print(f"A hand in {seen} of {done} frames; {rate:.1f} frames a second from end to end.")
    if done and not seen:
        print(nothing.reason())
    if len(failures) == 1:
        raise UserError(failures[0])
    if failures:
        share = f"{len(failures)} of {done + len(failures)}"
        raise UserError(f"{share} frames could not be read; the first: {failures[0]}")


@dataclass
class NoHand:
    """Why no frame had a hand: where the depth readings lie.

    Args:
        depth_range: in which a hand is searched, mm.
    """

    depth_range: tuple[float, float]
    frames: int = 0
    within: float = 0.0  # share of the readings within the range, summed over frames
    medians: list[float] = field(default_factory=list)  # of each frame's readings, mm
    stretched: bool = False  # whether frames use all of their 16 bits

    def look_at(self, depth: np.ndarray, depth_scale: float) -> None:
        """Note a frame (H, W) in its own unit; the first frames are enough."""
        measured = depth[np.isfinite(depth) & (depth > 0) & (depth != NO_READING)]
        readings = measured.astype(np.float64) * depth_scale
        if self.frames >= LOOKED_AT or not readings.size:
            return
        near, far = self.depth_range
        self.frames += 1
        self.within += float(((readings >= near) & (readings <= far)).mean())
        self.medians.append(float(np.median(readings)))
        self.stretched |= bool(depth.dtype == np.uint16 and (measured > NO_READING / 2).mean() > 0.1)

    def reason(self) -> str:
        """In one sentence, with what to try."""
        near, far = self.depth_range
        if not self.frames:
            return "No frame has a depth reading: 0 and NaN are none."
        share, median = self.within / self.frames, float(np.median(self.medians))
        found = (
            f"{share:.0%} of the depth readings lie within --depth_range {near:.0f} {far:.0f} mm, "
            f"their median is {median:.3g} mm"
        )
        if share >= 0.01:
            return f"{found}: hold the hand nearer than everything else, or lower --min_confidence."
        for scale, unit in UNITS:
            if near <= median * scale <= far:
                return f"{found}: if they are {unit}, pass --depth_scale {scale:g} (mm a unit)."
        if self.stretched:
            return f"{found}: frames that were stretched to all of 16 bits have lost their unit."
        return f"{found}: check the unit (--depth_scale, mm a unit), or pass another --depth_range."


def make_poser(
    source: Source,
    predictor: HandPosePredictor,
    handedness: Handedness = "right",
    track: bool | None = None,
    smooth: bool = False,
    weights: bool = False,
) -> Callable[[np.ndarray], HandPose | None]:
    """From a source's frame to its pose, tracked or each frame on its own.

    Args:
        source: of the frames.
        predictor: of single frames.
        handedness, weights: as for `HandPosePredictor.predict`.
        track: None tracks where a frame follows from the one before.
        smooth: filter the tracked joints over time.

    Raises:
        UserError: where there is nothing to smooth.
    """
    if track is None:
        track = source.sequence
    if smooth and not track:
        raise UserError("--smooth is for a stream that is tracked: pass --track True too.")
    if not track:
        return lambda depth: predictor.predict(
            depth, source.camera, None, handedness, source.depth_scale, weights
        )
    smoothing = OneEuro() if smooth else None
    tracker = HandTracker(predictor, source.camera, handedness, source.depth_scale, smoothing, weights)
    return _in_its_own_time(tracker) if source.live else tracker.update


def _in_its_own_time(tracker: HandTracker) -> Callable[[np.ndarray], HandPose | None]:
    """Update with the time that really passed: a live camera waits for nobody."""
    last = time.perf_counter()

    def update(depth: np.ndarray) -> HandPose | None:
        nonlocal last
        now = time.perf_counter()
        seconds, last = now - last, now
        return tracker.update(depth, seconds)

    return update
