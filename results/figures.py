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
from model.awr import SOFTMAX_TEMPERATURE, dense_to_joints, joints_to_dense
from util.cli import run
from util.plots import DARK, chain_colors, crop_pixels, draw_crop, draw_skeleton, save_figure

FRAME = 181  # of the bundled split: an open hand
JOINT = "index tip"


def draw_method(image: np.ndarray, joint_uvd: np.ndarray, config: Config) -> Figure:
    """The paper's idea on one sample: what is learned for one joint, the weights, and the joints.

    The dense maps are the true ones: the picture shows the representation and no network.

    Args:
        image: (1, S, S) normalised crop.
        joint_uvd: (J, 3) normalised joints.
        config: names the data set and K of docs/spec.md §5.
    """
    size, joint = image.shape[-1] // 2, dataset_info(config.dataset).joint_names.index(JOINT)
    crops = torch.from_numpy(image)[None]
    dense = joints_to_dense(torch.from_numpy(joint_uvd)[None], crops, config.kernel_size, size)
    direction = dense[0, 3 * joint : 3 * joint + 2].numpy()
    closeness = dense[0, 3 * len(joint_uvd) + joint]
    weight = torch.softmax(SOFTMAX_TEMPERATURE * closeness.flatten(), 0).view(size, size)
    decoded = dense_to_joints(dense, crops, config.kernel_size)[0].numpy()

    figure = Figure(figsize=(13, 3.5), layout="constrained")
    panels = figure.subplots(1, 4)
    titles = (
        *(f"depth crop, {JOINT}", f"direction and closeness to the {JOINT}"),
        *("adaptive weights", "decoded joints"),
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        draw_crop(axes, image[0])
    ring = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": "#d55e00", "markeredgewidth": 2}
    panels[0].plot(*crop_pixels(joint_uvd, 2 * size)[joint], "o", **ring)
    _overlay(panels[1], closeness.numpy(), "viridis")
    rows, columns = np.mgrid[1:size:3, 1:size:3]
    votes = closeness.numpy()[rows, columns] > 0
    u, v = (direction[axis][rows, columns][votes] for axis in (0, 1))
    places = (2 * grid[votes] + 0.5 for grid in (columns, rows))
    panels[1].quiver(*places, u, v, color="white", angles="xy", scale=26, width=0.004)
    _overlay(panels[2], weight.sqrt().numpy(), "inferno")
    draw_skeleton(panels[3], crop_pixels(decoded, 2 * size), dataset_info(config.dataset).chains)
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
    save_figure(draw_method(sample.image, sample.joint_uvd, config), folder / "method.png")
    save_figure(draw_joint_names(sample.image, sample.joint_uvd, config), folder / "joint_names.png")
    save_figure(draw_faults(config), folder / "faults.png")
    print(f"Written to {folder}/")


if __name__ == "__main__":
    run(main, __doc__, Config, (DataSettings, NetworkSettings))
