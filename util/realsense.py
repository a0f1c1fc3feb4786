"""An Intel RealSense camera as a source; needs the package pyrealsense2 and the camera."""

import numpy as np

from util.camera import Camera
from util.sources import Source


def open_realsense() -> Source:
    """Start the first camera's depth stream; intrinsics and depth unit are the camera's own.

    Raises:
        ValueError: in one sentence, if the package or a camera is missing.
    """
    try:
        import pyrealsense2 as rs
    except ImportError as error:
        raise ValueError(
            "--source realsense needs the package pyrealsense2: `pip install pyrealsense2`."
        ) from error
    pipeline = rs.pipeline()
    config = rs.config()
    config.enable_stream(rs.stream.depth, rs.format.z16)
    try:
        profile = pipeline.start(config)
    except RuntimeError as error:
        raise ValueError(f"No RealSense camera can be used: {error}.") from error
    lens = profile.get_stream(rs.stream.depth).as_video_stream_profile().get_intrinsics()
    metres = profile.get_device().first_depth_sensor().get_depth_scale()

    def read(_: int) -> np.ndarray:
        try:
            frame = pipeline.wait_for_frames().get_depth_frame()
        except RuntimeError as error:
            raise ValueError(f"The RealSense camera stopped sending frames: {error}.") from error
        return np.asanyarray(frame.get_data()).copy()

    camera = Camera(lens.fx, lens.fy, lens.ppx, lens.ppy)
    return Source("realsense", read, None, camera, 1000 * metres, live=True, close=pipeline.stop)
