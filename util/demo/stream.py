"""From a source's frames, through the network, to pictures, films and JSON. Frames are read ahead."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dataloader.crop import Crop
from util import UserError
from util.camera import NO_READING
from util.demo.overlay import crop_window, draw_panel
from util.demo.recording import pose_header, record, window, write_poses
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.inference.predictor import HandPose, HandPosePredictor
from util.inference.tracker import HandTracker, OneEuro

# A hand has not moved if so much of the surface in its crop lies where it was, give or take some mm.
SAME_SHARE, SAME_DEPTH = 0.5, 30.0
# mm a unit that a camera or a file may have: mm, metres, cm, as a D405, an SR305 or an L515; 5,000 a metre.
UNITS = (1.0, 1000.0, 10.0, 0.1, 0.125, 0.25, 0.2)


class Poser:
    """From one frame of a source after another to the hands in it.

    Hands are followed where the settings say so; where they do not, in a sequence, and from a file's
    frame to the next where they have not moved.
    """

    def __init__(self, source: Source, predictor: HandPosePredictor, settings: DemoSettings):
        self.source = source
        self.track = source.sequence if settings.track is None else settings.track
        if settings.smooth and not self.track:
            raise UserError("--smooth is for a stream that is tracked: pass --track True too.")
        self.tracker = HandTracker(
            predictor,
            camera=source.camera,
            handedness=settings.handedness,
            smoothing=OneEuro() if settings.smooth else None,
            weights=settings.weights or settings.serve,
            max_hands=settings.hands,
        )
        self.reset()

    def reset(self) -> None:
        """Forget the hands: the next frame does not follow from the last."""
        self.tracker.reset()
        self._before, self._hands, self._moment = None, [], None

    def __call__(self, depth: np.ndarray, moment: float) -> tuple[list[HandPose], str]:
        """The hands in the next frame (H, W) mm; and if there is none, why.

        `moment`: when it was taken, in seconds of any clock.
        """
        follows = self.track
        if follows is None:
            follows = all(stayed(hand.crop, self._before, depth) for hand in self._hands)
        if not follows:
            self.tracker.reset()
        seconds = 1 / self.source.rate if self._moment is None else moment - self._moment
        self._before, self._moment = depth, moment
        self._hands = self.tracker.update_hands(depth, seconds)
        return self._hands, "" if self._hands else self.tracker.reason


def stayed(crop: Crop, before: np.ndarray, frame: np.ndarray) -> bool:
    """Whether most of the surface in a crop of one frame (H, W) mm is in the next frame where it was."""
    if before.shape != frame.shape:
        return False
    rows, columns, near, far = crop_window(crop)
    was, now = before[rows, columns], frame[rows, columns]
    hand, hand_now = ((part > near) & (part < far) for part in (was, now))
    alike = hand & hand_now & (np.abs(was - now) < SAME_DEPTH)
    return np.count_nonzero(alike) >= SAME_SHARE * np.count_nonzero(hand | hand_now)


class ReadFrame(NamedTuple):
    """Frame number `i` of a source: its `depth` (H, W) mm, or the `error` why it could not be read.

    `moment`: when it had been read, in seconds of time.perf_counter.
    """

    i: int
    depth: np.ndarray | None
    moment: float
    error: Exception | None = None


@contextmanager
def read_ahead(source: Source, length: int | None) -> Iterator[Iterator[ReadFrame]]:
    """Every frame of a source in turn, at most `length`; of a live one the newest, each at most once."""
    waiting: Queue[ReadFrame] = Queue(1)
    ended = threading.Event()

    def read_all() -> None:
        for i in count() if source.live or length is None else range(length):
            try:
                frame = ReadFrame(i, source.read(i), time.perf_counter())
            except Exception as error:  # for the thread that takes the frames
                frame = ReadFrame(i, None, time.perf_counter(), error)
            if source.live:
                with suppress(Empty):
                    waiting.get_nowait()
            waiting.put(frame)
            if ended.is_set() or (source.live and frame.error):
                return

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    try:
        yield islice(iter(waiting.get, None), length)
    finally:
        ended.set()
        with suppress(Empty):
            waiting.get_nowait()  # the reader may wait for room
        reader.join(timeout=10)


def frames_to_come(source: Source, settings: DemoSettings) -> int | None:
    """How many frames will be read; None where nobody knows."""
    return min(filter(None, (source.length, settings.frames)), default=None)


def run_stream(source: Source, predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Every frame of a source through the network and to where the settings say."""
    length = frames_to_come(source, settings)
    if settings.save.endswith(".png") and length != 1:
        raise UserError(f"--save {settings.save} holds one frame: pass --frames 1, or name a film or folder.")
    run = _Run(source, predictor, settings)
    with ExitStack() as stack:
        run.open(stack)
        # Ctrl-C is how an endless stream ends: what was saved until then is kept.
        stack.enter_context(suppress(KeyboardInterrupt))
        frames = stack.enter_context(read_ahead(source, length))
        for frame in tqdm(frames, total=length, desc="frames", unit="frame"):
            if not run.take(frame):
                break
        if run.failures and not run.done:
            raise run.failures[0]  # there is nothing to keep
    run.report()


class _Run:
    """Where a stream's frames go, and what it has come to."""

    def __init__(self, source: Source, predictor: HandPosePredictor, settings: DemoSettings):
        self.source, self.predictor, self.settings = source, predictor, settings
        self.poser = Poser(source, predictor, settings)
        self.done = self.with_hand = 0
        self.failures: list[Exception] = []
        self.delays: list[float] = []  # seconds from read to drawn
        self.first: ReadFrame | None = None  # the first that shows anything
        self._started = time.perf_counter()

    def open(self, stack: ExitStack) -> None:
        """Open what the settings name; the stack closes it."""
        settings, self.pictures, self.lines, self.show = self.settings, None, None, None
        if settings.save:
            self.pictures = stack.enter_context(record(Path(settings.save), self.source.rate))
        if settings.json:
            header = pose_header(self.predictor, self.source.camera, settings.handedness, settings.hands)
            self.lines = stack.enter_context(write_poses(Path(settings.json), header))
        if settings.show:
            self.show = stack.enter_context(window("AWR"))

    def take(self, frame: ReadFrame) -> bool:
        """Predict the hands in a frame, and write and show them; False where that ends the stream."""
        source, settings, label = self.source, self.settings, self.source.label(frame.i)
        seconds = frame.moment - self._started if source.live else source.seconds(frame.i)
        hands, reason, problem = [], "", ""
        try:
            if frame.error is not None:
                raise frame.error
            hands, reason = self.poser(frame.depth, seconds)
        except (UserError, OSError) as error:
            self.failures.append(error)
            problem = str(error)
        if self.lines:
            self.lines(label, hands, seconds if source.live else None, settings.hands > 1, problem)
        if problem:
            return not (settings.strict or source.live)
        self.done, self.with_hand = self.done + 1, self.with_hand + bool(hands)
        if self.first is None or not self.first.depth.any():
            self.first = frame
        closed = False
        if self.pictures or self.show:
            rate = f"{self.done / (time.perf_counter() - self._started):.1f} frames/s" if self.show else ""
            headline = "   ".join(filter(None, (label, rate, reason)))
            info, camera = self.predictor.info, source.camera
            picture = draw_panel(frame.depth, hands, info, camera, headline, settings.weights)
            if self.pictures:
                self.pictures(picture, seconds, Path(label).stem if source.labels else f"{frame.i:06d}")
            closed = self.show is not None and self.show(picture)
        self.delays.append(time.perf_counter() - frame.moment)
        return not closed

    def report(self) -> None:
        """Print what came of the frames; raise UserError where some could not be used."""
        rate = self.done / (time.perf_counter() - self._started)
        print(
            f"A hand in {self.with_hand} of {self.done} frames; {rate:.1f} frames a second from end to end."
        )
        if self.source.live and self.delays:
            middle, late = 1000 * np.quantile(self.delays, [0.5, 0.95])
            print(f"From read to drawn: {middle:.0f} ms (median), {late:.0f} ms (95th percentile).")
        if self.done and not self.with_hand:
            depth = self.source.raw(self.first.i) if self.source.raw else self.first.depth
            print(why_no_hand(depth, self.source.scales, self.settings.depth_range))
        failed = len(self.failures)
        if failed:
            share = f"{failed} of {self.done + failed} frames could not be used; the first: "
            raise UserError((share if failed > 1 else "") + str(self.failures[0]))


def why_no_hand(depth: np.ndarray, scales: tuple[float, ...], depth_range: tuple[float, float]) -> str:
    """How many of a frame's readings lie in range, and with what unit they would; in one sentence.

    Args:
        depth: (H, W) in its own unit.
        scales: mm a unit that it was taken to have, then others that are likely; empty: mm for certain.
        depth_range: in which a hand is searched, mm.
    """
    near, far = depth_range
    readings = np.ma.filled(depth.astype(np.float64), 0)
    readings = readings[np.isfinite(readings) & (readings > 0) & (readings != NO_READING)]
    if not readings.size:
        return "No frame has a depth reading: 0, below 0 and NaN are none."
    if readings.min() < readings.max():  # a renderer's background, or a camera's farthest
        readings = readings[readings < readings.max()]

    def share(scale: float) -> float:
        return float(((readings * scale >= near) & (readings * scale <= far)).mean())

    present = scales[0] if scales else 1.0
    found = f"{share(present):.0%} of the depth readings lie within --depth_range {near:.0f} {far:.0f} mm"
    if share(present) >= 0.01:
        return f"{found}: hold the hand nearer than everything else, or lower --min_confidence."
    best = max((*scales[1:], *UNITS), key=share)
    if not scales:
        return f"{found}: come nearer, or pass another --depth_range."
    if share(best) < 0.01:
        return f"{found}, in any usual unit: frames stretched to all of 16 bits have lost their unit."
    return f"{found}, {share(best):.0%} would with --depth_scale {best:g} (mm a unit)."
