"""Things in the hand: boxes, cylinders, balls and sticks, with the fingers bent around them.

Everything is in the hand frame of `hand/skeleton.py`, mm.
"""

from typing import NamedTuple

import numpy as np

from dataloader.synthetic.hand.pose import (
    THUMB,
    THUMB_OPPOSED,
    assemble,
    bend_fingers,
    bone_points,
    sample_pinch,
    spread_fingers,
)
from dataloader.synthetic.hand.skeleton import HandShape, JointAngles, pose_joints, unit

_STEPS = 28  # of bending a finger until it touches
_THUMBS = 40  # postures tried
_PINCHES, _WIDEST_PINCH = 4, 14.0  # tried; mm, radius
_TURNS = 12  # of a thing between two fingers, tried
_PALM = 13.0  # mm from the metacarpals to the palm's skin
_GIVE = 2.0  # mm; flesh gives where it presses
_SLIMMEST = 2.0  # mm, half
_ALONG = np.linspace(0.25, 1, 4)  # where a bone's spheres lie


class Thing(NamedTuple):
    """A solid: `kind` box, cylinder or ball; `center` (3,); `axes` (3, 3), rows, the cylinder's own last;
    `half` (3,) half edges along them; of a cylinder radius, radius, half length; of a ball its radius."""

    kind: str
    center: np.ndarray
    axes: np.ndarray
    half: np.ndarray


def distance_to(thing: Thing, points: np.ndarray) -> np.ndarray:
    """Signed distance (...) of points (..., 3) from a thing's surface, below 0 inside."""
    local = (points - thing.center) @ thing.axes.T
    if thing.kind == "ball":
        return np.linalg.norm(local, axis=-1) - thing.half[0]
    if thing.kind == "cylinder":
        local = np.stack([np.linalg.norm(local[..., :2], axis=-1), local[..., 2]], -1)
        over = np.abs(local) - thing.half[1:]
    else:
        over = np.abs(local) - thing.half
    return np.linalg.norm(np.maximum(over, 0), axis=-1) + np.minimum(over.max(-1), 0)


def mesh_of(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """A closed surface: vertices (V, 3) and faces (F, 3) int32, corners in the hand meshes' order."""
    if thing.kind == "box":
        sides = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        rings = [np.column_stack([sides, np.full(4, end)]) * thing.half for end in (-1, 1)]
    else:
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(24)])
        if thing.kind == "cylinder":
            outline = [(1.0, -1.0), (1.0, 1.0)]  # radius and height, in half edges
        else:
            tilt = np.linspace(-np.pi / 2, np.pi / 2, 13)[1:-1]
            outline = list(zip(np.cos(tilt), np.sin(tilt), strict=True))
        rings = [circle * r * thing.half + [0, 0, height * thing.half[2]] for r, height in outline]
    count, size = len(rings), len(rings[0])
    here = np.arange(count * size).reshape(count, size)
    after = np.roll(here, -1, axis=1)
    ends = [np.full(size, count * size), np.full(size, count * size + 1)]
    faces = np.concatenate(
        [
            np.stack([here[:-1], after[:-1], here[1:]], -1).reshape(-1, 3),
            np.stack([after[:-1], after[1:], here[1:]], -1).reshape(-1, 3),
            np.stack([ends[0], after[0], here[0]], -1),
            np.stack([ends[1], here[-1], after[-1]], -1),
        ]
    )
    caps = np.array([[0, 0, -thing.half[2]], [0, 0, thing.half[2]]])
    vertices = np.concatenate([*rings, caps]) @ thing.axes + thing.center
    # Axes that mirror turn the corners' order.
    if np.linalg.det(thing.axes) < 0:
        faces = faces[:, ::-1]
    return vertices, np.ascontiguousarray(faces, np.int32)


def sample_grasp(rng: np.random.Generator, shape: HandShape) -> tuple[JointAngles, Thing]:
    """Draw a thing and a hand that holds it: in the palm, or between thumb and a finger."""
    angles, thing = _pinched(rng, shape) if rng.random() < 0.4 else _in_the_palm(rng, shape)
    inside = -gaps_to(shape, angles, thing).min()
    # Slimmer by as much as it would reach into a finger.
    return angles, thing._replace(half=np.maximum(thing.half - max(inside - _GIVE, 0), _SLIMMEST))


def _in_the_palm(rng: np.random.Generator, shape: HandShape) -> tuple[JointAngles, Thing]:
    """A cylinder across the palm, a ball or a box: fingers close until they touch it."""
    kind = str(rng.choice(["cylinder", "ball", "box"], p=[0.45, 0.25, 0.3]))
    radius = float(rng.uniform(8, 38) if kind == "cylinder" else rng.uniform(16, 42))
    half = {
        "cylinder": np.array([radius, radius, rng.uniform(35, 120)]),
        "ball": np.full(3, radius),
        "box": np.array([radius, rng.uniform(8, 35), rng.uniform(25, 90)]),
    }[kind]
    # The long axis from the little finger's side to the thumb's, the second out of the palm.
    long = unit(np.array([1.0, rng.normal(0.15, 0.3), rng.normal(0, 0.1)]))
    out = unit(np.array([0.0, rng.normal(0, 0.15), -1.0]))
    out = unit(out - out @ long * long)
    axes = np.stack([np.cross(out, long), out, long])
    center = np.array([rng.normal(4, 5), shape.length * rng.uniform(0.36, 0.5), 0.0])
    center += out * (half[1] + _PALM)
    thing = Thing(kind, center, axes, half)

    curl = np.repeat(np.linspace(0, 1.05, _STEPS)[:, None], 4, axis=1)
    style = np.full((1, 1), rng.uniform(-0.35, 0.15))
    bend = bend_fingers(rng, curl, style, 0)
    spread = np.tile(spread_fingers(rng.uniform(0, 0.5)), (_STEPS, 1))
    still = np.tile(THUMB[THUMB_OPPOSED, 0], (_STEPS, 1))
    steps = assemble(rng, curl, bend, spread, still)
    gaps = gaps_to(shape, steps, thing)  # (steps, 5)
    free = np.logical_and.accumulate(gaps[:, 1:] > -_GIVE, axis=0).sum(axis=0)
    loose = rng.integers(0, 4, 4) * (rng.random(4) < 0.2)  # now and then a finger does not hold on
    last = np.clip(free - 1 - loose, 0, _STEPS - 1)
    fingers = [curl[last, range(4)][None], bend[last, range(4)][None], spread[:1]]
    return _best_thumb(rng, shape, thing, fingers), thing


def _best_thumb(
    rng: np.random.Generator, shape: HandShape, thing: Thing, fingers: list[np.ndarray]
) -> JointAngles:
    """The hand whose thumb lies nearest to the thing without being in it; `fingers`: curl (1, 4), bend
    (1, 4, 3) and spread (1, 4), as of `assemble`."""
    mean, deviation = THUMB[THUMB_OPPOSED if rng.random() < 0.7 else rng.integers(len(THUMB))]
    thumbs = rng.normal(mean, 1.6 * deviation, (_THUMBS, 5))
    hands = assemble(rng, *(np.repeat(each, _THUMBS, axis=0) for each in fingers), thumbs)
    gap = gaps_to(shape, hands, thing)[:, 0]
    best = int(np.argmin(np.where(gap > -_GIVE, np.abs(gap), 100 - gap)))
    return JointAngles(*(field[best] for field in hands))


def _pinched(rng: np.random.Generator, shape: HandShape) -> tuple[JointAngles, Thing]:
    """A stick, a small box or a ball between the thumb and a finger."""
    for _ in range(_PINCHES):
        angles, finger = sample_pinch(rng, shape)
        joints = pose_joints(shape, angles)[1]
        thumb, tip = joints[0, 4], joints[finger, 4]
        across = tip - thumb
        room = max(float(np.linalg.norm(across)) / 2 - 0.9 * shape.radii[finger, 2], 2.5)
        if room < _WIDEST_PINCH:
            break
    else:
        return _in_the_palm(rng, shape)
    across = unit(across)
    kind = str(rng.choice(["cylinder", "box", "ball"], p=[0.6, 0.25, 0.15]))
    half = np.array([room, room, rng.uniform(40, 95) if kind == "cylinder" else rng.uniform(8, 45)])
    if kind == "ball":
        half[2] = room
    things = []
    for _ in range(_TURNS):
        other = rng.normal(size=3)
        long = unit(other - other @ across * across)
        shift = rng.uniform(-0.6, 0.6) * half[2] * long if kind == "cylinder" else 0
        axes = np.stack([across, np.cross(long, across), long])
        things.append(Thing(kind, (thumb + tip) / 2 + shift, axes, half))
    return angles, max(things, key=lambda thing: min(gaps_to(shape, angles, thing).min(), 0))


def gaps_to(shape: HandShape, hands: JointAngles, thing: Thing) -> np.ndarray:
    """Least distance (..., 5) of each finger's skin from a thing, below 0 inside. Bones are spheres."""
    spheres = bone_points(pose_joints(shape, hands)[1], _ALONG)  # (..., 5, 3, S, 3)
    return (distance_to(thing, spheres) - 0.92 * shape.radii[:, :, None]).min((-2, -1))
