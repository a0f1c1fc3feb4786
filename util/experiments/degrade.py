"""Frames made worse, one thing at a time: the centre, the sensor, what stands in front, the hand."""

import cv2
import numpy as np

from dataloader.dataset import HandDataset

BAR_MM = 80.0  # from the centre towards the camera
WRIST = [11, 12]  # of NYU's joints, which the shipped networks predict

# What changes: its unit, and its levels, the harmless one first.
CURVES: dict[str, tuple[str, tuple[float, ...]]] = {
    "centre error": ("mm", (0, 10, 20, 30, 40, 60)),
    "sensor noise": ("mm", (0, 2, 5, 10, 20)),
    "lost pixels": ("of all", (0, 0.1, 0.3, 0.5, 0.7)),
    "coarser pixels": ("pixels a side", (1, 2, 3)),
    "turned, blended": ("degrees", (0, 5, 15)),
    "bar in front": ("mm wide", (0, 10, 20, 40, 60)),
    "cube edge": ("× the data set's", (1, 0.7, 0.85, 1.2, 1.5)),
    "hand size": ("× its own", (1, 0.7, 0.85, 1.15, 1.3)),
    "forearm seen": ("mm beyond the wrist", (150, 60, 30, 0)),
}


def degrade(data: HandDataset, i: int, curve: str, level: float) -> tuple[np.ndarray, ...]:
    """Frame i of a split with one thing changed; what is drawn at random is the same at every level.

    Returns depth (H, W) float32, 0 where nothing was measured, centre (3,), cube (3,) and joints (J, 3); mm.
    """
    index, camera, rng = data.index, data.camera.of(i), np.random.default_rng((1, i))
    depth = index.read_depth(index.frame_path(i)).astype(np.float32)
    joints, center, cube = index.joint_xyz[i], index.center_xyz[i], index.cube[i]
    match curve:
        case "centre error":
            direction = rng.standard_normal(3)
            center = center + level * direction / np.linalg.norm(direction)
        case "sensor noise":  # normal, on every pixel that was measured
            noisy = depth + np.float32(level) * rng.standard_normal(depth.shape, np.float32)
            depth = np.where(depth > 0, noisy.clip(1), 0)
        case "lost pixels":
            depth = np.where(rng.random(depth.shape) < level, 0, depth)
        case "coarser pixels":  # only the middle of every `level` × `level` is measured, and stands for all
            rows, columns = (np.arange(edge) // level * level + level // 2 for edge in depth.shape)
            depth = depth[rows.clip(max=len(depth) - 1)][:, columns.clip(max=depth.shape[1] - 1)]
        case "turned, blended":  # about the centre's pixel; neighbouring depths are mixed
            u, v, _ = camera.xyz_to_uvd(center).tolist()
            matrix = cv2.getRotationMatrix2D((u, v), level, 1.0)
            depth = cv2.warpAffine(depth, matrix, depth.shape[::-1], flags=cv2.INTER_LINEAR)
            uvd = camera.xyz_to_uvd(np.asarray(joints, np.float64))
            uvd[:, :2] = uvd[:, :2] @ matrix[:, :2].T + matrix[:, 2]
            joints = camera.uvd_to_xyz(uvd)
        case "bar in front":  # an upright bar
            x, y, z = center - (0, 0, BAR_MM)
            left, right = (camera.xyz_to_uvd(np.array([x + s * level / 2, y, z]))[0] for s in (-1, 1))
            u = np.arange(depth.shape[1])
            hidden = (left < u) & (u < right) & ((depth == 0) | (depth > z))
            depth = np.where(hidden, np.float32(z), depth)
        case "cube edge":
            cube = cube * level
        case "hand size":  # as much farther away: the pixels stay, their depth grows
            depth, joints, center = depth * np.float32(level), joints * level, center * level
        case "forearm seen":  # along the line from the joints' mean through the wrist
            wrist = joints[WRIST].mean(axis=0)
            axis = wrist - joints.mean(axis=0)
            v, u = np.indices(depth.shape, np.float32)
            xyz = camera.uvd_to_xyz(np.stack([u, v, depth.clip(1)], axis=-1))
            depth = np.where((xyz - wrist) @ axis > level * np.linalg.norm(axis), 0, depth)
    return depth, center, cube, joints
