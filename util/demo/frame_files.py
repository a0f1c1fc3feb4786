"""Files of depth frames: pictures and arrays, decoded as they are stored, in the file's own unit."""

from pathlib import Path

import cv2
import numpy as np

from dataloader import dataset_info, msra
from util import UserError
from util.camera import CAMERAS, DepthCamera
from util.files import read_image, require_file

PICTURES, ARRAYS = (".png", ".tif", ".tiff", ".pgm", ".exr"), (".npy", ".npz")
FRAME_FILES = (*PICTURES, ".npy", ".bin")  # of a folder
MAX_ARRAY_BYTES = 4 * 10**9  # of an .npz, which is unpacked into memory as a whole
LONGEST_EDGE = 3  # of a frame, in shorter edges


def read_frames(path: Path) -> tuple[np.ndarray, DepthCamera | None]:
    """Read all frames of a file.

    Returns:
        (T, H, W) in the file's unit, and the camera of the data set whose format it is, if it is one's.
    """
    ending = path.suffix.lower()
    if ending == ".bin":
        info = dataset_info("msra")
        return msra.read_depth(path)[None], DepthCamera(info.camera, info.frame_size, 1.0)
    if ending in ARRAYS:
        return _as_stack(path, _load_array(path)), None
    if ending == ".exr":
        return _read_exr(path)[None], None
    image, encoded = read_image(path), np.fromfile(path, np.uint8)
    if bytes(encoded[:2]) == b"P5" and encoded.size >= 2 * image.nbytes:
        raise UserError(f"{path} holds several frames: keep them as PNG files, a TIFF or an .npy stack.")
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
    wide, shape = image.dtype.itemsize > 1, image.shape
    if image.ndim == 3 and wide and (image == image[..., :1])[..., :3].all():
        image = image[..., 0]  # grey, kept in three equal channels
    if image.ndim == 2 and wide:
        return image, None
    if image.ndim == 3 and not wide:
        blue, green, red = np.moveaxis(image[..., :3].astype(np.uint16), -1, 0)
        if not red.any():
            return green << 8 | blue, CAMERAS["nyu"]
        pair = [channel for channel in (blue, green, red) if channel.any()]
        if len(pair) == 2:  # HO-3D's upper byte is green, RHD's red: the upper one changes less along a row
            upper, lower = sorted(pair, key=lambda channel: np.abs(np.diff(channel.astype(int))).sum())
            return upper << 8 | lower, None
    raise UserError(
        f"{path} is {image.dtype} of shape {shape}: a picture of depth, coloured or in 8 bits, "
        "has lost it; expected grey of 16 bits or more, or 16 bits in two 8-bit channels as NYU's."
    )


def _read_exr(path: Path) -> np.ndarray:
    """Depth (H, W) of an OpenEXR image, which OpenCV cannot read here: channel Z, or any if all are alike."""
    require_file(path, "a depth frame whose neighbours are there")
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError(f"{path} needs the package OpenEXR: pip install -r requirements-demo.txt.") from error
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
            parts = len(file.parts)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is damaged, or no depth frame: it cannot be decoded as an image.") from error
    depth = channels.get("Z", next(iter(channels.values())))
    alike = "Z" in channels or all(np.array_equal(depth, other) for other in channels.values())
    if parts > 1 or not alike:
        raise UserError(
            f"{path} has the channels {', '.join(channels)} in {parts} part(s): "
            "expected depth in Z, or in all alike, and one part."
        )
    return np.asarray(depth, np.float32)


def _load_array(path: Path) -> np.ndarray:
    """The one array of an .npy file, mapped, or of an .npz file; never one that would run code."""
    require_file(path, "an array of depth frames")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                names = archive.files
                size = max(item.file_size for item in archive.zip.infolist())
                if size > MAX_ARRAY_BYTES:
                    raise UserError(f"{path} unpacks to {size / 1e9:.1f} GB: keep such a recording as .npy.")
                if len(names) > 1 and "depth" not in names:
                    several = ", ".join(names)
                    raise UserError(f"{path} holds the arrays {several}: expected one, or one called depth.")
                array = archive["depth" if "depth" in names else names[0]]
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} cannot be read as an array of numbers.") from error
    if isinstance(array, np.memmap) and path.stat().st_size > array.offset + array.nbytes:
        raise UserError(f"{path} holds more than one array: save all frames as one, (T, H, W).")
    return array


def _as_stack(path: Path, array: np.ndarray) -> np.ndarray:
    """(T, H, W) of an array of one frame or of several, which may have a channel axis of length 1."""
    frames = array
    if frames.ndim in (3, 4) and frames.shape[-1] == 1:
        frames = frames[..., 0]
    elif frames.ndim == 4 and frames.shape[1] == 1:
        frames = frames[:, 0]
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3 or not frames.size or max(frames.shape[1:]) > LONGEST_EDGE * min(frames.shape[1:]):
        raise UserError(f"{path} has shape {array.shape}: expected (H, W), or (T, H, W) for a stack.")
    return frames
