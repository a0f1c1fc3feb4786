"""Find the hand in a depth frame without a network: the centre that a crop is cut around."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from util import UserError
from util.camera import Camera

# Sizes in mm and mm²; they hold for any camera and data set.
PALM_RADIUS = 80.0  # a ball around the palm that holds most of a hand
NECK_RADIUS = 130.0  # between that ball and this one a hand leaves only fingertips and a wrist
ARM_RADIUS = 200.0  # of the same surface, within it no other hand is looked for
# Facing the camera: half of a fist that is seen from its end; less is a speck or a finger. The real and the
# bundled frames get the same centres with 1000 to 2200.
PALM_AREA = 1500.0
HAND_EDGE = 150.0  # cube whose centre of mass is the hand's; a larger one slides down the forearm
HALF_THICKNESS = 10.0  # the camera sees the skin, the joints lie behind it

# What makes a hand likely, in mm of its outline. By logistic regression on 400 frames of synth's train split,
# then by hand on 700 of train and val and 20 real ones.
BEND_WEIGHT = 0.03  # of mm² times slope
NECK_WEIGHT = -0.015  # of mm² of the same surface within the neck's radius
DEPTH_WEIGHT = -0.6  # of mm from the camera to the surface: whole, as an elbow may be nearer than its hand
MAX_BEND = 6.0  # change of slope; more is an edge within the surface, or noise
AREA_OUTLINE = 0.14  # mm of outline that a mm² counts in the centre of mass

# Multiplications in a product that OpenBLAS computes in one thread. After a larger one its others spin on and
# take the cores from the network: on two, a frame whose hand is to be found took 70 ms instead of 52.
SINGLE_THREAD_PRODUCT = 4 * 65536

PLANE_AREA = 30000.0  # mm² of a wall or a table
PLANE_FIT, PLANE_CLEARANCE = 4.0, 12.0  # mm that a sample may be off a plane to support it, and to be it
PLANE_TRIES = 200  # triples of samples; a plane that holds a third of them all is met by seven

DEPTH_RANGE = (100.0, 1500.0)  # mm; where hands are looked for
NEAREST_RANGE = 450.0  # mm behind the nearest surface: a hand behind a nearer elbow is still seen
DEPTH_STEP = 50.0  # mm between neighbouring samples; more is another surface
SAMPLE_SPACING = 7.0  # mm between samples of the frame: fingers have two or three across
MAX_SAMPLES = 3000  # beyond, a wall behind the hand would take gigabytes and seconds


class Samples(NamedTuple):
    """A depth frame thinned out: `xyz` (n, 3) mm; (n,) `area` mm² that each stands for, number of the
    connected `surface` that it lies on, mm of that surface's `outline`, and change of slope times area."""

    xyz: np.ndarray
    area: np.ndarray
    surface: np.ndarray
    outline: np.ndarray
    bend: np.ndarray

    def only(self, keep: np.ndarray) -> "Samples":
        """Those of a mask (n,)."""
        return Samples(*(array[keep] for array in self))


def center_from_depth(
    depth: np.ndarray, camera: Camera, depth_range: tuple[float, float] = DEPTH_RANGE
) -> np.ndarray:
    """The centre (3,) mm of what is most like a hand; see `centers_from_depth`."""
    return centers_from_depth(depth, camera, depth_range)[0]


def centers_from_depth(
    depth: np.ndarray,
    camera: Camera,
    depth_range: tuple[float, float] = DEPTH_RANGE,
    most: int = 1,
    known: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The centres of what is most like a hand, the likeliest first: (n, 3) mm, 1 <= n <= most.

    Walls and tables are taken out. A hand is a near thing with much outline and many bends for its area,
    unlike a torso, a head or an arm. From there the outline's centre of mass in a hand-sized cube is followed
    until it rests: most joints are the fingers', and so is most of the outline, not of the area.

    Args:
        depth: (H, W) mm, any dtype; 0, NaN and what is out of `depth_range`, mm, are no readings.
        most: how many are wanted; all but the first may be an elbow or a head.
        known: centres (3,) mm of hands that are known already, and not wanted again.
    """
    # Twice: once to see where the nearest surface is, once finer without what lies far behind it.
    samples, (near, far) = sample_frame(depth, camera, depth_range), depth_range
    nearest = min((_front(samples.only(own)) for own in _large_surfaces(samples)), default=np.inf)
    samples = sample_frame(depth, camera, (near, min(far, nearest + NEAREST_RANGE)))
    for center in known:
        samples = _without_hand(samples, center)
    centers: list[np.ndarray] = []
    while len(centers) < most and (picked := pick_hand(samples)):
        start, own = picked
        # Not all of the surface: the centre would slide down a forearm that is seen at a slant.
        near_start = np.linalg.norm(samples.xyz - start, axis=1) < NECK_RADIUS
        center = rest(samples.only(own & near_start), start)
        # Along the ray, so that the centre stays where it is in the image.
        centers.append(center * (1 + HALF_THICKNESS / center[2]))
        samples = _without_hand(samples, center)
    if not centers:
        raise UserError("nothing in range is as large as a hand")
    return np.array(centers)


def _without_hand(samples: Samples, center: np.ndarray) -> Samples:
    """Without what is around a hand's centre (3,) mm, and the arm behind it."""
    distance = np.linalg.norm(samples.xyz - center, axis=1)
    if not (distance < PALM_RADIUS).any():
        return samples
    own = samples.surface == samples.surface[np.argmin(distance)]
    return samples.only(distance > np.where(own, ARM_RADIUS, PALM_RADIUS))


def check_depth_range(depth_range: tuple[float, float]) -> None:
    """Refuse a nearest depth that is not before the farthest, mm."""
    if not 0 <= depth_range[0] < depth_range[1]:
        raise UserError(f"depth_range is {depth_range}: the nearest depth comes first, in mm.")


def sample_frame(depth: np.ndarray, camera: Camera, depth_range: tuple[float, float]) -> Samples:
    """Thin out the readings in range to about one every SAMPLE_SPACING mm, and take out planes."""
    near, far = depth_range
    # The median takes out single specks and holes, which would pass for edges.
    depth = cv2.medianBlur(np.where(np.isfinite(depth), depth, 0).astype(np.float32), 5)
    readings = depth[(depth > near) & (depth < far)].astype(np.float64)
    if not len(readings):
        raise UserError(f"no reading between {near:.0f} and {far:.0f} mm")
    total_area = float((readings**2).sum()) / (camera.fx * camera.fy)
    spacing = max(SAMPLE_SPACING, (total_area / MAX_SAMPLES) ** 0.5)
    stride = max(1, min(round(spacing * camera.fx / float(np.median(readings))), *depth.shape))
    first = stride // 2
    thin = depth[first::stride, first::stride].astype(np.float64)
    in_range = (thin > near) & (thin < far)
    thin, beyond = np.where(in_range, thin, 0), np.where(in_range, 0, thin)
    v, u = np.nonzero(thin)
    xyz = camera.uvd_to_xyz(np.stack([u * stride + first, v * stride + first, thin[v, u]], axis=1))
    spacing = thin * (stride / camera.fx)  # mm between neighbours, 0 where there is no reading
    flat = _on_planes(xyz, spacing[v, u] ** 2)
    thin[v[flat], u[flat]] = 0
    v, u = v[~flat], u[~flat]
    surface = _surfaces(thin)
    edges, bend = _edges_and_bend(thin, surface, beyond)
    surface, edges, bend, spacing = (image[v, u] for image in (surface, edges, bend, spacing))
    slope = np.minimum(bend / spacing, MAX_BEND)
    return Samples(xyz[~flat], spacing**2, surface, edges * spacing, slope * spacing**2)


def pick_hand(samples: Samples) -> tuple[np.ndarray, np.ndarray] | None:
    """Place (3,) mm of the sample most like the middle of a near hand, mask (n,) of its surface; or None."""
    likeness = np.full(len(samples.xyz), -np.inf)
    for own in _large_surfaces(samples):
        likeness[own] = _likeness(samples.only(own))
    if not np.isfinite(likeness).any():
        return None
    best = int(np.argmax(likeness))
    return samples.xyz[best], samples.surface == samples.surface[best]


def rest(samples: Samples, start: np.ndarray, steps: int = 50) -> np.ndarray:
    """Mean shift: follow the outline's centre of mass within a cube until it moves less than 0.5 mm."""
    center, weight = start, samples.outline + AREA_OUTLINE * samples.area
    for _ in range(steps):
        inside = (np.abs(samples.xyz - center) <= HAND_EDGE / 2).all(axis=1)
        moved = np.average(samples.xyz[inside], axis=0, weights=weight[inside])
        if np.linalg.norm(moved - center) < 0.5:
            return moved
        center = moved
    return center


def _large_surfaces(samples: Samples) -> list[np.ndarray]:
    """Masks (n,) of the surfaces of at least a palm's area."""
    large = np.flatnonzero(np.bincount(samples.surface, samples.area) >= PALM_AREA)
    return [samples.surface == surface for surface in large]


def _front(surface: Samples) -> float:
    """Depth in mm that a palm's area of a surface lies before."""
    order = np.argsort(surface.xyz[:, 2])
    first = np.searchsorted(np.cumsum(surface.area[order]), PALM_AREA)
    return float(surface.xyz[order[min(first, len(order) - 1)], 2])


def _likeness(surface: Samples) -> np.ndarray:
    """How much like the middle of a near hand each of (n,) samples of one surface is, -inf if too small."""
    # float32 halves the time: a person has a few thousand samples.
    xyz = (surface.xyz - surface.xyz.mean(axis=0)).astype(np.float32)
    squared = (xyz**2).sum(axis=1)
    shape = np.float32([surface.outline + BEND_WEIGHT * surface.bend, surface.area]).T
    outline, area, neck = np.empty((3, len(xyz)), np.float32)
    for rows in np.array_split(np.arange(len(xyz)), 1 + 3 * len(xyz) ** 2 // SINGLE_THREAD_PRODUCT):
        distance = squared[rows, None] + squared - 2 * xyz[rows] @ xyz.T
        outline[rows], area[rows] = (np.float32(distance < PALM_RADIUS**2) @ shape).T
        neck[rows] = np.float32(distance < NECK_RADIUS**2) @ shape[:, 1]
    likeness = outline + NECK_WEIGHT * neck + DEPTH_WEIGHT * _front(surface)
    return np.where(area >= PALM_AREA, likeness, -np.inf)


def _on_planes(xyz: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mask (n,) of the samples on walls and tables: planes through three samples that many others lie on."""
    flat = np.zeros(len(xyz), bool)
    rng = np.random.default_rng(0)
    while np.count_nonzero(~flat) >= 3:
        points = xyz[~flat]
        a, b, c = points[rng.integers(len(points), size=(3, PLANE_TRIES))]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        normal /= np.maximum(length, 1e-9)
        offset = (normal * a).sum(axis=1, keepdims=True)
        distance = np.abs(np.einsum("pk,nk->pn", normal, points) - offset)
        support = np.einsum("pn,n->p", distance < PLANE_FIT, area[~flat])
        support *= length[:, 0] > 1  # three in a line span no plane
        best = int(np.argmax(support))
        if support[best] < PLANE_AREA:
            break
        flat[~flat] = distance[best] < PLANE_CLEARANCE
    return flat


def _surfaces(depth: np.ndarray) -> np.ndarray:
    """Number of the connected surface of every pixel (H, W); neighbours differ by at most DEPTH_STEP."""
    number = np.arange(depth.size).reshape(depth.shape)
    pairs = []
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        linked = (depth[one] > 0) & (depth[other] > 0) & (np.abs(depth[one] - depth[other]) < DEPTH_STEP)
        pairs.append((number[one][linked], number[other][linked]))
    i, j = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    links = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(depth.size, depth.size))
    return connected_components(links, directed=False)[1].reshape(depth.shape)


def _edges_and_bend(
    depth: np.ndarray, surface: np.ndarray, beyond: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of every pixel (H, W): how many of its four neighbours are not of its surface; and where all are,
    by how many mm their depths together differ from four times its own.

    A surface that goes on out of range has no edge there: a torso that is cut off is no outline.
    """
    neighbours = (np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:])
    surfaces, beyond = np.pad(surface, 1, constant_values=-1), np.pad(beyond, 1)
    whole = np.pad(depth, 1) + beyond
    edges = np.zeros(depth.shape, int)
    for side in neighbours:
        goes_on = (beyond[side] > 0) & (np.abs(beyond[side] - depth) < DEPTH_STEP)
        edges += (surfaces[side] != surface) & ~goes_on
    bend = np.abs(sum(whole[side] for side in neighbours) - 4 * depth)
    return edges, np.where(edges == 0, bend, 0)
