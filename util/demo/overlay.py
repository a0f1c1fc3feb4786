"""One frame with its hand, drawn fast enough for a live window. Pictures are (H, W, 3) uint8, blue first."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from matplotlib.colors import to_rgba_array

from dataloader import DatasetInfo
from dataloader.crop import Crop
from util.camera import Camera
from util.inference.hands import HandPose
from util.plots import chain_colors, chain_names

HEIGHT = 480  # px, of the frame in a panel
TILE = HEIGHT // 2  # px, edge of the crop and of the view from the side
STRIP = 28  # px, height of the headline and of the legend
DARKEST, BRIGHTEST = 1500.0, 300.0  # mm
BACKGROUND = 18
HAND_COLORS = ((255, 220, 160), (120, 200, 255))  # light blue and light orange, blue first
MAX_POINTS = 3000  # more would hide the skeleton, which lies behind the skin


def draw_panel(
    depth: np.ndarray,
    hands: Sequence[HandPose],
    info: DatasetInfo,
    camera: Camera,
    headline: str,
    most: int = 1,
    weights: bool = False,
) -> np.ndarray:
    """The frame (H, W) mm with the skeletons under a headline, and a legend below. Beside it where at `most`
    one hand is looked for its crop and the hand seen from its right, else two hands' crops; with `weights`
    every joint's adaptive weight map of the first hand. All panels of a film have one size and layout.
    """
    frame = draw_frame(depth, hands, info)
    column = np.full((HEIGHT, TILE, 3), BACKGROUND, np.uint8)
    for hand in hands[:2]:
        top = TILE * (hand.identity % 2) if most > 1 else 0
        column[top : top + TILE] = _crop_tile(hand, info)
        if most == 1:
            column[TILE:] = _side_tile(depth, hand, info, camera)
    width = frame.shape[1] + TILE
    parts = [_headline(headline, hands, width), np.hstack([frame, column]), draw_legend(info, width)]
    if weights:
        parts.append(weight_sheet(hands[0] if hands else None, info, width))
    return np.vstack(parts)


def draw_frame(depth: np.ndarray, hands: Sequence[HandPose], info: DatasetInfo) -> np.ndarray:
    """The frame (H, W) mm with the skeletons, HEIGHT pixels high."""
    scale = HEIGHT / depth.shape[0]
    size = (round(depth.shape[1] * scale), HEIGHT)
    picture = cv2.resize(shade(depth, DARKEST, BRIGHTEST), size, interpolation=cv2.INTER_AREA)
    for hand in hands:
        _draw_skeleton(picture, (hand.joints_uvd[:, :2] + 0.5) * scale - 0.5, info, hand)
    return picture


def _headline(text: str, hands: Sequence[HandPose], width: int) -> np.ndarray:
    """A text, and on the right each hand's side and mean confidence in its colour."""
    strip = np.full((STRIP, width, 3), BACKGROUND, np.uint8)
    _write(strip, text, (8, 19))
    for place, hand in enumerate(reversed(hands)):
        label = f"{hand.handedness} hand {hand.mean_confidence:.2f}"
        _write(strip, label, (width - 140 * (place + 1), 19), hand_color(hand))
    return strip


def draw_legend(info: DatasetInfo, width: int) -> np.ndarray:
    """Whose each colour is, and what a joint's disc means: (STRIP, width, 3)."""
    strip = np.full((STRIP, width, 3), BACKGROUND, np.uint8)
    names, place = chain_names(info.joint_names, info.chains), 14
    for name, color in zip(names, _chain_rgb(info)[:, ::-1].tolist(), strict=True):
        cv2.circle(strip, (place, STRIP // 2), 5, color, -1, cv2.LINE_AA)
        _write(strip, name, (place + 10, 19))
        place += 26 + 8 * len(name)
    _write(strip, "larger disc: more confidence", (place + 10, 19))
    return strip


def hand_color(hand: HandPose) -> tuple[int, int, int]:
    """Blue, green, red of a hand; by its identity, so that it keeps it."""
    return HAND_COLORS[hand.identity % len(HAND_COLORS)]


def weight_sheet(hand: HandPose | None, info: DatasetInfo, width: int, per_row: int = 7) -> np.ndarray:
    """The adaptive weights of every joint of a hand over its crop, empty without: (rows · edge, width, 3)."""
    edge = width // per_row
    sheet = np.full((-(-len(info.joint_names) // per_row) * edge, width, 3), BACKGROUND, np.uint8)
    for j, name in enumerate(info.joint_names if hand else ()):
        size = (edge - 2, edge - 2)
        level = cv2.resize(weight_level(hand.weights[j]), size, interpolation=cv2.INTER_NEAREST)
        tile = glow(_shade_crop(hand.crop, edge - 2) // 2, level)
        _write(tile, name, (5, 15))
        top, left = j // per_row * edge + 1, j % per_row * edge + 1
        sheet[top : top + edge - 2, left : left + edge - 2] = tile
    return sheet


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


def skeleton(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bones (n, 2), as numbers of joints; of bones (n, 3) and of joints (J, 3) their finger's colour,
    uint8 red, green, blue."""
    colors = _chain_rgb(info)
    bones = np.array([bone for chain in info.chains for bone in pairwise(chain)])
    bone_colors = colors.repeat([len(chain) - 1 for chain in info.chains], axis=0)
    joint_colors = np.zeros((len(info.joint_names), 3), np.uint8)
    for chain, color in zip(reversed(info.chains), reversed(colors), strict=True):
        joint_colors[list(chain)] = color  # of several chains, the first
    return bones, bone_colors, joint_colors


def _chain_rgb(info: DatasetInfo) -> np.ndarray:
    return np.rint(255 * to_rgba_array(chain_colors(info.chains))[:, :3]).astype(np.uint8)


def cube_points(depth: np.ndarray, crop: Crop, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Readings of a frame (H, W) mm within a crop's cube, thinned out evenly to MAX_POINTS: (n, 3) mm, and
    (n, 2) pixels of the crop."""
    scale, offset = float(crop.M[0, 0]), crop.M[:2, 2].astype(np.float64)
    left, top = np.maximum(np.ceil(-offset / scale), 0).astype(int)
    right, bottom = np.floor((len(crop.image) - 1 - offset) / scale).astype(int) + 1
    window = depth[top:bottom, left:right]
    inside = np.where(np.abs(window - crop.center_xyz[2]) < crop.cube[2] / 2, window, 0)
    xyz, uv = thin_points(inside, camera, MAX_POINTS, (left, top))
    return xyz, uv * scale + offset


def thin_points(
    depth: np.ndarray, camera: Camera, most: int, corner: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Readings of a frame (H, W) mm, thinned out evenly to `most`: (n, 3) mm, and (n, 2) pixels of the frame.
    `corner`: u, v of the first pixel, where `depth` is a window of the frame."""
    v, u = np.nonzero(depth > 0)
    v, u = (places[:: len(u) // most + 1] for places in (v, u))
    uv = np.column_stack([u, v]) + corner
    return camera.uvd_to_xyz(np.column_stack([uv, depth[v, u]]).astype(np.float64)), uv


def _crop_tile(hand: HandPose, info: DatasetInfo) -> np.ndarray:
    """What the network saw, with the joints."""
    tile, M = _shade_crop(hand.crop, TILE), hand.crop.M.astype(np.float64)
    uv = hand.joints_uvd[:, :2] @ M[:2, :2].T + M[:2, 2]
    _draw_skeleton(tile, (uv + 0.5) * TILE / len(hand.crop.image) - 0.5, info, hand)
    _write(tile, f"crop, {hand.handedness}", (8, 18))
    return tile


def _side_tile(depth: np.ndarray, hand: HandPose, info: DatasetInfo, camera: Camera) -> np.ndarray:
    """The hand's points and the joints seen from the right: depth runs to the right."""
    tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)

    def place(xyz: np.ndarray) -> np.ndarray:
        return TILE / 2 + ((xyz - hand.center_xyz) * TILE / hand.crop.cube[2])[:, [2, 1]] * (1, camera.flip)

    points = place(cube_points(depth, hand.crop, camera)[0])
    across, down = points[((points >= 0) & (points < TILE)).all(axis=1)].astype(int).T
    tile[down, across] = 110
    _draw_skeleton(tile, place(hand.joints_xyz), info, hand)
    _write(tile, "from the side", (8, 18))
    return tile


def _shade_crop(crop: Crop, edge: int) -> np.ndarray:
    middle, half = crop.center_xyz[2], crop.cube[2] / 2
    picture = shade(crop.image, middle + half, middle - half)
    return cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_NEAREST)


def _draw_skeleton(picture: np.ndarray, joint_uv: np.ndarray, info: DatasetInfo, hand: HandPose) -> None:
    """Fingers in their colours, with a rim in the hand's; a joint's disc is larger with more confidence."""
    # A hand that is near can project far outside: OpenCV's integers would overflow.
    points = np.clip(np.rint(joint_uv), -10000, 10000).astype(int)
    bones, bone_colors, joint_colors = skeleton(info)
    for a, b in bones:
        cv2.line(picture, points[a], points[b], hand_color(hand), 6, cv2.LINE_AA)
    for (a, b), color in zip(bones, bone_colors[:, ::-1].tolist(), strict=True):
        cv2.line(picture, points[a], points[b], color, 2, cv2.LINE_AA)
    for point, color, share in zip(points, joint_colors[:, ::-1].tolist(), hand.confidence, strict=True):
        cv2.circle(picture, point, 5, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(picture, point, round(1 + 3 * float(share)), color, -1, cv2.LINE_AA)


def _write(picture: np.ndarray, text: str, at: Sequence[int], color: Sequence[int] = (235, 235, 235)) -> None:
    for shift, shown in ((-1, (0, 0, 0)), (1, (0, 0, 0)), (0, color)):  # readable on a hand
        corner = (at[0] + shift, at[1] + shift)
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.45, shown, 1, cv2.LINE_AA)
