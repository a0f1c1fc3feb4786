"""The experiments: what they compare is computed right, and each runs, goes on, and then does nothing."""

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dataloader.crop import crop_hand
from dataloader.dataset import make_sample
from dataloader.index import FrameIndex
from model.awr import dense_to_joints, joints_to_dense, read_votes
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT
from tests.helpers.sphere_hands import write_sphere_hands
from util.camera import NYU_CAMERA
from util.experiments import cases
from util.experiments.aggregation import AGGREGATIONS
from util.experiments.catalog import VARIANTS, ExperimentConfig
from util.experiments.degrade import CURVES, degrade
from util.experiments.report import as_markdown, compare, draw_curves, draw_dots
from util.inference.predictor import HandPosePredictor

CENTER = np.array([20.0, -10, 700])
CUBE = np.full(3, 300.0)
DEPTH, CENTRE, CUBE_EDGES, JOINTS = range(4)  # of what a curve changes


@pytest.fixture(scope="module")
def sample():
    """A batch of one crop and its joints."""
    joints = open_hand(CENTER)
    made = make_sample(crop_hand(ball_hand(joints), NYU_CAMERA, CENTER, CUBE, 128), NYU_CAMERA, joints)
    return torch.from_numpy(made.image)[None], torch.from_numpy(made.joint_uvd)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of few hands of spheres under synth's name: train, val and test."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate({"train": 8, "val": 2, "test": 3}.items()):
        write_sphere_hands(root / "synth", split, count, seed)
    return root


def test_the_papers_way_is_the_first_of_13_aggregations(sample):
    image, joints = sample
    dense = joints_to_dense(joints, image, 0.4, 64)
    dense += 0.1 * torch.randn(dense.shape, generator=torch.Generator().manual_seed(0))
    first, *others = AGGREGATIONS.values()
    found = first(read_votes(dense, image, 0.4))
    torch.testing.assert_close(found, dense_to_joints(dense, image, 0.4), rtol=0, atol=1e-5)
    assert len(others) == 12


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


def change(curve, level, i=0):
    """A frame as it is, and with one thing changed: (depth, centre, cube, joints) each."""
    joints = np.stack([open_hand(CENTER + 30 * k) for k in range(i + 1)])
    depth, cubes = ball_hand(joints[i]).astype(np.float32), np.tile(CUBE, (i + 1, 1))
    names = np.array([b"frame"] * (i + 1))
    index = FrameIndex(joints, joints.mean(axis=1), cubes, names, Path(), lambda _: depth)
    data = SimpleNamespace(index=index, camera=NYU_CAMERA)
    return (depth, joints[i].mean(axis=0), CUBE, joints[i]), degrade(data, i, curve, level)


@pytest.mark.parametrize("curve", CURVES)
def test_the_first_level_changes_nothing_that_a_crop_sees(curve):
    before, after = change(curve, CURVES[curve][1][0])
    np.testing.assert_array_equal(after[DEPTH], before[DEPTH])
    for one, other in zip(before[1:], after[1:], strict=True):
        np.testing.assert_allclose(other, one)


def test_centres_move_by_as_much_as_is_said_each_its_own_way():
    pairs = [change("centre error", 20, i) for i in range(2)]
    moves = [after[CENTRE] - before[CENTRE] for before, after in pairs]
    np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 20)
    assert np.ptp(moves, axis=0).max() > 1


def test_a_larger_hand_in_a_larger_cube_is_the_same_crop():
    one, other = (
        make_sample(crop_hand(depth, NYU_CAMERA, center, CUBE * factor, 128), NYU_CAMERA, joints)
        for (depth, center, _, joints), factor in zip(change("hand size", 1.3), (1, 1.3), strict=True)
    )
    np.testing.assert_allclose(other.image, one.image, atol=1e-5)
    np.testing.assert_allclose(other.joint_uvd, one.joint_uvd, atol=1e-5)


def test_sensors_get_worse_on_what_they_measured():
    before, noisy = (frame[DEPTH] for frame in change("sensor noise", 5))
    hand = before > 0
    assert not noisy[~hand].any()
    assert np.std(noisy[hand] - before[hand]) == pytest.approx(5, rel=0.1)
    holed = change("lost pixels", 0.3)[1][DEPTH]
    assert np.mean(holed[hand] == 0) == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(holed[holed > 0], before[holed > 0])
    np.testing.assert_array_equal(change("lost pixels", 0.3)[1][DEPTH], holed)  # the same again
    coarse = change("coarser pixels", 3)[1][DEPTH]
    for row, column in ((0, 0), (2, 1)):  # the middle of each block stands for it
        np.testing.assert_array_equal(coarse[row:480:3, column:639:3], before[1:480:3, 1:639:3])


@pytest.mark.parametrize("degrees", [5, 15])
def test_joints_turn_with_their_frame(degrees):
    before, after = change("turned, blended", degrees)
    np.testing.assert_allclose(after[JOINTS][:, 2], before[JOINTS][:, 2])
    uvd = [NYU_CAMERA.xyz_to_uvd(frame[JOINTS]) for frame in (before, after)]
    one, other = (
        [round(float(frame[DEPTH][round(v), round(u)])) for u, v, _ in places]
        for frame, places in zip((before, after), uvd, strict=True)
    )
    np.testing.assert_allclose(other, one, atol=1)  # each in its ball still
    (u0, v0), (u1, v1) = (places[0, :2] - NYU_CAMERA.xyz_to_uvd(before[CENTRE])[:2] for places in uvd)
    assert np.rad2deg(np.arctan2(v0 * u1 - u0 * v1, u0 * u1 + v0 * v1)) == pytest.approx(degrees)


def test_a_bar_hides_what_is_behind_it_and_the_hand_stays_without_its_forearm():
    (depth, center, _, joints), (hidden, *_) = change("bar in front", 40)
    columns = np.flatnonzero((hidden != depth).any(axis=0))
    nearer = center[2] - 80
    assert np.ptp(columns) + 1 == pytest.approx(40 * NYU_CAMERA.fx / nearer, abs=1.5)
    assert (hidden[:, columns] == nearer).all()  # the hand is behind it everywhere
    cut = change("forearm seen", 0)[1][DEPTH]
    gone = (cut == 0) & (depth > 0)
    assert gone.any()
    assert not (cut != depth)[~gone].any()
    wrist_v = NYU_CAMERA.xyz_to_uvd(joints[11:13])[:, 1].mean()  # fingers point up
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
    mean, half, _ = compare(records)["net"]["b"]
    # Seeds differ by more than the rows, and yet b is worse: 1.1 ± 4.303 · 0.1732 / √3
    assert (mean, half) == pytest.approx((13.1, 0.4303), abs=1e-3)
    table = as_markdown(records).splitlines()
    assert table[2:4] == ["| a | 12.00 |", "| b | 13.10, +1.10 [+0.67, +1.53] |"]
    assert "[-" in table[4]
    assert table[5] == "| d | 11.00 |"
    answered = as_markdown([{"row": "a", "column": "net", "mpe_mm": 7.0, "answered": 0.75}])
    assert answered.splitlines()[2] == "| a | 7.00, 75% answered |"


@pytest.fixture
def run_tiny(folder, tmp_path, succeeds):
    """Run an experiment at the smallest scale, and give what it said and its records."""

    def run(name, data=folder, out=tmp_path):
        ran = succeeds("util.experiments", *tiny(name, data, out))
        records = json.loads((out / name / "table.json").read_text())
        assert cv2.imread(str(out / name / "figure.png")).shape[0] > 100
        assert (out / name / "table.md").read_text().count("\n") > 2
        return ran.out, records

    return run


def tiny(name, data, out):
    flags = ("--img_size", 32, "--crops", 16, "--seeds", 1, "--num_workers", 0)
    flags = flags if name in VARIANTS else ("--frames", 2, "--nets", "hourglass_1")
    return (name, "--data_dir", data, "--output_dir", out, *flags)


def stamps(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_aggregation_runs_and_a_second_call_does_nothing(tmp_path, run_tiny):
    assert len(run_tiny("aggregation")[1]) == len(AGGREGATIONS)
    before = stamps(tmp_path)
    assert "minutes left" not in run_tiny("aggregation")[0]
    assert stamps(tmp_path) == before


@pytest.mark.parametrize(
    "content", ["", "{}", '{"records": [{}], "seconds": 1}', '{"records": 3, "seconds": 1}', "[]"]
)
def test_a_damaged_record_is_named(tmp_path, folder, run_tiny, fails, content):
    run_tiny("aggregation")
    (tmp_path / "aggregation" / "table.json").write_bytes(b'{"rows": [\xff')  # written over
    assert "minutes left" not in run_tiny("aggregation")[0]
    (record,) = (tmp_path / "runs").glob("*.json")
    record.write_text(content)
    said = fails("util.experiments", *tiny("aggregation", folder, tmp_path))
    assert "damaged" in said
    assert str(record) in said


def test_other_frames_are_measured_again_and_reported(folder, tmp_path, run_tiny):
    copy, other = (shutil.copytree(folder, tmp_path / name) for name in ("copy", "other"))
    for file in (other / "synth" / "test").glob("*.png"):  # half of the depth goes, labels stay
        frame = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        frame[::2] = 0
        cv2.imwrite(str(file), frame)
    (_, one), (_, two), (said, three) = (run_tiny("aggregation", data) for data in (folder, other, copy))
    assert "minutes left" not in said  # a copy, with the files' times
    assert one == three != two


@pytest.mark.slow
def test_robustness_runs(run_tiny, monkeypatch):
    # Without its filter the predictor answers as the network alone does.
    unfiltered = partial(HandPosePredictor, denoise=False)
    monkeypatch.setattr(cases, "HandPosePredictor", lambda *a, denoise=None, **more: unfiltered(*a, **more))
    records = run_tiny("robustness")[1]
    alone, whole = (
        {record["row"]: record for record in records if record["column"] == column}
        for column in ("hourglass_1", "hourglass_1, predictor")
    )
    assert len(alone) == sum(len(levels) for _, levels in CURVES.values())
    # Of the spheres, not one need be a hand to the predictor: what it answers, it answers as the network.
    assert not any(row.startswith("cube edge") for row in whole)
    assert all(record["answered"] == 1 for record in alone.values())
    for row, record in whole.items():
        if record["answered"] == 1:
            assert record["mpe_mm"] == pytest.approx(alone[row]["mpe_mm"], abs=0.1)


@pytest.mark.slow
def test_every_experiment_trains_and_they_share_runs(tmp_path, run_tiny):
    for name, variants in VARIANTS.items():
        ways = len(AGGREGATIONS) if name == "training_and_decoding" else 1
        assert len(run_tiny(name)[1]) == ways * len(variants)
    changes = [change for variants in VARIANTS.values() for change in variants.values()]
    runs = [ExperimentConfig("kernel").run_config(change) for change in changes]
    different = {json.dumps(vars(run), default=str) for run in runs}
    assert len(list((tmp_path / "runs").glob("*.json"))) == len(different) < len(runs)
    assert not list((tmp_path / "runs").rglob("*.pth"))


@pytest.mark.slow
def test_a_killed_experiment_goes_on_to_the_same_table(folder, tmp_path, run_tiny):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "util.experiments", *tiny("rotation", folder, killed)]
    process = subprocess.Popen(
        list(map(str, command)), cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((killed / "runs").glob("*.json")):  # the first run is done, the second begins
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in (killed / "runs").glob("*.json")}
    errors = [[record["mpe_mm"] for record in run_tiny("rotation", out=out)[1]] for out in (tmp_path, killed)]
    assert all(file.stat().st_mtime_ns == written for file, written in done.items())
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-6)


WRONG = {
    "nothing": "There is no experiment 'nothing'",
    "": "--list tells more",
    "kernel --crops 0": "crops is 0",
    "aggregation --nets resnet_50": "resnet_50_synth.pth is missing",
    "kernel --data_dir .": "is missing: split train",
    "kernel --crops 15": "less than two epochs of 8",
    "kernel --dataset nyuu --scale full": "There is no data set 'nyuu'",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_settings_are_one_sentence(folder, tmp_path, fails, arguments):
    common = ("--data_dir", folder, "--output_dir", tmp_path / "out")
    assert WRONG[arguments] in fails("util.experiments", *common, *arguments.split())


def test_the_list_has_the_experiments(succeeds):
    assert "supervision" in succeeds("util.experiments", "--list").out


def test_dots_show_small_differences_beside_large_ones():
    figure = draw_dots(records_of(a=[7.2, 7.3], b=[7.7, 7.6], c=[130.0, 131.0]))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert 0 < low < 7.2 < 7.7 < high < 20
    assert {text.get_text().strip() for text in axes.texts} == {"7.25", "7.65", "130.50 ›"}


def test_curves_are_drawn_while_some_are_missing():
    common = {"curve": "noise", "unit": "mm", "mpe_mm": 7.0, "answered": 1.0}
    records = [{"column": "a", "level": level, **common} for level in (0, 5)]
    records += [{"column": "b", "level": 0, **common, "curve": "cube", "mpe_mm": 90.0}]
    panels = draw_curves(records).axes
    assert [len(line.get_xdata()) for axes in panels[:2] for line in axes.lines] == [2, 0, 0, 1]
    assert panels[0].get_ylim()[1] < 20 < 90 < panels[1].get_ylim()[1]  # each has its own scale
