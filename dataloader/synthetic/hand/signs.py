"""Hand signs: the finger alphabet, numbers, and fingers that lie side by side or cross.

The random gestures of pose.py rarely have fingers that touch along their length: in the silhouette of such
a hand single fingers cannot be told apart.
"""

from typing import NamedTuple

import numpy as np

from dataloader.synthetic.hand.pose import (
    THUMB,
    THUMB_ACROSS,
    THUMB_ALONG,
    THUMB_OPPOSED,
    THUMB_OUT,
    THUMB_REST,
    assemble,
    bend_fingers,
    bone_points,
    overlap,
    spread_fingers,
)
from dataloader.synthetic.hand.skeleton import HandShape, JointAngles, pose_joints

_CANDIDATES, _ROUNDS, _TURNS = 24, 6, 8
_TOLERANCE = 3.5  # mm; flesh gives
_PRESS = 0.7  # mm by which fingers that press on each other give
_REACH = 70.0  # mm from the knuckle to where fingers touch
PRESSED = -1.0


class Sign(NamedTuple):
    """What a hand does in a sign."""

    curl: tuple[float, float, float, float]  # of the four fingers: 0 = straight, 1 = in the palm
    opening: float  # 0 = side by side, 1 = spread, PRESSED = against each other
    thumb: int  # its posture in pose.THUMB
    style: float = 0.0  # below 0 the middle joints bend first
    crossed: bool = False  # the middle finger over the index finger
    pinch: int = 0  # the finger that meets the thumb


# American one-handed alphabet, without signs that differ only in how the hand is turned, and numbers.
SIGNS = {
    "a": Sign((0.95, 0.95, 0.95, 0.95), 0, THUMB_ALONG),
    "b": Sign((0, 0, 0, 0), PRESSED, THUMB_ACROSS),
    "c": Sign((0.42, 0.42, 0.42, 0.42), PRESSED, THUMB_OPPOSED, -0.2),
    "d": Sign((0, 0.62, 0.66, 0.7), 0, THUMB_OPPOSED, pinch=2),
    "e": Sign((0.75, 0.75, 0.75, 0.75), 0, THUMB_ACROSS, -0.7),
    "f": Sign((0.55, 0.05, 0.03, 0.03), 0.8, THUMB_OPPOSED, pinch=1),
    "i": Sign((0.95, 0.95, 0.95, 0.02), 0.1, THUMB_ACROSS),
    "k": Sign((0.02, 0.12, 0.95, 0.95), 0.5, THUMB_ALONG),
    "l": Sign((0, 0.95, 0.95, 0.95), 0.1, THUMB_OUT),
    "m": Sign((0.8, 0.8, 0.8, 0.95), 0, THUMB_ACROSS, 0.3),
    "o": Sign((0.58, 0.58, 0.6, 0.62), PRESSED, THUMB_OPPOSED, pinch=1),
    "r": Sign((0.03, 0.03, 0.95, 0.95), 0, THUMB_ACROSS, crossed=True),
    "s": Sign((1, 1, 1, 1), 0, THUMB_ACROSS),
    "u": Sign((0.01, 0.01, 0.95, 0.95), PRESSED, THUMB_ACROSS),
    "v": Sign((0.01, 0.01, 0.95, 0.95), 0.9, THUMB_ACROSS),
    "w": Sign((0.01, 0.01, 0.01, 0.9), 0.7, THUMB_ACROSS),
    "x": Sign((0.45, 0.95, 0.95, 0.95), 0, THUMB_ACROSS, -0.8),
    "y": Sign((0.95, 0.95, 0.95, 0.02), 0.9, THUMB_OUT),
    "three": Sign((0.02, 0.02, 0.95, 0.95), 0.8, THUMB_OUT),
    "four": Sign((0.02, 0.02, 0.02, 0.02), 0.8, THUMB_ACROSS),
    "five": Sign((0.02, 0.02, 0.02, 0.02), 1, THUMB_OUT),
    "thumb up": Sign((0.95, 0.95, 0.95, 0.95), 0, THUMB_OUT),
}
# Fingers side by side: all four, or some of them with the others folded; and two that cross.
TOUCHING = {
    "flat": Sign((0.02, 0.02, 0.02, 0.02), PRESSED, THUMB_ALONG),
    "flat, thumb out": Sign((0.04, 0.04, 0.04, 0.04), PRESSED, THUMB_OUT),
    "cupped": Sign((0.2, 0.22, 0.24, 0.26), PRESSED, THUMB_REST),
    "bent": Sign((0.35, 0.35, 0.35, 0.35), PRESSED, THUMB_REST, 0.6),
    "two": Sign((0.02, 0.02, 0.9, 0.9), PRESSED, THUMB_REST),
    "three": Sign((0.02, 0.02, 0.02, 0.9), PRESSED, THUMB_ACROSS),
    "last three": Sign((0.6, 0.05, 0.05, 0.05), PRESSED, THUMB_OPPOSED),
    "crossed": SIGNS["r"],
}


def sample_sign(rng: np.random.Generator, shape: HandShape, signs: dict[str, Sign]) -> JointAngles:
    """Draw one of the signs, and a pose near it in which no finger is far inside another."""
    sign = signs[str(rng.choice(list(signs)))]
    best, least = None, np.inf
    for _ in range(_ROUNDS):
        candidates = _candidates(rng, sign, _CANDIDATES)
        joints = pose_joints(shape, candidates)[1]
        depth = overlap(shape, joints)
        cost = 4 * np.maximum(depth - _TOLERANCE, 0)
        if sign.pinch:
            cost = cost + np.linalg.norm(joints[:, 0, 4] - joints[:, sign.pinch, 4], axis=-1)
        i = int(np.argmin(cost))
        if cost[i] < least or depth[i] <= _TOLERANCE:
            best, least = JointAngles(*(field[i] for field in candidates)), cost[i]
        if depth[i] <= _TOLERANCE:
            break
    return _press(shape, best, sign) if sign.opening == PRESSED else best


def _press(shape: HandShape, angles: JointAngles, sign: Sign) -> JointAngles:
    """Turn fingers that bend alike against each other, about the middle finger's side."""
    alike = np.abs(np.diff(sign.curl)) < 0.2
    for _ in range(_TURNS):
        gaps = finger_gaps(shape, pose_joints(shape, angles)[1]) + _PRESS
        turn = np.where(alike, np.clip(gaps, -6, 6) / _REACH, 0)
        spread = angles.spread - [0, turn[0], 0, -turn[1], -turn[1] - turn[2]]
        angles = angles._replace(spread=spread)
    return angles


def finger_gaps(shape: HandShape, joints: np.ndarray) -> np.ndarray:
    """Least distance (3,), mm, between neighbouring fingers' skins beyond their knuckles, below 0 inside; for
    one pose's joints (5, 5, 3). Bones are rows of spheres."""
    bones = bone_points(joints, np.linspace(0, 1, 6))[1:, 1:]  # (4, 2, 6, 3)
    points, radius = bones.reshape(4, -1, 3), np.repeat(shape.radii[1:, 1:], 6, axis=1)
    apart = np.linalg.norm(points[:-1, :, None] - points[1:, None], axis=-1)
    return (apart - radius[:-1, :, None] - radius[1:, None]).min((1, 2))


def _candidates(rng: np.random.Generator, sign: Sign, k: int) -> JointAngles:
    """K poses near a sign (leading axis K)."""
    # Fingers that lie side by side also bend alike.
    curl = np.clip(sign.curl + rng.normal(0, 0.03, (k, 1)) + rng.normal(0, 0.02, (k, 4)), 0, 1.1)
    bend = bend_fingers(rng, curl, sign.style + rng.normal(0, 0.08, (k, 1)), 3)
    spread = spread_fingers(max(sign.opening, 0)) + rng.normal(0, 1.2, (k, 4))
    if sign.crossed:
        spread[:, :2] = rng.normal([-11, 13], 1.5, (k, 2))
        over = rng.normal(14, 3, k)
        bend[:, 0, 0], bend[:, 1, 0] = bend[:, 0, 0] - 0.4 * over, bend[:, 1, 0] + 0.6 * over
    mean, deviation = THUMB[sign.thumb]
    return assemble(rng, curl, bend, spread, rng.normal(mean, 0.7 * deviation, (k, 5)))
