"""Figures for files: error curves, galleries, what the method sees. Matplotlib without a screen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from config import DATASETS, Config, DatasetInfo, DataSettings, NetworkSettings
from dataloader import build_dataset
from dataloader.dataset import HandDataset, Sample
from dataloader.nyu import FRAME_NAME, read_depth, read_kinds, recorded_camera
from model.awr import SOFTMAX_TEMPERATURE, dense_to_joints, joints_to_dense
from util import UserError
from util.camera import uvd_to_crop
from util.cli import run
from util.files import atomic_write, printable, require_file
from util.metrics import PCK_THRESHOLDS_MM, SUCCESS_THRESHOLDS_MM, Metrics

# One colour a finger, pinky to thumb, then the wrist; told apart on grey depth and by colour-blind eyes.
CHAIN_COLORS = ("#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7")
TRUTH_COLOR = "#ffffff"
# Of curves and bars: told apart by colour-blind eyes, and by their dashes when printed in grey. Neighbours
# differ in both; the first to look alike is the 29th.
CURVE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
CURVE_STYLES = cycler(color=CURVE_COLORS * 4) + cycler(linestyle=("-", "--", "-.", ":") * 7)
BAR_HATCHES = ("", "//", "..", "xx")
LOG_FROM = 8  # largest error over smallest, above which bars have a logarithmic axis
DEPTH_COLORS = "gray_r"
DARK = "#202020"

# A frame of the bundled split with an open hand, for the README's figures.
README_FRAME = 181

# The 21 joints of a synthetic split's joints21.npz, pinky to thumb from the wrist to the tip.
SYNTHETIC_CHAINS = tuple((0, *range(1 + 4 * finger, 5 + 4 * finger)) for finger in (4, 3, 2, 1, 0))
SHEET_SHAPE = (4, 6)
SHEET_HALF_CUBE = 150.0  # mm


class Tile(NamedTuple):
    """One picture of a gallery: `image` (S, S) normalised depth, and joints (J, 2) in crop pixels."""

    title: str
    image: np.ndarray
    predicted_uv: np.ndarray
    true_uv: np.ndarray


def plain(name: str) -> str:
    """A name of a user's as a figure's text: a dollar sign begins no formula."""
    return printable(name).replace("$", r"\$")


def chain_colors(chains: Sequence[tuple[int, ...]]) -> list[str]:
    """A colour for each chain; they repeat where there are many."""
    return [CHAIN_COLORS[i % len(CHAIN_COLORS)] for i in range(len(chains))]


def pick_tiles(
    dataset: HandDataset, predicted_uvd: np.ndarray, frame_errors: np.ndarray, count: int = 4
) -> dict[str, list[Tile]]:
    """The best, middle and worst frames, for a gallery.

    Args:
        dataset: samples without augmentation.
        predicted_uvd: (N, J, 3) full-frame uvd.
        frame_errors: (N,) mean joint error, mm.
        count: frames of each kind.
    """
    order = np.argsort(frame_errors, kind="stable")
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    picks = {"best": order[:count], "median": order[middle : middle + count], "worst": order[::-1][:count]}
    return {
        name: [_tile(dataset, i, predicted_uvd[i], frame_errors[i]) for i in map(int, indices)]
        for name, indices in picks.items()
    }


def _tile(dataset: HandDataset, i: int, predicted_uvd: np.ndarray, error_mm: float) -> Tile:
    sample, size = dataset[i], dataset.img_size
    predicted = uvd_to_crop(predicted_uvd, sample.center_xyz[2], sample.cube[2], sample.M, size)
    title = f"{plain(dataset.index.frame_path(i).stem)}, {error_mm:.1f} mm"
    predicted_uv, true_uv = (_crop_pixels(joints, size) for joints in (predicted, sample.joint_uvd))
    return Tile(title, sample.image[0], predicted_uv, true_uv)


def _crop_pixels(joint_uvd: np.ndarray, size: int) -> np.ndarray:
    """(J, 3) normalised uvd -> (J, 2) pixels of the crop."""
    return (joint_uvd[:, :2] + 1) * size / 2


def save_pck_curve(path: Path, rows: dict[str, Metrics]) -> None:
    """Share of joints within a distance, one curve per entry of `rows`."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    _prepare(axes, "share of joints within distance", PCK_THRESHOLDS_MM[-1])
    for name, metrics in rows.items():
        axes.plot(PCK_THRESHOLDS_MM, metrics.pck, label=f"{plain(name)}: AUC {metrics.auc:.4f}")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def save_success_curve(path: Path, rows: dict[str, Metrics]) -> None:
    """Share of frames whose worst joint, and whose mean joint, is within a distance: a panel each."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    _draw_success(figure.subplots(1, 2), rows)
    save_figure(figure, path)


def save_joint_bars(path: Path, rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> None:
    """Mean error of every joint, one bar per entry of `rows`."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    _draw_joint_bars(figure.subplots(), rows, joint_names)
    save_figure(figure, path)


def save_comparison(path: Path, rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> None:
    """What papers show of several methods: the two success curves, and below them the joints' errors."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    _draw_success(upper.subplots(1, 2), rows)
    _draw_joint_bars(lower.subplots(), rows, joint_names)
    save_figure(figure, path)


def _draw_success(panels: Sequence[Axes], rows: dict[str, Metrics]) -> None:
    for axes, joint in zip(panels, ("worst", "mean"), strict=True):
        _prepare(axes, f"share of frames, {joint} joint within distance", SUCCESS_THRESHOLDS_MM[-1])
        for name, metrics in rows.items():
            label = f"{plain(name)}: {metrics.mpe_mm:.2f} mm"
            axes.plot(SUCCESS_THRESHOLDS_MM, getattr(metrics, f"success_{joint}"), label=label)
    axes.legend(fontsize=8, handlelength=3.5)


def _draw_joint_bars(axes: Axes, rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> None:
    position, width = np.arange(len(joint_names) + 1), 0.8 / len(rows)
    for i, (name, metrics) in enumerate(rows.items()):
        axes.bar(
            position + (i - (len(rows) - 1) / 2) * width,
            [*metrics.per_joint_mm, metrics.mpe_mm],
            width,
            label=f"{plain(name)}: {metrics.mpe_mm:.2f} mm",
            color=CURVE_COLORS[i % len(CURVE_COLORS)],
            hatch=BAR_HATCHES[i % len(BAR_HATCHES)],
        )
    axes.set_xticks(position, [*joint_names, "mean"], rotation=40, ha="right")
    axes.set_ylabel("mean error (mm)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    columns = 3
    axes.set_ylim(top=axes.get_ylim()[1] * (1.05 + 0.06 * -(-len(rows) // columns)))  # room for the legend
    axes.legend(fontsize=8, loc="upper center", ncols=columns)


def draw_bars(records: list[dict[str, Any]]) -> Figure:
    """Mean errors of an experiment: a bar for each `row` and `column`, a dot for each seed.

    Args:
        records: each with `row`, `column` and `mpe_mm`.
    """
    rows, columns = (list(dict.fromkeys(record[key] for record in records)) for key in ("row", "column"))
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(rows) * max(len(columns), 2)), layout="constrained")
    axes, height = figure.subplots(), 0.8 / len(columns)
    for i, column in enumerate(columns):
        some = [record for record in records if record["column"] == column]
        errors = {row: [r["mpe_mm"] for r in some if r["row"] == row] for row in rows}
        places = [y + (i - (len(columns) - 1) / 2) * height for y in range(len(rows))]
        means = [np.mean(errors[row]) if errors[row] else 0 for row in rows]
        axes.barh(places, means, height, color=CURVE_COLORS[i % len(CURVE_COLORS)], label=column)
        for place, row, mean in zip(places, rows, means, strict=True):
            if not errors[row]:
                continue
            if "seed" in records[0]:
                axes.plot(errors[row], [place] * len(errors[row]), ".", color="black", markersize=5)
            end = (max(errors[row]), place)  # right of the bar and of its dots
            axes.annotate(f"{mean:.2f}", end, (8, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.margins(x=0.1, y=0.02)
    axes.invert_yaxis()
    dots = "; dots: seeds" if "seed" in records[0] else ""
    every = [record["mpe_mm"] for record in records]
    if max(every) > LOG_FROM * min(every):
        axes.set(xscale="log", xlim=(min(every) / 2, 2 * max(every)))
    axes.set_xlabel(f"mean error on the test split (mm){dots}")
    if len(columns) > 1:
        figure.legend(fontsize=8, loc="outside upper center", ncols=len(columns))
    return figure


def draw_curves(records: list[dict[str, Any]]) -> Figure:
    """Mean errors over the level of each thing that an experiment changes: a panel each, a line a `column`.

    Args:
        records: each with `curve`, `level`, `unit`, `column` and `mpe_mm`.
    """
    names, columns = (list(dict.fromkeys(record[key] for record in records)) for key in ("curve", "column"))
    figure = Figure(figsize=(14, 3.2 * -(-len(names) // 4)), layout="constrained")
    panels = figure.subplots(-(-len(names) // 4), 4, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        axes.set_prop_cycle(CURVE_STYLES)
        unit = next(record["unit"] for record in records if record["curve"] == name)
        for column in columns:
            some = [record for record in records if (record["curve"], record["column"]) == (name, column)]
            points = sorted((record["level"], record["mpe_mm"]) for record in some)
            levels, errors = zip(*points, strict=True) if points else ((), ())
            axes.plot(levels, errors, marker="o", markersize=4, label=column)
        axes.set(xlabel=f"{name} ({unit})", ylim=(0, None))
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes in panels[::4]:
        axes.set_ylabel("mean error (mm)")
    panels[0].legend(fontsize=8)
    return figure


def save_gallery(path: Path, rows: dict[str, list[Tile]], chains: tuple[tuple[int, ...], ...]) -> None:
    """Write the picture of `draw_gallery`."""
    save_figure(draw_gallery(rows, chains), path)


def draw_gallery(rows: dict[str, list[Tile]], chains: tuple[tuple[int, ...], ...]) -> Figure:
    """Depth crops with predicted (coloured) and true (white) skeletons, one row of tiles per entry."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.5 * columns, 2.85 * len(rows)), layout="constrained", facecolor=DARK)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row_axes, (name, tiles) in zip(grid, rows.items(), strict=True):
        for axes, tile in zip(row_axes, tiles, strict=False):
            draw_crop(axes, tile.image)
            draw_skeleton(axes, tile.true_uv, chains, color=TRUTH_COLOR, linewidth=1.0)
            draw_skeleton(axes, tile.predicted_uv, chains)
            axes.set_title(f"{name}: {tile.title}", fontsize=8, color="white")
    figure.suptitle("coloured: predicted, white: true", fontsize=9, color="white")
    return figure


def save_training_curves(path: Path, steps: list[dict], validations: list[dict]) -> None:
    """Loss, its two terms, and the joint error over the epochs, from the lines of log.jsonl."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = {
        "weighted loss": ((steps, "loss", "loss"),),
        "Huber loss before weighting": ((steps, "dense", "dense maps"), (steps, "coord", "joints")),
        "MPE (mm)": ((steps, "mpe_mm", "training"), (validations, "val_mpe_mm", "validation")),
    }
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.set_prop_cycle(color=CURVE_COLORS)
        for lines, name, label in curves:
            epochs, values = [line["epoch"] for line in lines], [line[name] for line in lines]
            # A single validation has no line: mark its point.
            axes.plot(epochs, values, label=label, marker="o" if lines is validations else "")
        axes.set(xlabel="epoch", ylabel=ylabel, yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    save_figure(figure, path)


def save_method_figure(path: Path, sample: Sample, kernel_size: float, joint: int, info: DatasetInfo) -> None:
    """The paper's idea on one sample: what is learned for one joint, the weights, and the joints.

    The dense maps are the true ones, so the picture shows the representation and no network.
    """
    image, joint_uvd = torch.from_numpy(sample.image)[None], torch.from_numpy(sample.joint_uvd)[None]
    size = image.shape[-1] // 2
    dense = joints_to_dense(joint_uvd, image, kernel_size, size)
    num_joints = joint_uvd.shape[1]
    direction = dense[0, 3 * joint : 3 * joint + 2].numpy()
    closeness = dense[0, 3 * num_joints + joint]
    weight = torch.softmax(SOFTMAX_TEMPERATURE * closeness.flatten(), 0).view(size, size)
    decoded = dense_to_joints(dense, image, kernel_size)[0].numpy()

    figure = Figure(figsize=(13, 3.5), layout="constrained")
    panels = figure.subplots(1, 4)
    name = info.joint_names[joint]
    titles = (
        f"depth crop, {name}",
        f"direction and closeness to the {name}",
        "adaptive weights",
        "decoded joints",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        draw_crop(axes, sample.image[0])
    spot = _crop_pixels(sample.joint_uvd, 2 * size)[joint]
    panels[0].plot(
        *spot, "o", markersize=9, markerfacecolor="none", markeredgecolor="#d55e00", markeredgewidth=2
    )

    extent = (-0.5, 2 * size - 0.5, 2 * size - 0.5, -0.5)
    _overlay(panels[1], closeness.numpy(), extent, "viridis")
    rows, columns = np.mgrid[1:size:3, 1:size:3]
    votes = closeness.numpy()[rows, columns] > 0
    u, v = (direction[axis][rows, columns][votes] for axis in (0, 1))
    panels[1].quiver(
        *(2 * grid[votes] + 0.5 for grid in (columns, rows)),
        *(u, v),
        color="white",
        angles="xy",
        scale=26,
        width=0.004,
    )
    _overlay(panels[2], weight.sqrt().numpy(), extent, "inferno")
    draw_skeleton(panels[3], _crop_pixels(decoded, 2 * size), info.chains)
    save_figure(figure, path)


def save_joint_figure(path: Path, sample: Sample, info: DatasetInfo) -> None:
    """The joints of a data set, numbered over one of its samples, with their names."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, legend = figure.subplots(1, 2, width_ratios=(2, 1))
    draw_crop(axes, sample.image[0])
    joint_uv = _crop_pixels(sample.joint_uvd, sample.image.shape[1])
    draw_skeleton(axes, joint_uv, info.chains)
    legend.set_axis_off()
    colors = zip(info.chains, chain_colors(info.chains), strict=True)
    chain_of = {j: color for chain, color in colors for j in chain}
    for j, name in enumerate(info.joint_names):
        axes.annotate(
            str(j), joint_uv[j], xytext=(5, 4), textcoords="offset points", color="white", fontsize=9
        )
        legend.text(
            0, 1 - (j + 1) / (len(info.joint_names) + 1), f"{j:2d}  {name}", fontsize=10, family="monospace"
        )
        legend.plot(-0.08, 1 - (j + 0.7) / (len(info.joint_names) + 1), "o", color=chain_of.get(j, DARK))
    legend.set(xlim=(-0.1, 1), ylim=(0, 1))
    save_figure(figure, path)


def _overlay(axes: Axes, values: np.ndarray, extent: tuple[float, ...], colors: str) -> None:
    """Lay a map over the crop, transparent where it is 0."""
    alpha = np.clip(values / values.max() * 3, 0, 0.9)
    axes.imshow(values, cmap=colors, alpha=alpha, extent=extent, interpolation="nearest")


def draw_crop(axes: Axes, image: np.ndarray) -> None:
    """Show an (S, S) normalised depth crop: near is light, background dark."""
    axes.imshow(image, cmap=DEPTH_COLORS, vmin=-1, vmax=1.15, interpolation="nearest")
    axes.set_axis_off()
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def draw_skeleton(
    axes: Axes,
    joint_uv: np.ndarray,
    chains: tuple[tuple[int, ...], ...],
    color: str | None = None,
    linewidth: float = 1.8,
) -> None:
    """Draw (J, 2) joints in the axes' pixels along their chains, in one colour or one a chain."""
    for chain, chain_color in zip(chains, chain_colors(chains), strict=True):
        u, v = joint_uv[list(chain)].T
        axes.plot(u, v, "-o", color=color or chain_color, linewidth=linewidth, markersize=2 * linewidth**0.5)


def save_contact_sheets(folder: Path, file: Path) -> list[Path]:
    """Draw 24 frames of a synthetic split with their 21-joint skeletons; of one with kinds, 24 of each kind.

    Args:
        folder: of the split.
        file: picture to write; with kinds, their names are added to its own.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: if a file of the split is missing.
    """
    kinds = read_kinds(folder)
    if not kinds:
        _save_contact_sheet(folder, file, None)
        return [file]
    written = []
    for kind in dict.fromkeys(kind for frame in kinds for kind in frame):
        written.append(file.with_stem(f"{file.stem}_{kind}"))
        _save_contact_sheet(folder, written[-1], [i for i, frame in enumerate(kinds) if kind in frame])
    return written


def _save_contact_sheet(folder: Path, file: Path, chosen: list[int] | None) -> None:
    """Draw 24 of the chosen frames, or of all."""
    file21 = folder / "joints21.npz"
    require_file(file21, "the 21 joints of a synthetic split")
    try:
        joint_xyz = np.load(file21)["xyz"].astype(np.float64)
    except Exception as error:  # a damaged archive can fail in many ways
        raise UserError(f"{file21} is damaged: it holds no xyz.") from error
    camera = recorded_camera(folder)
    rows, columns = SHEET_SHAPE
    chosen = chosen or range(len(joint_xyz))
    frames = np.array(chosen)[np.linspace(0, len(chosen) - 1, rows * columns).astype(int)]
    figure = Figure(figsize=(2 * columns, 2 * rows), facecolor=DARK)
    grid = figure.subplots(rows, columns)
    figure.subplots_adjust(0, 0, 1, 1, 0.012, 0.012)
    for axes, frame in zip(grid.flat, frames, strict=True):
        depth = read_depth(folder / FRAME_NAME.format(frame + 1)).astype(np.float32)
        middle = (joint_xyz[frame].min(0) + joint_xyz[frame].max(0)) / 2
        near = (depth > 0) & (np.abs(depth - middle[2]) < SHEET_HALF_CUBE)
        draw_crop(axes, np.where(near, (depth - middle[2]) / SHEET_HALF_CUBE, np.nan))
        draw_skeleton(axes, camera.xyz_to_uvd(joint_xyz[frame])[:, :2], SYNTHETIC_CHAINS, linewidth=1.4)
        u, v, _ = camera.xyz_to_uvd(middle)
        half = SHEET_HALF_CUBE * camera.fx / middle[2]
        axes.set(xlim=(u - half, u + half), ylim=(v + half, v - half))
    save_figure(figure, file)


def _prepare(axes: Axes, ylabel: str, limit_mm: float) -> None:
    axes.set(xlim=(0, limit_mm), ylim=(0, 1), xlabel="distance (mm)", ylabel=ylabel)
    axes.set_prop_cycle(CURVE_STYLES)
    axes.grid(alpha=0.3)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, in the format that the path ends with."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(config: Config) -> None:
    """Draw method.png and joint_names.png from one frame of the data set."""
    info = DATASETS[config.dataset]
    sample = build_dataset(config)[README_FRAME]
    folder = Path(config.output_dir)
    save_method_figure(
        folder / "method.png", sample, config.kernel_size, info.joint_names.index("index tip"), info
    )
    save_joint_figure(folder / "joint_names.png", sample, info)
    print(f"Written to {folder}/")


if __name__ == "__main__":
    run(main, main.__doc__, Config, (DataSettings, NetworkSettings))
