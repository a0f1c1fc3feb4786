"""Joint errors and what the field reports of them (docs/spec.md §10). Arrays in, numbers out."""

from typing import NamedTuple

import numpy as np

from util import UserError
from util.camera import Camera

PCK_THRESHOLDS_MM = np.linspace(0, 50, 100)
SUCCESS_THRESHOLDS_MM = np.arange(81)
BLOCK, DRAWS = 100, 2000  # consecutive frames that are drawn together, and how often


class Metrics(NamedTuple):
    """Scores of N frames; lengths in mm, shares in [0, 1].

    `mpe_mm`, `median_mm`: mean over the joints of each joint's mean, and median, error. `mpe_interval_mm`:
    where the first lies with 95 % probability, see `block_interval`. `aligned_mm`, `rigid_mm`: the mean error
    after `align` with and without scale. `auc`: area under `pck` up to 50 mm. `per_joint_mm` (J,). `pck`
    (100,): share of joints within PCK_THRESHOLDS_MM. `success_worst`, `success_mean` (81,): share of frames
    whose largest, and mean, joint error is within SUCCESS_THRESHOLDS_MM. `frame_mm` (N,): each frame's mean
    error.
    """

    frames: int
    mpe_mm: float
    mpe_interval_mm: tuple[float, float]
    median_mm: float
    aligned_mm: float
    rigid_mm: float
    auc: float
    per_joint_mm: np.ndarray
    pck: np.ndarray
    success_worst: np.ndarray
    success_mean: np.ndarray
    frame_mm: np.ndarray


def average_joints(answers_uvd: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean, in mm, of the answers of one network or several.

    Args:
        answers_uvd: (M, ..., J, 3) full-frame uvd.

    Returns:
        its xyz (..., J, 3) mm; its uvd (..., J, 3), of one answer that answer; how far they spread around it,
        (..., J) mm, a measure of uncertainty: the root of their mean squared distance from it.
    """
    answers_xyz = camera.uvd_to_xyz(answers_uvd)
    xyz = answers_xyz.mean(axis=0)
    uvd = answers_uvd[0] if len(answers_uvd) == 1 else camera.xyz_to_uvd(xyz)
    return xyz, uvd, np.sqrt(((answers_xyz - xyz) ** 2).sum(axis=-1).mean(axis=0))


def joint_errors(predicted_xyz: np.ndarray, true_xyz: np.ndarray) -> np.ndarray:
    """Euclidean distance of every joint: (N, J, 3) and (N, J, 3) mm -> (N, J) mm."""
    return np.linalg.norm(np.asarray(predicted_xyz, np.float64) - true_xyz, axis=-1)


def score(predicted_xyz: np.ndarray, true_xyz: np.ndarray) -> Metrics:
    """All metrics of (N, J, 3) joints against the true ones, mm, frames in their order in time."""
    errors = joint_errors(predicted_xyz, true_xyz)
    if not errors.size:
        raise UserError("There are no frames to score.")
    if not np.isfinite(errors).all():
        frame = int(np.argmax(~np.isfinite(errors).all(axis=1)))
        raise UserError(f"Joints of frame {frame + 1} are not finite: the errors cannot be scored.")
    per_joint_mm, frame_mm = errors.mean(axis=0), errors.mean(axis=1)
    # As many errors in each joint, so that the mean over joints of each joint's curve is the whole's.
    pck = share_within(errors.ravel(), PCK_THRESHOLDS_MM)
    aligned, rigid = (joint_errors(align(predicted_xyz, true_xyz, s), true_xyz).mean() for s in (True, False))
    return Metrics(
        frames=len(errors),
        mpe_mm=float(per_joint_mm.mean()),
        mpe_interval_mm=block_interval(frame_mm),
        median_mm=float(np.median(errors, axis=0).mean()),
        aligned_mm=float(aligned),
        rigid_mm=float(rigid),
        auc=float(np.trapezoid(pck, PCK_THRESHOLDS_MM) / PCK_THRESHOLDS_MM[-1]),
        per_joint_mm=per_joint_mm,
        pck=pck,
        success_worst=share_within(errors.max(axis=1), SUCCESS_THRESHOLDS_MM),
        success_mean=share_within(frame_mm, SUCCESS_THRESHOLDS_MM),
        frame_mm=frame_mm,
    )


def score_kinds(
    predicted_xyz: np.ndarray, true_xyz: np.ndarray, kinds: list[tuple[str, ...]]
) -> dict[str, Metrics]:
    """Metrics of the frames of each kind; none where some frames were left out."""
    if len(kinds) != len(true_xyz):
        return {}
    names = dict.fromkeys(kind for frame in kinds for kind in frame)
    chosen = {name: [name in frame for frame in kinds] for name in names}
    return {name: score(predicted_xyz[own], true_xyz[own]) for name, own in chosen.items()}


def official_scores(
    predicted_xyz: np.ndarray, true_xyz: np.ndarray, names: tuple[str, ...]
) -> dict[str, Metrics]:
    """Metrics after each of the named alignments of DexYCB's and HO-3D's own scripts, which report `mpe_mm`
    and `auc`. Of the joints (N, 21, 3), mm, the first is the wrist; HO-3D sizes by the bone to the fifth."""
    moved, root = predicted_xyz - predicted_xyz[:, :1], true_xyz[:, :1]
    bone, true_bone = (np.linalg.norm(xyz[:, 4:5], axis=-1) for xyz in (moved, true_xyz - root))
    aligned = {
        "absolute": lambda: predicted_xyz,
        "root-relative": lambda: moved + root,
        "procrustes": lambda: align(predicted_xyz, true_xyz, with_scale=True, reflect=True),
        "scale-translation": lambda: moved * (true_bone / np.maximum(bone, 1e-12))[..., None] + root,
    }
    return {name: score(aligned[name](), true_xyz) for name in names}


def align(
    predicted_xyz: np.ndarray, true_xyz: np.ndarray, with_scale: bool, reflect: bool = False
) -> np.ndarray:
    """Move and turn each frame's joints (N, J, 3) onto the true ones, in the sense of least squares.

    Procrustes analysis (Umeyama, PAMI 1991); `with_scale` also sizes them. Without reflection, unless
    `reflect`: several benchmarks' scripts allow it.
    """
    true_middle = true_xyz.mean(axis=1, keepdims=True)
    source, target = predicted_xyz - predicted_xyz.mean(axis=1, keepdims=True), true_xyz - true_middle
    left, size, right = np.linalg.svd(source.mT @ target)
    # The last axis counts the other way where the best map would be a reflection.
    sign = np.ones(len(size)) if reflect else np.sign(np.linalg.det(left @ right))
    left[:, :, 2] *= sign[:, None]
    size[:, 2] *= sign
    scale = (
        size.sum(axis=1) / np.maximum((source**2).sum(axis=(1, 2)), 1e-12)
        if with_scale
        else np.ones(len(size))
    )
    return scale[:, None, None] * (source @ (left @ right)) + true_middle


def block_interval(values: np.ndarray) -> tuple[float, float]:
    """Bounds between which the mean of (N,) values lies with 95 % probability: a bootstrap over blocks.

    Neighbouring frames of a film err alike, so whole blocks of BLOCK frames are drawn, with a fixed seed; of
    fewer than ten blocks single frames. For two methods on the same frames, pass the differences.
    """
    starts = np.arange(0, len(values), BLOCK if len(values) >= 10 * BLOCK else 1)
    sums, sizes = np.add.reduceat(values, starts), np.diff([*starts, len(values)])
    drawn = np.random.default_rng(0).integers(len(starts), size=(DRAWS, len(starts)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def share_within(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of (N,) errors at or below each of (T,) thresholds: (T,) in [0, 1]."""
    return np.searchsorted(np.sort(errors), thresholds, side="right") / len(errors)


def as_json(metrics: Metrics, joint_names: tuple[str, ...]) -> dict:
    """What `metrics.json` holds: lengths in mm, shares in [0, 1]."""
    numbers = {name: value for name, value in metrics._asdict().items() if not isinstance(value, np.ndarray)}
    return numbers | {
        "success_20mm": float(metrics.success_worst[20]),
        "success_40mm": float(metrics.success_worst[40]),
        "per_joint_mm": dict(zip(joint_names, metrics.per_joint_mm.tolist(), strict=True)),
    }


def as_table(rows: dict[str, Metrics], joint_names: tuple[str, ...] = ()) -> str:
    """A text table: one column per entry of `rows`, one line per figure and named joint."""
    lines = {
        "frames": lambda m: f"{m.frames}",
        "MPE (mm)": lambda m: f"{m.mpe_mm:.3f}",
        "  95 % interval": lambda m: "{:.2f} to {:.2f}".format(*m.mpe_interval_mm),
        "median (mm)": lambda m: f"{m.median_mm:.3f}",
        "MPE aligned with scale": lambda m: f"{m.aligned_mm:.3f}",
        "MPE aligned, no scale": lambda m: f"{m.rigid_mm:.3f}",
        "AUC 0-50 mm": lambda m: f"{m.auc:.5f}",
        "all joints within 20 mm": lambda m: f"{m.success_worst[20]:.2%}",
        "all joints within 40 mm": lambda m: f"{m.success_worst[40]:.2%}",
    }
    for j, name in enumerate(joint_names):
        lines[f"  {name}"] = lambda m, j=j: f"{m.per_joint_mm[j]:.2f}"
    label = max(map(len, lines))
    width = {name: max(len(name), 14) for name in rows}
    text = [" " * label + "".join(f"  {name:>{width[name]}}" for name in rows)]
    for line, cell in lines.items():
        text.append(f"{line:<{label}}" + "".join(f"  {cell(m):>{width[name]}}" for name, m in rows.items()))
    return "\n".join(text)


def as_markdown(rows: dict[str, Metrics], by_kind: dict[str, dict[str, Metrics]] | None = None) -> str:
    """A Markdown table: one line per entry of `rows`, the lowest error first.

    The last column is the difference of MPE to the first entry of `rows`, with its interval.

    Args:
        rows: metrics by method, all of the same frames.
        by_kind: the same by method and kind of frame: a column of MPE each.
    """
    first, by_kind = next(iter(rows)), by_kind or {}
    kinds = list(dict.fromkeys(kind for own in by_kind.values() for kind in own))
    titles = ["method", "MPE (mm) [95 %]", "median", "AUC 0-50 mm", "all joints within 20 / 40 mm"]
    titles += ["aligned with / without scale", *kinds, f"MPE less {first.partition(' (')[0]}'s [95 %]"]
    lines = [titles, ["---"] * len(titles)]
    for name, m in sorted(rows.items(), key=lambda item: item[1].mpe_mm):
        change = m.frame_mm - rows[first].frame_mm
        low, high = block_interval(change)
        lines.append(
            [
                name.replace("|", "/"),
                "{:.3f} [{:.2f}, {:.2f}]".format(m.mpe_mm, *m.mpe_interval_mm),
                f"{m.median_mm:.3f}",
                f"{m.auc:.5f}",
                f"{m.success_worst[20]:.2%} / {m.success_worst[40]:.2%}",
                f"{m.aligned_mm:.3f} / {m.rigid_mm:.3f}",
                *(f"{by_kind[name][kind].mpe_mm:.3f}" for kind in kinds),
                "–" if name == first else f"{change.mean():+.2f} [{low:+.2f}, {high:+.2f}]",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
