"""A forearm for the open wrist of the hand mesh, bare or in a sleeve."""

from typing import NamedTuple

import numpy as np

from dataloader.synthetic.hand.skeleton import HandShape

_RING_STEP = 14.0  # mm


class Forearm(NamedTuple):
    """Drawn per frame; lengths in mm."""

    length: float  # from wrist to the closed end
    width: float  # half axes of its thick part
    depth: float
    sleeve: float  # thickness of cloth, 0 = bare
    sleeve_start: float  # distance from the wrist at which the cloth begins
    band: float = 0.0  # thickness of a cuff or watch
    band_start: float = 0.0  # distance from the wrist
    band_width: float = 30.0


def sample_forearm(rng: np.random.Generator, shape: HandShape) -> Forearm:
    """Draw a forearm that fits the size of the hand."""
    size = shape.length / 200
    sleeve = rng.uniform(2, 14) if rng.random() < 0.4 else 0.0
    length, width, depth = rng.uniform(150, 280), size * rng.normal(41, 4), size * rng.normal(35, 4)
    return Forearm(length, width, depth, sleeve, sleeve_start=rng.uniform(8, 120))


def attach_forearm(
    vertices: np.ndarray, faces: np.ndarray, loop: np.ndarray, arm: Forearm
) -> tuple[np.ndarray, np.ndarray]:
    """Continue a hand mesh, vertices (V, 3) and faces (F, 3), from its wrist loop, (L,) vertex numbers, along
    -y in the hand frame: vertices and faces of the closed mesh, the first V vertices unchanged."""
    edge = vertices[loop]
    angle = np.arctan2(edge[:, 2] - edge[:, 2].mean(), edge[:, 0] - edge[:, 0].mean())
    distance = np.arange(_RING_STEP * 0.6, arm.length, _RING_STEP)
    blend = np.clip(distance / 190, 0, 1)  # the thick part begins this far from the wrist
    blend = (blend * blend * (3 - 2 * blend))[:, None]
    wrist_x, wrist_z = edge[:, 0] - edge[:, 0].mean(), edge[:, 2] - edge[:, 2].mean()
    x = wrist_x * (1 - blend) + arm.width * np.cos(angle) * blend
    z = wrist_z * (1 - blend) + arm.depth * np.sin(angle) * blend
    cloth = arm.sleeve * (distance > arm.sleeve_start)[:, None]
    if arm.band:
        on = (distance > arm.band_start) & (distance < arm.band_start + arm.band_width)
        cloth = cloth + arm.band * on[:, None]
    x, z = x + cloth * np.cos(angle), z + cloth * np.sin(angle)
    center = edge.mean(0)
    # The loop is not level: its slant fades out over the first rings.
    level = (edge[:, 1] - center[1]) * np.clip(1 - distance / 60, 0, 1)[:, None]
    y = center[1] - distance[:, None] + level
    rings = np.stack([x + center[0] * (1 - blend), y, z + center[2] * (1 - blend)], -1)
    end = np.array([[0.0, center[1] - arm.length - 20, 0.0]])

    count, size = len(rings), len(loop)
    here = np.concatenate([loop[None], len(vertices) + np.arange(count * size).reshape(count, size)])
    after = np.roll(here, -1, axis=1)
    sides = np.concatenate(
        [
            np.stack([here[:-1], here[1:], after[:-1]], -1).reshape(-1, 3),
            np.stack([after[:-1], here[1:], after[1:]], -1).reshape(-1, 3),
        ]
    )
    tip = np.full(size, len(vertices) + count * size)
    cap = np.stack([here[-1], tip, after[-1]], -1)
    all_vertices = np.concatenate([vertices, rings.reshape(-1, 3), end])
    return all_vertices, np.concatenate([faces, sides, cap]).astype(np.int32)
