"""One hand through a stream of frames: the last pose says where to look next."""

import math

import numpy as np

from util import UserError
from util.camera import Camera
from util.inference.predictor import Handedness, HandPose, HandPosePredictor, next_center


class OneEuro:
    """The One-Euro filter (Casiez et al., CHI 2012): still when the hand rests, quick when it moves.

    Args:
        min_cutoff: Hz, of what passes when nothing moves; lower is smoother and later.
        beta: Hz a mm/s, by how much speed raises it.
    """

    SPEED_CUTOFF = 1.0  # Hz, of the speed itself

    def __init__(self, min_cutoff: float = 1.5, beta: float = 0.02):
        if not (min_cutoff > 0 and beta >= 0):
            raise UserError(
                f"The One-Euro filter has min_cutoff {min_cutoff} and beta {beta}: "
                "the first must be above 0, the second not negative."
            )
        self.min_cutoff, self.beta = min_cutoff, beta
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next value passes as it is."""
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(self, value: np.ndarray, seconds: float) -> np.ndarray:
        """Filter an array of any shape, `seconds` after the last one."""
        if self._value is None:
            self._value, self._speed = value, np.zeros_like(value)
        if seconds <= 0:
            return self._value
        share = _share(self.SPEED_CUTOFF, seconds)
        self._speed = self._speed + share * ((value - self._value) / seconds - self._speed)
        cutoff = self.min_cutoff + self.beta * np.abs(self._speed)
        self._value = self._value + _share(cutoff, seconds) * (value - self._value)
        return self._value


class HandTracker:
    """Poses of one hand in the frames of a stream. It belongs to one thread; several may share the predictor.

    Args:
        predictor: of single frames.
        camera: that takes the frames.
        handedness, depth_scale: as for `HandPosePredictor.predict`.
        smoothing: of the joints over time; None: every frame's own joints.
        weights: also give the adaptive weight maps.
    """

    def __init__(
        self,
        predictor: HandPosePredictor,
        camera: Camera,
        handedness: Handedness = "right",
        depth_scale: float = 1.0,
        smoothing: OneEuro | None = None,
        weights: bool = False,
    ):
        self.predictor, self.camera, self.smoothing = predictor, camera, smoothing
        self._arguments = {"handedness": handedness, "depth_scale": depth_scale, "weights": weights}
        self.reset()

    def reset(self) -> None:
        """Forget the hand: it is looked for in the whole of the next frame."""
        self._center: np.ndarray | None = None
        if self.smoothing is not None:
            self.smoothing.reset()

    def update(self, depth: np.ndarray, seconds: float = 1 / 30) -> HandPose | None:
        """The hand in the next frame, None where there is none.

        Args:
            depth: (H, W), as for `HandPosePredictor.predict`.
            seconds: since the last frame, for the smoothing.

        Raises:
            UserError: in one sentence, for a frame that is none.
        """
        pose = None
        if self._center is not None:
            pose = self.predictor.predict(depth, self.camera, self._center, **self._arguments)
        # A crop may have slid down the forearm, or off a fast hand: searching the frame may find better.
        if pose is None or pose.confidence.mean() < self.predictor.reacquire_below:
            found = self.predictor.predict(depth, self.camera, **self._arguments)
            pose = max((pose, found), key=_sureness)
        if pose is None:
            self.reset()
            return None
        self._center = next_center(pose)
        return pose if self.smoothing is None else self._smoothed(pose, seconds)

    def _smoothed(self, pose: HandPose, seconds: float) -> HandPose:
        joints_xyz = self.smoothing(pose.joints_xyz, seconds)
        return pose._replace(joints_xyz=joints_xyz, joints_uvd=self.camera.xyz_to_uvd(joints_xyz))


def _sureness(pose: HandPose | None) -> float:
    return -math.inf if pose is None else float(pose.confidence.mean())


def _share(cutoff: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """Of a step that a low pass of `cutoff` Hz lets through after `seconds`."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))
