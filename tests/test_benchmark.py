"""The benchmark: both ways do the same work, rows can be chosen, and what is measured is what is written."""

import json
import time

import numpy as np
import pytest
import torch

from config import NYU_CAMERA
from dataloader.crop import crop_hand, normalize_depth
from model.awr import dense_to_joints, joints_to_dense
from tests.helpers.nyu_folder import ball_hand, open_hand
from util.benchmark import baseline
from util.benchmark import networks as benchmark_networks
from util.benchmark.measure import (
    BenchmarkConfig,
    Row,
    duration_row,
    memory_rows,
    peak_memory_mb,
    rate_row,
    time_in_turn,
)
from util.checkpoint import save_checkpoint, spec_from_config
from util.deployment.export import plate_images
from util.metrics import joint_errors, score


@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_the_plain_head_computes_the_same(kernel_size):
    image = plate_images(3, 64)
    joint_uvd = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    dense = joints_to_dense(joint_uvd, image, kernel_size, 32)
    torch.testing.assert_close(
        baseline.dense_of_joints(joint_uvd, image, kernel_size, 32), dense, rtol=0, atol=1e-5
    )
    found = baseline.joints_of_dense(dense, image, kernel_size)
    torch.testing.assert_close(found, dense_to_joints(dense, image, kernel_size), rtol=0, atol=1e-5)


def test_the_plain_metrics_are_the_metrics():
    rng = np.random.default_rng(0)
    true_xyz = rng.uniform(-100, 100, (20, 14, 3))
    predicted = true_xyz + rng.normal(0, 10, true_xyz.shape)
    found, expected = baseline.metrics(predicted, true_xyz), score(joint_errors(predicted, true_xyz))
    assert found["mpe"] == pytest.approx(expected.mpe_mm)
    np.testing.assert_allclose(found["pck"], expected.pck)
    assert found["median"] == pytest.approx(expected.median_mm)
    np.testing.assert_allclose(found["worst"], expected.success_worst)
    np.testing.assert_allclose(found["mean"], expected.success_mean)


@pytest.mark.parametrize("center", [(0, 0, 700), (-330, 240, 700)], ids=["inside", "over the edge"])
def test_the_plain_crop_is_the_crop(center):
    center, cube = np.array(center, np.float64), np.full(3, 300.0)
    depth = ball_hand(open_hand(center))
    made = crop_hand(depth, NYU_CAMERA, center, cube, 128)
    expected = normalize_depth(made.image, made.image.max(), center[2], cube[2])
    found = baseline.crop(depth, NYU_CAMERA, center, cube, 128)
    assert (found != 1).any()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_time_is_the_median_of_turns():
    turns = []
    ways = [lambda: turns.append("plain") or time.sleep(0.004), lambda: turns.append("ours")]
    slow, quick = time_in_turn(ways, repeats=3)
    assert turns == ["plain", "ours"] * 5
    assert slow >= 0.004 > quick


def test_rows_say_how_many_times_better():
    assert duration_row("a", 0.2, 0.1) == Row("a", 200, 100, 2, "ms")
    assert rate_row("a", 2.0, 0.5, 10, "frames/s") == Row("a", 5, 20, 4, "frames/s")


def test_peak_memory_is_seen():
    megabytes = peak_memory_mb(lambda: np.ones(4_000_000).sum())
    if megabytes is None:
        pytest.skip("this system does not tell")
    assert 25 < megabytes < 60
    (row,) = memory_rows("a", lambda: np.ones(8_000_000).sum(), lambda: np.ones(4_000_000).sum())
    assert row.name == "memory_a"
    assert row.ratio == pytest.approx(2, rel=0.3)


def test_memory_that_is_not_told_is_no_row(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert list(memory_rows("a", lambda: 0, lambda: 0)) == []


def test_the_sweep_over_frames_reads_labels_for_the_first_time_and_again(run_script, tmp_path):
    flags = ("--rows", "sweep_index,sweep_metrics", "--most_frames", "1000", "--output_dir", tmp_path)
    ran = run_script("util.benchmark", *flags)
    assert ran.code == 0, ran.err
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    names = ["sweep_metrics_1000", "sweep_index_first_1000", "sweep_index_again_1000"]
    assert [row["name"] for row in rows] == names
    assert rows[1]["plain"] == rows[2]["plain"]
    assert rows[1]["ours"] > rows[2]["ours"]


def test_chosen_rows_are_printed_and_written(run_script, tmp_path):
    file = tmp_path / "rows.json"
    flags = ("--rows", "head_encode,crop,cached", "--repeats", "1", "--json", file, "--img_size", "64")
    ran = run_script("util.benchmark", *flags, "--output_dir", tmp_path)
    assert ran.code == 0, ran.err
    content = json.loads(file.read_text())
    assert [row["name"] for row in content["rows"]] == ["head_encode", "crop", "cached_sample"]
    assert "cores" in content["machine"]
    for row in content["rows"]:
        assert set(row) == {"name", "plain", "ours", "ratio", "unit"}
        assert row["ratio"] == pytest.approx(row["plain"] / row["ours"])
        assert row["name"] in ran.out


def test_engines_that_are_missing_are_named_and_left_out(run_script, tmp_path, monkeypatch):
    def missing(name):
        raise ValueError(f"{name} is not installed: pip install -r requirements-deploy.txt.")

    monkeypatch.setitem(benchmark_networks.MATRICES, "cpu", 256)
    monkeypatch.setattr("util.deployment.export.require", missing)
    monkeypatch.setattr("util.deployment.backends.require", missing)
    flags = (
        "--rows",
        "frame,memory_frame,limit,moved",
        "--nets",
        "resnet_18",
        "--repeats",
        "1",
        "--img_size",
        "32",
    )
    ran = run_script(
        "util.benchmark", *flags, "--downsample", "4", "--output_dir", tmp_path, "--device", "cpu"
    )
    assert ran.code == 0, ran.err
    assert "without openvino fp32: onnx is not installed" in ran.out
    rows = {row["name"]: row for row in json.loads((tmp_path / "benchmark.json").read_text())["rows"]}
    assert {"frame_resnet_18_torch_fp32", "frame_resnet_18", "memory_frame_resnet_18_torch_fp32"} <= set(rows)
    assert 0 < rows["limit_frame_resnet_18"]["ratio"] < 2
    assert 0 < rows["moved_resnet_18_torch_fp32"]["ours"] < 0.05


def test_a_checkpoints_own_k_and_cube_reach_the_rows(tmp_path):
    config = BenchmarkConfig(nets="resnet_18", load_model=str(tmp_path / "own.pth")).resolved()
    spec = spec_from_config(config)._replace(kernel_size=0.6, cube=(200.0, 200.0, 200.0))
    save_checkpoint(tmp_path / "own.pth", spec.build(), spec)
    settings = benchmark_networks.as_trained(config)
    assert (settings.kernel_size, settings.cube) == (0.6, (200.0, 200.0, 200.0))
    assert spec_from_config(settings) == spec


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--rows", "speed"), "No row starts with 'speed'"),
        (("--repeats", "0"), "repeats is 0"),
        (("--nets", "resnet_18,hourglas_1"), "There is no network 'hourglas_1'"),
        (("--load_model", "a.pth"), "a.pth is one network's weights: give it alone in --nets"),
        (
            ("--load_model", "results/resnet_18_synth.pth", "--nets", "hourglass_1"),
            "results/resnet_18_synth.pth is a resnet_18: give it in --nets, not hourglass_1",
        ),
        (
            ("--load_model", "results/center_hourglass_1_synth.pth", "--nets", "hourglass_1"),
            "results/center_hourglass_1_synth.pth predicts 1 joints, target center: data set synth, "
            "target joints, has 14",
        ),
        (("--nets", "resnet_18,resnet_34"), "There is no network 'resnet_34'"),
    ],
)
def test_settings_that_cannot_work(flags, sentence, run_script, tmp_path):
    ran = run_script("util.benchmark", *flags, "--output_dir", tmp_path)
    assert ran.code == 2
    assert sentence in ran.err
    assert not list(tmp_path.iterdir())
