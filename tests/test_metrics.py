"""The metrics against the plain way of computing them, frame by frame, and against SciPy."""

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from util.metrics import (
    BLOCK,
    PCK_THRESHOLDS_MM,
    SUCCESS_THRESHOLDS_MM,
    align,
    as_json,
    as_markdown,
    as_table,
    block_interval,
    score,
    score_kinds,
)

NAMES = tuple(f"joint {j}" for j in range(14))


@pytest.fixture
def joints():
    """Predicted and true joints of 137 frames, mm."""
    rng = np.random.default_rng(0)
    true_xyz = rng.normal((0, 0, 700), 60, (137, 14, 3))
    return true_xyz + rng.normal(0, 8, true_xyz.shape), true_xyz


def test_vectorised_metrics_equal_the_plain_loop(joints):
    metrics = score(*joints)
    errors = np.sqrt(((joints[0] - joints[1]) ** 2).sum(axis=-1))
    per_joint = [float(np.mean([frame[j] for frame in errors])) for j in range(14)]
    medians = [float(np.median([frame[j] for frame in errors])) for j in range(14)]
    pck = [
        np.mean([np.mean([frame[j] <= t for frame in errors]) for j in range(14)]) for t in PCK_THRESHOLDS_MM
    ]
    worst = [np.mean([max(frame) <= t for frame in errors]) for t in SUCCESS_THRESHOLDS_MM]
    mean = [np.mean([np.mean(frame) <= t for frame in errors]) for t in SUCCESS_THRESHOLDS_MM]
    assert metrics.frames == 137
    assert metrics.mpe_mm == pytest.approx(np.mean(per_joint))
    assert metrics.median_mm == pytest.approx(np.mean(medians))
    assert metrics.auc == pytest.approx(np.trapezoid(pck, PCK_THRESHOLDS_MM) / 50)
    np.testing.assert_allclose(metrics.per_joint_mm, per_joint)
    np.testing.assert_allclose(metrics.pck, pck)
    np.testing.assert_allclose(metrics.success_worst, worst)
    np.testing.assert_allclose(metrics.success_mean, mean)
    np.testing.assert_allclose(metrics.frame_mm, errors.mean(axis=1))


def test_perfect_and_hopeless_predictions(joints):
    _, true_xyz = joints
    perfect, hopeless = score(true_xyz, true_xyz), score(true_xyz + 1000, true_xyz)
    assert perfect.auc == pytest.approx(1)
    assert hopeless.auc == 0
    assert hopeless.aligned_mm == pytest.approx(0, abs=1e-6)  # only its place was wrong


def test_alignment_undoes_a_turn_a_shift_and_a_size(joints):
    _, true_xyz = joints
    moved = 1.3 * (true_xyz @ Rotation.from_euler("xyz", [20, -50, 170], degrees=True).as_matrix()) + (
        5,
        6,
        7,
    )
    np.testing.assert_allclose(align(moved, true_xyz, True), true_xyz, atol=1e-6)
    assert score(moved, true_xyz).rigid_mm > 5
    mirrored = true_xyz * (-1, 1, 1)  # a left hand is no turned right one
    assert score(mirrored, true_xyz).aligned_mm > 5


def test_alignment_with_scale_is_scipys(joints):
    predicted, true_xyz = joints
    aligned = align(predicted, true_xyz, True)
    for found, expected, true in zip(aligned, predicted, true_xyz, strict=True):
        first, second, _ = procrustes(true, expected)
        size = np.linalg.norm(true - true.mean(axis=0))  # SciPy scales the first to 1
        np.testing.assert_allclose(found - true.mean(axis=0), size * second, atol=1e-9)
        np.testing.assert_allclose(true - true.mean(axis=0), size * first, atol=1e-9)


def test_an_interval_holds_the_mean_and_grows_with_what_neighbours_share():
    rng = np.random.default_rng(3)
    alone, shared = rng.normal(10, 4, 20 * BLOCK), np.repeat(rng.normal(10, 4, 20), BLOCK)
    for values in (alone, shared):
        low, high = block_interval(values)
        assert low < values.mean() < high
        assert block_interval(values) == (low, high)  # the same draws each time
    (a, b), (c, d) = block_interval(alone), block_interval(shared)
    assert d - c > 5 * (b - a)
    assert b - a == pytest.approx(2 * 1.96 * 4 / (20 * BLOCK) ** 0.5, rel=0.4)


def test_json_and_tables_name_what_they_hold(joints):
    metrics = score(*joints)
    assert list(as_json(metrics, NAMES)["per_joint_mm"]) == list(NAMES)
    table = as_table({"ours": metrics, "theirs": metrics}, NAMES)
    assert all(name in table for name in (*NAMES, "ours", "theirs"))
    assert NAMES[0] not in as_table({"ours": metrics})


def test_a_comparison_is_sorted_and_pairs_the_frames(joints):
    predicted, true_xyz = joints
    rows = {
        "ours": score(predicted, true_xyz),
        "worse": score(true_xyz + 2 * (predicted - true_xyz), true_xyz),
    }
    better = score(true_xyz + 0.5 * (predicted - true_xyz), true_xyz)
    kinds = [("first",)] * 100 + [("rest",)] * 37
    by_kind = {name: {"first": row, "rest": row} for name, row in (rows | {"better": better}).items()}
    lines = as_markdown(rows | {"better": better}, by_kind).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| better", "| ours", "| worse"]
    assert "first | rest" in lines[0]
    change = float(lines[4].split(" | ")[-1].split()[0])
    assert change == pytest.approx(rows["ours"].mpe_mm, abs=0.01)
    scored = score_kinds(predicted, true_xyz, kinds)
    assert {name: part.frames for name, part in scored.items()} == {"first": 100, "rest": 37}
    assert score_kinds(predicted, true_xyz, kinds[1:]) == {}


def test_what_cannot_be_scored_is_said(joints):
    predicted, true_xyz = joints
    with pytest.raises(ValueError, match="no frames"):
        score(predicted[:0], true_xyz[:0])
    predicted[5, 2] = np.nan
    with pytest.raises(ValueError, match="frame 6"):
        score(predicted, true_xyz)
