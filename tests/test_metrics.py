"""The metrics against the plain way of computing them, frame by frame."""

import numpy as np
import pytest

from util.metrics import PCK_THRESHOLDS_MM, SUCCESS_THRESHOLDS_MM, as_json, as_table, joint_errors, score


@pytest.fixture
def errors():
    return np.random.default_rng(0).gamma(2.0, 6.0, (137, 14))


def test_vectorised_metrics_equal_the_plain_loop(errors):
    metrics = score(errors)
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


def test_errors_are_euclidean_in_mm():
    predicted = np.array([[[3.0, 4.0, 0.0]], [[0.0, 0.0, 2.0]]])
    np.testing.assert_allclose(joint_errors(predicted, np.zeros((2, 1, 3))), [[5.0], [2.0]])


def test_perfect_and_hopeless_predictions():
    assert score(np.zeros((3, 14))).auc == pytest.approx(1)
    assert score(np.full((3, 14), 1000.0)).auc == 0


def test_json_and_table_name_every_joint(errors):
    names = tuple(f"joint {j}" for j in range(14))
    metrics = score(errors)
    assert list(as_json(metrics, names)["per_joint_mm"]) == list(names)
    table = as_table({"ours": metrics, "theirs": metrics}, names)
    assert all(name in table for name in (*names, "ours", "theirs"))


def test_what_cannot_be_scored_is_said(errors):
    with pytest.raises(ValueError, match="no frames"):
        score(errors[:0])
    errors[5, 2] = np.nan
    with pytest.raises(ValueError, match="frame 6"):
        score(errors)
