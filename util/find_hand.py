"""Find the hand in a depth frame without a network: the centre that a crop is cut around.

Pure functions on arrays, for any camera.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from util.camera import Camera

# Sizes of a hand in mm and mm²; they hold for any camera and data set.
PALM_RADIUS = 80.0  # a ball around the palm that holds most of a hand
NECK_RADIUS = 130.0  # between that ball and this one a hand leaves only fingertips and a wrist
FINGER_RADIUS = 16.0  # half the width of the widest finger in a noisy frame
HAND_EDGE = 170.0  # cube whose centre of mass is the hand's; a larger one slides down the forearm
HALF_THICKNESS = 10.0  # the camera sees the skin, the joints lie behind it
PALM_AREA = 2500.0  # facing the camera; less is a speck or a finger
HAND_AREA = 7000.0  # of an open hand less its neck; more is no more like a hand

# What counts how much; tuned on 19 real frames of a person, one of NYU, and 200 frames of the bundled
# test split, whose figures are therefore not held out.
FINGER_WEIGHT = 4.0  # thin parts tell the hand's end of an arm from the elbow's
BORDER_WEIGHT = 6.0  # what leaves the frame is an arm: it goes on where nothing is seen
AREA_PER_MM = 18.0  # mm² of likeness to a hand that one mm nearer to the camera is worth
FINGER_MASS = 2.0  # most joints are the fingers', most of the surface is the palm's and the forearm's

DEPTH_RANGE = (100.0, 1500.0)  # mm; where hands are looked for
NEAREST_RANGE = 450.0  # mm behind the nearest surface: a hand behind a nearer elbow is still seen
DEPTH_STEP = 25.0  # mm between neighbouring samples; more is another surface
SAMPLE_SPACING = 7.0  # mm between samples of the frame: fingers have two or three across
MAX_SAMPLES = 3000  # beyond, a wall behind the hand would take gigabytes and seconds


class Samples(NamedTuple):
    """A depth frame thinned out: `xyz` (n, 3) mm, `area` (n,) mm² that each stands for, `surface` (n,)
    number of the connected surface that it lies on, and whether it is part of something as thin as a
    `finger` (n,) and lies at the frame's `border` (n,).
    """

    xyz: np.ndarray
    area: np.ndarray
    surface: np.ndarray
    finger: np.ndarray
    border: np.ndarray

    def only(self, keep: np.ndarray) -> "Samples":
        """Those of a mask (n,)."""
        return Samples(*(array[keep] for array in self))


def center_from_depth(
    depth: np.ndarray, camera: Camera, depth_range: tuple[float, float] = DEPTH_RANGE
) -> np.ndarray:
    """The hand's centre in a frame that shows an arm, or a whole person behind it: (3,) mm.

    The nearest thing of a hand's shape: a palm's area within a ball, fingers, and little else of the
    same surface in the shell around it, which tells a hand from a torso, a head or the rest of the
    arm. From there the centre of mass of a hand-sized cube on that surface is followed until it rests.

    Args:
        depth: (H, W) mm, any dtype; 0, NaN and what is out of range are no readings.
        camera: the camera that took it.
        depth_range: nearest and farthest depth of a hand, mm.

    Raises:
        ValueError: if nothing in range has a hand's size.
    """
    # Twice: once to see where the nearest surface is, once finer without what lies far behind it.
    nearest = nearest_depth(sample_frame(depth, camera, depth_range))
    samples = sample_frame(depth, camera, (depth_range[0], min(depth_range[1], nearest + NEAREST_RANGE)))
    start, own = pick_hand(samples)
    center = rest(samples.only(own), start)
    # Along the ray, so that the centre stays where it is in the image.
    return center * (1 + HALF_THICKNESS / center[2])


def sample_frame(depth: np.ndarray, camera: Camera, depth_range: tuple[float, float]) -> Samples:
    """Thin out the readings in range to about one every SAMPLE_SPACING mm.

    Raises:
        ValueError: if there is none.
    """
    near, far = depth_range
    in_range = (depth > near) & (depth < far)
    # The median takes out single specks and holes, which would make a palm as thin as fingers.
    depth = cv2.medianBlur(np.where(in_range, depth, 0).astype(np.float32), 5)
    in_range = depth > 0
    if not in_range.any():
        raise ValueError(f"no reading between {near:.0f} and {far:.0f} mm")
    readings = depth[in_range].astype(np.float64)
    total_area = float((readings**2).sum()) / (camera.fx * camera.fy)
    spacing = max(SAMPLE_SPACING, (total_area / MAX_SAMPLES) ** 0.5)
    stride = max(1, round(spacing * camera.fx / float(np.median(readings))))
    rows, columns = (slice(stride // 2, None, stride) for _ in range(2))
    thin = depth[rows, columns].astype(np.float64)
    if not thin.any():  # also of no pixels at all, for which OpenCV's distance transform would crash
        raise ValueError("nothing in range is as large as a hand")
    v, u = np.nonzero(thin)
    d = thin[v, u]
    xyz = camera.uvd_to_xyz(np.stack([u * stride + stride // 2, v * stride + stride // 2, d], axis=1))
    area = (stride * d) ** 2 / (camera.fx * camera.fy)
    surface = _surfaces(thin)
    finger = _thin_parts(surface, thin * (stride / camera.fx))
    height, width = thin.shape
    border = (u == 0) | (v == 0) | (u == width - 1) | (v == height - 1)
    return Samples(xyz, area, surface[v, u], finger[v, u], border)


def nearest_depth(samples: Samples) -> float:
    """Depth in mm that a palm's area of the surfaces larger than specks lies before.

    Raises:
        ValueError: if only specks are there.
    """
    surface_area = np.bincount(samples.surface, samples.area)
    samples = samples.only(surface_area[samples.surface] >= PALM_AREA)
    if not len(samples.xyz):
        raise ValueError("nothing in range is as large as a hand")
    order = np.argsort(samples.xyz[:, 2])
    first = np.searchsorted(np.cumsum(samples.area[order]), PALM_AREA)
    return float(samples.xyz[order[min(first, len(order) - 1)], 2])


def pick_hand(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """The sample that is most like the middle of a near hand.

    Returns:
        Its place (3,) mm, and the mask (n,) of its surface.

    Raises:
        ValueError: if none has a palm's area around it.
    """
    palm, neck, fingers = np.zeros((3, len(samples.xyz)))
    for surface in np.unique(samples.surface):
        own = samples.surface == surface
        palm[own], neck[own], fingers[own] = _area_around(samples.only(own))
    likeness = np.minimum(palm - neck, HAND_AREA) + FINGER_WEIGHT * fingers - AREA_PER_MM * samples.xyz[:, 2]
    likeness[palm < PALM_AREA] = -np.inf
    best = int(np.argmax(likeness))
    if palm[best] < PALM_AREA:
        raise ValueError("nothing in range is as large as a hand")
    return samples.xyz[best], samples.surface == samples.surface[best]


def rest(samples: Samples, start: np.ndarray, steps: int = 50) -> np.ndarray:
    """Mean shift: follow the centre of mass of the cube around it until it moves less than 0.5 mm."""
    center, weight = start, samples.area * np.where(samples.finger, FINGER_MASS, 1.0)
    for _ in range(steps):
        inside = (np.abs(samples.xyz - center) <= HAND_EDGE / 2).all(axis=1)
        moved = np.average(samples.xyz[inside], axis=0, weights=weight[inside])
        if np.linalg.norm(moved - center) < 0.5:
            return moved
        center = moved
    return center


def _area_around(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area in mm² around each of (n,) samples of one surface: in the ball of a palm, without the fingers
    in the shell around it, and of the fingers in both.
    """
    xyz = (samples.xyz - samples.xyz.mean(axis=0)).astype(np.float32)
    squared = (xyz**2).sum(axis=1)
    distance = squared[:, None] + squared - 2 * xyz @ xyz.T
    arm = samples.area * ~samples.finger
    outside = arm * (1 + BORDER_WEIGHT * samples.border)
    # float32 throughout, for speed: a person has a few thousand samples.
    area, arm, outside, finger = np.float32([samples.area, arm, outside, samples.area * samples.finger])
    in_ball, in_both = (np.float32(distance < radius**2) for radius in (PALM_RADIUS, NECK_RADIUS))
    return in_ball @ area, in_both @ outside - in_ball @ arm, in_both @ finger


def _surfaces(depth: np.ndarray) -> np.ndarray:
    """Number of the connected surface of every pixel (H, W); neighbours differ by at most DEPTH_STEP."""
    number = np.arange(depth.size).reshape(depth.shape)
    pairs = []
    for one, other in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:], np.s_[:-1]),
    ):
        linked = (depth[one] > 0) & (depth[other] > 0) & (np.abs(depth[one] - depth[other]) < DEPTH_STEP)
        pairs.append((number[one][linked], number[other][linked]))
    i, j = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    links = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(depth.size, depth.size))
    return connected_components(links, directed=False)[1].reshape(depth.shape)


def _thin_parts(surface: np.ndarray, pixel_mm: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of parts narrower than twice FINGER_RADIUS: what an opening by such a disc removes.

    Args:
        surface: (H, W) number of the surface.
        pixel_mm: (H, W) edge of a pixel at its depth, 0 where there is no reading.
    """
    measured = pixel_mm > 0
    inside = measured.copy()
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        inside[one] &= ~(measured[other] & (surface[one] != surface[other]))
    core = _distance(inside) * pixel_mm > FINGER_RADIUS
    return measured & (_distance(~core) * pixel_mm > FINGER_RADIUS + pixel_mm)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) from each one of a mask to the nearest outside it; what is outside the frame is none."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
