"""Files of depth frames: pictures and arrays, decoded as they are stored, in the file's own unit."""

from pathlib import Path

import cv2
import numpy as np

from dataloader import dataset_info, msra
from util import UserError, require
from util.camera import CAMERAS, DepthCamera
from util.files import read_image, require_file

PICTURES, ARRAYS = (".png", ".tif", ".tiff", ".pgm", ".exr"), (".npy", ".npz")
FRAME_FILES = (*PICTURES, ".npy", ".bin")  # of a folder
LONGEST_EDGE = 3  # of a frame, in shorter edges


def read_frames(path: Path) -> tuple[np.ndarray, DepthCamera | None]:
    """All frames of a file: (T, H, W) in its unit, and its camera where its format is a data set's."""
    require_file(path, "a depth frame")
    ending = path.suffix.lower()
    if ending == ".bin":
        info = dataset_info("msra")
        return msra.read_depth(path)[None], DepthCamera(info.camera, info.frame_size, 1.0)
    if ending in ARRAYS:
        return _read_array(path), None
    if ending == ".exr":
        return _read_exr(path)[None], None
    image, encoded = read_image(path), np.fromfile(path, np.uint8)
    if bytes(encoded[:2]) == b"P5" and encoded.size >= 2 * image.nbytes:
        count = encoded.size // image.nbytes
        raise UserError(f"{path} holds {count} frames: keep them as PNG files, a TIFF or an .npy stack.")
    images = cv2.imdecodemulti(encoded, cv2.IMREAD_UNCHANGED)[1]  # TIFF and PNG may hold several
    frames, cameras = zip(*(_depth_of(image, path) for image in images or [image]), strict=True)
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path} holds images of several sizes: expected the frames of one camera.")
    return np.stack(frames), cameras[0]


def read_frame(path: Path) -> tuple[np.ndarray, DepthCamera | None]:
    """Read a file's only frame: (H, W) in its unit, and the camera as of `read_frames`."""
    frames, camera = read_frames(path)
    if len(frames) > 1:
        raise UserError(f"{path} holds {len(frames)} frames: expected one a file; pass a stack by itself.")
    return frames[0], camera


def _depth_of(image: np.ndarray, path: Path) -> tuple[np.ndarray, DepthCamera | None]:
    """Depth (H, W) of a decoded picture, and its camera if it is a data set's."""
    wide = image.dtype.itemsize > 1
    if image.ndim == 2 and wide:
        return image, None
    if wide and (image == image[..., :1])[..., :3].all():
        return image[..., 0], None  # grey, kept in three equal channels
    if image.ndim == 3 and not wide:
        blue, green, red = np.moveaxis(image[..., :3].astype(np.uint16), -1, 0)
        if not red.any():
            return green << 8 | blue, CAMERAS["nyu"]
        pair = [channel for channel in (blue, green, red) if channel.any()]
        if len(pair) == 2:  # HO-3D's upper byte is green, RHD's red: the upper one changes less along a row
            upper, lower = sorted(pair, key=lambda channel: np.abs(np.diff(channel.astype(int))).sum())
            return upper << 8 | lower, None
    raise UserError(
        f"{path} is {image.dtype} of shape {image.shape}: a picture of depth, coloured or in 8 bits, "
        "has lost it; expected grey of 16 bits or more, or 16 bits in two 8-bit channels as NYU's."
    )


def _read_exr(path: Path) -> np.ndarray:
    """Depth (H, W) of an OpenEXR image, which OpenCV cannot read here: channel Z, or any if all are alike."""
    OpenEXR = require("OpenEXR", "demo")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
        depth = channels.get("Z", next(iter(channels.values())))
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is damaged, or no depth frame: it cannot be decoded as an image.") from error
    if "Z" not in channels and not all(np.array_equal(depth, other) for other in channels.values()):
        raise UserError(
            f"{path} has the channels {', '.join(channels)}: expected depth in Z, or in all alike."
        )
    return np.asarray(depth, np.float32)


def _read_array(path: Path) -> np.ndarray:
    """(T, H, W) of an .npy file, mapped, or of an .npz file; one that would run code is refused."""
    names: list[str] = []
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                names = archive.files
                array = archive["depth" if "depth" in names else names[0]]
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} cannot be read as an array of numbers.") from error
    if len(names) > 1 and "depth" not in names:
        raise UserError(f"{path} holds the arrays {', '.join(names)}: expected one, or one called depth.")
    sizes = [edge for edge in array.shape if edge != 1]  # there may be an axis of channels
    if not array.size or len(sizes) not in (2, 3) or max(sizes[-2:]) > LONGEST_EDGE * min(sizes[-2:]):
        raise UserError(f"{path} has shape {array.shape}: expected (H, W), or (T, H, W) for a stack.")
    return array.reshape(-1, *sizes[-2:])
