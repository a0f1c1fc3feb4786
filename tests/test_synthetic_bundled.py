"""The bundled test split, data/synth/test: what a fresh clone runs on."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from dataloader.nyu import EVALUATED_JOINTS, read_depth
from tests.helpers.project import SHARED
from util.camera import NYU_CAMERA

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


def test_centers_are_near_their_hands(labels):
    centers = np.loadtxt(FOLDER / "center_test_refined.txt")
    joints = labels[1][:, SLOTS]
    assert np.isfinite(joints).all()
    error = centers - (joints.min(1) + joints.max(1)) / 2
    assert np.abs(error.mean(0)).max() < 1.5
    assert 6 < error.std() < 10


@pytest.fixture
def nyu_xyz() -> np.ndarray:
    """NYU's public test labels (8252, 14, 3), mm: of two people, from frame 2,440 on of the second."""
    if not (SHARED / "nyu").is_dir():
        pytest.skip("NYU's test labels are not here")
    return NYU_CAMERA.uvd_to_xyz(np.load(SHARED / "nyu" / "test_labels_uvd.npz")["joint_uvd"].astype(float))


def reach(joints: np.ndarray) -> np.ndarray:
    """Distance of the fingers' and the thumb's joints from the wrist (N, 11), in lengths wrist to palm."""
    wrist = joints[:, 11:13].mean(1)
    palm = np.linalg.norm(joints[:, 13] - wrist, axis=1)
    return np.linalg.norm(joints[:, :11] - wrist[:, None], axis=2) / palm[:, None]


def test_joints_have_nyus_proportions(labels, nyu_xyz):
    ours = reach(labels[1][:, SLOTS])
    for person in (nyu_xyz[:2440], nyu_xyz[2440:]):
        theirs = reach(person)
        straight = [np.percentile(each[:, :8], 98, axis=0) for each in (ours, theirs)]
        np.testing.assert_allclose(*straight, rtol=0.05)
        np.testing.assert_allclose(*(np.median(each[:, 8:], axis=0) for each in (ours, theirs)), rtol=0.05)


def under_the_skin(depth: np.ndarray, uvd: np.ndarray) -> np.ndarray:
    """How far (mm) joints (J, 3) lie behind the surface seen there; NaN where none is."""
    rows = [depth[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2] for u, v in np.rint(uvd[:, :2]).astype(int)]
    seen = [np.median(near[near > 0]) if (near > 0).any() else np.nan for near in rows]
    return uvd[:, 2] - seen


def test_joints_lie_as_deep_under_the_skin_as_nyus(labels, nyu_xyz):
    frames = (read_depth(FOLDER / "test" / f"depth_1_{i + 1:07d}.png") for i in range(200))
    deep = np.array([under_the_skin(*pair) for pair in zip(frames, labels[0][:, SLOTS], strict=False)])
    ours = np.nanmedian(np.where((deep > -10) & (deep < 25), deep, np.nan), axis=0)  # not behind a finger
    frame = read_depth(SHARED / "nyu" / "depth_1_0000001.png")
    theirs = under_the_skin(frame, NYU_CAMERA.xyz_to_uvd(nyu_xyz[0]))
    for part in (slice(0, 10, 2), slice(1, 10, 2)):  # tips, middles
        assert np.mean(theirs[part]) == pytest.approx(np.mean(ours[part]), abs=2)
