"""Depth cameras by name: what to assume where a frame does not say how it was taken."""

from typing import NamedTuple

from config import NYU_CAMERA
from util.camera import Camera


class DepthCamera(NamedTuple):
    """`camera`: intrinsics in pixels of a (height, width) `frame_size`; `depth_scale`: mm a unit."""

    camera: Camera
    frame_size: tuple[int, int]
    depth_scale: float


# Defaults, not a calibration: nominal values of the model, published or from its field of view. Two cameras
# of one model differ by a percent or two, and so will the joints; a calibrated `fx,fy,cx,cy` is better.
CAMERAS = {
    "nyu": DepthCamera(NYU_CAMERA, (480, 640), 1.0),
    "kinect1": DepthCamera(Camera(571.26, 571.26, 320, 240), (480, 640), 1.0),  # Microsoft's nominal
    "kinect2": DepthCamera(Camera(365.46, 365.46, 254.88, 205.40), (424, 512), 1.0),  # libfreenect2's
    "azure": DepthCamera(Camera(504.0, 504.0, 320, 332), (576, 640), 1.0),  # narrow, unbinned
    "sr300": DepthCamera(Camera(475.07, 475.07, 315.94, 245.29), (480, 640), 0.125),
    "sr305": DepthCamera(Camera(476.01, 476.01, 313.68, 242.76), (480, 640), 0.125),
    "d415": DepthCamera(Camera(610.0, 610.0, 320, 240), (480, 640), 1.0),
    "d435": DepthCamera(Camera(384.0, 384.0, 320, 240), (480, 640), 1.0),
    "d455": DepthCamera(Camera(386.0, 386.0, 320, 240), (480, 640), 1.0),
    "l515": DepthCamera(Camera(460.0, 460.0, 320, 240), (480, 640), 0.25),
}


def parse_camera(text: str) -> DepthCamera | Camera:
    """A name of CAMERAS, or `fx,fy,cx,cy` in pixels.

    Raises:
        ValueError: in one sentence, for anything else.
    """
    if text in CAMERAS:
        return CAMERAS[text]
    try:
        fx, fy, cx, cy = (float(number) for number in text.split(","))
    except ValueError:
        names = ", ".join(CAMERAS)
        raise ValueError(f"--camera {text!r} is neither one of {names} nor fx,fy,cx,cy in pixels.") from None
    return Camera(fx, fy, cx, cy)


def camera_for_size(known: DepthCamera, frame_size: tuple[int, int]) -> Camera:
    """The intrinsics for frames of another resolution of the same field of view.

    Raises:
        ValueError: if the frames' shape is another: then they are cut, and nobody knows where.
    """
    (height, width), (rows, columns) = known.frame_size, frame_size
    scale = columns / width
    if abs(rows - height * scale) > 1:
        raise ValueError(
            f"The frames have {columns}×{rows} pixels, the camera's intrinsics are for {width}×{height}: "
            "pass --camera fx,fy,cx,cy for these frames."
        )
    fx, fy, cx, cy, flip = known.camera
    # Pixel i is centred at i: its edges, which scale, lie half a pixel off.
    return Camera(fx * scale, fy * scale, (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5, flip)
