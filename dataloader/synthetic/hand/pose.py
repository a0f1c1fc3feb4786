"""Random hand poses: gestures within anatomical limits, and no finger inside another."""

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


_GESTURES = {  # shares of poses
    "open": 0.28,
    "relaxed": 0.22,
    "counting": 0.17,
    "fist": 0.06,
    "gradual": 0.09,
    "independent": 0.06,
    "pinch": 0.12,
}


def _draw_fingers(rng: np.random.Generator, gesture: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Curls (K, 4) of the fingers, as in bend_fingers, and openings (K, 1): 0 = side by side, 1 = spread."""
    if gesture == "open":
        curl = rng.uniform(0, 0.18, (k, 1)) + rng.normal(0, 0.05, (k, 4))
        return np.clip(curl, 0, 1), rng.uniform(0.15, 1.1, (k, 1))
    if gesture == "relaxed":
        curl = rng.uniform(0.05, 0.55, (k, 1)) + rng.normal(0, 0.06, (k, 4))
        curl = curl + rng.normal(0.03, 0.05, (k, 1)) * np.arange(4)
        return np.clip(curl, 0, 1), rng.uniform(0, 0.8, (k, 1))
    if gesture == "counting":
        straight = rng.integers(1, 15, k)[:, None] >> np.arange(4) & 1
        straight[rng.random(k) < 0.3] = [1, 0, 0, 0]  # pointing
        folded = rng.uniform(0.7, 1.0, (k, 1)) + rng.normal(0, 0.05, (k, 4))
        curl = np.where(straight == 1, rng.uniform(0, 0.15, (k, 4)), folded)
        return np.clip(curl, 0, 1.05), rng.uniform(0, 0.9, (k, 1))
    if gesture == "fist":
        curl = rng.uniform(0.75, 1.0, (k, 1)) + rng.normal(0, 0.04, (k, 4))
        return curl, rng.uniform(0, 0.15, (k, 1))
    if gesture == "gradual":
        ends = rng.uniform(0, 1, (k, 2))
        curl = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.arange(4) / 3
        return np.clip(curl + rng.normal(0, 0.1, (k, 4)), 0, 1), rng.uniform(0, 0.8, (k, 1))
    if gesture == "independent":
        return rng.uniform(0, 1, (k, 4)), rng.uniform(0, 1, (k, 1))
    curl = np.repeat(rng.uniform(0.05, 0.7, (1, 4)), k, 0)
    if rng.random() < 0.6:
        curl = np.sort(curl, 1)[:, :: rng.choice([-1, 1])]  # fanned out from the pinch
    return np.clip(curl, 0, 1), rng.uniform(0, 0.6, (k, 1))


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
# Shares of these postures.
_THUMB_SHARES = {
    "open": (0.5, 0.25, 0.15, 0.05, 0.05),
    "fist": (0.15, 0.15, 0.25, 0.15, 0.3),
    "pinch": (0, 0.1, 0, 0.7, 0.2),
}
_THUMB_SHARES_ELSE = (0.22, 0.25, 0.18, 0.2, 0.15)


def _candidates(rng: np.random.Generator, gesture: str, k: int) -> JointAngles:
    """K poses of one gesture (leading axis K), within the limits."""
    curl, opening = _draw_fingers(rng, gesture, k)
    style = np.clip(rng.normal(-0.12, 0.5, (1, 1)), -1, 1) * (1 - 0.8 * (gesture == "fist"))
    noise = 9 if gesture == "independent" else 5
    bend = bend_fingers(rng, curl, style + rng.normal(0, 0.1, (k, 4)), noise)
    spread = spread_fingers(opening) + rng.normal(0, 3, (k, 4))
    # One posture of the thumb for all, else the posture easiest to fit would crowd out the others.
    mean, deviation = THUMB[rng.choice(len(THUMB), p=_THUMB_SHARES.get(gesture, _THUMB_SHARES_ELSE))]
    return assemble(rng, curl, bend, spread, rng.normal(mean, deviation, (k, 5)))


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
    gesture = rng.choice(list(_GESTURES), p=list(_GESTURES.values()))
    return _sample(rng, shape, gesture)[0]


def sample_pinch(rng: np.random.Generator, shape: HandShape) -> tuple[JointAngles, int]:
    """Draw a hand whose thumb and another finger nearly meet; and that finger, 1 to 4."""
    return _sample(rng, shape, "pinch")


def _sample(rng: np.random.Generator, shape: HandShape, gesture: str) -> tuple[JointAngles, int]:
    finger = 0
    for _ in range(_ROUNDS):
        candidates = _candidates(rng, gesture, _CANDIDATES)
        _, joints = pose_joints(shape, candidates)
        depth = overlap(shape, joints)
        cost = np.maximum(depth - _TOLERANCE, 0)
        if gesture == "pinch":
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
    palm, palm_radius = _palm_spheres(shape)
    palm = np.broadcast_to(palm, (len(joints), *palm.shape))
    depths = [np.zeros(len(joints))]
    for a in range(5):
        skip = 2 if a else 4  # neighbours share their web: leave out their bases
        for b in range(a + 1, 5):
            depths.append(_depth(fingers[:, a, skip:], radius[a, skip:], fingers[:, b], radius[b]))
        skip = 4 if a else 5
        depths.append(_depth(fingers[:, a, skip:], radius[a, skip:], palm, palm_radius))
    return np.max(depths, axis=0)


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
