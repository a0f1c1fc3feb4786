"""Figures for files: error curves, galleries, training curves. Matplotlib without a screen."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from util.camera import uvd_to_crop
from util.files import atomic_write, printable
from util.metrics import PCK_THRESHOLDS_MM, SUCCESS_THRESHOLDS_MM, Metrics

if TYPE_CHECKING:
    from dataloader import DatasetInfo
    from dataloader.dataset import HandDataset

# One colour a finger, pinky to thumb, then the wrist; told apart on grey depth and by colour-blind eyes.
CHAIN_COLORS = ("#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7")
# Of curves and dots: told apart by colour-blind eyes, and by dashes and markers when printed in grey. The
# first to look alike is the 29th.
CURVE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
CURVE_STYLES = cycler(color=CURVE_COLORS * 4, linestyle=("-", "--", "-.", ":") * 7, marker=list("os^D" * 7))
DARK = "#202020"
# Panels of a figure of scores, line by line. Curves are shares, named like their field of Metrics.
CURVES = {
    "pck": "share of joints within distance",
    "success_worst": "share of frames, worst joint within distance",
    "success_mean": "share of frames, mean joint within distance",
}
SUCCESS, JOINTS = ["success_worst", "success_mean"], ["joints", "joints"]  # one panel over two columns
FIGURES = {"pck": [["pck"]], "success": [SUCCESS], "joints": [JOINTS], "comparison": [SUCCESS, JOINTS]}
NOT_TERMS = {"epoch", "step", "lr", "loss", "mpe_mm", "images_per_s"}  # in log.jsonl; the others are terms

Chains = Sequence[tuple[int, ...]]  # numbers of joints that a line connects


class Tile(NamedTuple):
    """One picture of a gallery: `image` (S, S) normalised depth, and joints (J, 2) in crop pixels."""

    title: str
    image: np.ndarray
    predicted_uv: np.ndarray
    true_uv: np.ndarray


def plain(name: str) -> str:
    """A name of a user's as a figure's text: a dollar sign begins no formula."""
    return printable(name).replace("$", r"\$")


def chain_colors(chains: Chains) -> list[str]:
    """A colour for each chain; they repeat where there are many."""
    return [CHAIN_COLORS[i % len(CHAIN_COLORS)] for i in range(len(chains))]


def chain_names(joint_names: Sequence[str], chains: Chains) -> list[str]:
    """The finger of each chain, by the word that most of its joints' names begin with; else the palm."""
    names = []
    for chain in chains:
        word, count = Counter(joint_names[j].split()[0] for j in chain).most_common(1)[0]
        names.append(word if count > 1 else "palm")
    return names


def crop_pixels(joint_uvd: np.ndarray, size: int) -> np.ndarray:
    """(J, 3) normalised uvd -> (J, 2) pixels of the crop, whose edge is `size`."""
    return (joint_uvd[:, :2] + 1) * size / 2


def pick_tiles(
    dataset: "HandDataset", predicted_uvd: np.ndarray, frame_errors: np.ndarray, count: int = 4
) -> dict[str, list[Tile]]:
    """The best, middle and worst `count` frames, for a gallery.

    `dataset`: samples without augmentation; `predicted_uvd` (N, J, 3) of full frames; `frame_errors` (N,) mm.
    """
    order, size = np.argsort(frame_errors, kind="stable"), dataset.img_size
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    predicted_uvd = dataset.index.mirror_left(predicted_uvd, slice(None), dataset.frame_size[1])

    def tile(i: int) -> Tile:
        sample = dataset[i]
        predicted = uvd_to_crop(predicted_uvd[i], sample.center_xyz[2], sample.cube[2], sample.M, size)
        title = f"{plain(dataset.index.frame_path(i).stem)}, {frame_errors[i]:.1f} mm"
        return Tile(title, sample.image[0], crop_pixels(predicted, size), crop_pixels(sample.joint_uvd, size))

    picks = {"best": order[:count], "median": order[middle : middle + count], "worst": order[::-1][:count]}
    return {name: [tile(int(i)) for i in frames] for name, frames in picks.items()}


def save_scores(path: Path, name: str, rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> None:
    """Draw one of FIGURES, with a curve, or a dot at each joint, per entry of `rows`."""
    layout = FIGURES[name]
    columns = len(layout[0])
    size = 5 * columns, 4.2 * len(layout) + 0.25 * -(-len(rows) // columns)
    figure = Figure(figsize=size, layout="constrained")
    for panel, axes in figure.subplot_mosaic(layout).items():
        axes.set_prop_cycle(CURVE_STYLES)
        axes.grid(alpha=0.3)
        if panel == "joints":
            _draw_joints(axes, rows, joint_names)
            continue
        thresholds_mm = PCK_THRESHOLDS_MM if panel == "pck" else SUCCESS_THRESHOLDS_MM
        for run, metrics in rows.items():
            score = f"AUC {metrics.auc:.4f}" if panel == "pck" else f"{metrics.mpe_mm:.2f} mm"
            shares, label = getattr(metrics, panel), f"{plain(run)}: {score}"
            axes.plot(thresholds_mm, shares, label=label, markevery=10, markersize=4)
        axes.set(xlim=(0, thresholds_mm[-1]), ylim=(0, 1), xlabel="distance (mm)", ylabel=CURVES[panel])
    # One legend for all panels, outside them: a method looks the same in each.
    labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=columns, fontsize=9, handlelength=3.5)
    save_figure(figure, path)


def _draw_joints(axes: Axes, rows: dict[str, Metrics], joint_names: tuple[str, ...]) -> None:
    place = np.arange(len(joint_names) + 1)
    for (run, m), shift in zip(rows.items(), np.linspace(-0.35, 0.35, len(rows) + 2)[1:-1], strict=True):
        label = f"{plain(run)}: {m.mpe_mm:.2f} mm"
        axes.plot(place + shift, [*m.per_joint_mm, m.mpe_mm], linestyle="", markersize=5, label=label)
    for edge in place[1:] - 0.5:
        axes.axvline(edge, color="0.8", linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(place, [*joint_names, "mean"], rotation=40, ha="right")
    axes.set(xlim=(-0.5, place[-1] + 0.5), ylim=(0, None), ylabel="mean error (mm)")


def draw_gallery(rows: dict[str, list[Tile]], info: "DatasetInfo") -> Figure:
    """Depth crops with predicted (coloured) and true (white) skeletons, one row of tiles per entry."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.5 * columns, 2.85 * len(rows)), layout="constrained", facecolor=DARK)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row_axes, (name, tiles) in zip(grid, rows.items(), strict=True):
        for axes, tile in zip(row_axes, tiles, strict=True):
            draw_crop(axes, tile.image)
            draw_skeleton(axes, tile.true_uv, info.chains, color="white", linewidth=1.0)
            draw_skeleton(axes, tile.predicted_uv, info.chains)
            axes.set_title(f"{name}: {tile.title}", fontsize=8, color="white")
    figure.suptitle("coloured: predicted, white: true", fontsize=9, color="white")
    draw_legend(figure, info, loc="outside lower center", ncols=len(info.chains))
    return figure


def save_training_curves(path: Path, steps: list[dict], validations: list[dict]) -> None:
    """Loss, its terms, and the joint error over the epochs, from the lines of log.jsonl."""
    terms = dict.fromkeys(name for line in steps for name in line if name not in NOT_TERMS)
    panels = {
        "weighted loss": [(steps, "loss", "loss")],
        "loss terms before weighting": [(steps, term, term) for term in terms],
        "MPE (mm)": [(steps, "mpe_mm", "training"), (validations, "val_mpe_mm", "validation")],
    }
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.set_prop_cycle(color=CURVE_COLORS)
        for lines, name, label in curves:
            points = [(line["epoch"], line[name]) for line in lines if name in line]
            # A single validation has no line: mark its point.
            axes.plot(*np.reshape(points, (-1, 2)).T, label=label, marker="o" if lines is validations else "")
        axes.set(xlabel="epoch", ylabel=ylabel, yscale="log")
        axes.grid(alpha=0.3, which="both")
        if curves:
            axes.legend(fontsize=8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    save_figure(figure, path)


def draw_crop(axes: Axes, image: np.ndarray) -> None:
    """Show an (S, S) normalised depth crop: near is light, background dark."""
    axes.imshow(image, cmap="gray_r", vmin=-1, vmax=1.15, interpolation="nearest")
    axes.set_axis_off()
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


def draw_skeleton(
    axes: Axes, joint_uv: np.ndarray, chains: Chains, color: str | None = None, linewidth: float = 1.8
) -> None:
    """Draw (J, 2) joints in the axes' pixels along their chains, in one colour or one a chain."""
    for chain, chain_color in zip(chains, chain_colors(chains), strict=True):
        u, v = joint_uv[list(chain)].T
        axes.plot(u, v, "-o", color=color or chain_color, linewidth=linewidth, markersize=2 * linewidth**0.5)


def draw_legend(place: Axes | Figure, info: "DatasetInfo", **style: Any) -> None:
    """Say which colour is which finger, in a panel or outside all panels of a figure."""
    names, colors = chain_names(info.joint_names, info.chains), chain_colors(info.chains)
    lines = [Line2D([], [], color=c, marker="o", label=n) for n, c in zip(names, colors, strict=True)]
    place.legend(handles=lines, **{"fontsize": 9, "labelcolor": "linecolor", "facecolor": DARK} | style)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, in the format that the path ends with."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
