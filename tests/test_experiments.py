"""The experiments: what they compare is computed right, and each runs, goes on, and then does nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config import NYU_CAMERA, NYU_JOINTS
from dataloader.dataset import make_sample
from dataloader.index import FrameIndex
from model.awr import dense_to_joints, joints_to_dense
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT
from tests.helpers.sphere_hands import write_sphere_hands
from util.experiments.aggregation import AGGREGATIONS, votes_of
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig
from util.experiments.degrade import CURVES, degrade
from util.experiments.report import as_markdown, verdict
from util.plots import draw_curves

CENTER = np.array([20.0, -10, 700])
CUBE = np.full(3, 300.0)
TRAINED = [name for name, (_, variants) in EXPERIMENTS.items() if variants]


@pytest.fixture(scope="module")
def sample():
    """A batch of one crop and its joints."""
    joints = open_hand(CENTER)
    made = make_sample(ball_hand(joints), NYU_CAMERA, CENTER, CUBE, joints, 128)
    return torch.from_numpy(made.image)[None], torch.from_numpy(made.joint_uvd)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of few hands of spheres under synth's name: train, val and test."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate({"train": 8, "val": 2, "test": 3}.items()):
        write_sphere_hands(root / "synth", split, count, seed)
    return root


def test_the_papers_way_is_among_the_aggregations(sample):
    image, joints = sample
    dense = joints_to_dense(joints, image, 0.4, 64)
    dense += 0.1 * torch.randn(dense.shape, generator=torch.Generator().manual_seed(0))
    found = AGGREGATIONS["adaptive weights, temperature 30"](votes_of(dense, image, 0.4))
    torch.testing.assert_close(found, dense_to_joints(dense, image, 0.4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_votes_that_agree_make_the_joint(sample, name):
    image, joints = sample
    found = AGGREGATIONS[name](votes_of(joints_to_dense(joints, image, 0.4, 64), image, 0.4))
    error = (found - joints).norm(dim=-1).max()
    if name.startswith("adaptive"):  # the background takes part: little at 30, nearly alone at 1
        assert error < {30: 2e-2, 100: 1e-3, 10: 0.7, 3: 2, 1: 2}[int(name.split()[-1])]
    elif name.startswith("place"):  # the nearest pixel of a ball of 18 mm around the joint
        assert 18 / 150 - 0.02 < error < 18 / 150 + 0.02
    else:
        assert error < 1e-4


@pytest.fixture(scope="module")
def index(folder):
    """The index of two frames in memory."""
    joints = np.stack([open_hand(CENTER), open_hand(CENTER + 30)])
    frames = [ball_hand(j) for j in joints]
    return FrameIndex(
        joints,
        joints.mean(axis=1),
        np.stack([CUBE, CUBE]),
        np.array([b"0.png", b"1.png"]),
        Path("."),
        lambda path: frames[int(path.stem)],
    )


def change(index, name, level):
    """An index with one thing changed, and its first frame."""
    changed = degrade(index, NYU_CAMERA, CURVES[name], level, NYU_JOINTS)
    return changed, np.asarray(changed.read_depth(changed.frame_path(0)), np.float64)


@pytest.mark.parametrize("name", CURVES)
def test_the_first_level_changes_nothing_that_a_crop_sees(index, name):
    changed, depth = change(index, name, CURVES[name].levels[0])
    np.testing.assert_array_equal(depth, index.read_depth(Path("0.png")))
    for field in ("joint_xyz", "center_xyz", "cube"):
        np.testing.assert_allclose(getattr(changed, field), getattr(index, field))


def test_centres_move_by_as_much_as_is_said(index):
    changed, _ = change(index, "centre error", 20)
    np.testing.assert_allclose(np.linalg.norm(changed.center_xyz - index.center_xyz, axis=1), 20)
    assert np.ptp(changed.center_xyz - index.center_xyz, axis=0).max() > 1  # each its own way


def test_a_larger_hand_in_a_larger_cube_is_the_same_crop(index):
    changed, depth = change(index, "hand size", 1.3)
    one, other = (
        make_sample(frame, NYU_CAMERA, i.center_xyz[0], CUBE * factor, i.joint_xyz[0], 128)
        for i, frame, factor in ((index, index.read_depth(Path("0.png")), 1), (changed, depth, 1.3))
    )
    np.testing.assert_allclose(other.image, one.image, atol=1e-5)
    np.testing.assert_allclose(other.joint_uvd, one.joint_uvd, atol=1e-5)


def test_sensors_get_worse_on_what_they_measured(index):
    before = index.read_depth(Path("0.png"))
    hand = before > 0
    _, noisy = change(index, "sensor noise", 5)
    assert not noisy[~hand].any()
    assert np.std(noisy[hand] - before[hand]) == pytest.approx(5, rel=0.1)
    _, holed = change(index, "lost pixels", 0.3)
    assert np.mean(holed[hand] == 0) == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(holed[holed > 0], before[holed > 0])
    np.testing.assert_array_equal(change(index, "lost pixels", 0.3)[1], holed)  # the same again


def test_a_slab_hides_what_is_behind_it(index):
    before, (_, depth) = index.read_depth(Path("0.png")), change(index, "slab in front", 40)
    center = index.center_xyz[0]
    columns = np.flatnonzero((depth != before).any(axis=0))
    assert np.ptp(columns) + 1 == pytest.approx(40 * NYU_CAMERA.fx / (center[2] - 80), abs=1.5)
    assert (depth[:, columns] == center[2] - 80).all()  # the hand is behind it everywhere


def test_the_forearm_goes_and_the_hand_stays(index):
    before, (_, depth) = index.read_depth(Path("0.png")), change(index, "forearm seen", 0)
    gone = (depth == 0) & (before > 0)
    assert gone.any()
    assert not (depth != before)[~gone].any()
    wrist_v = NYU_CAMERA.xyz_to_uvd(index.joint_xyz[0][11:13])[:, 1].mean()  # fingers point up
    assert np.argwhere(gone)[:, 0].min() >= wrist_v - 1


def test_differences_within_the_seeds_spread_are_undecided():
    assert verdict([11.0, 12.0], [10.0, 10.5]) == "worse by 12%"
    assert verdict([9.0, 9.2], [10.0, 10.5]) == "better by 11%"
    assert verdict([10.2, 12.0], [10.0, 10.5]) == "undecided"
    assert verdict([10.05, 10.06], [10.0, 10.01]) == "undecided"  # half a percent
    assert verdict([5.0], [10.0, 10.5]) == "one seed"
    records = [
        {"row": row, "column": "net", "seed": seed, "mpe_mm": error + seed, "ms a crop": 4.0}
        for row, error in (("a", 10.0), ("b", 20.0))
        for seed in (0, 1)
    ]
    table = as_markdown(records).splitlines()
    assert table[2] == "| a | 10.50 (10.00 to 11.00) | 4 |"
    assert table[3] == "| b | 20.50 (20.00 to 21.00), worse by 95% | 4 |"


def test_curves_are_drawn_while_some_are_missing():
    common = {"curve": "noise", "unit": "mm", "mpe_mm": 7.0}
    records = [{"column": "a", "level": level, **common} for level in (0, 5)]
    records += [{"column": "b", "level": 0, **common, "curve": "cube", "mpe_mm": 90.0}]
    panels = draw_curves(records).axes
    assert [len(line.get_xdata()) for axes in panels[:2] for line in axes.lines] == [2, 0, 0, 1]
    assert panels[0].get_ylim()[1] < 20 < 90 < panels[1].get_ylim()[1]  # each has its own scale


def run_tiny(run_script, folder, out, name, *more):
    """An experiment at the smallest scale."""
    tiny = ("--data_dir", folder, "--output_dir", out, "--img_size", "32", "--crops", "16", "--seeds", "1")
    return run_script("util.experiments", name, *tiny, "--num_workers", "0", "--frames", "2", *more)


def stamps(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def check_report(folder, name, rows):
    assert len(json.loads((folder / name / "table.json").read_text())) == rows
    assert cv2.imread(str(folder / name / "figure.png")).shape[0] > 100
    assert (folder / name / "table.md").read_text().count("\n") > 2


def test_aggregation_runs_and_a_second_call_does_nothing(folder, tmp_path, run_script):
    ran = run_tiny(run_script, folder, tmp_path, "aggregation", "--nets", "hourglass_1")
    assert ran.code == 0, ran.err
    check_report(tmp_path, "aggregation", len(AGGREGATIONS))
    before = stamps(tmp_path)
    again = run_tiny(run_script, folder, tmp_path, "aggregation", "--nets", "hourglass_1")
    assert again.code == 0
    assert "minutes left" not in again.out
    assert stamps(tmp_path) == before


def test_other_frames_are_measured_again_and_reported(folder, tmp_path, run_script):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    out, arguments = tmp_path / "out", ("aggregation", "--nets", "hourglass_1")
    tables = []
    for seed in (2, 9, 2):  # as many frames each time
        shutil.rmtree(data / "synth" / "test")
        write_sphere_hands(data / "synth", "test", 3, seed)
        ran = run_tiny(run_script, data, out, *arguments)
        assert ran.code == 0, ran.err
        tables.append((out / "aggregation" / "table.json").read_text())
    assert "minutes left" not in ran.out  # measured already
    assert tables[0] == tables[2] != tables[1]
    assert tables[2] == (out / "aggregation" / "table.json").read_text()


@pytest.mark.slow
def test_robustness_runs(folder, tmp_path, run_script):
    ran = run_tiny(run_script, folder, tmp_path, "robustness", "--nets", "hourglass_1")
    assert ran.code == 0, ran.err
    check_report(tmp_path, "robustness", sum(len(curve.levels) for curve in CURVES.values()))


@pytest.mark.slow
def test_every_experiment_trains_and_they_share_runs(folder, tmp_path, run_script, monkeypatch):
    question, variants = EXPERIMENTS["kernel"]
    some = {place: change for place, change in variants.items() if change["kernel_size"] in (1.0, 0.4)}
    monkeypatch.setitem(EXPERIMENTS, "kernel", (question, some))  # eight runs take a minute
    for name in TRAINED:
        ran = run_tiny(run_script, folder, tmp_path, name)
        assert ran.code == 0, ran.err
        check_report(tmp_path, name, len(EXPERIMENTS[name][1]))
    runs = list((tmp_path / "runs").glob("*.json"))
    changes = [change for name in TRAINED for change in EXPERIMENTS[name][1].values()]
    variants = [ExperimentConfig("kernel").run_config(change) for change in changes]
    different = {json.dumps(vars(variant), default=str) for variant in variants}
    assert len(runs) == len(different) < len(variants)
    assert not list((tmp_path / "runs").rglob("*.pth"))
    shipped = run_tiny(run_script, folder, tmp_path, "downsample", "--start", "shipped")
    assert shipped.code == 0, shipped.err
    assert len(list((tmp_path / "runs").glob("*.json"))) == len(runs) + len(EXPERIMENTS["downsample"][1])


@pytest.mark.slow
def test_a_killed_experiment_goes_on_to_the_same_table(folder, tmp_path, run_script):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_tiny(run_script, folder, whole, "downsample").code == 0
    command = [sys.executable, "-m", "util.experiments", "downsample", "--data_dir", folder]
    command += ["--output_dir", killed, "--img_size", "32", "--crops", "16", "--seeds", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--num_workers", "0"],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((killed / "runs").glob("*.json")):  # the first run is done, the second begins
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in (killed / "runs").glob("*.json")}
    ran = run_tiny(run_script, folder, killed, "downsample")
    assert ran.code == 0, ran.err
    assert all(file.stat().st_mtime_ns == written for file, written in done.items())
    errors = [
        [record["mpe_mm"] for record in json.loads((out / "downsample" / "table.json").read_text())]
        for out in (whole, killed)
    ]
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-6)


def test_wrong_settings_are_one_sentence(folder, tmp_path, run_script):
    for arguments, words in {
        ("nothing",): "There is no experiment 'nothing'",
        (): "--list tells more",
        ("kernel", "--crops", "0"): "crops is 0",
        ("aggregation", "--nets", "resnet_50"): "resnet_50_synth.pth is missing",
        ("kernel", "--data_dir", str(tmp_path)): "is missing: split train",
        ("kernel", "--data_dir", str(folder), "--crops", "15"): "less than two epochs of 8",
        ("backbone", "--data_dir", str(folder), "--start", "shipped"): "resnet_50_synth.pth is missing",
        ("kernel", "--dataset", "nyuu", "--scale", "full"): "There is no data set 'nyuu'",
    }.items():
        ran = run_script("util.experiments", *arguments, "--output_dir", tmp_path / "out")
        assert ran.code == 2
        assert words in ran.err, ran.err
        assert len(ran.err.splitlines()) == 1
    assert "supervision" in run_script("util.experiments", "--list").out
