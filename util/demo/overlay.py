"""One frame with its hand, drawn fast enough for a live window. Pictures are (H, W, 3) uint8, blue first."""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from matplotlib.colors import to_rgb

from dataloader import DatasetInfo
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
Color = tuple[int, int, int]


def draw_panel(
    depth: np.ndarray,
    hands: Sequence[HandPose],
    info: DatasetInfo,
    camera: Camera,
    headline: str,
    weights: bool = False,
) -> np.ndarray:
    """The frame with the skeletons; beside it the crop and the hand seen from its right, or both crops.

    Args:
        depth: (H, W) mm, 0 where nothing was measured.
        hands: in the frame.
        info: of the data set whose joints these are.
        camera: that took the frame.
        headline: written above.
        weights: leave room below for every joint's adaptive weight map, and draw the first hand's.
    """
    picture = draw_frame(depth, hands, info)
    _write(picture, headline, (10, 22), 0.55)
    column = np.full((HEIGHT, TILE, 3), BACKGROUND, np.uint8)
    for place, hand in zip((np.s_[:TILE], np.s_[TILE:]), hands, strict=False):
        column[place] = _crop_tile(hand, info, len(hands) > 1)
    if len(hands) == 1:
        column[TILE:] = _side_tile(depth, hands[0], info, camera)
    panel = np.hstack([picture, column])
    if not weights:
        return panel
    # A film has one size, whether there is a hand or not.
    return np.vstack([panel, weight_sheet(hands[0] if hands else None, info, panel.shape[1])])


def draw_frame(depth: np.ndarray, hands: Sequence[HandPose], info: DatasetInfo) -> np.ndarray:
    """The frame (H, W) mm with the skeletons, sides and confidences, HEIGHT pixels high."""
    scale = HEIGHT / depth.shape[0]
    width = round(depth.shape[1] * scale)
    picture = cv2.resize(shade(depth, DARKEST, BRIGHTEST), (width, HEIGHT), interpolation=cv2.INTER_AREA)
    for hand in hands:
        uv = (hand.joints_uvd[:, :2] + 0.5) * scale - 0.5
        color = hand_color(hand)
        _draw_skeleton(picture, uv, info, hand.confidence, color if len(hands) > 1 else None)
        below = np.clip([uv[:, 0].min(), uv[:, 1].max() + 22], (5, 40), (width - 110, HEIGHT - 10))
        text = f"{hand.handedness} {hand.mean_confidence:.2f}"
        _write(picture, text, tuple(below.astype(int)), 0.55, color)
    return picture


def hand_color(hand: HandPose) -> Color:
    """Blue, green, red of a hand; by its identity, so that it keeps it."""
    return HAND_COLORS[hand.identity % len(HAND_COLORS)]


def weight_sheet(
    hand: HandPose | None, info: DatasetInfo, width: int, per_row: int = MAPS_A_ROW
) -> np.ndarray:
    """The adaptive weights of every joint of a hand over its crop, empty without: (rows · edge, width, 3)."""
    edge = width // per_row
    sheet = np.full((-(-len(info.joint_names) // per_row) * edge, width, 3), BACKGROUND, np.uint8)
    for j, name in enumerate(info.joint_names if hand else ()):
        top, left = j // per_row * edge, j % per_row * edge
        tile = weight_picture(hand.crop, hand.weights[j], edge - 2)
        _write(tile, name, (5, 15), 0.4)
        sheet[top + 1 : top + edge - 1, left + 1 : left + edge - 1] = tile
    return sheet


def weight_picture(crop: Crop, weight: np.ndarray, edge: int) -> np.ndarray:
    """One joint's weights (F, F) glowing over the crop: (edge, edge, 3)."""
    level = cv2.resize(weight_level(weight), (edge, edge), interpolation=cv2.INTER_NEAREST)
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


def joint_colors(info: DatasetInfo) -> list[Color]:
    """Red, green, blue of every joint: its finger's; of a root that fingers share, the first one's."""
    bones, colors = skeleton_segments(info)
    of_joint = dict(zip(bones[::-1, 0], colors[::-1], strict=True))  # the first of several stays
    of_joint |= dict(zip(bones[::-1, 1], colors[::-1], strict=True))
    return [tuple(map(int, of_joint[j])) for j in range(len(info.joint_names))]


def skeleton_segments(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """The bones (n, 2), as numbers of joints, and their colours (n, 3) uint8 red, green, blue."""
    chains = zip(info.chains, chain_colors(info.chains), strict=True)
    bones = [(*bone, color) for chain, color in chains for bone in pairwise(chain)]
    colors = [np.rint(255 * np.array(to_rgb(color))) for *_, color in bones]
    return np.array([bone[:2] for bone in bones]), np.array(colors, np.uint8)


def crop_window(crop: Crop) -> tuple[slice, slice, float, float]:
    """Where a crop lies in its frame: rows, columns, nearest and farthest depth in mm."""
    scale, offset = float(crop.M[0, 0]), crop.M[:2, 2].astype(np.float64)
    left, top = np.maximum(np.ceil(-offset / scale), 0).astype(int)
    right, bottom = np.floor((len(crop.image) - 1 - offset) / scale).astype(int) + 1
    near, far = crop.center_xyz[2] + np.array([-0.5, 0.5]) * crop.cube[2]
    return slice(top, bottom), slice(left, right), near, far


def cube_points(
    depth: np.ndarray, crop: Crop, camera: Camera, max_points: int = MAX_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Readings of a frame (H, W) mm within a crop's cube, thinned out evenly.

    Returns:
        (n, 3) mm, and (n, 2) pixels of the crop.
    """
    rows, columns, near, far = crop_window(crop)
    window = depth[rows, columns]
    inside = (window > near) & (window < far)
    step = math.ceil((np.count_nonzero(inside) / max_points) ** 0.5) or 1
    v, u = step * np.array(np.nonzero(inside[::step, ::step]))
    uv = np.column_stack([u + columns.start, v + rows.start])
    xyz = camera.uvd_to_xyz(np.column_stack([uv, window[v, u]]).astype(np.float64))
    return xyz, uv * float(crop.M[0, 0]) + crop.M[:2, 2]


def _crop_tile(hand: HandPose, info: DatasetInfo, several: bool) -> np.ndarray:
    """What the network saw, with the joints."""
    tile = _shade_crop(hand.crop, TILE)
    M = hand.crop.M.astype(np.float64)
    crop_uv = hand.joints_uvd[:, :2] @ M[:2, :2].T + M[:2, 2]
    zoom = TILE / len(hand.crop.image)
    color = hand_color(hand) if several else None
    _draw_skeleton(tile, (crop_uv + 0.5) * zoom - 0.5, info, hand.confidence, color)
    _write(tile, f"crop, {hand.handedness}" if several else "crop", (8, 18), 0.45)
    return tile


def _side_tile(depth: np.ndarray, hand: HandPose, info: DatasetInfo, camera: Camera) -> np.ndarray:
    """The hand's points and the joints seen from the right: depth runs to the right."""
    tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)

    def place(xyz: np.ndarray) -> np.ndarray:
        return TILE / 2 + ((xyz - hand.center_xyz) * TILE / hand.crop.cube[2])[:, [2, 1]] * (1, camera.flip)

    points = place(cube_points(depth, hand.crop, camera)[0])
    across, down = points[((points >= 0) & (points < TILE)).all(axis=1)].astype(int).T
    tile[down, across] = 110
    _draw_skeleton(tile, place(hand.joints_xyz), info, hand.confidence)
    _write(tile, "from the side", (8, 18), 0.45)
    return tile


def _shade_crop(crop: Crop, edge: int) -> np.ndarray:
    middle, half = crop.center_xyz[2], crop.cube[2] / 2
    picture = shade(crop.image, middle + half, middle - half)
    return cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_NEAREST)


def _draw_skeleton(
    picture: np.ndarray,
    joint_uv: np.ndarray,
    info: DatasetInfo,
    confidence: np.ndarray,
    around: Color | None = None,
) -> None:
    """Chains in their colours, with a rim in the hand's; a joint's disc is larger with more confidence."""
    # A hand that is near can project far outside: OpenCV's integers would overflow.
    points = [tuple(map(int, uv)) for uv in np.clip(np.rint(joint_uv), -10000, 10000)]
    bones, colors = skeleton_segments(info)
    for a, b in bones if around else ():
        cv2.line(picture, points[a], points[b], around, 6, cv2.LINE_AA)
    for (a, b), color in zip(bones, colors, strict=True):
        cv2.line(picture, points[a], points[b], color[::-1].tolist(), 2, cv2.LINE_AA)
    for point, color, share in zip(points, joint_colors(info), confidence, strict=True):
        for radius, shown, thickness in (
            (4, (0, 0, 0), -1),
            (round(1 + 2.5 * float(share)), color[::-1], -1),
            (4, color[::-1], 1),
        ):
            cv2.circle(picture, point, radius, shown, thickness, cv2.LINE_AA)


def _write(
    picture: np.ndarray, text: str, place: tuple[int, int], size: float, color: Color = (235, 235, 235)
) -> None:
    x, y = place
    for corner in ((x - 1, y - 1), (x + 1, y - 1), (x - 1, y + 1), (x + 1, y + 1)):  # readable on a hand
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)
