"""Random hand poses: gestures within anatomical limits, and no finger inside another."""

from collections.abc import Callable

import numpy as np

from dataloader.synthetic.hand.skeleton import HandShape, JointAngles, pose_joints

_CANDIDATES, _ROUNDS = 16, 6
_TOLERANCE = 2.5  # mm; flesh gives, and a fist's fingers touch
_DEG = np.pi / 180
# Straight fingers lean by 7 degrees in NYU's test labels (standard deviation), a plain gesture's by 1.5.
_LEAN, _LEAN_STEPS = 12.0, 5  # degrees
# Limits of (MCP, PIP, DIP) flexion of the fingers and of the thumb's (MCP, IP), degrees.
_FINGER_LOW, _FINGER_HIGH = np.array([-25, -4, -10]), np.array([92, 108, 78])
_THUMB_LOW, _THUMB_HIGH = np.array([-15, -20]), np.array([58, 80])
# Spread of straight fingers side by side, and at its widest (index, middle, ring, pinky), degrees.
_SPREAD_CLOSED, _SPREAD_OPEN = np.array([5, 1, -4, -11]), np.array([24, 9, -9, -30])


def bend_fingers(rng: np.random.Generator, curl: np.ndarray, style: np.ndarray, noise: float) -> np.ndarray:
    """Finger flexion (K, 4, 3) in degrees from a curl (K, 4) of 0 (straight) to 1 (in the palm).

    style: (K, 1) or (K, 4), positive bends the MCP first (table top), negative the PIP (hook).
    """
    first = np.clip(curl + 0.35 * style, 0, 1.1) * 80
    second = np.clip(curl - 0.35 * style, 0, 1.1) * 103
    third = second * rng.uniform(0.45, 0.75, curl.shape) - 3
    flex = np.stack([first, second, third], -1)
    flex[..., 0] += rng.normal(0, 1.6 * noise, curl.shape) - 4 * (1 - curl)
    flex[..., 1:] += rng.normal(0, noise, (*curl.shape, 2))
    return flex


# A gesture draws curls (K, 4) of the fingers, as in bend_fingers, and openings (K, 1): 0 = side by side, 1 =
# spread.


def _open(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    curl = rng.uniform(0, 0.18, (k, 1)) + rng.normal(0, 0.05, (k, 4))
    return np.clip(curl, 0, 1), rng.uniform(0.15, 1.1, (k, 1))


def _relaxed(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    curl = rng.uniform(0.05, 0.55, (k, 1)) + rng.normal(0, 0.06, (k, 4))
    return np.clip(curl + rng.normal(0.03, 0.05, (k, 1)) * np.arange(4), 0, 1), rng.uniform(0, 0.8, (k, 1))


def _counting(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    straight = rng.integers(1, 15, k)[:, None] >> np.arange(4) & 1
    pointing = rng.random(k) < 0.3
    straight[pointing] = [1, 0, 0, 0]
    folded = rng.uniform(0.7, 1.0, (k, 1)) + rng.normal(0, 0.05, (k, 4))
    curl = np.where(straight == 1, rng.uniform(0, 0.15, (k, 4)), folded)
    return np.clip(curl, 0, 1.05), rng.uniform(0, 0.9, (k, 1))


def _fist(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.uniform(0.75, 1.0, (k, 1)) + rng.normal(0, 0.04, (k, 4)), rng.uniform(0, 0.15, (k, 1))


def _gradual(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    ends = rng.uniform(0, 1, (k, 2))
    curl = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.arange(4) / 3
    return np.clip(curl + rng.normal(0, 0.1, (k, 4)), 0, 1), rng.uniform(0, 0.8, (k, 1))


def _independent(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.uniform(0, 1, (k, 4)), rng.uniform(0, 1, (k, 1))


def _pinch(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    curl = np.repeat(rng.uniform(0.05, 0.7, (1, 4)), k, 0)
    if rng.random() < 0.6:
        curl = np.sort(curl, 1)[:, :: rng.choice([-1, 1])]  # fanned out from the pinch
    return np.clip(curl, 0, 1), rng.uniform(0, 0.6, (k, 1))


_Gesture = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
_GESTURES: tuple[tuple[float, _Gesture], ...] = (
    (0.28, _open),
    (0.22, _relaxed),
    (0.17, _counting),
    (0.06, _fist),
    (0.09, _gradual),
    (0.06, _independent),
    (0.12, _pinch),
)
# Thumb postures as means and deviations of (spread, palmar, pronation, MCP, IP), degrees.
THUMB = np.array(
    [
        [[76, 20, 0, 4, 4], [10, 12, 6, 9, 14]],  # stretched out to the side
        [[58, 32, 6, 10, 14], [10, 9, 7, 10, 14]],  # at rest
        [[40, 24, 4, 16, 10], [7, 7, 6, 12, 16]],  # along the index finger
        [[46, 58, 28, 20, 20], [10, 9, 10, 12, 18]],  # opposed to the finger tips
        [[32, 50, 32, 40, 35], [8, 9, 10, 10, 20]],  # across the palm or the folded fingers
    ]
)
THUMB_OUT, THUMB_REST, THUMB_ALONG, THUMB_OPPOSED, THUMB_ACROSS = range(len(THUMB))
_THUMB_SHARE = {_open: (0.5, 0.25, 0.15, 0.05, 0.05), _fist: (0.15, 0.15, 0.25, 0.15, 0.3)}
_THUMB_SHARE_ELSE = (0.22, 0.25, 0.18, 0.2, 0.15)


def _thumb(rng: np.random.Generator, gesture: _Gesture, k: int) -> np.ndarray:
    """(K, 5) thumb angles, degrees: spread, palmar, pronation, MCP, IP."""
    share = (0, 0.1, 0, 0.7, 0.2) if gesture is _pinch else _THUMB_SHARE.get(gesture, _THUMB_SHARE_ELSE)
    # One posture for all candidates, else the posture easiest to fit would crowd out the others.
    mean, deviation = THUMB[rng.choice(len(THUMB), p=share)]
    return rng.normal(mean, deviation, (k, 5))


def _candidates(rng: np.random.Generator, gesture: _Gesture, k: int) -> JointAngles:
    """K poses of one gesture (leading axis K), within the limits."""
    curl, opening = gesture(rng, k)
    style = np.clip(rng.normal(-0.12, 0.5, (1, 1)), -1, 1) * (1 - 0.8 * (gesture is _fist))
    bend = bend_fingers(rng, curl, style + rng.normal(0, 0.1, (k, 4)), 9 if gesture is _independent else 5)
    spread = spread_fingers(opening) + rng.normal(0, 3, (k, 4))
    return assemble(rng, curl, bend, spread, _thumb(rng, gesture, k))


def assemble(
    rng: np.random.Generator, curl: np.ndarray, bend: np.ndarray, spread: np.ndarray, thumb: np.ndarray
) -> JointAngles:
    """Joint angles within the limits; all arguments in degrees, but for the curl.

    Args:
        curl: (K, 4) of the fingers, 0 = straight, 1 = in the palm: the palm cups with it.
        bend: (K, 4, 3) flexion of the fingers. spread: (K, 4).
        thumb: (K, 5) spread, palmar, pronation, MCP, IP.
    """
    k = len(curl)
    bend = np.clip(bend, _FINGER_LOW, _FINGER_HIGH)
    flex = np.zeros((k, 5, 4))
    flex[:, 1:, 1:] = bend
    flex[:, 0, 2:] = np.clip(thumb[:, 3:], _THUMB_LOW, _THUMB_HIGH)
    # The palm cups when the outer fingers close, and when the thumb comes across.
    flex[:, 3:, 0] = [4, 10] * np.clip(curl[:, 2:] + rng.normal(0, 0.3, (k, 2)), 0, 1.2)
    twist = rng.normal(0, 4, (k, 5))
    twist[:, 0] = thumb[:, 2]
    spread = np.concatenate([np.clip(thumb[:, :1], -5, 85), spread * _looseness(bend[..., 0])], 1)
    wrist = np.clip(rng.normal(0, [26, 10], (1, 2)), [-65, -28], [70, 20]) + np.zeros((k, 1))
    palmar = np.clip(thumb[:, 1], -5, 75)
    return JointAngles(flex * _DEG, spread * _DEG, palmar * _DEG, twist * _DEG, wrist * _DEG)


def _looseness(knuckle: np.ndarray) -> np.ndarray:
    """How freely a finger moves sideways, by its MCP's flexion in degrees: bent, its ligaments are tight."""
    return np.clip(1 - knuckle / 80, 0.1, 1)


def lean_fingers(rng: np.random.Generator, shape: HandShape, angles: JointAngles) -> JointAngles:
    """Lean a pose's four fingers to one side together, as far as no finger gets inside another."""
    lean = np.clip(rng.normal(0, _LEAN), -2 * _LEAN, 2 * _LEAN) * _looseness(angles.flex[1:, 1] / _DEG) * _DEG
    tried = JointAngles(*(np.repeat(field[None], _LEAN_STEPS, 0) for field in angles))
    tried.spread[:, 1:] += np.linspace(1, 0, _LEAN_STEPS)[:, None] * lean
    depth = overlap(shape, pose_joints(shape, tried)[1])
    free = depth <= np.maximum(_TOLERANCE, depth[-1])
    return angles._replace(spread=tried.spread[np.argmax(free)])


def sample_pose(rng: np.random.Generator, shape: HandShape) -> JointAngles:
    """Draw a gesture and a pose of it in which no finger is inside another or the palm (no batch axis).

    Several candidates are drawn at once; the first whose parts overlap by less than a few mm is taken, for a
    pinch the one whose finger tip is nearest the thumb's. Where none is free, others are drawn.
    """
    shares, gestures = zip(*_GESTURES, strict=True)
    return _sample(rng, shape, gestures[rng.choice(len(gestures), p=shares)])[0]


def sample_pinch(rng: np.random.Generator, shape: HandShape) -> tuple[JointAngles, int]:
    """Draw a hand whose thumb and another finger nearly meet; and that finger, 1 to 4."""
    return _sample(rng, shape, _pinch)


def _sample(rng: np.random.Generator, shape: HandShape, gesture: _Gesture) -> tuple[JointAngles, int]:
    finger = 0
    for _ in range(_ROUNDS):
        candidates = _candidates(rng, gesture, _CANDIDATES)
        _, joints = pose_joints(shape, candidates)
        depth = overlap(shape, joints)
        cost = np.maximum(depth - _TOLERANCE, 0)
        if gesture is _pinch:
            finger = rng.choice([1, 1, 1, 2, 2, 3, 4])
            gap = np.linalg.norm(joints[:, 0, 4] - joints[:, finger, 4], axis=-1)
            cost = 4 * cost + gap
        best = int(np.argmin(cost))
        if depth[best] <= _TOLERANCE:
            break
    return JointAngles(*(field[best] for field in candidates)), int(finger)


def overlap(shape: HandShape, joints: np.ndarray) -> np.ndarray:
    """How deep (mm, 0 = free) any two fingers, or a finger and the palm, lie inside one another.

    Bones are rows of spheres. Args: joints (K, 5, 5, 3). Returns: (K,).
    """
    steps = np.array([0.15, 0.5, 0.85])
    fingers = bone_points(joints, steps).reshape(len(joints), 5, 9, 3)
    # The last sphere must not stand out of the finger's end.
    radius = np.repeat(shape.radii * 0.92, 3, axis=1)
    worst = np.zeros(len(joints))
    for a in range(5):
        for b in range(a + 1, 5):
            # Neighbours share their web: leave out their bases.
            skip = 2 if a else 4
            worst = np.maximum(
                worst, _depth(fingers[:, a, skip:], radius[a, skip:], fingers[:, b], radius[b])
            )
    palm, palm_radius = _palm_spheres(shape)
    palm = np.broadcast_to(palm, (len(joints), *palm.shape))
    for finger in range(5):
        skip = 5 if finger == 0 else 4
        depth = _depth(fingers[:, finger, skip:], radius[finger, skip:], palm, palm_radius)
        worst = np.maximum(worst, depth)
    return worst


def bone_points(joints: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Points (..., 5, 3, S, 3) at the shares `along` (S,) of each finger's bones; joints (..., 5, 5, 3)."""
    start, end = joints[..., 1:4, None, :], joints[..., 2:5, None, :]
    return start + (end - start) * along[:, None]


def spread_fingers(opening: np.ndarray | float) -> np.ndarray:
    """Spread (..., 4) of the fingers in degrees for an opening (..., 1): 0 = side by side, 1 = widest."""
    return _SPREAD_CLOSED + opening * (_SPREAD_OPEN - _SPREAD_CLOSED)


def _depth(a: np.ndarray, radius_a: np.ndarray, b: np.ndarray, radius_b: np.ndarray) -> np.ndarray:
    """Deepest overlap (K,) of spheres at a (K, A, 3) with spheres at b (K, B, 3)."""
    distance = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    return (radius_a[:, None] + radius_b - distance).max((1, 2))


def _palm_spheres(shape: HandShape) -> tuple[np.ndarray, np.ndarray]:
    """The palm at rest as spheres: (S, 3) and (S,), along the four metacarpals, sunk to the palm's side."""
    steps = np.array([0.2, 0.5, 0.8])[:, None, None]
    base, head = shape.joints[1:, 0], shape.joints[1:, 1]
    centers = (base + (head - base) * steps).reshape(-1, 3) - [0, 0, 0.02 * shape.length]
    return centers, np.full(len(centers), 0.055 * shape.length)
