"""Joint errors and what the field reports of them (docs/spec.md §10). Arrays in, numbers out."""

from typing import NamedTuple

import numpy as np

from util import UserError

PCK_THRESHOLDS_MM = np.linspace(0, 50, 100)
SUCCESS_THRESHOLDS_MM = np.arange(81)


class Metrics(NamedTuple):
    """Scores of N frames.

    `mpe_mm`, `median_mm`: mean over the joints of each joint's mean, and median, error.
    `auc`: area under `pck` up to 50 mm, in [0, 1]. `per_joint_mm` (J,). `pck` (100,): share of
    joints within PCK_THRESHOLDS_MM. `success_worst`, `success_mean` (81,): share of frames whose
    largest, and mean, joint error is within SUCCESS_THRESHOLDS_MM.
    """

    frames: int
    mpe_mm: float
    median_mm: float
    auc: float
    per_joint_mm: np.ndarray
    pck: np.ndarray
    success_worst: np.ndarray
    success_mean: np.ndarray


def joint_errors(predicted_xyz: np.ndarray, true_xyz: np.ndarray) -> np.ndarray:
    """Euclidean distance of every joint: (N, J, 3) and (N, J, 3) mm -> (N, J) mm."""
    return np.linalg.norm(np.asarray(predicted_xyz, np.float64) - true_xyz, axis=-1)


def score(errors: np.ndarray) -> Metrics:
    """All metrics of (N, J) joint errors in mm, which must be finite."""
    if not errors.size:
        raise UserError("There are no frames to score.")
    if not np.isfinite(errors).all():
        frame = int(np.argmax(~np.isfinite(errors).all(axis=1)))
        raise UserError(f"Joints of frame {frame + 1} are not finite: the errors cannot be scored.")
    per_joint_mm = errors.mean(axis=0)
    # As many errors in each joint, so that the mean over joints of each joint's curve is the whole's.
    pck = share_within(errors.ravel(), PCK_THRESHOLDS_MM)
    return Metrics(
        frames=len(errors),
        mpe_mm=float(per_joint_mm.mean()),
        median_mm=float(np.median(errors, axis=0).mean()),
        auc=float(np.trapezoid(pck, PCK_THRESHOLDS_MM) / PCK_THRESHOLDS_MM[-1]),
        per_joint_mm=per_joint_mm,
        pck=pck,
        success_worst=share_within(errors.max(axis=1), SUCCESS_THRESHOLDS_MM),
        success_mean=share_within(errors.mean(axis=1), SUCCESS_THRESHOLDS_MM),
    )


def score_kinds(errors: np.ndarray, kinds: list[tuple[str, ...]]) -> dict[str, Metrics]:
    """Metrics of the frames of each kind: (N, J) errors in mm, and the kinds of each frame; none where these
    are not as many, as some frames were left out."""
    if len(kinds) != len(errors):
        return {}
    names = dict.fromkeys(kind for frame in kinds for kind in frame)
    return {name: score(errors[[name in frame for frame in kinds]]) for name in names}


def share_within(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of (N,) errors at or below each of (T,) thresholds: (T,) in [0, 1]."""
    return np.searchsorted(np.sort(errors), thresholds, side="right") / len(errors)


def as_json(metrics: Metrics, joint_names: tuple[str, ...]) -> dict:
    """What `metrics.json` holds: lengths in mm, shares in [0, 1]."""
    return {
        "frames": metrics.frames,
        "mpe_mm": metrics.mpe_mm,
        "median_mm": metrics.median_mm,
        "auc": metrics.auc,
        "success_20mm": float(metrics.success_worst[20]),
        "success_40mm": float(metrics.success_worst[40]),
        "per_joint_mm": dict(zip(joint_names, metrics.per_joint_mm.tolist(), strict=True)),
    }


def as_table(rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> str:
    """A text table: one column per entry of `rows`, one line per figure and joint."""
    lines = {
        "frames": lambda m: f"{m.frames}",
        "MPE (mm)": lambda m: f"{m.mpe_mm:.3f}",
        "median (mm)": lambda m: f"{m.median_mm:.3f}",
        "AUC 0-50 mm": lambda m: f"{m.auc:.5f}",
        "all joints within 20 mm": lambda m: f"{m.success_worst[20]:.2%}",
        "all joints within 40 mm": lambda m: f"{m.success_worst[40]:.2%}",
    }
    for j, name in enumerate(joint_names):
        lines[f"  {name}"] = lambda m, j=j: f"{m.per_joint_mm[j]:.2f}"
    label = max(map(len, lines))
    width = {name: max(len(name), 9) for name in rows}
    text = [" " * label + "".join(f"  {name:>{width[name]}}" for name in rows)]
    for line, cell in lines.items():
        text.append(f"{line:<{label}}" + "".join(f"  {cell(m):>{width[name]}}" for name, m in rows.items()))
    return "\n".join(text)


def as_markdown(rows: dict[str, Metrics]) -> str:
    """A Markdown table: one line per entry of `rows`, the lowest error first."""
    lines = ["| method | MPE (mm) | median (mm) | AUC 0-50 mm | all joints within 20 / 40 mm |"]
    lines.append("|---|---|---|---|---|")
    for name, metrics in sorted(rows.items(), key=lambda item: item[1].mpe_mm):
        within = f"{metrics.success_worst[20]:.2%} / {metrics.success_worst[40]:.2%}"
        numbers = f"{metrics.mpe_mm:.3f} | {metrics.median_mm:.3f} | {metrics.auc:.5f}"
        lines.append(f"| {name.replace('|', '/')} | {numbers} | {within} |")
    return "\n".join(lines) + "\n"
