"""The skeleton of the right hand: shape and joint angles, forward kinematics, skinning.

Everything here lives in the *hand frame*, in mm: origin at the wrist, x towards the thumb's side (radial),
y along the hand (distal), z out of the back of the hand (dorsal). That frame is left-handed, like NYU's
camera frame (x right, y up, z away): with the identity as rotation, a right hand shows its palm to the
camera, fingers up, thumb on the right.

A chain is one finger, thumb first; it has four bones: metacarpal, then three that move. The thumb's
metacarpal moves, so its chain starts with a bone that never does. Bone `1 + 4 * finger + i` is bone i of a
chain; bone 0 is the palm.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

NUM_BONES = 21


class JointAngles(NamedTuple):
    """Joint angles in radians; a leading batch axis is allowed in every field.

    flex: (..., 5, 4) about each bone's hinge, 0 = straight, positive = towards the palm. Entry 0 is the
        cupping of the metacarpals; entries 0 and 1 of the thumb are not used.
    spread: (..., 5) angle of the finger's first bone in the palm's plane, from y to the thumb's side.
    palmar: (...) angle of the thumb's metacarpal out of the palm's plane.
    twist: (..., 5) rotation of each finger about its own length; the thumb's is its pronation.
    wrist: (..., 2) flexion and radial deviation of the hand against the forearm.
    """

    flex: np.ndarray
    spread: np.ndarray
    palmar: np.ndarray
    twist: np.ndarray
    wrist: np.ndarray


@dataclass(frozen=True)
class HandShape:
    """One person's hand at rest, in the hand frame (mm)."""

    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3) int32
    weights: np.ndarray  # (V, 21) for skinning
    joints: np.ndarray  # (5, 5, 3) of each chain: metacarpal base, its three joints, the end of the finger
    hinges: np.ndarray  # (5, 3) flexion axes
    rest_flex: np.ndarray  # (5, 4) and (5,), the angles that the rest shape has
    rest_spread: np.ndarray
    radii: np.ndarray  # (5, 3) mean distance of the skin from the axis of each finger bone
    wrist_loop: np.ndarray  # (L,) numbers of the vertices around the open wrist, in order
    length: float  # from wrist to the end of the straightened middle finger


def scaled(shape: HandShape, factor: float) -> HandShape:
    """The same hand, larger or smaller."""
    lengths = {name: factor * getattr(shape, name) for name in ("vertices", "joints", "radii", "length")}
    return replace(shape, **lengths)


def rotation(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) by `angle` (...) about unit `axis` (..., 3): Rodrigues' formula."""
    axis = np.broadcast_to(axis, (*np.shape(angle), 3))
    x, y, z = axis[..., 0], axis[..., 1], axis[..., 2]
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    angle = np.asarray(angle)[..., None, None]
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def pose_joints(shape: HandShape, angles: JointAngles) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics, without the wrist's bend (the hand frame is the palm's): every bone's rotations
    (..., 5, 4, 3, 3) against rest, joints (..., 5, 5, 3)."""
    along = unit(shape.joints[:, 2] - shape.joints[:, 1])
    bend = rotation(shape.hinges[:, None], angles.flex[..., 1:] - shape.rest_flex[:, 1:])
    # Metacarpals cup about the palm's long axis and across it: a turn about the hinge is near enough.
    cup = rotation(shape.hinges, angles.flex[..., 0])
    splay = rotation(np.array([0.0, 0.0, 1.0]), shape.rest_spread - angles.spread)
    first = cup @ splay @ bend[..., 0, :, :]
    first[..., 0, :, :] = _thumb_base(angles, along[0])
    first = first @ rotation(along, angles.twist)
    second = first @ bend[..., 1, :, :]
    rotations = np.stack([cup, first, second, second @ bend[..., 2, :, :]], -3)
    bones = np.einsum("...fbij,fbj->...fbi", rotations, np.diff(shape.joints, axis=1))
    start = np.broadcast_to(shape.joints[:, :1], (*bones.shape[:-2], 1, 3))
    return rotations, np.concatenate([start, start + bones.cumsum(-2)], -2)


def _thumb_base(angles: JointAngles, along: np.ndarray) -> np.ndarray:
    """The shortest rotations (..., 3, 3) that take the thumb's metacarpal to its spread and palmar angles."""
    flat, spread = np.cos(angles.palmar), angles.spread[..., 0]
    target = np.stack([flat * np.sin(spread), flat * np.cos(spread), -np.sin(angles.palmar)], -1)
    axis = np.cross(np.broadcast_to(along, target.shape), target)
    sine = np.linalg.norm(axis, axis=-1)
    axis = axis / np.maximum(sine, 1e-9)[..., None]
    return rotation(axis, np.arctan2(sine, target @ along))


def skin(shape: HandShape, rotations: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Posed vertices (V, 3) for one pose's `rotations` (5, 4, 3, 3) and `joints` (5, 5, 3)."""
    linear = np.concatenate([np.eye(3)[None], rotations.reshape(20, 3, 3)])
    rest = shape.joints[:, :4].reshape(20, 3)
    offset = joints[:, :4].reshape(20, 3) - np.einsum("bij,bj->bi", linear[1:], rest)
    return blend(shape.vertices, shape.weights, linear, np.concatenate([np.zeros((1, 3)), offset]))


def bend_wrist(points: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    """Turn those of the points (N, 3), hand frame, that lie below the wrist, the forearm, against the palm,
    smoothly over 4 cm; `wrist`: (2,) flexion and radial deviation of the hand, radians."""
    near = points[:, 1] < 20
    share = np.clip((20 - points[near, 1]) / 40, 0, 1)
    share = share * share * (3 - 2 * share)
    # A hand that flexes towards its palm (-z) sees its forearm (-y) come towards the palm too.
    flexion = rotation(np.array([1.0, 0.0, 0.0]), wrist[0] * share)
    deviation = rotation(np.array([0.0, 0.0, 1.0]), wrist[1] * share)
    bent = points.copy()
    bent[near] = np.einsum("nij,njk,nk->ni", deviation, flexion, points[near])
    return bent


def blend(vertices: np.ndarray, weights: np.ndarray, linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Linear blend skinning: vertices (V, 3), weights (V, B), bone maps (B, 3, 3) and (B, 3)."""
    blended = (weights @ linear.reshape(len(linear), 9)).reshape(-1, 3, 3)
    return np.einsum("vij,vj->vi", blended, vertices) + weights @ offset
