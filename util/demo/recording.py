"""Where the demo's pictures and poses go. A file appears whole or not at all."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from config import VERSION
from util import UserError
from util.camera import Camera
from util.files import atomic_write
from util.inference.predictor import Handedness, HandPose, HandPosePredictor

FRAME_RATE = 30.0  # of saved films, frames a second
FILM_START = 4096  # bytes that an .mp4 needs at the least
GIF_EVERY = 2  # pictures; a GIF of all of them would be twice as large and no smoother to the eye
GIF_SCALE = 0.5
SHEET_PICTURES = 100
FULL_SIZE = 4  # pictures on a sheet; more are halved

# Takes a picture, and the seconds since the start where a camera took it: films keep its time.
Add = Callable[[np.ndarray, float | None], None]


@contextmanager
def record(path: Path) -> Iterator[Add]:
    """Save pictures (H, W, 3), blue first: an .mp4 or .gif film, one .png sheet, or a folder of PNG files.

    What it yields takes a picture, and the seconds since the start or None: a film has FRAME_RATE pictures
    a second, so one that a camera took is repeated, or left out, for the film to be as long as it filmed.

    Raises:
        UserError: if the folder holds something already, or films cannot be written here.
        OSError: naming `path`, if it cannot be written, or not all of it.
    """
    if path.suffix == ".mp4":
        with atomic_write(path) as temporary, _film(temporary, path) as add:
            yield add
    elif path.suffix == ".gif":
        with atomic_write(path) as temporary, _gif(temporary) as add:
            yield add
    elif path.suffix == ".png":
        with atomic_write(path) as temporary, _sheet(temporary, path) as add:
            yield add
    elif path.suffix:
        raise UserError(f"--save {path}: use a name that ends in .mp4, .gif or .png, or a folder's.")
    else:
        with _folder(path) as add:
            yield add


@contextmanager
def write_poses(path: Path, header: dict) -> Iterator[Callable[..., None]]:
    """Save a header line and a pose a line as JSON; see `pose_line` for what to call it with."""
    with atomic_write(path) as temporary, temporary.open("w") as file:
        print(json.dumps(header), file=file)
        yield lambda *frame, **more: print(pose_line(*frame, **more), file=file)


def pose_header(predictor: HandPosePredictor, camera: Camera, handedness: Handedness, hands: int) -> dict:
    """What the poses of a file have in common (docs/camera.md, "The pose record")."""
    return {
        "format": "awr-poses",
        "version": VERSION,
        "joint_names": list(predictor.info.joint_names),
        "units": {"seconds": "s", "joints_xyz": "mm", "joints_uvd": "pixels, pixels, mm", "center_xyz": "mm"},
        "camera": camera._asdict(),
        "hands": hands,
        "handedness": handedness,
        "model": str(predictor.checkpoint),
        "net": predictor.spec.net,
    }


def pose_line(
    frame: str,
    hands: Sequence[HandPose],
    seconds: float | None = None,
    several: bool = False,
    error: str = "",
) -> str:
    """One line of JSON: `frame`; where a camera took it, the `seconds` since the start; the `pose`, null
    without a hand, or the list `poses` where there may be several; the `error` of one not read."""
    records = [hand.to_dict() for hand in hands]
    for record in records:
        del record["joint_names"]  # they are in the header
    line: dict = {"frame": frame}
    if seconds is not None:
        line["seconds"] = round(seconds, 3)
    line |= {"poses": records} if several else {"pose": records[0] if records else None}
    if error:
        line["error"] = error
    return json.dumps(line)


@contextmanager
def window(title: str) -> Iterator[Callable[[np.ndarray], bool]]:
    """A window for pictures; showing one says whether a key q or Esc, or its cross, was used to stop.

    Raises:
        UserError: where there is no display.
    """
    # Without a display, Qt would end the process before any error could be raised.
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(display) for display in displays):
        raise UserError("--show needs a display and there is none: use --save out.mp4, or --serve.")
    try:
        cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)  # no tool bar
    except cv2.error as error:
        raise UserError(
            "--show needs an OpenCV that can open windows: install opencv-python instead of "
            "opencv-python-headless, or use --save out.mp4."
        ) from error

    def show(picture: np.ndarray) -> bool:
        cv2.imshow(title, picture)
        pressed = cv2.waitKey(1) & 0xFF
        return pressed in (ord("q"), 27) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1

    try:
        yield show
    finally:
        cv2.destroyAllWindows()


@dataclass
class _Pace:
    """How often a film of `count` pictures takes the next; `start`: seconds of a camera's first."""

    count: int = 0
    start: float | None = None

    def repeats(self, seconds: float | None) -> int:
        if seconds is None:
            return 1
        if self.start is None:
            self.start = seconds  # the network's warm-up is no part of the film
        return max(1 + round((seconds - self.start) * FRAME_RATE) - self.count, 0)


@contextmanager
def _film(temporary: Path, path: Path) -> Iterator[Add]:
    writers: list[cv2.VideoWriter] = []
    pace = _Pace()

    def add(picture: np.ndarray, seconds: float | None) -> None:
        picture = picture[
            : picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2
        ]  # the codec wants even edges
        if not writers:
            code = cv2.VideoWriter_fourcc(*"mp4v")
            writers.append(cv2.VideoWriter(str(temporary), code, FRAME_RATE, picture.shape[1::-1]))
            if not writers[0].isOpened():
                temporary.write_bytes(bytes(FILM_START))  # a full disk says so here
                raise UserError("This OpenCV cannot write .mp4 files: use --save out.gif, or a folder.")
        for _ in range(pace.repeats(seconds)):
            writers[0].write(picture)
            pace.count += 1

    try:
        yield add
    finally:
        for writer in writers:
            writer.release()
    if not writers:
        raise UserError("There is no frame to save.")
    if not _is_whole(temporary, pace.count):  # the writer itself says nothing of a write that failed
        raise OSError(f"{path}: the film could not be written; is the disk full?")


def _is_whole(film: Path, count: int) -> bool:
    """Whether a film has so many frames, or one more that Ctrl-C left uncounted, down to the last."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the answer says it all
    video = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG)
    try:
        frames = video.get(cv2.CAP_PROP_FRAME_COUNT)
        if not video.isOpened() or frames < count:
            return False
        video.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
        return video.read()[0]
    finally:
        video.release()


@contextmanager
def _gif(path: Path) -> Iterator[Add]:
    pictures: list[Image.Image] = []
    pace = _Pace()

    def add(picture: np.ndarray, seconds: float | None) -> None:
        before = pace.count
        pace.count += pace.repeats(seconds)
        # How many of these are every GIF_EVERY-th picture of the film.
        kept = -(-pace.count // GIF_EVERY) - -(-before // GIF_EVERY)
        if kept:
            small = cv2.resize(picture, None, fx=GIF_SCALE, fy=GIF_SCALE, interpolation=cv2.INTER_AREA)
            rgb = Image.fromarray(np.ascontiguousarray(small[..., ::-1]))
            # One byte a pixel: a minute of pictures must fit into memory. Dithering would double the file.
            pictures.extend([rgb.quantize(128, dither=Image.Dither.NONE)] * kept)

    yield add
    if not pictures:
        raise UserError("There is no frame to save.")
    duration = round(1000 * GIF_EVERY / FRAME_RATE)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0)


@contextmanager
def _sheet(temporary: Path, path: Path) -> Iterator[Add]:
    pictures: list[np.ndarray] = []

    def add(picture: np.ndarray, _: float | None) -> None:
        if len(pictures) == SHEET_PICTURES:
            raise UserError(f"A sheet holds {SHEET_PICTURES} frames: pass --frames, or --save a film.")
        pictures.append(picture)

    yield add
    if not pictures:
        raise UserError("There is no frame to save.")
    columns = math.ceil(len(pictures) ** 0.5)
    if len(pictures) > FULL_SIZE:
        pictures = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in pictures]
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    rows = [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    if not cv2.imwrite(str(temporary), np.vstack(rows)):
        raise OSError(f"{path}: the sheet could not be written; is the disk full?")


@contextmanager
def _folder(path: Path) -> Iterator[Add]:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--save {path} is there already and not empty: name a new folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.mkdir()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    count = [0]

    def add(picture: np.ndarray, _: float | None) -> None:
        if not cv2.imwrite(str(temporary / f"{count[0]:06d}.png"), picture):
            raise OSError(f"{path}: a picture could not be written; is the disk full?")
        count[0] += 1

    try:
        yield add
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
