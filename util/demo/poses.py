"""From the frames of a source to the hands in them, followed where frames belong together."""

import numpy as np

from util import UserError
from util.camera import to_millimetres
from util.demo.recording import FRAME_RATE
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.inference.predictor import HandPose, HandPosePredictor
from util.inference.tracker import HandTracker, OneEuro

# Frames show one scene if so much of them lies at the same depth, give or take some mm.
SAME_SHARE, SAME_DEPTH = 0.7, 50.0


class Poser:
    """From one frame of a source after another to the hands in it.

    Hands are followed where the settings say so; where they do not, in a sequence, and from a file's
    frame to the next where both show the same scene.

    Raises:
        UserError: where there is nothing to smooth.
    """

    def __init__(self, source: Source, predictor: HandPosePredictor, settings: DemoSettings):
        self.source = source
        self.track = source.sequence if settings.track is None else settings.track
        if settings.smooth and not self.track:
            raise UserError("--smooth is for a stream that is tracked: pass --track True too.")
        self.tracker = HandTracker(
            predictor,
            source.camera,
            settings.handedness,
            source.depth_scale,
            OneEuro() if settings.smooth else None,
            settings.weights or settings.serve,
            settings.hands,
        )
        self._moment, self._before = None, None

    def __call__(self, depth: np.ndarray, moment: float) -> tuple[list[HandPose], str]:
        """The hands in the next frame (H, W), in the source's unit; and if there is none, why.

        `moment`: when it was taken, in seconds of any clock.

        Raises:
            UserError: for a frame that is none.
        """
        seconds = 1 / FRAME_RATE
        if self.source.live and self._moment is not None:  # a camera waits for nobody
            seconds = moment - self._moment
        self._moment = moment
        follows = self.track
        if follows is None:
            frame = to_millimetres(depth, self.source.depth_scale)
            follows, self._before = same_scene(self._before, frame), frame
        if not follows:
            self.reset()
        hands = self.tracker.update_hands(depth, seconds)
        return hands, "" if hands else self.tracker.reason

    def reset(self) -> None:
        """Forget the hands: the next frame does not follow from the last."""
        self.tracker.reset()


def same_scene(before: np.ndarray | None, frame: np.ndarray) -> bool:
    """Whether two frames (H, W) mm show the same things: most of what either measured is at one depth."""
    if before is None or before.shape != frame.shape:
        return False
    before, frame = before[::8, ::8], frame[::8, ::8]
    measured = np.count_nonzero((before > 0) | (frame > 0))
    alike = (before > 0) & (frame > 0) & (np.abs(before - frame) < SAME_DEPTH)
    return np.count_nonzero(alike) >= SAME_SHARE * measured
