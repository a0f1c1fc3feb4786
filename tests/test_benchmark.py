"""The benchmark: both ways do the same work, rows can be chosen, and what is measured is what is written."""

import json
import re
import time

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from config import NYU_CAMERA
from dataloader import build_dataset
from dataloader.crop import crop_hand, network_input
from model.awr import dense_to_joints, joints_to_dense
from tests.helpers.nyu_folder import ball_hand, open_hand
from util import UserError
from util.benchmark import baseline, networks
from util.benchmark.measure import Row, compare, compare_memory
from util.benchmark.networks import (
    live_rows,
    load_for_benchmark,
    network_rows,
    our_step,
    plain_step,
    train_rows,
)
from util.benchmark.settings import BenchmarkConfig
from util.checkpoint import ModelSpec, save_checkpoint, spec_from_config
from util.deployment.folding import example_crops
from util.metrics import joint_errors, score

CPU = torch.device("cpu")


@pytest.fixture
def small_network(tmp_path):
    """Flags for a network with small crops, whose checkpoint this is."""
    torch.manual_seed(0)
    spec = ModelSpec("hourglass_1", 14, 2, 0.4, "synth", img_size=32)
    save_checkpoint(tmp_path / "small.pth", spec.build(), spec)
    return {"nets": "hourglass_1", "load_model": str(tmp_path / "small.pth")}


@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_the_plain_head_computes_the_same(kernel_size):
    image = example_crops(3, 64)
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
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, err_msg=name)


@pytest.mark.parametrize("center", [(0, 0, 700), (-330, 240, 700)], ids=["inside", "over the edge"])
def test_the_plain_crop_is_the_crop(center):
    center, cube = np.array(center, np.float64), np.full(3, 300.0)
    depth = ball_hand(open_hand(center))
    expected = network_input(crop_hand(depth, NYU_CAMERA, center, cube, 128))[0]
    found = baseline.crop(depth, NYU_CAMERA, center, cube, 128)
    assert (found != 1).any()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_time_is_the_median_of_turns():
    turns = []
    row = compare("a", lambda: turns.append("plain") or time.sleep(0.004), lambda: turns.append("ours"), 3)
    assert turns == ["plain", "ours"] * 5
    assert row.plain >= 4 > row.ours


def test_rows_say_how_many_times_better(monkeypatch):
    clock = iter(np.cumsum([0, 2.0, 0, 0.5] * 6))  # a run of one way takes 2 s, of the other 0.5 s
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert compare("a", int, str, 1) == Row("a", 2000, 500, 4, "ms")
    assert compare("a", int, str, 1, frames=10, unit="frames/s") == Row("a", 5, 20, 4, "frames/s")


def test_memory_is_compared_on_a_gpu_only():
    assert list(compare_memory("a", lambda: 0, lambda: 0, CPU)) == []


def test_chosen_rows_are_printed_and_written(run_script, tmp_path):
    file = tmp_path / "rows.json"
    flags = ("--rows", "head_encode,crop,cached", "--repeats", "1", "--json", file, "--img_size", "64")
    ran = run_script("util.benchmark", *flags)
    assert ran.code == 0, ran.err
    content = json.loads(file.read_text())
    assert [row["name"] for row in content["rows"]] == ["head_encode", "crop", "cached_sample"]
    assert "cores" in content["machine"]
    for row in content["rows"]:
        assert set(row) == {"name", "plain", "ours", "ratio", "unit"}
        assert row["ratio"] == pytest.approx(row["plain"] / row["ours"])
        assert row["name"] in ran.out


def test_rows_before_a_failure_are_kept(run_script, tmp_path):
    file = tmp_path / "rows.json"
    flags = ("--rows", "head_encode,crop", "--repeats", "1", "--json", file, "--data_dir", tmp_path)
    ran = run_script("util.benchmark", *flags)
    assert ran.code == 2
    assert "synth" in ran.err
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["head_encode"]


def test_engines_that_are_missing_are_named_and_left_out(run_script, tmp_path, small_network, monkeypatch):
    def missing(name):
        raise UserError(f"{name} is not installed: pip install -r requirements-deploy.txt.")

    monkeypatch.setattr("util.deployment.graph.require", missing)
    monkeypatch.setattr("util.deployment.backends.require", missing)
    flags = [text for name, value in small_network.items() for text in (f"--{name}", value)]
    flags += ["--rows", "frame,moved", "--repeats", "1", "--json", tmp_path / "rows.json"]
    ran = run_script("util.benchmark", *flags, "--device", "cpu")
    assert ran.code == 0, ran.err
    # A Core that an earlier test made stays: then onnx is the first package that is missing.
    assert re.search(r"without openvino fp32 of hourglass_1: (openvino|onnx) is not installed", ran.out)
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert {"frame_hourglass_1_torch_fp32", "moved_hourglass_1_torch_fp32"} <= set(rows)
    assert not any("openvino" in name or "onnxruntime" in name for name in rows)
    assert 0 < rows["moved_hourglass_1_torch_fp32"]["ours"] < 0.05


def test_a_checkpoints_own_k_and_cube_reach_the_rows(tmp_path):
    config = BenchmarkConfig(nets="resnet_18", load_model=str(tmp_path / "own.pth")).resolved()
    spec = spec_from_config(config.project_config("resnet_18"))
    spec = spec._replace(kernel_size=0.6, cube=(200.0, 200.0, 200.0))
    save_checkpoint(tmp_path / "own.pth", spec.build(), spec)
    settings = load_for_benchmark(config, "resnet_18", CPU).config
    assert (settings.kernel_size, settings.cube) == (0.6, (200.0, 200.0, 200.0))
    assert spec_from_config(settings) == spec


def test_of_an_int8_file_only_its_engine_is_measured(small_network, monkeypatch):
    spec = load_for_benchmark(BenchmarkConfig(**small_network), "hourglass_1", CPU).spec
    engine = (lambda image: (torch.zeros(len(image), 14, 3), torch.ones(len(image), 14))), spec
    monkeypatch.setattr(networks, "load_engine", lambda _: engine)
    config = BenchmarkConfig(nets="hourglass_1", load_model="int8.xml", rows="frame,moved", repeats=1)
    rows = list(network_rows(config, load_for_benchmark(config, "hourglass_1", CPU), CPU))
    assert [row.name for row in rows] == [
        "frame_hourglass_1_openvino_int8",
        "moved_hourglass_1_openvino_int8",
    ]
    with pytest.raises(ValueError, match="runs on the CPU: use --device cpu"):
        load_for_benchmark(config, "hourglass_1", torch.device("cuda"))


class FindsEverySecondHand:
    """A predictor that answers for every second of the frames where it has to find the hand."""

    def __init__(self):
        self.calls = []

    def predict(self, depth, camera, center=None):
        self.calls.append(center)
        return depth if center is not None or len(self.calls) % 2 else None


def test_live_rows_are_of_frames_whose_hand_is_found(small_network, monkeypatch):
    config = BenchmarkConfig(**small_network, repeats=1)
    loaded = load_for_benchmark(config, "hourglass_1", CPU)
    predictor, passes = FindsEverySecondHand(), []
    found, tracked = live_rows(config, loaded, "x", passes.append, predictor, CPU)
    assert (found.name, found.unit, tracked.name) == ("live_found_x", "ms", "live_tracked_x")
    assert found.ratio == pytest.approx(found.plain / found.ours)
    # 8 frames to find out, 4 of them in three runs of either row: two passes of the network, then one.
    assert len(predictor.calls) == 8 + 2 * 3 * 4
    assert sum(center is not None for center in predictor.calls) == 3 * 4
    assert [tuple(crop.shape) for crop in passes] == [(1, 1, 32, 32)] * (3 * 4 * 3)


def test_live_rows_need_a_hand(small_network, capsys):
    config = BenchmarkConfig(**small_network, repeats=1)
    predictor = FindsEverySecondHand()
    predictor.predict = lambda *_: None
    loaded = load_for_benchmark(config, "hourglass_1", CPU)
    assert not list(live_rows(config, loaded, "x", lambda _: 0, predictor, CPU))
    assert "without live rows of x: the predictor finds no hand" in capsys.readouterr().out


def test_training_is_measured_both_ways(small_network):
    config = BenchmarkConfig(**small_network, steps=1, batch_size=2, precision="fp32").resolved()
    loaded = load_for_benchmark(config, "hourglass_1", CPU)
    (row,) = train_rows(config, loaded, CPU)
    assert (row.name, row.unit) == ("train_hourglass_1", "images/s")
    assert row.ratio == pytest.approx(row.ours / row.plain)


@pytest.mark.slow
def test_both_ways_train_alike(small_network):
    loaded = load_for_benchmark(BenchmarkConfig(**small_network, precision="fp32"), "hourglass_1", CPU)
    dataset = build_dataset(loaded.config)
    # With fewer frames, batch norms of the smallest maps turn rounding into errors of several per cent.
    batch = default_collate([dataset[i] for i in range(8)])
    plain, ours = plain_step(loaded, batch), our_step(loaded, batch, dataset)
    losses = np.array([(plain(), ours().loss) for _ in range(3)])
    assert losses[0, 1] == pytest.approx(losses[0, 0], rel=1e-3)
    assert abs(losses[:, 1].mean() / losses[:, 0].mean() - 1) < 0.5


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--rows", "speed"), "No row starts with 'speed'"),
        (("--repeats", "0"), "repeats is 0"),
        (("--threads", "-1"), "threads is -1"),
        (("--nets", "resnet_18,hourglas_1"), "There is no network 'hourglas_1'"),
        (("--load_model", "a.pth"), "a.pth is one network's weights: give it alone in --nets"),
        (
            ("--load_model", "results/resnet_18_synth.pth", "--nets", "hourglass_1"),
            "results/resnet_18_synth.pth is a resnet_18: give it in --nets, not hourglass_1",
        ),
        (
            ("--load_model", "results/center_hourglass_1_synth.pth", "--nets", "hourglass_1"),
            "results/center_hourglass_1_synth.pth is a network for the center",
        ),
        (("--load_model", "missing.xml", "--nets", "resnet_18"), "missing.xml is missing"),
        (("--nets", "resnet_18,resnet_34"), "There is no network 'resnet_34'"),
    ],
)
def test_settings_that_cannot_work(flags, sentence, run_script, tmp_path):
    ran = run_script("util.benchmark", *flags, "--json", tmp_path / "rows.json")
    assert ran.code == 2
    assert sentence in ran.err
    assert not list(tmp_path.iterdir())
