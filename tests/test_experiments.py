"""The experiments: what they compare is computed right, and each runs, goes on, and then does nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from dataloader.dataset import make_sample
from model.awr import dense_to_joints, joints_to_dense, read_votes
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT
from tests.helpers.sphere_hands import write_sphere_hands
from util.camera import NYU_CAMERA
from util.experiments.aggregation import AGGREGATIONS
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig
from util.experiments.degrade import CURVES, Scene
from util.experiments.report import as_markdown, compare, draw_curves, draw_dots

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
    found = AGGREGATIONS["adaptive weights, temperature 30"](read_votes(dense, image, 0.4))
    torch.testing.assert_close(found, dense_to_joints(dense, image, 0.4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_votes_that_agree_make_the_joint(sample, name):
    image, joints = sample
    found = AGGREGATIONS[name](read_votes(joints_to_dense(joints, image, 0.4, 64), image, 0.4))
    error = (found - joints).norm(dim=-1).max()
    if name.startswith("adaptive"):  # the background takes part: little at 30, nearly alone at 1
        assert error < {30: 2e-2, 100: 1e-3, 10: 0.7, 3: 2, 1: 2}[int(name.split()[-1])]
    elif name.startswith("place"):  # the nearest pixel of a ball of 18 mm around the joint
        assert 18 / 150 - 0.02 < error < 18 / 150 + 0.02
    else:
        assert error < 1e-4


def change(name, level, i=0):
    """A frame as it is, and with one thing changed."""
    joints = open_hand(CENTER + 30 * i)
    depth, middle, wrist = (
        ball_hand(joints).astype(np.float32),
        joints.mean(axis=0),
        joints[11:13].mean(axis=0),
    )
    scene, again = (
        Scene(depth, NYU_CAMERA, middle, CUBE, joints, wrist, np.random.default_rng(i)) for _ in range(2)
    )
    return scene, CURVES[name].change(again, level)


@pytest.mark.parametrize("name", CURVES)
def test_the_first_level_changes_nothing_that_a_crop_sees(name):
    scene, changed = change(name, CURVES[name].levels[0])
    np.testing.assert_array_equal(changed.depth, scene.depth)
    for field in ("joint_xyz", "center_xyz", "cube"):
        np.testing.assert_allclose(getattr(changed, field), getattr(scene, field))


def test_centres_move_by_as_much_as_is_said():
    moves = []
    for i in range(2):
        scene, changed = change("centre error", 20, i)
        moves.append(changed.center_xyz - scene.center_xyz)
    np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 20)
    assert np.ptp(moves, axis=0).max() > 1  # each its own way


def test_a_larger_hand_in_a_larger_cube_is_the_same_crop():
    one, other = (
        make_sample(s.depth, NYU_CAMERA, s.center_xyz, CUBE * factor, s.joint_xyz, 128)
        for s, factor in zip(change("hand size", 1.3), (1, 1.3), strict=True)
    )
    np.testing.assert_allclose(other.image, one.image, atol=1e-5)
    np.testing.assert_allclose(other.joint_uvd, one.joint_uvd, atol=1e-5)


def test_sensors_get_worse_on_what_they_measured():
    before, noisy = (scene.depth for scene in change("sensor noise", 5))
    hand = before > 0
    assert not noisy[~hand].any()
    assert np.std(noisy[hand] - before[hand]) == pytest.approx(5, rel=0.1)
    holed = change("lost pixels", 0.3)[1].depth
    assert np.mean(holed[hand] == 0) == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(holed[holed > 0], before[holed > 0])
    np.testing.assert_array_equal(change("lost pixels", 0.3)[1].depth, holed)  # the same again


def test_coarser_pixels_are_the_middle_ones():
    before, coarse = (scene.depth for scene in change("coarser pixels", 3))
    for row, column in ((0, 0), (2, 1)):
        np.testing.assert_array_equal(coarse[row:480:3, column:639:3], before[1:480:3, 1:639:3])


@pytest.mark.parametrize("degrees", [5, 15])
def test_joints_turn_with_their_frame(degrees):
    scene, turned = change("turned, blended", degrees)
    np.testing.assert_allclose(turned.joint_xyz[:, 2], scene.joint_xyz[:, 2])
    one, other = (
        [round(float(s.depth[round(v), round(u)])) for u, v, _ in NYU_CAMERA.xyz_to_uvd(s.joint_xyz)]
        for s in (scene, turned)
    )
    np.testing.assert_allclose(other, one, atol=1)  # each in its ball still
    middle = NYU_CAMERA.xyz_to_uvd(scene.center_xyz)[:2]
    (u0, v0), (u1, v1) = (NYU_CAMERA.xyz_to_uvd(s.joint_xyz)[0, :2] - middle for s in (scene, turned))
    assert np.rad2deg(np.arctan2(v0 * u1 - u0 * v1, u0 * u1 + v0 * v1)) == pytest.approx(degrees)


def test_a_slab_hides_what_is_behind_it():
    scene, changed = change("slab in front", 40)
    columns = np.flatnonzero((changed.depth != scene.depth).any(axis=0))
    nearer = scene.center_xyz[2] - 80
    assert np.ptp(columns) + 1 == pytest.approx(40 * NYU_CAMERA.fx / nearer, abs=1.5)
    assert (changed.depth[:, columns] == nearer).all()  # the hand is behind it everywhere


def test_the_forearm_goes_and_the_hand_stays():
    scene, changed = change("forearm seen", 0)
    gone = (changed.depth == 0) & (scene.depth > 0)
    assert gone.any()
    assert not (changed.depth != scene.depth)[~gone].any()
    wrist_v = NYU_CAMERA.xyz_to_uvd(scene.joint_xyz[11:13])[:, 1].mean()  # fingers point up
    assert np.argwhere(gone)[:, 0].min() >= wrist_v - 1


def records_of(**rows):
    """Records of one column: a row's errors, seed by seed."""
    return [
        {"row": row, "column": "net", "seed": seed, "mpe_mm": error}
        for row, errors in rows.items()
        for seed, error in enumerate(errors)
    ]


def test_rows_are_compared_seed_by_seed():
    records = records_of(a=[10.0, 12.0, 14.0], b=[11.0, 13.0, 15.3], c=[20.0, 5.0, 14.0], d=[11.0])
    compared = compare(records)
    # Seeds differ by more than the rows, and yet b is worse: 1.1 ± 4.303 · 0.1732 / √3
    assert compared["b", "net"] == pytest.approx((13.1, 1.1, 0.4303, 1), abs=1e-3)
    assert compared["d", "net"] == pytest.approx((11, 1, 0, 1))  # one seed
    table = as_markdown(records).splitlines()
    assert table[2:4] == ["| a | 12.00 |", "| b | 13.10, +1.10 [+0.67, +1.53] |"]
    assert "[-" in table[4]
    assert table[5] == "| d | 11.00 |"


def test_a_column_that_answers_less_says_so():
    records = [
        {"row": "a", "column": column, "mpe_mm": 7.0, "answered": share}
        for column, share in (("net", 1.0), ("predictor", 0.75))
    ]
    assert as_markdown(records).splitlines()[2] == "| a | 7.00 | 7.00, 75% answered |"


def test_dots_show_small_differences_beside_large_ones():
    figure = draw_dots(records_of(a=[7.2, 7.3], b=[7.7, 7.6], c=[130.0, 131.0]))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert 0 < low < 7.2 < 7.7 < high < 20
    assert {text.get_text().strip() for text in axes.texts} == {"7.25", "7.65", "130 ›"}


def test_curves_are_drawn_while_some_are_missing():
    common = {"curve": "noise", "unit": "mm", "mpe_mm": 7.0, "answered": 1.0}
    records = [{"column": "a", "level": level, **common} for level in (0, 5)]
    records += [{"column": "b", "level": 0, **common, "curve": "cube", "mpe_mm": 90.0}]
    panels = draw_curves(records).axes
    assert [len(line.get_xdata()) for axes in panels[:2] for line in axes.lines] == [2, 0, 0, 1]
    assert panels[0].get_ylim()[1] < 20 < 90 < panels[1].get_ylim()[1]  # each has its own scale


def run_tiny(run_script, folder, out, name, *more):
    """An experiment at the smallest scale."""
    tiny = ("--img_size", 32, "--crops", 16, "--seeds", 1, "--num_workers", 0)
    tiny = tiny if name in TRAINED else ("--frames", 2, "--nets", "hourglass_1")
    return run_script("util.experiments", name, "--data_dir", folder, "--output_dir", out, *tiny, *more)


def stamps(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def check_report(folder, name, rows):
    assert len(json.loads((folder / name / "table.json").read_text())) == rows
    assert cv2.imread(str(folder / name / "figure.png")).shape[0] > 100
    assert (folder / name / "table.md").read_text().count("\n") > 2


def test_aggregation_runs_and_a_second_call_does_nothing(folder, tmp_path, run_script):
    ran = run_tiny(run_script, folder, tmp_path, "aggregation")
    assert ran.code == 0, ran.err
    check_report(tmp_path, "aggregation", len(AGGREGATIONS))
    before = stamps(tmp_path)
    again = run_tiny(run_script, folder, tmp_path, "aggregation")
    assert again.code == 0
    assert "minutes left" not in again.out
    assert stamps(tmp_path) == before


def test_other_frames_are_measured_again_and_reported(folder, tmp_path, run_script):
    data, other, out, tables = tmp_path / "data", tmp_path / "other", tmp_path / "out", []
    shutil.copytree(folder, data)
    shutil.copytree(folder, other)
    for file in (other / "synth" / "test").glob("*.png"):  # half of the depth goes, labels stay
        frame = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        frame[::2] = 0
        cv2.imwrite(str(file), frame)
    for there in (folder, other, data):
        ran = run_tiny(run_script, there, out, "aggregation")
        assert ran.code == 0, ran.err
        tables.append((out / "aggregation" / "table.json").read_text())
    assert "minutes left" not in ran.out  # a copy, with the files' times
    assert tables[0] == tables[2] != tables[1]


@pytest.mark.slow
def test_robustness_runs(folder, tmp_path, run_script):
    ran = run_tiny(run_script, folder, tmp_path, "robustness")
    assert ran.code == 0, ran.err
    levels = {name: len(curve.levels) for name, curve in CURVES.items()}
    records = json.loads((tmp_path / "robustness" / "table.json").read_text())
    assert sum(record["column"] == "hourglass_1" for record in records) == sum(levels.values())
    # Of the spheres, not one need be a hand to the predictor: what it answers, it answers as the network.
    alone = {record["row"]: record for record in records if record["column"] == "hourglass_1"}
    whole = {record["row"]: record for record in records if record["column"] == "hourglass_1, predictor"}
    for row in whole.keys() - {"cube edge"}:
        if whole[row]["answered"] == 1:
            assert whole[row]["mpe_mm"] == pytest.approx(alone[row]["mpe_mm"], abs=0.1)
    check_report(tmp_path, "robustness", len(alone) + len(whole))


@pytest.mark.slow
def test_every_experiment_trains_and_they_share_runs(folder, tmp_path, run_script, monkeypatch):
    question, variants = EXPERIMENTS["kernel"]
    some = {place: change for place, change in variants.items() if change["kernel_size"] in (1.0, 0.4)}
    monkeypatch.setitem(EXPERIMENTS, "kernel", (question, some))  # eight runs take a minute
    for name in TRAINED:
        ran = run_tiny(run_script, folder, tmp_path, name)
        assert ran.code == 0, ran.err
        ways = len(AGGREGATIONS) if name == "training_and_decoding" else 1
        check_report(tmp_path, name, ways * len(EXPERIMENTS[name][1]))
    runs = list((tmp_path / "runs").glob("*.json"))
    changes = [change for name in TRAINED for change in EXPERIMENTS[name][1].values()]
    variants = [ExperimentConfig("kernel").run_config(change) for change in changes]
    different = {json.dumps(vars(variant), default=str) for variant in variants}
    assert len(runs) == len(different) < len(variants)
    assert not list((tmp_path / "runs").rglob("*.pth"))


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
        ("kernel", "--frames", "5"): "--frames has no effect on kernel",
        ("kernel", "--nets", "resnet_18"): "--nets has no effect on kernel",
        **{
            (name, f"--{flag}", value): f"--{flag} has no effect on {name}, which trains nothing"
            for name in ("aggregation", "robustness")
            for flag, value in {"crops": "9", "seeds": "2", "scale": "full", "img_size": "64"}.items()
        },
        ("kernel", "--dataset", "nyuu", "--scale", "full"): "There is no data set 'nyuu'",
    }.items():
        ran = run_script("util.experiments", *arguments, "--output_dir", tmp_path / "out")
        assert ran.code == 2
        assert words in ran.err, ran.err
        assert len(ran.err.splitlines()) == 1
    assert "supervision" in run_script("util.experiments", "--list").out
