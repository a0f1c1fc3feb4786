"""Where depth frames come from: a file, a folder, a stack, a video, a camera, or a hand that is rendered."""

import glob
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import DATASETS, NYU_CAMERA
from dataloader import msra, nyu
from util import UserError
from util.camera import CAMERAS, Camera, DepthCamera, scale_camera
from util.files import MAX_PIXELS, printable, read_image, require_file

PICTURES = (".png", ".tif", ".tiff", ".pgm", ".exr")
STACKS, VIDEOS = (".npy", ".npz"), (".avi", ".mkv", ".mp4", ".mov")
MAX_ARRAY_BYTES = 4 * 10**9  # of an .npz
FRAME_FILES = (*PICTURES, ".npy", ".bin")

# FFmpeg's own complaints about a damaged film would stand before our one sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Source(NamedTuple):
    """Depth frames, to be asked for one by one.

    name: for people. read: number of a frame -> (H, W) in the source's unit. length: number of frames,
    None where there is no end. camera: that took them. depth_scale: mm a unit. labels: a name for
    each frame, None where the number is all. sequence: whether a frame follows from the one before;
    None: nobody knows.
    live: whether frames come when a camera takes them.
    close: to be called at the end.
    """

    name: str
    read: Callable[[int], np.ndarray]
    length: int | None
    camera: Camera
    depth_scale: float
    labels: tuple[str, ...] | None = None
    sequence: bool | None = True
    live: bool = False
    close: Callable[[], None] = lambda: None

    def label(self, i: int) -> str:
        """What frame i is called."""
        return printable(self.labels[i]) if self.labels else f"{i}"


class SourceOptions(NamedTuple):
    """camera: as parsed, None where none is given. depth_scale: mm a unit, None: the camera's or file's.

    seed, leaves, body, hands: of synthetic hands.
    """

    camera: DepthCamera | Camera | None = None
    depth_scale: float | None = None
    seed: int = 0
    leaves: bool = False
    body: bool = False
    hands: int = 1


def open_source(name: str, options: SourceOptions) -> Source:
    """Open `synthetic`, `realsense`, or what lies at a path.

    Raises:
        FileNotFoundError, UserError: in one sentence, for what is not there or cannot be read.
    """
    if name == "synthetic":
        return _synthetic(options)
    if name == "realsense":
        return _realsense()
    path = Path(name)
    if path.is_dir():
        files = _frame_files(path.iterdir())
        if not files:
            raise FileNotFoundError(f"{path} holds no depth frames: expected {', '.join(FRAME_FILES)} files.")
        _require_one_kind(path, files)
        return _files(name, files, options)
    if not path.exists() and glob.has_magic(name):
        files = _frame_files(map(Path, glob.glob(name)))
        if not files:
            raise FileNotFoundError(
                f"{name} matches no depth frame: expected {', '.join(FRAME_FILES)} files."
            )
        return _files(name, files, options)
    require_file(path, "a file or folder of depth frames, `realsense` or `synthetic`")
    if _ending(path) in STACKS:
        return _stack(path, options)
    if _ending(path) in VIDEOS:
        return _video(path, options)
    if _ending(path) in FRAME_FILES:
        return _files(name, [path], options)
    raise UserError(
        f"{path} is of no known kind: depth frames are {', '.join((*FRAME_FILES, '.npz', *VIDEOS))} files."
    )


def _frame_files(paths: Iterable[Path]) -> list[Path]:
    """Depth frames in the order of their numbers; hidden files are none, whatever their ending."""
    frames = [path for path in paths if _ending(path) in FRAME_FILES and not path.name.startswith(".")]
    return sorted(frames, key=_natural)


def _require_one_kind(folder: Path, files: list[Path]) -> None:
    """Raise UserError for a folder of depth and colour, or of several views: nobody says which to read."""
    by_letters: dict[str, list[str]] = {}
    for file in files:
        by_letters.setdefault(re.sub(r"\d+", "*", file.name), []).append(file.name)
    patterns = [letters for letters, names in by_letters.items() if len(names) > 1]
    if len(patterns) < 2:
        patterns = _views(max(by_letters.values(), key=len))
    if len(patterns) > 1:
        inside = glob.escape(str(folder))
        shown = ", ".join(f"'{inside}/{pattern}'" for pattern in sorted(patterns)[:4])
        raise UserError(f"{folder} holds frames of several kinds: pass one of them as --source: {shown}.")


def _views(names: list[str]) -> list[str]:
    """Patterns of the views among names of the same letters, as depth_1_*.png and depth_2_*.png; else none.

    One number counts the frames, the one with most values. If each of its values is there at least twice,
    another number is a view's.
    """
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=True))
    if len(columns) < 2:
        return []
    values = [sorted(set(column)) for column in columns]
    counter = max(range(len(columns)), key=lambda i: (len(values[i]), len(columns[i][0])))
    views = [i for i in range(len(columns)) if i != counter and len(values[i]) > 1]
    if not views or 2 * len(values[counter]) > len(names):
        return []
    parts = re.split(r"\d+", names[0])
    kept = [value[0] if len(value) == 1 else "*" for value in values]

    def pattern(view: str) -> str:
        numbers = ["*" if i == counter else view if i == views[0] else kept[i] for i in range(len(columns))]
        return "".join(part + number for part, number in zip(parts, [*numbers, ""], strict=True))

    return [pattern(view) for view in values[views[0]]]


def read_frame(path: Path) -> tuple[np.ndarray, DepthCamera | None]:
    """Read one frame.

    Returns:
        (H, W) in the file's unit, and the camera of the data set whose format it is, if it is one's.

    Raises:
        FileNotFoundError, UserError: in one sentence, naming the file.
    """
    if _ending(path) == ".bin":
        info = DATASETS["msra"]
        return msra.read_depth(path), DepthCamera(info.camera, info.frame_size, 1.0)
    if _ending(path) == ".npy":
        frame = _load_array(path)
        if frame.ndim != 2 or not frame.size:
            raise UserError(
                f"{path} has shape {frame.shape}: expected one frame (H, W) a file; pass a stack by itself."
            )
        return frame, None
    if _ending(path) == ".exr":
        return _read_exr(path), None
    image = read_image(path)
    if image.ndim == 3 and image.dtype.itemsize > 1 and (image == image[..., :1])[..., :3].all():
        image = image[..., 0]  # grey, kept in three equal channels
    if image.ndim == 2 and image.dtype.itemsize > 1:
        return image, None
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and not image[..., 2].any():
        return nyu.read_depth(path), CAMERAS["nyu"]  # red is empty, depth is in green and blue
    raise UserError(
        f"{path} is {image.dtype} of shape {image.shape}: a picture of depth, coloured or in 8 bits, "
        "has lost it; expected grey of 16 bits or more, or NYU's depth in green and blue."
    )


def _read_exr(path: Path) -> np.ndarray:
    """Depth of an OpenEXR image, which OpenCV cannot read here: channel Z, or any where all are alike."""
    require_file(path, "a depth frame whose neighbours are there")
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError(f"{path} needs the package OpenEXR: pip install -r requirements-demo.txt.") from error
    try:
        with OpenEXR.File(str(path), separate_channels=True, header_only=True) as file:
            first, last = map(np.asarray, file.header()["dataWindow"])
        if np.prod((last - first + 1).astype(np.float64)) > MAX_PIXELS:
            raise ValueError("too many pixels")
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is damaged, or no depth frame: it cannot be decoded as an image.") from error
    depth = channels.get("Z", next(iter(channels.values())))
    if "Z" not in channels and not all(np.array_equal(depth, other) for other in channels.values()):
        raise UserError(
            f"{path} has the channels {', '.join(channels)}: expected depth in Z, or in all alike."
        )
    return np.asarray(depth, np.float32)


def _files(name: str, files: list[Path], options: SourceOptions) -> Source:
    first, own = _first_readable(files)

    def read(i: int) -> np.ndarray:
        return _same_shape(read_frame(files[i])[0], first.shape, str(files[i]))

    camera, scale = _intrinsics(name, first.shape, own, options)
    labels = tuple(file.name for file in files)
    return Source(name, read, len(files), camera, scale, labels, sequence=None)


def _first_readable(files: list[Path]) -> tuple[np.ndarray, DepthCamera | None]:
    """The first frame that can be read; if there is none, the first one's error."""
    failure = None
    for file in files:
        try:
            return read_frame(file)
        except (UserError, OSError) as error:
            failure = failure or error
    raise failure


def _stack(path: Path, options: SourceOptions) -> Source:
    frames = _load_array(path)
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3 or not frames.size:
        raise UserError(f"{path} has shape {frames.shape}: expected (H, W), or (T, H, W) for a stack.")
    camera, scale = _intrinsics(str(path), frames.shape[1:], None, options)
    return Source(str(path), lambda i: np.asarray(frames[i]), len(frames), camera, scale)


def _video(path: Path, options: SourceOptions) -> Source:
    """A 16-bit video, say FFV1 in Matroska; any other has lost the depth.

    Its length is counted once: the header's is an estimate, and wrong for a film that was cut or piped.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns that 16 bits are rare
    opening = (str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
    video = cv2.VideoCapture(*opening)
    readable, first = video.read()
    if not readable or first.dtype != np.uint16 or first.squeeze().ndim != 2:
        raise UserError(
            f"{path} cannot be read as a video of 16-bit grey frames: a video of fewer bits has lost the "
            "depth, keep frames as 16-bit PNG files or an .npy stack."
        )
    camera, scale = _intrinsics(str(path), first.squeeze().shape, None, options)
    length = 1
    while video.grab():
        length += 1
    following = length  # number of the frame that is read next

    def read(i: int) -> np.ndarray:
        nonlocal following
        if i < following:  # seeking is not exact in every film: start over
            video.open(*opening)
            following = 0
        readable = all(video.grab() for _ in range(i - following))
        readable, frame = video.read() if readable else (False, None)
        following = i + 1
        if not readable:
            raise UserError(f"{path} is damaged: frame {i} of {length} cannot be decoded.")
        return frame.squeeze()

    return Source(str(path), read, length, camera, scale, close=video.release)


def _synthetic(options: SourceOptions) -> Source:
    try:
        from dataloader.synthetic.hand.bank import HandBank
        from dataloader.synthetic.motion import MovingHands
    except ImportError as error:
        raise UserError(
            f"--source synthetic needs {error.name}: `pip install -r requirements-synth.txt` brings it."
        ) from error
    camera, size = NYU_CAMERA, (480, 640)
    if isinstance(options.camera, DepthCamera):
        camera, size = options.camera.camera, options.camera.frame_size
    elif options.camera is not None:
        camera = options.camera
    moving = MovingHands(HandBank(), options.seed, camera, size, options.leaves, options.body, options.hands)
    return Source("synthetic", lambda i: moving.frame(i).depth, None, camera, 1.0)


def _realsense() -> Source:
    """Start the first camera's depth stream; intrinsics and depth unit are the camera's own.

    Raises:
        UserError: in one sentence, if the package or a camera is missing.
    """
    try:
        import pyrealsense2 as rs
    except ImportError as error:
        raise UserError(
            "--source realsense needs the package pyrealsense2: `pip install pyrealsense2`."
        ) from error
    pipeline = rs.pipeline()
    config = rs.config()
    config.enable_stream(rs.stream.depth, rs.format.z16)
    try:
        profile = pipeline.start(config)
    except RuntimeError as error:
        raise UserError(f"No RealSense camera can be used: {error}.") from error
    lens = profile.get_stream(rs.stream.depth).as_video_stream_profile().get_intrinsics()
    metres = profile.get_device().first_depth_sensor().get_depth_scale()

    def read(_: int) -> np.ndarray:
        try:
            frame = pipeline.wait_for_frames().get_depth_frame()
        except RuntimeError as error:
            raise UserError(f"The RealSense camera stopped sending frames: {error}.") from error
        return np.asanyarray(frame.get_data()).copy()

    camera = Camera(lens.fx, lens.fy, lens.ppx, lens.ppy)
    return Source("realsense", read, None, camera, 1000 * metres, live=True, close=pipeline.stop)


def _intrinsics(
    name: str, shape: tuple[int, int], own: DepthCamera | None, options: SourceOptions
) -> tuple[Camera, float]:
    """The camera and depth scale of a source whose frames may know their own."""
    given = options.camera or own
    if given is None:
        raise UserError(
            f"{name} does not say which camera took it: pass --camera, one of {', '.join(CAMERAS)}, "
            "or fx,fy,cx,cy in pixels."
        )
    if isinstance(given, Camera):
        return given, options.depth_scale or 1.0
    return scale_camera(given, shape), options.depth_scale or given.depth_scale


def _load_array(path: Path) -> np.ndarray:
    """The one array of an .npy or .npz file; never one that would run code."""
    require_file(path, "an array of depth frames")
    if zipfile.is_zipfile(path):  # an .npz: it would be unpacked into memory as a whole
        try:
            with zipfile.ZipFile(path) as archive:
                size = max((item.file_size for item in archive.infolist()), default=0)
        except Exception as error:  # its directory can be damaged in many ways
            raise UserError(f"{path} cannot be read as an array of numbers.") from error
        if size > MAX_ARRAY_BYTES:
            raise UserError(
                f"{path} unpacks to {size / 1e9:.1f} GB: keep recordings of that size as .npy, which is read "
                "frame by frame."
            )
    try:
        content = np.load(path, mmap_mode="r" if _ending(path) == ".npy" else None, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            if len(names) == 1 or "depth" in names:
                return content["depth" if "depth" in names else names[0]]
    except Exception as error:  # a damaged archive can fail in many ways
        raise UserError(f"{path} cannot be read as an array of numbers.") from error
    raise UserError(f"{path} holds the arrays {', '.join(names)}: expected one, or one called depth.")


def _same_shape(frame: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    if frame.shape != shape:
        raise UserError(f"{name} has shape {frame.shape}, the first frame {shape}: one camera at a time.")
    return frame


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _natural(path: Path) -> list[str | int]:
    """Order by the numbers in a name: frame_2 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
