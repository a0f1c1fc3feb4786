"""Where the demo's pictures and poses go. A file appears whole or not at all."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from config import VERSION
from util import UserError
from util.camera import Camera
from util.demo.settings import DemoSettings
from util.files import atomic_write
from util.inference.hands import HandPose
from util.inference.predictor import HandPosePredictor

GIF_STEP = 8  # hundredths of a second a picture at least: more would enlarge the file, and look no smoother

# Takes a picture, when it was taken in seconds of any clock, and a name for it in a folder.
Add = Callable[[np.ndarray, float, str], None]
Write = Callable[[np.ndarray], None]


@contextmanager
def record(path: Path, rate: float) -> Iterator[Add]:
    """Save pictures (H, W, 3), blue first, as a film .mp4 or .gif, in a folder of PNG files, or one as .png.

    A film has `rate` pictures a second, a .gif maybe fewer: a picture is repeated, or left out, for the
    film to last as long as what it shows. OSError names `path`, if not all of it can be written.
    """
    if path.suffix == "":
        yield _folder(path)
        return
    with atomic_write(path) as temporary:
        if path.suffix == ".mp4":
            with _film(temporary, path, rate) as write:
                yield _paced(write, rate)
        elif path.suffix == ".gif":
            step = max(round(100 / rate), GIF_STEP)
            with _gif(temporary, step) as write:
                yield _paced(write, 100 / step)
        else:
            yield lambda picture, *_: _write_png(temporary, path, picture)
        if not temporary.stat().st_size:
            raise UserError("There is no frame to save.")


def _paced(write: Write, rate: float) -> Add:
    """Give a film of `rate` pictures a second every picture as often as it lasts, from the first on."""
    first, count = None, 0

    def add(picture: np.ndarray, seconds: float, _: str = "") -> None:
        nonlocal first, count
        first = seconds if first is None else first  # the network's warm-up is no part of the film
        wanted = 1 + int((seconds - first) * rate + 0.501)  # halves, which floats may miss, are full
        for _ in range(wanted - count):
            write(picture)
            count += 1

    return add


@contextmanager
def _film(temporary: Path, path: Path, rate: float) -> Iterator[Write]:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns of every frame
    writer, full = cv2.VideoWriter(), OSError(f"{path}: the film could not be written; is the disk full?")

    def write(picture: np.ndarray) -> None:
        height, width = (edge // 2 * 2 for edge in picture.shape[:2])  # the codec wants even edges
        code = cv2.VideoWriter_fourcc(*"mp4v")
        if not writer.isOpened() and not writer.open(str(temporary), code, rate, (width, height)):
            raise full
        writer.write(picture[:height, :width])

    try:
        yield write
    finally:
        writer.release()
    # The writer says nothing of a write that failed, but then the film's end, which is its index, is missing.
    if temporary.stat().st_size and not cv2.VideoCapture(str(temporary), cv2.CAP_FFMPEG).isOpened():
        raise full


@contextmanager
def _gif(temporary: Path, step: int) -> Iterator[Write]:
    pictures: list[Image.Image] = []

    def write(picture: np.ndarray) -> None:
        # One byte a pixel: a minute of pictures must fit into memory. Dithering would double the file.
        rgb = Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
        pictures.append(rgb.quantize(128, dither=Image.Dither.NONE))

    yield write
    if pictures:
        first, *others = pictures
        first.save(temporary, save_all=True, append_images=others, duration=10 * step, loop=0)


def _folder(path: Path) -> Add:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--save {path} is there already and not empty: name a new folder.")
    path.mkdir(parents=True, exist_ok=True)

    def add(picture: np.ndarray, _: float, name: str) -> None:
        file = path / f"{name}.png"
        if file.exists():  # of two folders, or of two endings
            file = path / f"{name}_{len(list(path.iterdir()))}.png"
        _write_png(file, path, picture)

    return add


def _write_png(file: Path, path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(file), picture):
        raise OSError(f"{path}: a picture could not be written; is the disk full?")


@contextmanager
def write_poses(
    path: Path, predictor: HandPosePredictor, camera: Camera, settings: DemoSettings
) -> Iterator[Callable[..., None]]:
    """Save as JSON a header line, then one for each frame written (docs/camera.md, "The pose record")."""
    header = {
        "format": "awr-poses",
        "version": VERSION,
        "joint_names": list(predictor.info.joint_names),
        "units": {"seconds": "s", "joints_xyz": "mm", "joints_uvd": "pixels, pixels, mm", "center_xyz": "mm"},
        "camera": camera._asdict(),
        "hands": settings.hands,
        "handedness": settings.handedness,
        "model": " ".join(str(loaded.checkpoint) for loaded in predictor.networks),
        "net": " ".join(loaded.spec.net for loaded in predictor.networks),
    }

    def write(frame: str, hands: Sequence[HandPose], seconds: float | None, error: Exception | None) -> None:
        poses = [hand.to_dict() for hand in hands]
        for pose in poses:
            del pose["joint_names"]  # they are in the header
        line = {"frame": frame} if seconds is None else {"frame": frame, "seconds": round(seconds, 3)}
        line |= {"poses": poses} if settings.hands > 1 else {"pose": next(iter(poses), None)}
        print(json.dumps(line | ({"error": str(error)} if error else {})), file=file)

    with atomic_write(path) as temporary, temporary.open("w") as file:
        print(json.dumps(header), file=file)
        yield write


@contextmanager
def window(title: str) -> Iterator[Callable[[np.ndarray], bool]]:
    """A window for pictures; showing one says whether a key q or Esc, or its cross, was used to stop."""
    # Without a display, Qt would end the process before any error could be raised.
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        raise UserError("--show needs a display and there is none: use --save out.mp4, or --serve.")
    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)  # no tool bar

    def show(picture: np.ndarray) -> bool:
        cv2.imshow(title, picture)
        pressed = cv2.waitKey(1) & 0xFF
        return pressed in (ord("q"), 27) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1

    try:
        yield show
    finally:
        cv2.destroyAllWindows()
