"""The benchmark: rows can be chosen, both ways do the same work, and what is measured is what is written."""

import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from util import UserError
from util.benchmark import Benchmark, BenchmarkConfig, Row
from util.checkpoint import ModelSpec, save_checkpoint

SPEC = ModelSpec("hourglass_1", 14, 2, 0.6, "synth", img_size=32, cube=(250.0, 250.0, 250.0))


@pytest.fixture
def small(tmp_path):
    """Settings for a network with small crops, whose checkpoint this is."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "small.pth", SPEC.build(), SPEC)
    return {"nets": ("hourglass_1",), "load_model": str(tmp_path / "small.pth"), "device": "cpu"}


@pytest.fixture
def benchmark(small):
    return Benchmark(BenchmarkConfig(**small, repeats=1, batch_size=2, precision="fp32"), "hourglass_1")


@pytest.fixture
def measure(small, run_script, tmp_path):
    """Run the command on the small network: how it went, and its rows by name."""

    def measure(*rows):
        file, settings = tmp_path / "rows.json", small | {"rows": rows, "repeats": 1, "batch_size": 2}
        flags = [text for name, value in settings.items() for text in (f"--{name}", *np.atleast_1d(value))]
        ran = run_script("util.benchmark", *flags, "--json", file)
        content = json.loads(file.read_text())
        assert "cores" in content["machine"]
        return ran, {row["name"]: row for row in content["rows"]}

    return measure


def test_rows_are_medians_of_turns_and_say_how_many_times_faster(benchmark, monkeypatch):
    turns = []
    benchmark.repeats = 3
    slow = lambda: turns.append("plain") or time.sleep(0.004)  # noqa: E731
    row = benchmark.compare("a", slow, lambda: turns.append("ours"), [()], 1)
    assert turns == ["plain", "ours"] * 5
    assert row.plain >= 4 > row.ours
    # A run of one way takes 2 s, of the other 0.5 s, but for the first after two of each to warm up.
    clock = iter(np.cumsum([0, 2.0, 0, 0.5] * 2 + [0, 9.0, 0, 9.0] + [0, 2.0, 0, 0.5] * 7))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert benchmark.compare("a", int, str, [()], 1) == Row("a", 2000, 500, 4, "ms")
    assert benchmark.compare("a", int, str, [()], 10, "images/s") == Row("a", 5, 20, 4, "images/s")


def test_chosen_rows_are_printed_and_written(measure):
    ran, rows = measure("moved_hourglass_1_torch_fp32", "live", "frame_hourglass_1_torch")
    assert ran.code == 0, ran.err
    kinds = ("frame", "moved", "live_found", "live_tracked")
    assert {f"{kind}_hourglass_1_torch_fp32" for kind in kinds} <= set(rows)
    assert not any(name.startswith(("batch32", "train")) for name in rows)
    for name, row in rows.items():
        assert set(row) == {"name", "plain", "ours", "ratio", "unit"}
        assert name in ran.out
        assert row["unit"] == "mm" or row["ratio"] == pytest.approx(row["plain"] / row["ours"])


def test_rows_before_a_failure_are_kept(measure, monkeypatch):
    def fail(*_):
        raise UserError("The disk is full.")

    monkeypatch.setattr("util.training.engine.to_device", fail)
    ran, rows = measure("moved_hourglass_1_torch_fp32", "train")
    assert ran.code == 2
    assert "The disk is full" in ran.err
    assert list(rows) == ["moved_hourglass_1_torch_fp32"]


def test_engines_that_are_missing_are_named_and_left_out(measure, monkeypatch):
    def missing(name, _):
        raise UserError(f"{name} is not installed: pip install -r requirements-deploy.txt.")

    monkeypatch.setattr("util.deployment.graph.require", missing)
    monkeypatch.setattr("util.deployment.backends.require", missing)
    ran, rows = measure("frame", "moved")
    assert ran.code == 0, ran.err
    # A Core that an earlier test made stays: then onnx is the first package that is missing.
    assert re.search(r"without openvino fp32 of hourglass_1: (openvino|onnx) is not installed", ran.out)
    assert "without openvino int8 of hourglass_1: no int8 file of the checkpoint lies beside it" in ran.out
    assert {"frame_hourglass_1_torch_fp32", "moved_hourglass_1_torch_fp32"} <= set(rows)
    assert not any("openvino" in name or "onnxruntime" in name for name in rows)
    assert 0 < rows["moved_hourglass_1_torch_fp32"]["ours"] < 0.05


def test_a_checkpoints_own_k_cube_and_crops_reach_the_rows(benchmark):
    settings = benchmark.settings
    assert (settings.kernel_size, settings.cube, settings.img_size) == (0.6, (250, 250, 250), 32)
    assert benchmark.crops.shape == (32, 1, 32, 32)
    assert benchmark.dataset.img_size == 32


def test_an_int8_file_beside_the_checkpoint_is_measured(benchmark, tmp_path, monkeypatch):
    def ours(image):
        return torch.zeros(len(image), 14, 3), torch.ones(len(image), 14)

    monkeypatch.setattr("util.deployment.backends.exported_int8", lambda *_: tmp_path / "small.xml")
    monkeypatch.setattr("util.deployment.backends.load_engine", lambda _: (ours, benchmark.spec))
    benchmark.chosen = ("frame_hourglass_1_openvino_int8", "moved_hourglass_1_openvino_int8")
    assert [row.name for row in benchmark.rows()] == list(benchmark.chosen)


@pytest.mark.slow
def test_both_ways_train_alike(benchmark, monkeypatch):
    losses = {"plain": [], "ours": []}

    def compare(name, plain, ours, calls, frames, unit):
        for _ in range(3):
            plain()
            losses["ours"].append(ours()["loss"])
        return Row(name, 1, 1, 1, unit)

    from model.loss import awr_loss

    def noted(*arguments):
        loss = awr_loss(*arguments)
        losses["plain"].append(sum(loss.terms.values()).item())
        return loss

    monkeypatch.setattr("model.loss.awr_loss", noted)
    benchmark.compare = compare
    # With fewer frames, batch norms of the smallest maps turn rounding into errors of several per cent.
    benchmark.settings.batch_size = 8
    assert benchmark.train_row("train_x").unit == "images/s"
    plain, ours = (np.array(values) for values in losses.values())
    assert ours[0] == pytest.approx(plain[0], rel=1e-3)
    assert abs(ours.mean() / plain.mean() - 1) < 0.5


def test_a_checkpoint_of_another_network_is_said(fails):
    said = fails("util.benchmark", "--load_model", "results/resnet_18_synth.pth")
    assert "results/resnet_18_synth.pth is a resnet_18: give it in --nets, not hourglass_1" in said


def test_live_rows_are_of_whole_frames(benchmark):
    passes, centers = [], []

    def predict(depth, camera, center, handedness):
        centers.append(center)
        assert (depth.shape, handedness) == ((480, 640), "right")

    benchmark.plain = passes.append
    found, tracked = benchmark.live_rows(SimpleNamespace(predict=predict), "live_found_x", "live_tracked_x")
    assert (found.name, found.unit, tracked.name) == ("live_found_x", "ms", "live_tracked_x")
    assert found.ratio == pytest.approx(found.plain / found.ours)
    # 8 frames in three runs of either row.
    assert [center is None for center in centers] == [True] * 24 + [False] * 24
    assert [tuple(crop.shape) for crop in passes] == [(1, 1, 32, 32)] * 48
