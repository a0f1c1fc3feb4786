"""Smooth joints over time."""

import numpy as np

from util import UserError


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
        if not 0 <= seconds < np.inf:
            raise UserError(f"seconds is {seconds}: the time since the last frame is 0 or more.")
        if self._value is None:
            self._value, self._speed = value, np.zeros_like(value)
        if seconds == 0:
            return self._value
        share = _share(self.SPEED_CUTOFF, seconds)
        self._speed = self._speed + share * ((value - self._value) / seconds - self._speed)
        cutoff = self.min_cutoff + self.beta * np.abs(self._speed)
        self._value = self._value + _share(cutoff, seconds) * (value - self._value)
        return self._value


def _share(cutoff: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """Of a step that a low pass of `cutoff` Hz lets through after `seconds`."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))
