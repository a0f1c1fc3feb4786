"""Measures of a hand's rest mesh: hinges, rest angles, thickness, length, the open wrist."""

import numpy as np

from dataloader.synthetic.hand.skeleton import HandShape, unit


def finish_shape(
    vertices: np.ndarray, joints: np.ndarray, faces: np.ndarray, weights: np.ndarray, loop: np.ndarray
) -> HandShape:
    """Measure hinges, rest angles, radii and length of a rest mesh; arrays as in `HandShape`."""
    hinges = np.stack([_hinge(vertices, joints[finger], weights, finger) for finger in range(5)])
    directions = unit(np.diff(joints, axis=1))  # (5, 4, 3)
    rest_flex = np.zeros((5, 4))
    for finger in range(5):
        straight = np.array([0.0, 1.0, 0.0])
        straight = unit(straight - straight @ hinges[finger] * hinges[finger])
        before = [straight, straight, directions[finger, 1], directions[finger, 2]]
        for i in range(1, 4):
            rest_flex[finger, i] = _signed_angle(before[i], directions[finger, i], hinges[finger])
    rest_spread = np.arctan2(directions[:, 1, 0], directions[:, 1, 1])
    radii = np.zeros((5, 3))
    for finger in range(5):
        for i in range(1, 4):
            own = vertices[weights[:, 1 + 4 * finger + i] > 0.6] - joints[finger, i]
            along = own @ directions[finger, i]
            radii[finger, i - 1] = np.linalg.norm(own - along[:, None] * directions[finger, i], axis=1).mean()
    length = hand_length(joints)
    return HandShape(vertices, faces, weights, joints, hinges, rest_flex, rest_spread, radii, loop, length)


def hand_length(joints: np.ndarray) -> float:
    """From the wrist, the origin, along the middle finger's joints (5, 5, 3) to its end, mm."""
    middle = joints[2]
    return float(np.linalg.norm(middle[1]) + np.linalg.norm(np.diff(middle[1:], axis=0), axis=1).sum())


def _hinge(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, finger: int) -> np.ndarray:
    """A finger's flexion axis (3,): between the axis of its bend at rest and the width of its last bone."""
    first, last = unit(joints[2] - joints[1]), unit(joints[4] - joints[3])
    bend = unit(np.cross(unit(joints[3] - joints[2]) if finger == 0 else first, last))
    tip = vertices[weights[:, 4 + 4 * finger] > 0.6]
    tip = tip - tip.mean(0)
    width = np.linalg.eigh(tip.T @ tip)[1][:, 1]
    axis = bend + np.sign(width @ bend) * width
    along = unit(joints[4] - joints[2])
    return unit(axis - axis @ along * along)


def _signed_angle(start: np.ndarray, end: np.ndarray, axis: np.ndarray) -> float:
    return float(np.arctan2(np.cross(start, end) @ axis, start @ end - (start @ axis) * (end @ axis)))


def boundary_loop(faces: np.ndarray) -> np.ndarray:
    """Vertices of the mesh's one open edge loop (the wrist), in the order of the faces' edges along it."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    present = {(int(a), int(b)) for a, b in edges}
    following = {a: b for a, b in present if (b, a) not in present}
    loop = [min(following)]
    for _ in range(len(following) - 1):
        loop.append(following[loop[-1]])
    if len(set(loop)) < len(loop):
        raise ValueError("the mesh has several holes")
    return np.array(loop)
