"""From a source's frames, through the network, to pictures, films and JSON. Frames are read ahead."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dataloader.crop import Crop, crop_hand
from util import UserError
from util.camera import NO_READING, Camera
from util.demo.overlay import draw_panel
from util.demo.recording import record, window, write_poses
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.inference.hands import HandPose
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker, OneEuro

# A hand has not moved if so much of the surface in its crop lies where it was, give or take some mm.
SAME_SHARE, SAME_DEPTH = 0.5, 30.0
# mm a unit that a camera or a file may have: mm, metres, cm, as a D405, an SR305 or an L515; 5,000 a metre.
UNITS = (1.0, 1000.0, 10.0, 0.1, 0.125, 0.25, 0.2)


class Poser:
    """From one frame of a source after another to the hands in it. Where the settings do not say whether
    to follow them, they are in a sequence, and from one file to the next where they have not moved."""

    def __init__(self, source: Source, predictor: HandPosePredictor, settings: DemoSettings):
        sequence = settings.track is None and source.labels is None
        self.source, self.track = source, sequence or settings.track
        if settings.smooth and not self.track:
            raise UserError("--smooth is for a stream that is tracked: pass --track True too.")
        smoothing, weights = OneEuro() if settings.smooth else None, settings.weights or settings.serve
        camera, side, most = source.camera, settings.handedness, settings.hands
        self.tracker = HandTracker(predictor, camera, side, 1.0, smoothing, weights, most)
        self.reset()

    def reset(self) -> None:
        """Forget the hands: the next frame does not follow from the last."""
        self.tracker.reset()
        self._hands, self._moment = [], None

    def __call__(self, depth: np.ndarray, moment: float) -> tuple[list[HandPose], str]:
        """The hands in the next frame (H, W) mm, taken at `moment`, in seconds; and if there is none, why."""
        follows = self.track
        if follows is None:
            follows = all(stayed(hand.crop, depth, self.source.camera) for hand in self._hands)
        if not follows:
            self.tracker.reset()
        seconds = 1 / self.source.rate if self._moment is None else moment - self._moment
        self._moment, self._hands = moment, self.tracker.update_hands(depth, seconds)
        return self._hands, "" if self._hands else self.tracker.reason


def stayed(crop: Crop, depth: np.ndarray, camera: Camera) -> bool:
    """Whether most of the surface in a crop is where it was in the camera's next frame (H, W) mm."""
    was, now = crop.image, crop_hand(depth, camera, crop.center_xyz, crop.cube, len(crop.image)).image
    alike = (was > 0) & (now > 0) & (np.abs(was - now) < SAME_DEPTH)
    return np.count_nonzero(alike) >= SAME_SHARE * np.count_nonzero((was > 0) | (now > 0))


class ReadFrame(NamedTuple):
    """Frame number `i` of a source: `depth` (H, W) mm, taken at `seconds`, or why it could not be read."""

    i: int
    depth: np.ndarray | None
    seconds: float
    error: UserError | OSError | None = None


def read_ahead(source: Source, length: int | None) -> Iterator[ReadFrame]:
    """Every frame of a source in turn, at most `length`. While one is used, the next is read; a camera's
    is not, for the newest to be taken."""

    def read(i: int) -> ReadFrame:
        try:
            return ReadFrame(i, source.read(i), source.seconds(i))
        except (UserError, OSError) as error:
            return ReadFrame(i, None, source.seconds(i), error)

    numbers = iter(count() if length is None else range(length))
    if source.live:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, next(numbers))
        for i in numbers:
            frame, coming = coming.result(), reader.submit(read, i)
            yield frame
        yield coming.result()


def frames_to_come(source: Source, settings: DemoSettings) -> int | None:
    """How many frames will be read; None where nobody knows."""
    return min(filter(None, (source.length, settings.frames)), default=None)


def run_stream(source: Source, predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Every frame of a source through the network and to where the settings say."""
    length = frames_to_come(source, settings)
    if settings.save.endswith(".png") and length != 1:
        raise UserError(f"--save {settings.save} holds one frame: pass --frames 1, or name a film or folder.")
    poser, started = Poser(source, predictor, settings), time.perf_counter()
    done, with_hand, failures, stops = 0, 0, [], settings.strict or source.live
    sample: ReadFrame | None = None  # the first that shows anything
    with ExitStack() as stack:
        add = write = show = None
        if settings.save:
            add = stack.enter_context(record(Path(settings.save), source.rate))
        if settings.json:
            write = stack.enter_context(write_poses(Path(settings.json), predictor, source.camera, settings))
        if settings.show:
            show = stack.enter_context(window("AWR"))
        # Ctrl-C is how an endless stream ends: what was saved until then is kept.
        stack.enter_context(suppress(KeyboardInterrupt))
        frames = stack.enter_context(closing(read_ahead(source, length)))
        for frame in tqdm(frames, total=length, desc="frames", unit="frame"):
            label, seconds = source.label(frame.i), frame.seconds
            hands, reason = ([], "") if frame.error else poser(frame.depth, seconds)
            if write:
                write(label, hands, seconds - started if source.live else None, frame.error)
            if frame.error:
                failures.append(frame.error)
                if stops:
                    break
                continue
            done, with_hand = done + 1, with_hand + bool(hands)
            sample = frame if sample is None or not sample.depth.any() else sample
            if add or show:
                rate = f"{done / (time.perf_counter() - started):.1f} frames/s" if show else ""
                headline = "   ".join(filter(None, (label, rate, reason)))
                shown = (predictor.info, source.camera, headline, settings.hands, settings.weights)
                picture = draw_panel(frame.depth, hands, *shown)
            if add:
                add(picture, seconds, Path(label).stem if source.labels else f"{frame.i:06d}")
            if show and show(picture):
                break
        if failures and not done:
            raise failures[0]  # there is nothing to keep
    rate = done / (time.perf_counter() - started)
    print(f"A hand in {with_hand} of {done} frames; {rate:.1f} frames a second from end to end.")
    if done and not with_hand:
        depth = source.raw(sample.i) if source.raw else sample.depth
        print(why_no_hand(depth, source.scales, settings.depth_range))
    if failures:
        share = f"{len(failures)} of {done + len(failures)} frames could not be used; the first: "
        raise UserError((share if len(failures) > 1 else "") + str(failures[0]))


def why_no_hand(depth: np.ndarray, scales: tuple[float, ...], depth_range: tuple[float, float]) -> str:
    """How many readings of a frame (H, W), in its own unit, lie in range, mm, and with what unit they would.

    `scales`: mm a unit that it was taken to have, then others that are likely; empty: mm for certain.
    """
    near, far = depth_range
    readings = depth[np.isfinite(depth) & (depth > 0) & (depth != NO_READING)].astype(np.float64)
    if not readings.size:
        if (np.nan_to_num(depth) < 0).any():
            return "All depths are below 0, as OpenGL's z is: change their sign."
        return "No frame has a depth reading: 0 and NaN are none."
    if readings.min() < readings.max():  # a renderer's background, or a camera's farthest
        readings = readings[readings < readings.max()]
    present, *others = scales or (1.0,)
    scaled = {scale: readings * scale for scale in (present, *others, *UNITS)}
    share = {scale: ((near <= depth) & (depth <= far)).mean() for scale, depth in scaled.items()}
    found = f"{share[present]:.0%} of the depth readings lie within --depth_range {near:.0f} {far:.0f} mm"
    if share[present] >= 0.01:
        return f"{found}: hold the hand nearer than everything else, or lower --min_confidence."
    if not scales:
        return f"{found}: come nearer, or pass another --depth_range."
    best = max((*others, *UNITS), key=share.get)
    if share[best] < 0.01:
        return f"{found}, in any usual unit: frames stretched to all of 16 bits have lost their unit."
    return f"{found}, {share[best]:.0%} would with --depth_scale {best:g} (mm a unit)."
