"""A network in int8 for OpenVINO: which operations are quantised, and on which crops ranges are measured."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from config import Config
from dataloader import build_dataset
from dataloader.dataset import HandDataset
from util.deployment.graph import require
from util.device import has_vnni

CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")  # as OpenVINO calls them


class Operation(NamedTuple):
    """One operation of an OpenVINO model: its name, its kind, and the names of those that it reads."""

    name: str
    kind: str
    inputs: list[str]


def calibration_dataset(config: Config) -> HandDataset:
    """The training split, or where that is missing the test split, which is printed.

    Raises:
        FileNotFoundError, UserError: see `build_dataset`.
    """
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
    """An `openvino.Model` with its inner convolutions in int8.

    Args:
        model: of a graph by `to_onnx`.
        crops: (N, 1, S, S) float32 of the kind that will be seen; ranges are measured on them.

    Raises:
        UserError: if nncf is not installed.
    """
    nncf = require("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    operations = [
        Operation(
            operation.get_friendly_name(),
            operation.get_type_name(),
            [value.get_node().get_friendly_name() for value in operation.input_values()],
        )
        for operation in model.get_ordered_ops()
    ]
    return nncf.quantize(
        model,
        nncf.Dataset([crop[None] for crop in crops]),
        subset_size=len(crops),
        # Sums of a residual network carry what the next layers need in detail. (A bias is an Add here too.)
        ignored_scope=nncf.IgnoredScope(names=kept_in_float(operations), types=["Add"]),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE if has_vnni() else nncf.OverflowFix.ENABLE
        ),
    )


def kept_in_float(operations: Sequence[Operation]) -> list[str]:
    """Names of a model's operations that are not to be quantised.

    - The head and the last convolutions: a step in 255 of the closeness changes a weight by an eighth.
    - The stem, which reads the image: quantised for it, the depth would be so for the head too, and
      background would count as hand.
    - Everything between the stem and the next convolutions, these included, and all poolings: rounded
      there, hourglass_1's joints moved by 76 mm, resnet_18's by centimetres.
    - Convolutions that read a sum: no batch norm has brought it to size.

    Args:
        operations: in the order of their computation; the input is called image.
    """
    convolutions = {operation.name for operation in operations if operation.kind in CONVOLUTIONS}
    poolings = {operation.name for operation in operations if operation.kind == "MaxPool"}
    sums = {operation.name for operation in operations if operation.kind == "Add"}
    stems = {o.name for o in operations if o.name in convolutions and "image" in o.inputs}
    kept = stems | poolings
    before_convolutions: set[str] = set()
    for operation in reversed(operations):
        is_before = operation.name in before_convolutions
        if not is_before:
            kept.add(operation.name)
        if is_before or operation.name in convolutions:
            before_convolutions.update(operation.inputs)
    early = set(stems)
    for operation in operations:
        reads = set(operation.inputs)
        if reads & early or (operation.name in convolutions and reads & sums):
            kept.add(operation.name)
        if reads & early and operation.name not in convolutions | poolings:
            early.add(operation.name)
    passive = ("Constant", "Parameter", "Result")
    return [
        operation.name for operation in operations if operation.name in kept and operation.kind not in passive
    ]
