"""Refined centres: what a pass does to a centre, training for them, and the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from config import Config
from dataloader.dataset import build_dataset
from dataloader.index import find_frames
from dataloader.nyu import read_depth
from model.awr import joints_to_dense
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.sphere_hands import write_sphere_hands
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint
from util.inference.center_network import (
    CENTER_CHECKPOINT,
    PASSES,
    CenterNetwork,
    load_center_network,
    refine_centers,
)
from util.inference.centers import center_errors, find_centers
from util.inference.find_hand import DEPTH_RANGE, center_from_depth

PROJECT = Path(__file__).parents[1]
NYU = PROJECT.parent / "shared" / "nyu"
CUBE = (400.0, 400.0, 400.0)
CENTER = np.array([20.0, -30.0, 700.0])
FRAME = ball_hand(open_hand(CENTER)).astype(np.float32)


class Points(nn.Module):
    """Maps of a joint that always lies at the same place of the crop."""

    def __init__(self, joint_uvd):
        super().__init__()
        self.joint_uvd = nn.Parameter(torch.tensor(joint_uvd, dtype=torch.float32)[None, None])

    def forward(self, image):
        joint_uvd = self.joint_uvd.expand(len(image), -1, -1)
        return [joints_to_dense(joint_uvd, image, 1.0, image.shape[-1] // 2)]


def pointing(joint_uvd):
    return CenterNetwork(Points(joint_uvd).eval(), torch.device("cpu"), 128, CUBE, 1.0)


def test_a_centre_that_the_network_confirms_stays():
    refined = refine_centers(pointing((0, 0, 0)), [FRAME, FRAME], NYU_CAMERA, np.stack([CENTER, CENTER + 15]))
    # The crop's window is cut at whole pixels, about 1.2 mm wide here.
    np.testing.assert_allclose(refined, [CENTER, CENTER + 15], atol=1.0 * PASSES)


def test_every_pass_moves_the_centre_to_where_the_network_points():
    refined = refine_centers(pointing((0, 0, 0.1)), [FRAME], NYU_CAMERA, CENTER[None])
    assert refined[0, 2] == pytest.approx(CENTER[2] + PASSES * 0.1 * CUBE[2] / 2, abs=0.5)
    moved = refine_centers(pointing((0.1, -0.05, 0)), [FRAME], NYU_CAMERA, CENTER[None])
    expected = CENTER + PASSES * np.array([0.1 * CUBE[0] / 2, 0.05 * CUBE[1] / 2, 0])  # v points down, y up
    np.testing.assert_allclose(moved[0], expected, atol=2.5)


def test_frames_without_a_usable_centre_keep_what_they_have():
    rough = np.array([[np.nan] * 3, [0, 0, -5], [9000, 0, 700], CENTER])
    refined = refine_centers(pointing((0, 0, 0.1)), [FRAME] * 4, NYU_CAMERA, rough)
    np.testing.assert_array_equal(refined[:3], rough[:3])
    assert refined[3, 2] > CENTER[2] + 20
    np.testing.assert_array_equal(
        refine_centers(pointing((0, 0, 0)), [FRAME], NYU_CAMERA, rough[:1]), rough[:1]
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val", "test"):
        write_sphere_hands(root / "synth", split, 8)
    return root


def test_the_target_is_the_mean_joint_in_a_wider_crop_around_a_rough_centre(data_dir):
    joints = Config(data_dir=str(data_dir), split="test").resolved()
    center = Config(data_dir=str(data_dir), split="test", target="center").resolved()
    assert center.cube == (400, 400, 400)
    assert center.output_dir != joints.output_dir
    expected = find_frames(joints).joint_xyz.mean(axis=1, keepdims=True)
    np.testing.assert_array_equal(find_frames(center).joint_xyz, expected)
    dataset = build_dataset(center)
    np.testing.assert_array_equal(dataset.index.joint_xyz, expected)
    samples = [dataset[i] for i in range(8)]
    for sample, true_xyz in zip(samples, expected, strict=True):
        np.testing.assert_allclose(sample.joint_xyz * 200 + sample.center_xyz, true_xyz, atol=1e-3)
    moved = np.array([sample.center_xyz for sample in samples]) - dataset.index.center_xyz
    assert 20 < moved.std() < 80
    np.testing.assert_array_equal(dataset[3].image, samples[3].image)  # the same draw every time ...
    dataset.set_epoch(1)
    assert not np.array_equal(dataset[3].image, samples[3].image)  # ... in an epoch
    assert np.abs(moved).max() <= 2.5 * 40 + 1e-3
    still = build_dataset(Config(data_dir=str(data_dir), target="center", center_noise=0).resolved())
    np.testing.assert_allclose(still[0].center_xyz, still.index.center_xyz[0], atol=1e-3)


def test_a_cache_of_fixed_crops_refuses_centres_that_move(data_dir):
    for changes in ({"target": "center"}, {"center_noise": 5.0}):
        with pytest.raises(ValueError, match="leave one of them out"):
            Config(data_dir=str(data_dir), cache=True, **changes).resolved()
    Config(target="center", center_noise=0.0, cache=True).resolved().resolved()


@pytest.mark.slow
def test_train_score_and_find_centres(data_dir, tmp_path, run_script):
    """One step, then every command that takes what it wrote."""
    common = ("--data_dir", data_dir, "--target", "center", "--net", "hourglass_1", "--img_size", 32)
    common = (*common, "--num_workers", 0, "--output_dir", tmp_path)
    trained = run_script("train.py", *common, "--max_epoch", 1, "--batch_size", 8)
    assert trained.code == 0, trained.err
    weights = tmp_path / "best.pth"
    network = load_center_network(weights, torch.device("cpu"))
    assert (network.img_size, network.cube, network.kernel_size) == (32, CUBE, 0.4)

    scored = run_script("test.py", *common, "--load_model", weights)
    assert scored.code == 0, scored.err
    assert list(json.loads((tmp_path / "metrics.json").read_text())["per_joint_mm"]) == ["center"]

    out = tmp_path / "center_test_refined.txt"
    found = run_script(
        *("util.inference.centers", "--data_dir", data_dir, "--method", "refined", "--load_model", weights),
        *("--out", out, "--json", tmp_path / "e.json"),
    )
    assert found.code == 0, found.err
    assert json.loads((tmp_path / "e.json").read_text())["frames"] == 8
    used = build_dataset(Config(data_dir=str(data_dir), centers=str(out)).resolved())
    np.testing.assert_allclose(used.index.center_xyz, np.loadtxt(out))


def test_networks_for_joints_and_for_centres_are_not_confused(data_dir, tmp_path, run_script):
    for target, joints in (("center", 1), ("joints", 14)):
        spec = ModelSpec("resnet_18", joints, 4, 1.0, "synth", 64, target)
        save_checkpoint(tmp_path / f"{target}.pth", spec.build(), spec)
    wrong = run_script("test.py", "--data_dir", data_dir, "--load_model", tmp_path / "center.pth")
    assert wrong.code == 2
    assert "is a network for the center: use --target center" in wrong.err
    wrong = run_script(
        *("util.inference.centers", "--data_dir", data_dir, "--method", "refined"),
        *("--load_model", tmp_path / "joints.pth"),
    )
    assert wrong.code == 2
    assert "is a network for the joints" in wrong.err
    missing = run_script(
        "util.inference.centers", "--data_dir", data_dir, "--method", "refined", "--load_model", "no.pth"
    )
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
    return load_center_network(CENTER_CHECKPOINT, torch.device("cpu"))


@pytest.mark.slow
def test_the_shipped_network_finds_the_centres_of_the_bundled_frames(shipped):
    frames = find_frames(Config(data_dir=str(PROJECT / "data")).resolved())
    every_tenth = frames._replace(
        joint_xyz=frames.joint_xyz[::10], frame_path=lambda i: frames.frame_path(10 * i)
    )
    rough, refined = (
        center_errors(
            find_centers(every_tenth, NYU_CAMERA, (480, 640), DEPTH_RANGE, network), every_tenth.joint_xyz
        )
        for network in (None, shipped)
    )
    assert refined.median_mm < 9 < rough.median_mm
    assert refined.within_20mm > 0.9


@pytest.mark.skipif(not NYU.is_dir(), reason="the NYU frame is not here")
def test_the_shipped_network_lands_near_a_released_centre(shipped):
    depth = read_depth(NYU / "depth_1_0000001.png")
    released = np.loadtxt(NYU / "center_test_refined.txt", max_rows=1)
    rough = center_from_depth(depth, NYU_CAMERA)
    distance = np.linalg.norm(refine_centers(shipped, [depth], NYU_CAMERA, rough[None])[0] - released)
    print(f"{distance:.1f} mm from the released centre")
    assert distance < 20
