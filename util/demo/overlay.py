"""One frame with its hand, drawn fast enough for a live window. Pictures are (H, W, 3) uint8, blue first."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.colors import to_rgb

from config import DatasetInfo
from dataloader.crop import Crop
from util.camera import Camera
from util.inference.predictor import HandPose
from util.plots import chain_colors

HEIGHT = 480  # px, of the frame in a panel
TILE = HEIGHT // 2  # px, edge of the crop and of the view from the side
DARKEST, BRIGHTEST = 1500.0, 300.0  # mm
BACKGROUND = 18
HAND_COLORS = ((255, 220, 160), (120, 200, 255))  # light blue and light orange, blue first
MAPS_A_ROW = 7
MAX_POINTS = 8000
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_panel(
    depth: np.ndarray,
    hands: Sequence[HandPose],
    info: DatasetInfo,
    camera: Camera,
    headline: str,
    weights: bool = False,
) -> np.ndarray:
    """The frame with the skeletons; beside it the crop, and the hand seen from its right side.

    Of two hands it is both crops.

    Args:
        depth: (H, W) mm, 0 where nothing was measured.
        hands: in the frame.
        info: of the data set whose joints these are.
        camera: that took the frame.
        headline: written above.
        weights: leave room below for every joint's adaptive weight map, and draw the first hand's.
    """
    picture = draw_frame(depth, hands, info)
    column = np.full((HEIGHT, TILE, 3), BACKGROUND, np.uint8)
    for place, hand in zip((np.s_[:TILE], np.s_[TILE:]), hands, strict=False):
        column[place] = _crop_tile(hand, info, len(hands) > 1)
    if len(hands) == 1:
        column[TILE:] = _side_tile(depth, hands[0], info, camera)
    _write(picture, headline, (10, 22), 0.55)
    panel = np.hstack([picture, column])
    if not weights:
        return panel
    # A film has one size, whether there is a hand or not.
    sheet = empty_sheet(info, panel.shape[1])
    if hands and hands[0].weights is not None:
        sheet = weight_sheet(hands[0].crop, hands[0].weights, info, panel.shape[1])
    return np.vstack([panel, sheet])


def draw_frame(depth: np.ndarray, hands: Sequence[HandPose], info: DatasetInfo) -> np.ndarray:
    """The frame (H, W) mm with the skeletons, sides and confidences, HEIGHT pixels high."""
    scale = HEIGHT / depth.shape[0]
    size = (round(depth.shape[1] * scale), HEIGHT)
    picture = cv2.resize(shade(depth, DARKEST, BRIGHTEST), size, interpolation=cv2.INTER_AREA)
    for hand in hands:
        uv = (hand.joints_uvd[:, :2] + 0.5) * scale - 0.5
        color = hand_color(hand)
        _draw_skeleton(picture, uv, info, hand.confidence, color if len(hands) > 1 else None)
        below = np.clip([uv[:, 0].min(), uv[:, 1].max() + 22], (5, 40), (size[0] - 110, HEIGHT - 90))
        _write(
            picture, f"{hand.handedness} {hand.mean_confidence:.2f}", tuple(below.astype(int)), 0.55, color
        )
    if len(hands) == 1:
        _draw_confidence(picture, hands[0].confidence, info)
    return picture


def hand_color(hand: HandPose) -> tuple[int, int, int]:
    """Blue, green, red of a hand; by its identity, so that it keeps it."""
    return HAND_COLORS[hand.identity % len(HAND_COLORS)]


def draw_curve(sureness: Sequence[float | None], width: int, height: int = 90) -> np.ndarray:
    """Confidence over time, the last frame at the right end: (height, width, 3); None: no hand."""
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    for level in (0.0, 0.5, 1.0):
        y = round((height - 13) * (1 - level)) + 6
        cv2.line(picture, (30, y), (width, y), (60, 60, 60), 1)
        _write(picture, f"{level:.1f}", (2, y + 4), 0.35)
    points = [
        (width - 2 * (len(sureness) - i), round((height - 13) * (1 - value)) + 6)
        for i, value in enumerate(sureness)
        if value is not None
    ]
    for x, y in points:
        if x > 30:
            cv2.rectangle(picture, (x, y), (x + 1, y + 1), HAND_COLORS[0], -1)
    return picture


def empty_sheet(info: DatasetInfo, width: int, per_row: int = MAPS_A_ROW) -> np.ndarray:
    """Room for a weight map of every joint: (rows · edge, width, 3)."""
    rows = -(-len(info.joint_names) // per_row)
    return np.full((rows * (width // per_row), width, 3), BACKGROUND, np.uint8)


def weight_sheet(
    crop: Crop, weights: np.ndarray, info: DatasetInfo, width: int, per_row: int = MAPS_A_ROW
) -> np.ndarray:
    """The adaptive weights (J, F, F) of every joint over the crop: (rows · edge, width, 3)."""
    sheet, edge = empty_sheet(info, width, per_row), width // per_row
    for j, name in enumerate(info.joint_names):
        top, left = j // per_row * edge, j % per_row * edge
        tile = weight_picture(crop, weights[j], edge - 2)
        _write(tile, name, (5, 15), 0.4)
        sheet[top + 1 : top + edge - 1, left + 1 : left + edge - 1] = tile
    return sheet


def weight_picture(crop: Crop, weight: np.ndarray, edge: int) -> np.ndarray:
    """One joint's weights (F, F) glowing over the crop: (edge, edge, 3)."""
    level = weight_level(weight)
    level = cv2.resize(level, (edge, edge), interpolation=cv2.INTER_NEAREST)
    return glow(_shade_crop(crop, edge) // 2, level)


def weight_level(weight: np.ndarray) -> np.ndarray:
    """(F, F) in [0, 1]: a map sums to 1, so its scale says nothing; the root shows the faint rim too."""
    return np.sqrt(weight / weight.max()).astype(np.float32)


def glow(picture: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Lay a level (H, W) in [0, 1] over a picture (H, W, 3)."""
    color = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = np.clip(2 * level, 0, 1)[..., None]
    return (picture * (1 - share) + color * share).astype(np.uint8)


def shade(depth: np.ndarray, farthest: float, nearest: float) -> np.ndarray:
    """Grey picture of depth (H, W) mm: near is light, no reading dark."""
    level = np.clip((farthest - depth) / (farthest - nearest), 0, 1)
    grey = np.where(depth > 0, 45 + 190 * level, BACKGROUND).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def joint_colors(info: DatasetInfo) -> list[tuple[int, int, int]]:
    """Red, green, blue of every joint: its finger's; of the others, the wrist's or the knuckles'.

    White is for the truth alone.
    """
    colors: list[tuple[int, int, int]] = [(0, 0, 0)] * len(info.joint_names)
    chains = list(zip(info.chains, chain_colors(info.chains), strict=True))
    # A joint in several chains: a finger's own joints come after its root, which all fingers share.
    for part in (slice(0, 1), slice(1, None)):
        for chain, color in reversed(chains):
            for j in chain[part]:
                colors[j] = tuple(round(255 * share) for share in to_rgb(color))
    return colors


def skeleton_segments(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """The bones (n, 2), as numbers of joints, and their colours (n, 3) uint8 red, green, blue."""
    bones, colors = [], []
    for chain, color in zip(info.chains, chain_colors(info.chains), strict=True):
        for bone in pairwise(chain):
            bones.append(bone)
            colors.append([round(255 * part) for part in to_rgb(color)])
    return np.array(bones), np.array(colors, np.uint8)


def _crop_tile(pose: HandPose, info: DatasetInfo, several: bool) -> np.ndarray:
    """What the network saw, with the joints."""
    tile = _shade_crop(pose.crop, TILE)
    M = pose.crop.M.astype(np.float64)
    crop_uv = pose.joints_uvd[:, :2] @ M[:2, :2].T + M[:2, 2]
    zoom = TILE / pose.crop.image.shape[0]
    color = hand_color(pose) if several else None
    _draw_skeleton(tile, (crop_uv + 0.5) * zoom - 0.5, info, pose.confidence, color)
    _write(tile, f"crop, {pose.handedness}" if several else "crop", (8, 18), 0.45)
    return tile


def _side_tile(depth: np.ndarray, pose: HandPose, info: DatasetInfo, camera: Camera) -> np.ndarray:
    """The hand's points and the joints seen from the right: depth runs to the right."""
    tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)
    zoom = TILE / pose.crop.cube[2]
    xyz = cube_points(depth, pose.crop, camera).xyz
    across, down = _from_the_side(xyz, pose.center_xyz, camera.flip, zoom)
    inside = (across >= 0) & (across < TILE) & (down >= 0) & (down < TILE)
    tile[down[inside].astype(int), across[inside].astype(int)] = 110
    place = np.stack(_from_the_side(pose.joints_xyz, pose.center_xyz, camera.flip, zoom), axis=1)
    _draw_skeleton(tile, place, info, pose.confidence)
    _write(tile, "from the side", (8, 18), 0.45)
    return tile


class CubePoints(NamedTuple):
    """Readings of a frame within a crop's cube: `xyz` (n, 3) mm, and `uv` (n, 2) pixels of the crop."""

    xyz: np.ndarray
    uv: np.ndarray


def cube_points(depth: np.ndarray, crop: Crop, camera: Camera, max_points: int = MAX_POINTS) -> CubePoints:
    """The hand's points in the frame's (H, W) mm own resolution, thinned out evenly."""
    scale, offset, size = float(crop.M[0, 0]), crop.M[:2, 2].astype(np.float64), len(crop.image)
    first = np.maximum(np.ceil(-offset / scale), 0).astype(int)
    last = np.floor((size - 1 - offset) / scale).astype(int)
    window = depth[first[1] : last[1] + 1, first[0] : last[0] + 1]
    near, far = crop.center_xyz[2] + np.array([-0.5, 0.5]) * crop.cube[2]
    inside = (window > near) & (window < far)
    step = math.ceil((np.count_nonzero(inside) / max_points) ** 0.5) or 1
    v, u = np.nonzero(inside[::step, ::step])
    v, u = v * step, u * step
    uv = np.stack([u, v], axis=1) + first
    xyz = camera.uvd_to_xyz(np.column_stack([uv, window[v, u]]).astype(np.float64))
    return CubePoints(xyz, uv * scale + offset)


def _from_the_side(
    xyz: np.ndarray, center: np.ndarray, flip: int, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    relative = (xyz - center) * zoom
    return TILE / 2 + relative[:, 2], TILE / 2 + flip * relative[:, 1]


def _shade_crop(crop: Crop, edge: int) -> np.ndarray:
    center_z, half = crop.center_xyz[2], crop.cube[2] / 2
    picture = shade(crop.image, center_z + half, center_z - half)
    return cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_NEAREST)


def _draw_skeleton(
    picture: np.ndarray,
    joint_uv: np.ndarray,
    info: DatasetInfo,
    confidence: np.ndarray,
    around: tuple[int, int, int] | None = None,
) -> None:
    """Chains in their colours, with a rim in the hand's; a joint is filled as far as it is sure."""
    # A hand that is near can project far outside: OpenCV's integers would overflow.
    points = [tuple(map(int, uv)) for uv in np.clip(np.rint(joint_uv), -10000, 10000)]
    colors = [color[::-1] for color in joint_colors(info)]
    segments = skeleton_segments(info)
    for a, b in segments[0] if around else ():
        cv2.line(picture, points[a], points[b], around, 6, cv2.LINE_AA)
    for (a, b), color in zip(*segments, strict=True):
        cv2.line(picture, points[a], points[b], color[::-1].tolist(), 2, cv2.LINE_AA)
    for point, color, sure in zip(points, colors, confidence, strict=True):
        cv2.circle(picture, point, 4, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(picture, point, round(1 + 2.5 * float(sure)), color, -1, cv2.LINE_AA)
        cv2.circle(picture, point, 4, color, 1, cv2.LINE_AA)


def _draw_confidence(picture: np.ndarray, confidence: np.ndarray, info: DatasetInfo) -> None:
    """A bar a joint in the lower left corner, full height for 1."""
    bottom, height, width = picture.shape[0] - 10, 50, 7
    for j, (sure, color) in enumerate(zip(confidence, joint_colors(info), strict=True)):
        left = 10 + j * (width + 2)
        cv2.rectangle(picture, (left, bottom - height), (left + width - 1, bottom), (45, 45, 45), -1)
        top = bottom - round(height * float(sure))
        cv2.rectangle(picture, (left, top), (left + width - 1, bottom), color[::-1], -1)
    _write(picture, "confidence", (10, bottom - height - 6), 0.4)


def _write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    size: float,
    color: tuple[int, int, int] = (235, 235, 235),
) -> None:
    x, y = place
    for around in ((x - 1, y - 1), (x + 1, y - 1), (x - 1, y + 1), (x + 1, y + 1)):  # readable on a hand
        cv2.putText(picture, text, around, FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, text, place, FONT, size, color, 1, cv2.LINE_AA)
