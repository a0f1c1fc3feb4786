"""A network's graph in int8, by the engines' own tools: which operations, and ranges measured on crops."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from util.deployment.export import require
from util.device import has_vnni

# As ONNX and OpenVINO call them.
CONVOLUTIONS = ("Conv", "ConvTranspose", "Convolution", "ConvolutionBackpropData")


class Operation(NamedTuple):
    """One operation of an engine's graph: its name, its kind, and the names of those that it reads."""

    name: str
    kind: str
    inputs: list[str]


def quantize_onnx(content: bytes, crops: np.ndarray) -> bytes:
    """An ONNX graph for ONNX Runtime with its inner convolutions in int8.

    Args:
        content: the graph.
        crops: (N, 1, S, S) float32, on which ranges are measured.
    """
    require("onnxruntime.quantization")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.crops = iter(crops)

        def get_next(self) -> dict[str, np.ndarray] | None:
            crop = next(self.crops, None)
            return None if crop is None else {"image": crop[None]}

    graph = require("onnx").load_from_string(content).graph
    makers = {value: node.name for node in graph.node for value in node.output}
    operations = [
        Operation(node.name, node.op_type, [makers.get(value, value) for value in node.input])
        for node in graph.node
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet(logging.getLogger()):
        plain, small = Path(folder, "plain.onnx"), Path(folder, "int8.onnx")
        plain.write_bytes(content)
        quantization.quantize_static(
            plain,
            small,
            Reader(),
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept_in_float(operations),
            # Means over the crops of the ranges: single ones are stretched by a few large values.
            extra_options={"CalibMovingAverage": True},
            reduce_range=not has_vnni(),
        )
        return small.read_bytes()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Errors alone: the quantizer advises to prepare the graph, which is prepared."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def quantize_openvino(model: Any, crops: np.ndarray) -> Any:
    """An OpenVINO model with its inner convolutions in int8; see `quantize_onnx`."""
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
    """Names of a graph's operations that are not to be quantised.

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
