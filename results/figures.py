"""Draw method.png and joint_names.png from one frame of a data set, and faults.png from 24."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python results/figures.py`

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from config import Config, DataSettings, NetworkSettings
from dataloader import dataset_info
from dataloader.dataset import build_dataset
from model.awr import dense_to_joints, read_votes
from util.checkpoint import load_network, shipped_weights, spec_from_config
from util.cli import run
from util.plots import DARK, chain_colors, crop_pixels, draw_crop, draw_legend, draw_skeleton, save_figure

FRAME = 181  # of the bundled split: an open hand
JOINT = "index tip"


def draw_method(image: np.ndarray, config: Config) -> Figure:
    """The method on one sample, step by step, as the network that comes with the project sees it.

    Args:
        image: (1, S, S) normalised crop.
        config: names the network and the data set.
    """
    network, spec = load_network(Path(shipped_weights(config)), spec_from_config(config))
    info, crops = dataset_info(config.dataset), torch.from_numpy(image)[None]
    with torch.inference_mode():
        dense = network.eval()(crops)[-1]
        votes = read_votes(dense, crops, spec.kernel_size)
        joint_uvd = dense_to_joints(dense, crops, spec.kernel_size)[0].numpy()
    joint = info.joint_names.index(JOINT)
    direction = dense[0, 3 * joint : 3 * joint + 2].numpy()
    closeness, weight = votes.closeness[0, joint].numpy(), votes.weight[0, joint].sqrt().numpy()

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    titles = (
        *("depth crop", "the network", f"closeness to the {JOINT}"),
        *("direction to it", "adaptive weights: softmax", "joints: weighted means"),
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=13)
        if axes is not panels[1]:
            draw_crop(axes, image[0])
    panels[1].set_axis_off()
    box = {"boxstyle": "round,pad=0.8", "facecolor": "#e8eef5", "edgecolor": "#0072b2", "linewidth": 2}
    count = len(info.joint_names)
    words = f"ResNet or hourglass\n\n4 maps for each of\n{count} joints:\ncloseness, and\ndirection (u, v, d)"
    panels[1].text(0.5, 0.5, words, ha="center", va="center", fontsize=13, bbox=box)
    for start in (0.0, 0.87):
        arrow = {"arrowstyle": "-|>", "color": "#0072b2", "linewidth": 2}
        panels[1].annotate("", (start + 0.13, 0.5), (start, 0.5), arrowprops=arrow)
    size = len(closeness)
    _overlay(panels[2], closeness.clip(0), "viridis")
    rows, columns = np.mgrid[1:size:2, 1:size:2]
    voters = closeness[rows, columns] > 0.05
    u, v = (direction[axis][rows, columns][voters] for axis in (0, 1))
    places = (2 * grid[voters] + 0.5 for grid in (columns, rows))
    panels[3].quiver(*places, u, v, color="#d55e00", angles="xy", scale=16, width=0.008)
    _overlay(panels[4], weight, "inferno")
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": "#56b4e9", "markeredgewidth": 2}
    panels[4].plot(*crop_pixels(joint_uvd, 2 * size)[joint], "o", **ring)
    draw_skeleton(panels[5], crop_pixels(joint_uvd, 2 * size), info.chains)
    draw_legend(panels[5], info)
    return figure


def _overlay(axes: Axes, values: np.ndarray, colors: str) -> None:
    """Lay a map, half as fine as the crop, over it: transparent where it is 0."""
    alpha, edge = np.clip(values / values.max() * 3, 0, 0.9), 2 * len(values) - 0.5
    axes.imshow(values, cmap=colors, alpha=alpha, extent=(-0.5, edge, edge, -0.5), interpolation="nearest")


def draw_joint_names(image: np.ndarray, joint_uvd: np.ndarray, config: Config) -> Figure:
    """The joints of a data set, numbered over one of its samples, with their names."""
    names, chains = dataset_info(config.dataset).joint_names, dataset_info(config.dataset).chains
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, legend = figure.subplots(1, 2, width_ratios=(2, 1))
    draw_crop(axes, image[0])
    joint_uv = crop_pixels(joint_uvd, image.shape[-1])
    draw_skeleton(axes, joint_uv, chains)
    legend.set_axis_off()
    color_of = {j: color for chain, color in zip(chains, chain_colors(chains), strict=True) for j in chain}
    for j, name in enumerate(names):
        axes.annotate(
            str(j), joint_uv[j], xytext=(5, 4), textcoords="offset points", color="white", fontsize=9
        )
        legend.text(0, 1 - (j + 1) / (len(names) + 1), f"{j:2d}  {name}", fontsize=10, family="monospace")
        legend.plot(-0.08, 1 - (j + 0.7) / (len(names) + 1), "o", color=color_of.get(j, DARK))
    legend.set(xlim=(-0.1, 1), ylim=(0, 1))
    return figure


def draw_faults(config: Config) -> Figure:
    """Crops with a camera's faults at full strength, as `train.py --sensor 1` sees them."""
    dataset = build_dataset(replace(config, sensor=1.0))
    figure = Figure(figsize=(13, 5), layout="constrained", facecolor=DARK)
    for axes, i in zip(figure.subplots(3, 8).flat, np.linspace(0, len(dataset) - 1, 24), strict=True):
        draw_crop(axes, dataset[int(i)].image[0])
    return figure


def main(config: Config) -> None:
    """Draw the pictures."""
    sample, folder = build_dataset(config)[FRAME], Path(config.output_dir)
    save_figure(draw_method(sample.image, config), folder / "method.png")
    save_figure(draw_joint_names(sample.image, sample.joint_uvd, config), folder / "joint_names.png")
    save_figure(draw_faults(config), folder / "faults.png")
    print(f"Written to {folder}/")


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings))
