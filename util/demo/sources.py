"""Where depth frames come from: a file, a folder, a stack, a film, a camera, or a hand that is rendered."""

import atexit
import glob
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from util import UserError, pip_install
from util.camera import CAMERAS, Camera, DepthCamera, parse_camera, scale_camera, to_millimetres
from util.demo.frame_files import ARRAYS, FRAME_FILES, read_frame, read_frames
from util.demo.settings import DemoSettings
from util.files import printable, require_file

FILMS = (".avi", ".mkv", ".mp4", ".mov")
FRAME_RATE = 30.0  # frames a second, of sources that do not say
SAME_RATE = 0.02  # a film's frames may come so much faster or slower than its header says

# FFmpeg's own complaints about a damaged film would stand before our one sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Read = Callable[[int], np.ndarray]  # number of a frame -> the frame, (H, W)


class Source(NamedTuple):
    """Depth frames, to be asked for one by one."""

    name: str
    read: Read  # float32 mm, 0 for no reading
    length: int | None  # frames; None: without end
    camera: Camera
    labels: tuple[str, ...] | None = None  # of files that may not follow from one another; None: a sequence
    live: bool = False  # frames come when a camera takes them
    rate: float = FRAME_RATE  # frames a second in the mean
    times: np.ndarray | None = None  # seconds of every frame, where they are known
    raw: Read | None = None  # of files: the frames in their own unit
    scales: tuple[float, ...] = ()  # of files: the mm a unit that was taken, and the camera's own

    def label(self, i: int) -> str:
        """What frame i is called."""
        return printable(self.labels[i]) if self.labels else f"{i}"

    def seconds(self, i: int) -> float:
        """When frame i was taken, in seconds of some clock; of a camera: now."""
        if self.live:
            return time.perf_counter()
        return i / self.rate if self.times is None else float(self.times[i])


def open_source(name: str, settings: DemoSettings) -> Source:
    """Open `synthetic`, `realsense`, or what lies at a path."""
    if name == "synthetic":
        return _synthetic(settings)
    if name == "realsense":
        return _realsense()
    path = Path(name)
    if path.is_dir() or (not path.exists() and glob.has_magic(name)):
        return _folder(name, settings)
    require_file(path, "a file or folder of depth frames, `realsense` or `synthetic`")
    ending = path.suffix.lower()
    if ending in FILMS:
        return _film(path, settings)
    if ending not in (*FRAME_FILES, *ARRAYS):
        raise UserError(f"{path} is of no known kind: use {', '.join((*FRAME_FILES, '.npz', *FILMS))} files.")
    frames, own = read_frames(path)
    labels = (path.name,) if len(frames) == 1 and ending not in ARRAYS else None
    return _recorded(name, lambda i: np.asarray(frames[i]), frames.shape, own, settings, labels=labels)


def _recorded(
    name: str, raw: Read, shape: tuple[int, ...], own: DepthCamera | None, settings: DemoSettings, **more: Any
) -> Source:
    """A source of recorded frames `raw`, (T, H, W) in all; `own` is the camera that their format names."""
    given = parse_camera(settings.camera) if settings.camera else own
    if given is None:
        known = f"one of {', '.join(CAMERAS)}, or fx,fy,cx,cy in pixels"
        raise UserError(f"{name} does not say which camera took it: pass --camera, {known}.")
    exact = isinstance(given, Camera)
    camera, nominal = (given, 1.0) if exact else (scale_camera(given, shape[1:]), given.depth_scale)
    scale = settings.depth_scale or nominal
    fields = {"rate": settings.fps or FRAME_RATE, "raw": raw, "scales": (scale, nominal)} | more
    return Source(name, lambda i: to_millimetres(raw(i), scale), shape[0], camera, **fields)


def _folder(name: str, settings: DemoSettings) -> Source:
    """Files of one frame each, of a folder or a pattern, in the order of their numbers."""
    folder = Path(name)
    paths = folder.iterdir() if folder.is_dir() else map(Path, glob.glob(name))
    files = [path for path in paths if path.suffix.lower() in FRAME_FILES and path.name[0] != "."]
    if not files:
        raise FileNotFoundError(f"{name} holds no depth frames: expected {', '.join(FRAME_FILES)} files.")
    pieces = {path: re.split(r"(\d+)", path.name) for path in files}
    files.sort(key=lambda path: [int(piece) if piece.isdecimal() else piece for piece in pieces[path]])
    if folder.is_dir():
        _require_one_kind(folder, list(pieces.values()))
    for file in files:  # one that cannot be read is no reason not to read the others
        with suppress(UserError, OSError):
            first, own = read_frame(file)
            break
    else:
        first, own = read_frame(files[0])  # its error

    def raw(i: int) -> np.ndarray:
        frame = read_frame(files[i])[0]
        if frame.shape != first.shape:
            raise UserError(
                f"{files[i]} has shape {frame.shape}, the first frame {first.shape}: one camera at a time."
            )
        return frame

    labels = tuple(file.name for file in files)
    return _recorded(name, raw, (len(files), *first.shape), own, settings, labels=labels)


def _require_one_kind(folder: Path, names: list[list[str]]) -> None:
    """Refuse a folder of depth and colour, or of several views: nobody says which to read. `names` of its
    files are in pieces, every second one a number."""
    by_letters: dict[str, list[list[str]]] = {}
    for pieces in names:
        by_letters.setdefault("*".join(pieces[::2]), []).append(pieces)
    kinds = {letters for letters, alike in by_letters.items() if len(alike) > 1}
    if len(kinds) < 2:  # of one number, which counts, a view's names have all values, as in depth_2_*.png
        alike = max(by_letters.values(), key=len)
        values = {i: {pieces[i] for pieces in alike} for i in range(1, len(alike[0]), 2)}
        counter = max(values, key=lambda i: (len(values[i]), len(alike[0][i])), default=0)
        if values and 2 * len(values[counter]) <= len(alike):
            kinds = {"".join((*pieces[:counter], "*", *pieces[counter + 1 :])) for pieces in alike}
    if len(kinds) > 1:
        shown = ", ".join(f"'{glob.escape(str(folder))}/{kind}'" for kind in sorted(kinds)[:4])
        raise UserError(f"{folder} holds frames of several kinds: pass one of them as --source: {shown}.")


def _film(path: Path, settings: DemoSettings) -> Source:
    """A 16-bit film, say FFV1 in Matroska. It is read once for its length and times: headers may estimate."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns that 16 bits are rare
    opening = (str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
    film = cv2.VideoCapture(*opening)
    readable, first = film.read()
    if not readable or first.dtype != np.uint16 or first.squeeze().ndim != 2:
        raise UserError(
            f"{path} cannot be read as a video of 16-bit grey frames: fewer bits have lost the depth; if its "
            f"second stream is depth, take it out: ffmpeg -i {path} -map 0:v:1 -c copy depth.mkv."
        )
    times = [film.get(cv2.CAP_PROP_POS_MSEC) / 1000]
    while film.grab():
        times.append(film.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    length = following = len(times)  # following: number of the frame that is read next

    def raw(i: int) -> np.ndarray:
        nonlocal following
        if i < following:  # seeking is not exact in every film: start over
            film.open(*opening)
            following = 0
        for _ in range(i - following):
            film.grab()
        following = i + 1
        return film.read()[1].squeeze()

    rate, more = film.get(cv2.CAP_PROP_FPS), {}
    if length > 1 and (np.diff(times) > 0).all():
        mean = (length - 1) / (times[-1] - times[0])
        rate = rate if abs(rate / mean - 1) < SAME_RATE else mean
        more = {"times": np.array(times) - times[0]}
    more = {} if settings.fps else more | {"rate": rate if rate > 0 else FRAME_RATE}
    return _recorded(str(path), raw, (length, *first.squeeze().shape), None, settings, **more)


def _synthetic(settings: DemoSettings) -> Source:
    try:
        from dataloader.synthetic.hand.bank import HandBank
        from dataloader.synthetic.motion import MovingHand, TwoMovingHands
    except ImportError as error:
        raise UserError(f"--source synthetic needs {error.name}: {pip_install('synth')}.") from error
    camera, size = parse_camera(settings.camera or "nyu"), (480, 640)
    if isinstance(camera, DepthCamera):
        camera, size = camera.camera, camera.frame_size
    kind = MovingHand if settings.hands == 1 else TwoMovingHands
    moving = kind(HandBank(), settings.seed, camera, size, settings.leaves, settings.body)
    return Source("synthetic", lambda i: to_millimetres(moving.frame(i).depth), None, camera)


def _realsense() -> Source:
    """Start the first camera's depth stream; intrinsics and depth unit are the camera's own."""
    try:
        import pyrealsense2 as rs
    except ImportError as error:
        raise UserError("--source realsense needs pyrealsense2: pip install pyrealsense2.") from error
    pipeline = rs.pipeline()
    config = rs.config()
    config.enable_stream(rs.stream.depth, rs.format.z16)
    try:
        profile = pipeline.start(config)
    except RuntimeError as error:
        raise UserError(f"No RealSense camera can be used: {error}.") from error
    atexit.register(pipeline.stop)
    lens = profile.get_stream(rs.stream.depth).as_video_stream_profile().get_intrinsics()
    scale = 1000 * profile.get_device().first_depth_sensor().get_depth_scale()

    def read(_: int) -> np.ndarray:
        try:
            frame = pipeline.wait_for_frames().get_depth_frame()
        except RuntimeError as error:
            raise UserError(f"The RealSense camera stopped sending frames: {error}.") from error
        return to_millimetres(np.asanyarray(frame.get_data()), scale)

    camera = Camera(lens.fx, lens.fy, lens.ppx, lens.ppy)
    return Source("realsense", read, None, camera, live=True)
