"""A camera's faults in a depth crop, for training: noise, lost and flying pixels, steps, things in front.

Functions on an (S, S) float32 crop in mm, 0 where nothing was measured. Lengths in pixels are of a crop of
128 pixels and follow S. Rendered frames have a clean sensor's faults; these are rough (docs/training.md).
"""

from collections.abc import Callable

import cv2
import numpy as np

from dataloader.crop import Crop, limit_depth

_UNCHANGED = 1 / 3  # share of samples that keep their crop: a clean camera stays known
_EDGE = 15.0  # mm between neighbours that are two surfaces


def add_faults(crop: Crop, rng: np.random.Generator, strength: float) -> Crop:
    """Draw some of the faults, each of a strength of 0 to 1, and put them into an augmented crop."""
    if strength == 0 or rng.random() < _UNCHANGED:
        return crop
    image = crop.image
    # What stands in front is seen by the same faulty camera, so it comes first.
    if rng.random() < 0.35:
        image = put_in_front(crop, rng, strength)
    for share, fault in FAULTS:
        if rng.random() < share:
            image = fault(image, rng, strength)
    return crop._replace(image=limit_depth(image, crop.center_xyz[2], crop.cube[2]))


def put_in_front(crop: Crop, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A bar, an ellipse or a corner of the image, nearer than the hand's centre."""
    image = crop.image
    size = image.shape[0]
    a_mm = size / crop.cube[0]  # pixels
    mask = np.zeros(image.shape, np.uint8)
    middle = rng.normal(size / 2, size / 6, 2)
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    shape = rng.choice(["bar", "ellipse", "corner"], p=[0.5, 0.25, 0.25])
    if shape == "bar":
        across = np.array([-along[1], along[0]]) * rng.uniform(2, 12) * strength * a_mm
        ends = [middle + s * 2 * size * along + t * across for s, t in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
        cv2.fillConvexPoly(mask, np.rint(ends).astype(np.int32), 1)
    elif shape == "ellipse":
        axes = np.maximum(np.rint(rng.uniform(5, 30, 2) * strength * a_mm), 1).astype(int).tolist()
        cv2.ellipse(mask, np.rint(middle).astype(int).tolist(), axes, np.rad2deg(angle), 0, 360, 1, -1)
    else:
        along *= rng.choice([-1, 1], 2)
        u = np.arange(size, dtype=np.float32)
        distance = np.float32(along[0]) * u + np.float32(along[1]) * u[:, None]
        mask = distance < distance.min() + rng.uniform(0.1, 0.35) * strength * np.ptp(distance)
    depth = np.float32(crop.center_xyz[2] - rng.uniform(0.1, 0.6) * crop.cube[2])
    return np.where((mask > 0) & ((image == 0) | (image > depth)), depth, image)


def fly(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Pixels at depth edges hang between both surfaces. No reading counts as 0, or as far."""
    kernel = np.ones((3, 3), np.uint8)
    measured = image > 0
    far = image.max() if rng.random() < 0.5 else np.float32(0)
    filled = np.where(measured, image, far)
    low, high = cv2.erode(filled, kernel), cv2.dilate(filled, kernel)
    draw = rng.random((2, *image.shape), np.float32)
    flies = (high - low > _EDGE) & (draw[0] < rng.uniform(0.2, 1) * strength)
    return np.where(flies, low + draw[1] * (high - low), image)


def blur_depth(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Every pixel is a mean of its neighbours, across edges too, as in a frame that was resized."""
    blurred = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    return image + np.float32(strength) * (blurred - image)


def coarsen(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A sensor with 1 pixel where this crop has 2 × 2 to 4 × 4."""
    step = 1 + max(round(rng.integers(1, 4) * strength * image.shape[0] / 128), 1)
    start = rng.integers(step, size=2)
    rows, columns = (
        np.clip(np.arange(image.shape[0]) // step * step + s, 0, image.shape[0] - 1) for s in start
    )
    return image[rows][:, columns]


def shared_noise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Normal noise that neighbours share, over 2 to 8 pixels."""
    size, grain = image.shape[0], int(rng.integers(2, 9))
    coarse = rng.standard_normal((size // grain + 2,) * 2, np.float32)
    noise = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_LINEAR)[:size, :size]
    return np.where(image > 0, image + np.float32(rng.uniform(0, 6) * strength) * noise, 0)


def pixel_noise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Normal noise of every pixel by itself."""
    noise = np.float32(rng.uniform(0, 8) * strength) * rng.standard_normal(image.shape, np.float32)
    return np.where(image > 0, image + noise, 0)


def quantise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Depth in steps of up to 10 mm."""
    step = np.float32(max(rng.uniform(1, 10) * strength, 1e-3))
    return np.rint(image / step) * step


def lose_pixels(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Up to 3 pixels in 10 are not measured, anywhere."""
    return np.where(rng.random(image.shape, np.float32) < rng.uniform(0, 0.3) * strength, 0, image)


def lose_patches(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Up to eight round patches on the surfaces are not measured."""
    rows, columns = np.nonzero(image)
    lost = np.zeros(image.shape, np.uint8)
    for pick in rng.integers(len(rows), size=rng.integers(1, 9)) if len(rows) else ():
        axes = np.maximum(rng.uniform(1, 9, 2) * strength * image.shape[0] / 128, 1).astype(int).tolist()
        place = int(columns[pick]), int(rows[pick])
        cv2.ellipse(lost, place, axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return np.where(lost > 0, 0, image)


# Each with the share of the changed samples that have it, in the order in which a camera makes them.
FAULTS: tuple[tuple[float, Callable[[np.ndarray, np.random.Generator, float], np.ndarray]], ...] = (
    (0.3, fly),
    (0.15, blur_depth),
    (0.2, coarsen),
    (0.3, shared_noise),
    (0.4, pixel_noise),
    (0.2, quantise),
    (0.3, lose_pixels),
    (0.25, lose_patches),
)
