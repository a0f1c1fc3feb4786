"""The bundled test split, data/synth/test: what a fresh clone runs on. Needs no anny."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from dataloader.nyu import EVALUATED_JOINTS

FOLDER = Path(__file__).parents[1] / "data" / "synth"
SLOTS = list(EVALUATED_JOINTS)
FRAMES = 400


@pytest.fixture(scope="module")
def labels():
    """joint_uvd and joint_xyz of camera 0: (400, 36, 3) each."""
    mat = loadmat(FOLDER / "test" / "joint_data.mat")
    return mat["joint_uvd"][0], mat["joint_xyz"][0]


def test_it_is_whole_and_small():
    files = [file for file in FOLDER.glob("*test*/**/*") if file.is_file()]
    assert len([file for file in files if file.suffix == ".png"]) == FRAMES
    assert sum(file.stat().st_size for file in files) < 8_000_000
    record = json.loads((FOLDER / "test" / "generator.json").read_text())
    assert (record["split"], record["frames"], record["seed"], record["complete"]) == (
        "test",
        FRAMES,
        0,
        True,
    )


def test_labels_fill_the_evaluated_slots(labels):
    for joints in labels:
        assert joints.shape == (FRAMES, 36, 3)
        assert (np.isfinite(joints).all((0, 2)) == np.isin(np.arange(36), SLOTS)).all()
    skeleton = np.load(FOLDER / "test" / "joints21.npz")["xyz"]
    assert skeleton.shape == (FRAMES, 21, 3)
    # The two skeletons share the tips of all fingers.
    assert np.allclose(skeleton[:, [20, 16, 12, 8, 4]], labels[1][:, [0, 6, 12, 18, 24]], atol=1e-3)


def test_centers_are_near_their_hands(labels):
    centers = np.loadtxt(FOLDER / "center_test_refined.txt")
    joints = labels[1][:, SLOTS]
    error = centers - (joints.min(1) + joints.max(1)) / 2
    assert np.abs(error.mean(0)).max() < 1.5
    assert 6 < error.std() < 10


def test_joints_lie_on_the_hand_in_the_image(labels):
    under, inside = 0, 0
    for i, uvd in enumerate(labels[0][:, SLOTS]):
        image = cv2.imread(str(FOLDER / "test" / f"depth_1_{i + 1:07d}.png"))
        assert image[..., 2].max() == 0
        depth = image[..., 1].astype(np.float32) * 256 + image[..., 0]
        # The nearest surface within a few pixels: a lost reading beside a joint is no wrong label.
        near = cv2.erode(np.where(depth > 0, depth, 9999), np.ones((9, 9), np.uint8))
        u, v = np.rint(uvd[:, :2]).astype(int).T
        seen = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
        assert seen.sum() >= 6
        under += (near[v[seen], u[seen]] < uvd[seen, 2] + 10).sum()
        inside += seen.sum()
    assert under > 0.995 * inside
    assert inside > 0.97 * labels[0][:, SLOTS, 0].size


def test_all_hands_are_right_hands(labels):
    xyz = labels[1]
    wrist = (xyz[:, 30] + xyz[:, 31]) / 2
    up, radial = xyz[:, 32] - wrist, xyz[:, 31] - xyz[:, 30]
    # In NYU's left-handed frame radial × distal points out of the back of a right hand; its fingers bend to
    # the other side, and so does its thumb.
    back = np.cross(radial, up)
    for tip in (0, 6, 12, 18, 24):
        side = ((xyz[:, tip] - wrist) * back).sum(1)
        assert (side < 0).mean() > 0.75
    # The thumb is on the radial side.
    assert (((xyz[:, 27] - wrist) * radial).sum(1) > 0).mean() > 0.98
