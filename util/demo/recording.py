"""Where the demo's pictures and poses go. A file appears whole or not at all."""

import json
import os
import shutil
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
from util.files import atomic_write
from util.inference.predictor import Handedness, HandPose, HandPosePredictor

GIF_RATE = 15.0  # pictures a second at most: more would enlarge the file, and look no smoother
GIF_SCALE = 0.5

# Takes a picture, when it was taken in seconds of any clock, and a name for it in a folder.
Add = Callable[[np.ndarray, float, str], None]
Write = Callable[[np.ndarray], None]


@contextmanager
def record(path: Path, rate: float) -> Iterator[Add]:
    """Save pictures (H, W, 3), blue first, as a film .mp4 or .gif, in a folder of PNG files, or one as .png.

    A film has `rate` pictures a second, a .gif at most GIF_RATE: a picture is repeated, or left out, for
    the film to last as long as what it shows.

    Raises:
        OSError: naming `path`, if it cannot be written, or not all of it.
    """
    if path.suffix == "":
        with _folder(path) as add:
            yield add
        return
    with atomic_write(path) as temporary:
        if path.suffix == ".mp4":
            with _film(temporary, path, rate) as write:
                yield _paced(write, rate)
        elif path.suffix == ".gif":
            rate = min(rate, GIF_RATE)
            with _gif(temporary, rate) as write:
                yield _paced(write, rate)
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
    writer, count = cv2.VideoWriter(), 0

    def write(picture: np.ndarray) -> None:
        nonlocal count
        height, width = (edge // 2 * 2 for edge in picture.shape[:2])  # the codec wants even edges
        code = cv2.VideoWriter_fourcc(*"mp4v")
        if not count and not writer.open(str(temporary), code, rate, (width, height)):
            temporary.write_bytes(bytes(4096))  # a full disk says so here
            raise UserError("This OpenCV cannot write .mp4 files: use --save out.gif, or a folder.")
        writer.write(picture[:height, :width])
        count += 1

    try:
        yield write
    finally:
        writer.release()
    # The writer says nothing of a write that failed. Ctrl-C may have left a picture uncounted.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if count and cv2.VideoCapture(str(temporary), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) < count:
        raise OSError(f"{path}: the film could not be written; is the disk full?")


@contextmanager
def _gif(temporary: Path, rate: float) -> Iterator[Write]:
    pictures: list[Image.Image] = []

    def write(picture: np.ndarray) -> None:
        small = cv2.resize(picture, None, fx=GIF_SCALE, fy=GIF_SCALE, interpolation=cv2.INTER_AREA)
        # One byte a pixel: a minute of pictures must fit into memory. Dithering would double the file.
        rgb = Image.fromarray(np.ascontiguousarray(small[..., ::-1]))
        pictures.append(rgb.quantize(128, dither=Image.Dither.NONE))

    yield write
    if pictures:
        ends = 10 * np.rint(100 / rate * np.arange(len(pictures) + 1))  # ms; the format counts hundredths
        duration = np.diff(ends).astype(int).tolist()
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=duration, loop=0)


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

    def add(picture: np.ndarray, _: float, name: str) -> None:
        file = temporary / f"{name}.png"
        if file.exists():  # of two folders, or of two endings
            file = temporary / f"{name}_{len(list(temporary.iterdir()))}.png"
        _write_png(file, path, picture)

    try:
        yield add
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_png(file: Path, path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(file), picture):
        raise OSError(f"{path}: a picture could not be written; is the disk full?")


@contextmanager
def write_poses(path: Path, header: dict) -> Iterator[Callable[..., None]]:
    """Save a header line and a pose a line as JSON; see `pose_line` for what to call it with."""
    with atomic_write(path) as temporary, temporary.open("w") as file:
        print(json.dumps(header), file=file)
        yield lambda *frame: print(pose_line(*frame), file=file)


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
    taken = {} if seconds is None else {"seconds": round(seconds, 3)}
    poses = {"poses": records} if several else {"pose": records[0] if records else None}
    return json.dumps({"frame": frame, **taken, **poses, **({"error": error} if error else {})})


@contextmanager
def window(title: str) -> Iterator[Callable[[np.ndarray], bool]]:
    """A window for pictures; showing one says whether a key q or Esc, or its cross, was used to stop."""
    # Without a display, Qt would end the process before any error could be raised.
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
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
