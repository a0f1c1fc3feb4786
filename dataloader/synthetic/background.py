"""What is behind or beside a hand: a table or wall, or a person's torso and head."""

import numpy as np

from dataloader.synthetic.hand.skeleton import unit
from dataloader.synthetic.render import Size, frame_rays, nearest, render_ellipsoid, render_plane
from util.camera import Camera


def sample_background(
    rng: np.random.Generator, hand: np.ndarray, camera: Camera, size: Size
) -> np.ndarray | None:
    """Depth (H, W) of a plane or a person at any distance behind a hand (V, 3) mm; None in every second."""
    kind = rng.choice(["none", "plane", "person"], p=[0.5, 0.25, 0.25])
    if kind == "plane":
        return sample_plane(rng, hand, camera, size)
    return sample_body(rng, hand, camera, size) if kind == "person" else None


def sample_plane(
    rng: np.random.Generator, hand: np.ndarray, camera: Camera, size: Size, gap: float | None = None
) -> np.ndarray:
    """Anything from a wall behind to a table below, (H, W) mm, at a gap, mm, from a hand (V, 3) mm; None: it
    is drawn, the hand rests on it or hangs before it."""
    rays, middle = frame_rays(camera, size, 2), hand.mean(0)
    normal = unit(np.array([rng.normal(0, 0.5), rng.normal(0.3, 0.6), -rng.uniform(0.25, 1)]))
    if gap is None:
        gap = rng.uniform(2, 40) if rng.random() < 0.4 else rng.uniform(40, 400)
    depth = render_plane(rays, normal, float((hand @ normal).min() - gap))
    # Its end is inside the crop now and then; what is far beyond would only cost disk space.
    reach = rng.uniform(120, 350)
    for axis in range(3):
        depth[np.abs(rays[..., axis] * depth - middle[axis]) > reach] = 0
    return _full_size(depth, size)


def sample_body(
    rng: np.random.Generator,
    hand: np.ndarray,
    camera: Camera,
    size: Size,
    gap: float | None = None,
    face: bool = False,
) -> np.ndarray:
    """A torso and a head, (H, W) mm, behind a hand (V, 3) mm, which is anywhere or before the `face`.

    `gap`: between the hand's farthest point and the torso, or the face; mm. None: drawn.
    """
    rays, middle = frame_rays(camera, size, 2), hand.mean(0)
    back = hand[:, 2].max() + (rng.uniform(30, 450) if gap is None else gap)
    radii = np.array([rng.uniform(150, 230), rng.uniform(260, 360), rng.uniform(90, 150)])
    torso = np.array([rng.normal(0, 180), middle[1] + rng.normal(-120, 130), back + radii[2]])
    head = torso + np.array([rng.normal(0, 20), radii[1] + rng.uniform(40, 90), rng.normal(-20, 30)])
    head_radii = np.array([78, 112, 95]) * rng.uniform(0.9, 1.1)
    if face:
        to_hand = np.array([*middle[:2] + rng.normal(0, 50, 2), back + head_radii[2]]) - head
        torso, head = torso + to_hand, head + to_hand
    depth = nearest(render_ellipsoid(rays, torso, radii), render_ellipsoid(rays, head, head_radii))
    return _full_size(depth, size)


def _full_size(depth: np.ndarray, size: Size) -> np.ndarray:
    """Smooth surfaces are rendered at half the resolution."""
    return np.repeat(np.repeat(depth, 2, 0), 2, 1)[: size[0], : size[1]]
