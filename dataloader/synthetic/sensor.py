"""What a depth sensor makes of a scene: from exact depth to the depth that such a camera reports."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from util.camera import Camera


class SensorStyle(NamedTuple):
    """Strengths of the effects, drawn per frame so that no network learns one sensor by heart."""

    baseline: float  # mm from camera to projector, along +x; 0 = no shadows
    inflate: int  # pixels by which a front surface grows over what is behind it
    wave: float  # pixels by which silhouettes wave, over some `grain` pixels
    jitter: float  # pixels by which silhouettes are displaced in blocks
    block: tuple[int, int]  # width and height of these blocks, pixels
    smooth: int  # pixels over which the sensor averages; 0 = it does not
    flying: float  # share of edge pixels that hang between front and back, or behind the front
    noise: float  # standard deviation of the disparity, in the steps to which it is quantised
    grain: int  # pixels over which noise is alike: the window in which the pattern is matched
    steps: float  # quantisation steps per pixel of disparity, for the Kinect's focal length times baseline
    grazing: float  # share of pixels lost on surfaces seen edge on
    holes: float  # expected number of lost blobs
    coarse: float = 1.0  # the scene's pixels over the sensor's, along an edge
    nearest: float = 250.0  # mm; nothing nearer is reported
    rounding: float = 0.0  # of time of flight: share by which corners are filled, as light takes detours
    noise_mm: float = 0.0  # of time of flight: of every pixel by itself; 0 = structured light, with disparity
    dropout: float = 0.0  # of time of flight: share of pixels lost by themselves


_KINECT_FOCAL = 588.03  # px; what SensorStyle's pixels are pixels of
_KINECT_DISPARITY = 588.0 * 75.0  # px · mm
_FAR = 4000  # mm; nothing beyond is reported
_CORNER = 13  # px, over which light takes detours
_CORNER_DEPTH = 40.0  # mm; deeper than this is another surface


def sample_style(rng: np.random.Generator) -> SensorStyle:
    """Two in three frames like a Kinect's; the others from the cleaner, finer sensors that came after it."""
    kinect = rng.random() < 0.67

    def pick(of_kinect: Any, of_others: Any) -> Any:
        return of_kinect if kinect else of_others

    return SensorStyle(
        baseline=rng.uniform(*pick((30, 90), (0, 60))),
        inflate=int(rng.choice([0, 1, 2], p=pick([0.25, 0.4, 0.35], [0.5, 0.35, 0.15]))),
        wave=rng.uniform(*pick((0.2, 1.4), (0, 1.5))),
        jitter=rng.uniform(*pick((0.2, 1.1), (0, 0.6))),
        block=(int(rng.integers(*pick((2, 6), (1, 3)))), int(rng.integers(*pick((2, 5), (1, 3))))),
        smooth=int(rng.choice(pick([1, 3, 5], [0, 3]))),
        flying=rng.uniform(0, pick(0.15, 0.3)),
        noise=rng.uniform(*pick((0.1, 0.8), (0.2, 1.2))),
        grain=int(rng.integers(*pick((3, 7), (2, 5)))),
        steps=8.0 if kinect else rng.uniform(12, 40),
        grazing=rng.uniform(0, pick(0.6, 1)),
        holes=rng.uniform(0, 2),
    )


def sample_coarse_style(rng: np.random.Generator) -> SensorStyle:
    """A sensor of 320×240 or 256×192 pixels, or of time of flight, or both."""
    style = sample_style(rng)
    coarse, flight = rng.random() < 0.65, rng.random() < 0.6
    if coarse or not flight:
        style = style._replace(coarse=float(rng.choice([2.0, 2.5])))
    if not flight:
        return style
    return style._replace(
        baseline=0.0,
        inflate=0,
        wave=float(rng.uniform(0, 0.4)),
        jitter=float(rng.uniform(0, 0.3)),
        block=(1, 1),
        smooth=int(rng.choice([0, 3])),
        flying=float(rng.uniform(0.2, 0.7)),
        grazing=float(rng.uniform(0, 0.4)),
        holes=0.0,
        rounding=float(rng.uniform(0.2, 0.8)),
        noise_mm=float(rng.uniform(0.5, 3)),
        dropout=float(rng.uniform(0, 0.15) if rng.random() < 0.4 else 0),
    )


def apply_sensor(
    rng: np.random.Generator, depth: np.ndarray, camera: Camera, style: SensorStyle
) -> np.ndarray:
    """Exact depth (H, W) float32 mm, 0 = no surface -> what a sensor reads (H, W) uint16 mm, 0 = nothing."""
    if style.coarse > 1:
        # A pixel of the sensor sees one spot of its block; always the first would shift the hand.
        rows, columns = (_coarse_pixels(rng, extent, style.coarse) for extent in depth.shape)
        scaled = Camera(*(value / style.coarse for value in camera[:4]), camera.flip)
        small = np.ascontiguousarray(depth[np.ix_(rows[1], columns[1])])
        seen = apply_sensor(rng, small, scaled, style._replace(coarse=1.0))
        return seen[np.ix_(rows[0], columns[0])]
    style = _for_focal(style, camera.fx)
    out = np.zeros(depth.shape, np.uint16)
    rows, columns = np.flatnonzero(depth.any(1)), np.flatnonzero(depth.any(0))
    if len(rows) == 0:
        return out
    # Nothing happens far from a surface: work on its bounding box.
    top, left = max(rows[0] - 8, 0), max(columns[0] - 8, 0)
    window = np.s_[top : rows[-1] + 9, left : columns[-1] + 9]
    image = depth[window]
    image = np.where(_shadow(image, camera, style.baseline), 0, image)
    image = _inflate(image, style.inflate)
    image = _displace(rng, image, style)
    image = _smooth(image, style.smooth)
    image = _round_corners(image, style.rounding)
    image = _edges(rng, image, style)
    if style.noise_mm:
        noise = style.noise_mm * rng.standard_normal(image.shape, dtype=np.float32)
        measured = (image > 0) & (rng.random(image.shape, dtype=np.float32) >= style.dropout)
        image = np.where(measured, image + noise, 0)
    else:
        image = _disparity(rng, image, style)
    image = _blobs(rng, image, style.holes)
    out[window] = np.where((image >= style.nearest) & (image <= _FAR), np.rint(image), 0)
    return out


def _coarse_pixels(rng: np.random.Generator, extent: int, coarse: float) -> tuple[np.ndarray, np.ndarray]:
    """Along an edge: which sensor pixel shows each of the scene's, (extent,); and where in the scene each of
    the sensor's looks, (few,)."""
    shown_by = (np.arange(extent) / coarse).astype(int)
    looks_at = np.floor(np.arange(shown_by[-1] + 1) * coarse + rng.uniform(0, coarse)).astype(int)
    return shown_by, looks_at.clip(max=extent - 1)


def _for_focal(style: SensorStyle, focal: float) -> SensorStyle:
    """The same effects on the scene for a camera whose pixels are coarser or finer than the Kinect's."""
    scale = focal / _KINECT_FOCAL
    return style._replace(
        inflate=round(style.inflate * scale),
        wave=style.wave * scale,
        jitter=style.jitter * scale,
        block=(max(round(style.block[0] * scale), 1), max(round(style.block[1] * scale), 1)),
        grain=max(round(style.grain * scale), 1),
    )


def _shadow(depth: np.ndarray, camera: Camera, baseline: float) -> np.ndarray:
    """Pixels (H, W) that the projector, `baseline` mm to the camera's right, cannot light.

    The projector sees a surface point at u - fx·baseline/z. Going from right to left, a point whose place
    lies to the right of one already passed is hidden by it.
    """
    place = np.arange(depth.shape[1], dtype=np.float32) - camera.fx * baseline / np.maximum(depth, 1)
    place = np.where(depth > 0, place, np.inf)
    front = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    # The pattern is a few pixels wide: thinner shadows are bridged.
    return (place > front + 2.5) & (depth > 0)


def _inflate(depth: np.ndarray, pixels: int) -> np.ndarray:
    """Grow front surfaces over what lies well behind: the matching window reaches across silhouettes."""
    filled = np.where(depth > 0, depth, np.float32(_FAR))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    front = cv2.erode(filled, kernel)
    return np.where((filled - front > 25) & (front < _FAR), front, depth)


def _displace(rng: np.random.Generator, depth: np.ndarray, style: SensorStyle) -> np.ndarray:
    """Read the pixels at silhouettes a little beside their place: the silhouettes get wavy and ragged."""
    kernel = np.ones((5, 5), np.uint8)
    rows, columns = np.nonzero(cv2.dilate(depth, kernel) - cv2.erode(depth, kernel) > 25)
    height, width = depth.shape
    block_width, block_height = style.block
    blocks = rng.normal(0, style.jitter, (2, height // block_height + 1, width // block_width + 1))
    coarse = rng.normal(0, style.wave, (height // style.grain + 2, width // style.grain + 2, 2))
    waves = cv2.resize(coarse, None, fx=style.grain, fy=style.grain, interpolation=cv2.INTER_LINEAR)
    shift = blocks[:, rows // block_height, columns // block_width] + waves[rows, columns].T
    shift = np.rint(shift).astype(int)
    from_row = np.clip(rows + shift[0], 0, height - 1)
    from_column = np.clip(columns + shift[1], 0, width - 1)
    out = depth.copy()
    out[rows, columns] = depth[from_row, from_column]
    return out


def _smooth(depth: np.ndarray, size: int) -> np.ndarray:
    """Average over size × size pixels of one surface, leaving its border where it is."""
    if size <= 1:
        return depth
    local = cv2.boxFilter(depth, -1, (size, size))
    lowest = cv2.erode(depth, np.ones((size, size), np.uint8))
    highest = cv2.dilate(depth, np.ones((size, size), np.uint8))
    flat = (lowest > 0) & (highest - lowest < 12 * size)
    return np.where(flat, local, depth)


def _round_corners(depth: np.ndarray, share: float) -> np.ndarray:
    """Fill concave places of one surface towards the mean around them."""
    window = (_CORNER, _CORNER)
    measured = (depth > 0).astype(np.float32)
    around = cv2.boxFilter(depth, -1, window) / np.maximum(cv2.boxFilter(measured, -1, window), 1e-6)
    deeper = depth - around
    corner = (depth > 0) & (deeper > 0) & (deeper < _CORNER_DEPTH)
    return np.where(corner, depth - share * deeper, depth).astype(np.float32)


def _edges(rng: np.random.Generator, depth: np.ndarray, style: SensorStyle) -> np.ndarray:
    """Flying pixels at depth steps, and readings lost where a surface is seen edge on."""
    kernel = np.ones((3, 3), np.uint8)
    filled = np.where(depth > 0, depth, np.float32(_FAR))
    behind = cv2.dilate(filled, kernel)
    step = behind - depth
    inside = depth > 0
    rows, columns = np.nonzero(inside & (step > 6))
    depth = depth.copy()
    value, jump = depth[rows, columns], step[rows, columns]
    draw = rng.random((3, len(rows)), dtype=np.float32)
    slant = np.clip(jump / (0.012 * value), 0, 1)
    silhouette = jump > 30
    flying = silhouette & (draw[0] < style.flying)
    # Most hang just behind the front, a few anywhere on the way to the back.
    value = value + np.where(flying, np.minimum(jump, 250) * draw[1] ** 3, 0)
    lost = draw[2] < style.grazing * slant * np.where(silhouette, 0.35, 0.5)
    depth[rows, columns] = np.where(lost, 0, value)
    return depth


def _disparity(rng: np.random.Generator, depth: np.ndarray, style: SensorStyle) -> np.ndarray:
    """Noise and rounding in disparity, which grow with z² in depth."""
    height, width = depth.shape
    # The pattern is matched over windows of several pixels, so that neighbours err alike.
    noise = rng.standard_normal((height // style.grain + 1, width // style.grain + 1), dtype=np.float32)
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    disparity = _KINECT_DISPARITY * style.steps / np.maximum(depth, 1)
    disparity = np.rint(disparity + style.noise * noise)
    return np.where(depth > 0, _KINECT_DISPARITY * style.steps / np.maximum(disparity, 1), 0)


def _blobs(rng: np.random.Generator, depth: np.ndarray, expected: float) -> np.ndarray:
    """Lose a few round patches of readings."""
    count = rng.poisson(expected)
    rows, columns = np.nonzero(depth > 0)
    if count == 0 or len(rows) == 0:
        return depth
    hole = np.zeros(depth.shape, np.uint8)
    for pick in rng.integers(0, len(rows), count):
        place, axes = (int(columns[pick]), int(rows[pick])), rng.integers(1, 5, 2).tolist()
        cv2.ellipse(hole, place, axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return np.where(hole > 0, 0, depth)
