"""From a source's frames, through the network, to where the settings say."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import Config
from util.camera import parse_camera, to_millimetres
from util.checkpoint import spec_from_config
from util.demo import recording
from util.demo.live_page import serve
from util.demo.overlay import draw_panel
from util.demo.recording import pose_header, record, window, write_poses
from util.demo.settings import DemoSettings
from util.demo.sources import Source, SourceOptions, open_source
from util.inference.predictor import DEFAULT_CHECKPOINT, Handedness, HandPose, HandPosePredictor
from util.inference.tracker import HandTracker, OneEuro


def run_demo(settings: DemoSettings) -> None:
    """Predict the frames of every source, and show or save the poses.

    Raises:
        FileNotFoundError, ValueError, OSError: for a source or an output that cannot be used.
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
        raise ValueError(
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
        raise ValueError(f"A sheet holds {recording.SHEET_PICTURES} frames: pass --frames, or --save a film.")
    done = seen = rate = 0
    failure: ValueError | None = None
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
                depth_mm = to_millimetres(depth, source.depth_scale)
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
        ValueError: where there is nothing to smooth.
    """
    if track is None:
        track = source.sequence
    if smooth and not track:
        raise ValueError("--smooth is for a stream that is tracked: pass --track True too.")
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
