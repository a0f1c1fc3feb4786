"""The bundled test split, data/synth/test: what a fresh clone runs on."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from dataloader.nyu import EVALUATED_JOINTS
from util.camera import NYU_CAMERA

FOLDER = Path(__file__).parents[1] / "data" / "synth"
FRAMES = 400


@pytest.fixture(scope="module")
def joint_xyz():
    """The evaluated joints (400, 14, 3), mm."""
    return loadmat(FOLDER / "test" / "joint_data.mat")["joint_xyz"][0][:, list(EVALUATED_JOINTS)]


def test_it_is_whole_and_small():
    files = [file for file in FOLDER.glob("*test*/**/*") if file.is_file()]
    assert len([file for file in files if file.suffix == ".png"]) == FRAMES
    assert sum(file.stat().st_size for file in files) < 8_000_000
    record = json.loads((FOLDER / "test" / "generator.json").read_text())
    expected = {"split": "test", "frames": FRAMES, "seed": 0, "complete": True}
    assert expected.items() <= record.items()


@pytest.mark.slow
def test_it_is_drawn_by_its_recorded_way():
    pytest.importorskip("anny", reason="the bundled split was drawn from anny")
    from dataloader.synthetic.writer import SplitSettings, encode_depth, sample_frame, sample_person
    from results.make_bank import HandModel

    settings = SplitSettings("test", FRAMES, 0, NYU_CAMERA, (480, 640), bank=None)
    person = sample_person(HandModel(), settings, 0)
    for frame in range(3):
        path = FOLDER / "test" / f"depth_1_{frame + 1:07d}.png"
        assert path.read_bytes() == encode_depth(sample_frame(settings, frame, person).depth)


def test_centers_are_near_their_hands(joint_xyz):
    centers = np.loadtxt(FOLDER / "center_test_refined.txt")
    assert np.isfinite(joint_xyz).all()
    error = centers - (joint_xyz.min(1) + joint_xyz.max(1)) / 2
    assert np.abs(error.mean(0)).max() < 1.5
    assert 6 < error.std() < 10
