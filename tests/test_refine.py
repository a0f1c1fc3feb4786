"""Refined centres: the mean of a pose network's joints, found from the depth centre in two passes."""

import json

import numpy as np
import pytest

from config import Config
from dataloader import dataset_info
from dataloader.dataset import build_dataset
from dataloader.index import find_frames
from dataloader.nyu import read_depth
from tests.helpers.blob_network import blob_predictor
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT, SHARED
from tests.helpers.sphere_hands import write_sphere_hands
from util.camera import NYU_CAMERA
from util.checkpoint import RESULTS, ModelSpec, save_checkpoint
from util.inference.centers import center_errors, find_centers, refine_center
from util.inference.find_hand import DEPTH_RANGE, center_from_depth
from util.inference.hands import Candidate
from util.inference.predictor import HandPosePredictor

CENTER = np.array([20.0, -30.0, 700.0])
FRAME = ball_hand(open_hand(CENTER)).astype(np.float32)


def test_the_centre_is_the_mean_of_the_joints_in_a_crop_around_the_first_joints(tmp_path):
    predictor = blob_predictor(tmp_path, denoise=False)
    rough = CENTER + np.array([40, 10, 0])
    refined = refine_center(predictor, FRAME, NYU_CAMERA, rough)
    (first,) = predictor.answer([Candidate(FRAME, rough, "right")], NYU_CAMERA)
    (second,) = predictor.answer([Candidate(FRAME, first.middle, "right")], NYU_CAMERA)
    np.testing.assert_allclose(refined, second.joints_xyz.mean(0))
    assert np.linalg.norm(refined - first.joints_xyz.mean(0)) > 1


@pytest.mark.parametrize("rough", [np.array([9000.0, 0, 700]), CENTER])
def test_where_the_network_sees_no_hand_the_depth_centre_stays(tmp_path, rough):
    strict = blob_predictor(tmp_path, min_confidence=1.0, denoise=False)
    assert refine_center(strict, FRAME, NYU_CAMERA, rough) is rough


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_sphere_hands(root / "synth", "test", 8)
    return root


def test_the_command_writes_centres_that_the_loader_reads(data_dir, tmp_path, run_script):
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "synth", 64)
    save_checkpoint(tmp_path / "a.pth", spec.build(), spec)
    common = ("util.inference.centers", "--data_dir", data_dir, "--method", "refined", "--num_workers", 1)
    out, report = tmp_path / "centers.txt", tmp_path / "e.json"
    found = run_script(*common, "--load_model", tmp_path / "a.pth", "--out", out, "--json", report)
    assert found.code == 0, found.err
    assert json.loads(report.read_text())["frames"] == 8
    used = build_dataset(Config(data_dir=str(data_dir), centers=str(out)).resolved())
    np.testing.assert_allclose(used.index.center_xyz, np.loadtxt(out))
    missing = run_script(*common, "--load_model", "no.pth")
    assert missing.code == 2
    assert "no.pth is missing" in missing.err


def test_the_checkpoints_crop_size_wins_in_scoring(data_dir, tmp_path, run_script):
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "synth", 64)
    save_checkpoint(tmp_path / "a.pth", spec.build(), spec)
    ran = run_script(
        *("test.py", "--data_dir", data_dir, "--load_model", tmp_path / "a.pth"),
        *("--num_workers", 0, "--output_dir", tmp_path),
    )
    assert ran.code == 0, ran.err
    assert "img_size 64: this wins over 128" in ran.out


@pytest.fixture(scope="module")
def shipped():
    return HandPosePredictor(RESULTS / "resnet_18_synth.pth", "cpu", denoise=False)


@pytest.mark.slow
def test_the_shipped_network_finds_the_centres_of_the_bundled_frames(shipped):
    frames = find_frames(Config(data_dir=str(PROJECT / "data")).resolved())
    frames = frames._replace(joint_xyz=frames.joint_xyz[::10], names=frames.names[::10])
    rough, refined = (
        center_errors(find_centers(frames, dataset_info("synth"), DEPTH_RANGE, predictor), frames.joint_xyz)
        for predictor in (None, shipped)
    )
    assert refined.median_mm < 5 < 9 < rough.median_mm
    assert refined.within_20mm > 0.95


@pytest.mark.skipif(not (SHARED / "nyu").is_dir(), reason="the NYU frame is not here")
def test_the_shipped_network_lands_near_the_true_centre(shipped):
    depth = read_depth(SHARED / "nyu" / "depth_1_0000001.png")
    truth = NYU_CAMERA.uvd_to_xyz(
        np.load(SHARED / "nyu" / "test_labels_uvd.npz")["joint_uvd"][0].astype(float)
    )
    rough = center_from_depth(depth, NYU_CAMERA)
    refined = refine_center(shipped, depth, NYU_CAMERA, rough)
    distance = [np.linalg.norm(center - truth.mean(0)) for center in (rough, refined)]
    print(f"{distance[1]:.1f} mm from the mean of the joints, {distance[0]:.1f} before")
    assert distance[1] < 10
