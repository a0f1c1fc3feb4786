"""From a source's frames, through the network, to where the settings say."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from config import Config
from util import UserError
from util.camera import NO_READING, parse_camera, to_millimetres
from util.checkpoint import shipped_weights, spec_from_config
from util.demo import recording
from util.demo.ahead import ReadFrame, read_ahead
from util.demo.live_page import serve
from util.demo.overlay import draw_panel
from util.demo.poses import Poser
from util.demo.recording import Add, pose_header, record, window, write_poses
from util.demo.settings import DemoSettings
from util.demo.sources import Source, SourceOptions, open_source
from util.inference.predictor import DEFAULT_CHECKPOINT, HandPose, HandPosePredictor

SHORT = 100  # frames
DELAYS = 10_000  # of the last frames, for their median
LOOKED_AT = 30  # frames without a hand, to say why
# mm a unit that a camera or a file may have, tried in this order where no reading is near.
UNITS = (
    (1.0, "millimetres"),
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
    synthetic = (settings.seed, settings.leaves, settings.body, settings.hands)
    options = SourceOptions(camera, settings.depth_scale, *synthetic)
    with ExitStack() as stack:
        sources = []
        for name in settings.source:
            sources.append(open_source(name, options))
            stack.callback(sources[-1].close)
        predictor = load_predictor(settings, sources[0])
        if settings.serve:
            serve(sources, predictor, settings)
        else:
            run_stream(sources[0], predictor, settings)


def load_predictor(settings: DemoSettings, source: Source) -> HandPosePredictor:
    """The network that the settings name, run by what suits the source."""
    length, backend = frames_to_come(source, settings), settings.backend
    # Other engines give no weight maps, and take 10 s to start, which a few frames do not make up for.
    if backend == "auto" and (settings.weights or settings.serve or (length or SHORT) < SHORT):
        backend = "torch"
    config = Config(net=settings.net, dataset=settings.dataset).resolved()
    assumed = spec_from_config(config)
    predictor = HandPosePredictor(
        settings.load_model or weights_of(config),
        settings.device,
        settings.precision,
        min_confidence=settings.min_confidence,
        assumed=assumed,
        backend=backend,
        depth_range=settings.depth_range,
    )
    if predictor.network is None and (settings.weights or settings.serve):
        raise UserError(
            f"--weights and --serve show weight maps, which {settings.load_model} does not give: "
            "use the checkpoint that it was made from."
        )
    if settings.backend == "auto":
        print(f"Running by {predictor.backend} in {predictor.precision}.")
    elif predictor.precision not in (settings.precision, "int8"):
        print(f"{settings.precision} is not faster on this {predictor.device}: using {predictor.precision}.")
    return predictor


def weights_of(config: Config) -> str | Path:
    """The weights that come with the project for a network and a data set.

    Raises:
        UserError: where there are none.
    """
    if (config.net, config.dataset) == (DemoSettings.net, DemoSettings.dataset):
        return DEFAULT_CHECKPOINT  # not always that network's: an installed package holds one file
    path = shipped_weights(config)
    if not path:
        raise UserError(
            f"No weights of {config.net} for {config.dataset} come with the project: pass --load_model."
        )
    return path


def frames_to_come(source: Source, settings: DemoSettings) -> int | None:
    """How many frames will be read; None where nobody knows."""
    return min(filter(None, (source.length, settings.frames)), default=None)


class Seen(NamedTuple):
    """A frame, the hands in it, and if there is none, why."""

    frame: ReadFrame
    hands: list[HandPose]
    reason: str


class Output(NamedTuple):
    """Where frames go; what is None is not wanted."""

    pictures: Add | None
    lines: Callable[..., None] | None
    show: Callable[[np.ndarray], bool] | None


def run_stream(source: Source, predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Every frame of a source through the network and to where the settings say.

    Reading, network and drawing run side by side, each in its own thread.
    """
    poser = Poser(source, predictor, settings)
    length = frames_to_come(source, settings)
    if settings.save.endswith(".png") and not 0 < (length or 0) <= recording.SHEET_PICTURES:
        raise UserError(f"A sheet holds {recording.SHEET_PICTURES} frames: pass --frames, or --save a film.")
    run = _Run(source, predictor, settings)
    with ExitStack() as stack:
        pictures = stack.enter_context(record(Path(settings.save))) if settings.save else None
        header = pose_header(predictor, source.camera, settings.handedness, settings.hands)
        lines = stack.enter_context(write_poses(Path(settings.json), header)) if settings.json else None
        show = stack.enter_context(window("AWR")) if settings.show else None
        run.output = Output(pictures, lines, show)
        # Ctrl-C is how an endless stream ends: what was saved until then is kept.
        stack.enter_context(suppress(KeyboardInterrupt))
        drawer = stack.enter_context(ThreadPoolExecutor(1))
        frames = stack.enter_context(read_ahead(source, length))
        stack.callback(run.finish)
        for frame in tqdm(frames, total=length, desc="frames", unit="frame"):
            seen, error = None, frame.error
            try:
                seen = Seen(frame, *poser(frame.depth, frame.moment)) if error is None else None
            except (UserError, OSError) as unusable:
                error = unusable
            if error is not None and not run.failed(frame, error, drawer, length):
                break
            if seen is not None and run.drawn(drawer.submit(run.draw, seen)):
                break
    run.report()


class _Run:
    """What a stream has come to: counts, failures, and the frames that are being drawn."""

    def __init__(self, source: Source, predictor: HandPosePredictor, settings: DemoSettings):
        self.source, self.predictor, self.settings = source, predictor, settings
        self.output = Output(None, None, None)
        self.done = self.with_hand = 0
        self.failures: list[str] = []
        known = {"realsense", "synthetic"} & set(settings.source)
        self.nothing = NoHand(settings.depth_range, source.depth_scale, bool(known))
        self.delays: deque[float] = deque(maxlen=DELAYS)  # seconds from read to drawn
        self._waiting: deque[Future] = deque()
        self.closed = False  # the window, by a person
        self._started = self._ended = time.perf_counter()

    def failed(
        self, frame: ReadFrame, error: Exception, drawer: ThreadPoolExecutor, length: int | None
    ) -> bool:
        """Note a frame that could not be used; False where that ends the stream."""
        if not isinstance(error, UserError | OSError):
            raise error
        self.failures.append(str(error))
        ends = self.settings.strict or self.source.live
        self.finish()
        if not self.done and (ends or frame.i + 1 == length):
            raise error  # there is nothing to keep
        if self.output.lines:
            several = self.settings.hands > 1
            line = partial(
                self.output.lines, self.source.label(frame.i), [], several=several, error=str(error)
            )
            self._waiting.append(drawer.submit(line))
        return not (ends or self.closed)

    def drawn(self, drawing: Future) -> bool:
        """Wait until at most one frame more is to be drawn; True where the window was closed.

        A window shows every frame at once.
        """
        self._waiting.append(drawing)
        while len(self._waiting) > (self.output.show is None):
            self._finish_one()
        return self.closed

    def finish(self) -> None:
        """Wait for all that is to be drawn."""
        while self._waiting:
            self._finish_one()

    def _finish_one(self) -> None:
        picture = self._waiting[0].result()  # still there if Ctrl-C comes now
        self._waiting.popleft()
        # A window belongs to the main thread.
        if picture is not None and not self.closed:
            self.closed = self.output.show(picture)

    def draw(self, seen: Seen) -> np.ndarray | None:
        """Write a frame's poses and picture; the picture, where a window waits for it."""
        (i, depth, moment, _), hands, reason = seen
        self.done, self.with_hand = self.done + 1, self.with_hand + bool(hands)
        if not self.with_hand:
            self.nothing.look_at(depth)
        elapsed = time.perf_counter() - self._started
        seconds, label = moment - self._started if self.source.live else None, self.source.label(i)
        pictures, lines, show = self.output
        if lines:
            lines(label, hands, seconds, several=self.settings.hands > 1)
        picture = None
        if pictures or show:
            rate = f"{self.done / elapsed:.1f} frames/s" if show or self.source.live else ""
            headline = "   ".join(filter(None, (label, rate, reason)))
            depth_mm = to_millimetres(depth, self.source.depth_scale)
            info, camera = self.predictor.info, self.source.camera
            picture = draw_panel(depth_mm, hands, info, camera, headline, self.settings.weights)
            if pictures:
                pictures(picture, seconds)
        self._ended = time.perf_counter()
        self.delays.append(self._ended - moment)
        return picture if show else None

    def report(self) -> None:
        """Print what came of the frames.

        Raises:
            UserError: where frames could not be read.
        """
        rate = self.done / max(self._ended - self._started, 1e-9)
        print(
            f"A hand in {self.with_hand} of {self.done} frames; {rate:.1f} frames a second from end to end."
        )
        if self.source.live and self.delays:
            middle, late = 1000 * np.quantile(self.delays, [0.5, 0.95])
            print(f"From read to drawn: {middle:.0f} ms (median), {late:.0f} ms (95th percentile).")
        if self.done and not self.with_hand:
            print(self.nothing.reason())
        if len(self.failures) == 1:
            raise UserError(self.failures[0])
        if self.failures:
            share = f"{len(self.failures)} of {self.done + len(self.failures)}"
            raise UserError(f"{share} frames could not be used; the first: {self.failures[0]}")


@dataclass
class NoHand:
    """Why no frame had a hand: where the depth readings lie.

    Args:
        depth_range: in which a hand is searched, mm.
        depth_scale: mm a unit that the frames were taken to have.
        unit_known: whether that is the camera's own, and cannot be wrong.
    """

    depth_range: tuple[float, float]
    depth_scale: float
    unit_known: bool = False
    frames: int = 0
    within: float = 0.0  # share of the readings within the range, summed over frames
    medians: list[float] = field(default_factory=list)  # of each frame's readings, mm
    stretched: bool = False  # whether frames use all of their 16 bits

    def look_at(self, depth: np.ndarray) -> None:
        """Note a frame (H, W) in its own unit; the first frames are enough."""
        measured = depth[np.isfinite(depth) & (depth > 0) & (depth != NO_READING)]
        readings = measured.astype(np.float64) * self.depth_scale
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
        if self.unit_known:
            return f"{found}: come nearer, or pass another --depth_range."
        for scale, unit in UNITS:
            if near <= median / self.depth_scale * scale <= far:
                return f"{found}: if they are {unit}, pass --depth_scale {scale:g} (mm a unit)."
        if self.stretched:
            return f"{found}: frames that were stretched to all of 16 bits have lost their unit."
        return f"{found}: check the unit (--depth_scale, mm a unit), or pass another --depth_range."
