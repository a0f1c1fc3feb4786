"""A network in int8 for OpenVINO: which operations are quantised, and on which crops ranges are measured."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from config import Config
from dataloader.dataset import HandDataset, build_dataset
from util import require
from util.device import has_vnni

# As OpenVINO calls them.
CONVOLUTIONS, PASSIVE = ("Convolution", "ConvolutionBackpropData"), ("Constant", "Parameter", "Result")


def calibration_dataset(config: Config) -> HandDataset:
    """The training split, or where that is missing the test split, which is printed."""
    try:
        return build_dataset(replace(config, split="train"))
    except FileNotFoundError as error:
        print(f"int8's ranges are measured on the test split: {error}")
        return build_dataset(replace(config, split="test"))


def spread_crops(dataset: HandDataset, count: int) -> np.ndarray:
    """(count, 1, S, S) float32 crops, spread over a data set; fewer where it has fewer."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
    return np.stack([dataset[int(i)].image for i in chosen])


def quantize(model: Any, crops: np.ndarray) -> Any:
    """An `openvino.Model` in int8, all but `kept_in_float`; ranges are measured on crops (N, 1, S, S)."""
    nncf = require("nncf", "deploy")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    operations = {operation.get_friendly_name(): operation for operation in model.get_ordered_ops()}
    kinds = {name: operation.get_type_name() for name, operation in operations.items()}
    inputs = {
        name: {value.get_node().get_friendly_name() for value in operation.input_values()}
        for name, operation in operations.items()
    }
    return nncf.quantize(
        model,
        nncf.Dataset([crop[None] for crop in crops]),
        subset_size=len(crops),
        # Sums of a residual network carry what the next layers need in detail. (A bias is an Add here too.)
        ignored_scope=nncf.IgnoredScope(names=kept_in_float(kinds, inputs), types=["Add"]),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE if has_vnni() else nncf.OverflowFix.ENABLE
        ),
    )


def kept_in_float(kinds: dict[str, str], inputs: dict[str, set[str]]) -> list[str]:
    """Names of a model's operations that are not to be quantised.

    - The head and the last convolutions: a step in 255 of the closeness changes a weight by an eighth.
    - The stem: the head reads its input, the image, too; with steps in it, background counts as hand.
    - Everything between the stem and the next convolutions, these included, and all poolings: rounded
      there, hourglass_1's joints moved by 76 mm, resnet_18's by centimetres.
    - Convolutions that read a sum: no batch norm has brought it to size.

    `kinds` has each operation's kind by its name, in the order of their computation, `inputs` the names of
    those that it reads; the network's input is called image.
    """
    convolutions = {name for name, kind in kinds.items() if kind in CONVOLUTIONS}
    poolings = {name for name, kind in kinds.items() if kind == "MaxPool"}
    sums = {name for name, kind in kinds.items() if kind == "Add"}
    stems = {name for name in convolutions if "image" in inputs[name]}
    kept, early = stems | poolings, set(stems)
    before_convolutions: set[str] = set()
    for name in reversed(kinds):
        if name not in before_convolutions:
            kept.add(name)
        if name in before_convolutions | convolutions:
            before_convolutions |= inputs[name]
    for name, reads in inputs.items():
        if reads & early or (name in convolutions and reads & sums):
            kept.add(name)
        if reads & early and name not in convolutions | poolings:
            early.add(name)
    return [name for name in kinds if name in kept and kinds[name] not in PASSIVE]
