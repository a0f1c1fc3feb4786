"""A trained network for others to use: as an ONNX graph, in int8, or its weights in half the bytes.

python -m util.deployment.export --load_model output/synth/hourglass_1/best.pth --out model.onnx
python -m util.deployment.export --load_model results/resnet_18_synth.pth --precision int8 --out int8.xml
python -m util.deployment.export --load_model output/synth/resnet_18/best.pth --out half.pth

.onnx: the network with its head. Its input is `image` (batch, 1, S, S) float32, normalised as docs/spec.md
§4; its outputs are `joint_uvd` (batch, J, 3), normalised uvd, and `confidence` (batch, J). The batch may be
of any size. What decoding needs (ModelSpec) is in the metadata.
.xml: the same for OpenVINO, in int8; the weights lie beside it in a .bin.
.pth: a checkpoint without the training's state: every convolution in fp16, the rest as it was.
"""

import copy
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from config import Config
from model.awr import dense_to_joints
from util import UserError
from util.checkpoint import ModelSpec, load_or_init_network, read_checkpoint, save_checkpoint
from util.cli import run
from util.deployment.backends import SPEC_ENTRY, Backend, load_engine, openvino_core, run_by_onnxruntime
from util.deployment.folding import example_crops, joint_shift_mm
from util.deployment.graph import OPSET, JointNetwork, graph_metadata, require, to_onnx
from util.deployment.int8 import calibration_dataset, quantize, spread_crops
from util.files import atomic_write

FP16_MANTISSA = 10  # bits
OLDEST_OPSET, NEWEST_OPSET = 17, 23
CALIBRATION_FRAMES, CHECKED_FRAMES = 128, 32
# How far joints may move, mm. At most: by becoming a graph; by fp16 weights, where rounding moves them by
# tenths and an overflow by centimetres; by a shorter mantissa, on crops without a hand. In the mean: by int8.
GRAPH_LIMIT, FP16_LIMIT, ROUNDED_LIMIT, INT8_LIMIT = 0.05, 2.0, 50.0, 2.0


@dataclass
class ExportSettings:
    """What is exported, and as what. What a checkpoint says of itself wins over `net` and those below it."""

    load_model: str = ""  # checkpoint; empty: results/<net>_<dataset>.pth
    out: str = "model.onnx"  # file to write: .onnx a graph, .xml int8 for OpenVINO, .pth weights
    precision: Literal["fp32", "int8"] = "fp32"  # int8: with ranges measured on crops of the data set
    opset: int = OPSET  # of an .onnx: 17 for TensorRT 8 and other older engines
    mantissa: int = FP16_MANTISSA  # bits that a .pth keeps of each; with 5, git and zip store a quarter less

    dataset: str = "synth"  # whose joints the network predicts
    data_dir: str = "data"  # folder that holds the data sets; read for int8 alone
    net: str = "resnet_18"  # resnet_18, resnet_50, resnet_101, resnet_152, or hourglass_N
    downsample: Literal[1, 2, 4] = 2  # crop edge / edge of the dense maps
    kernel_size: float | None = None  # K of the closeness, in half cubes; None: the network's own
    img_size: int = 128  # edge of its crops, pixels
    cube: tuple[float, float, float] | None = None  # edges of the cropped volume, mm; None: the data set's

    def resolved(self) -> "ExportSettings":
        """Check the settings.

        Raises:
            UserError: in one sentence, for one that cannot work.
        """
        ending = Path(self.out).suffix
        if ending not in (".onnx", ".xml", ".pth"):
            raise UserError(
                f"out is {self.out}: it must end in .onnx, for a graph, .xml, for int8, or .pth, for weights."
            )
        if (ending == ".xml") != (self.precision == "int8"):
            raise UserError(
                f"precision is {self.precision} and out {self.out}: int8, and only int8, is a .xml."
            )
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise UserError(f"opset is {self.opset}: use {OLDEST_OPSET} to {NEWEST_OPSET}.")
        if not 1 <= self.mantissa <= FP16_MANTISSA:
            raise UserError(f"mantissa is {self.mantissa}: fp16 has 1 to {FP16_MANTISSA} bits to keep.")
        if self.mantissa != FP16_MANTISSA and ending != ".pth":
            raise UserError(f"mantissa is for weights, and out is {self.out}: name a .pth.")
        self.config()
        return self

    def config(self) -> Config:
        """The project's settings with these among them."""
        own = ("out", "precision", "mantissa", "opset")
        return Config(**{name: value for name, value in vars(self).items() if name not in own}).resolved()


def main(settings: ExportSettings) -> None:
    """Write the file, and only if it computes what the network does."""
    config, out = settings.config(), Path(settings.out)
    network, spec = load_or_init_network(config)
    config = replace(config, img_size=spec.img_size, cube=spec.cube or config.cube)
    known = spec._replace(dataset=spec.dataset or config.dataset)
    if out.suffix == ".onnx":
        write_graph(out, network, known, config, settings.opset)
    elif out.suffix == ".xml":
        write_int8(out, network, known, config)
    else:
        write_weights(out, network, spec, config, settings.mantissa)


def write_graph(out: Path, network: nn.Module, spec: ModelSpec, config: Config, opset: int) -> None:
    """Write the ONNX graph.

    Raises:
        UserError: if a package is missing, or a joint moves by more than GRAPH_LIMIT.
    """
    content = to_onnx(network, spec, opset)
    image = example_crops(3, spec.img_size)
    shift = joint_shift(run_by_onnxruntime(content), network, spec, config, image).max()
    require_small(shift, GRAPH_LIMIT, f"The graph moves joints by up to {shift:.3f} mm", out)
    with atomic_write(out) as temporary:
        temporary.write_bytes(content)
    size = len(content) / 1e6
    print(f"{spec.net} with its head, {size:.1f} MB, in {out}: joints within {shift:.5f} mm of PyTorch's")


def write_int8(out: Path, network: nn.Module, spec: ModelSpec, config: Config) -> None:
    """Write OpenVINO's .xml and .bin, with ranges measured on the data set's crops.

    Raises:
        FileNotFoundError: if there is no data set.
        UserError: if a package is missing, or joints move by more than INT8_LIMIT in the mean.
    """
    frames = calibration_dataset(config)
    image = torch.from_numpy(spread_crops(frames, CHECKED_FRAMES))
    model = openvino_core().read_model(to_onnx(network, spec))
    model = quantize(model, spread_crops(frames, CALIBRATION_FRAMES))
    model.set_rt_info(json.dumps(spec._asdict()), SPEC_ENTRY)
    for key, value in graph_metadata(spec).items():
        model.set_rt_info(value, [*SPEC_ENTRY[:1], key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        require("openvino").save_model(model, path)
        shift = joint_shift(load_engine(path)[0], network, spec, config, image)
        outcome = f"int8 moves joints by {shift.mean():.2f} mm in the mean"
        require_small(shift.mean(), INT8_LIMIT, outcome, out)
        graph, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    with atomic_write(out) as xml, atomic_write(out.with_suffix(".bin")) as bin_:
        xml.write_bytes(graph)
        bin_.write_bytes(weights)
    size = (len(graph) + len(weights)) / 1e6
    print(f"{spec.net} with its head, {size:.1f} MB, in {out} and the .bin beside it.")
    print(f"{outcome}, {shift.max():.2f} mm at most, over {len(image)} frames.")


def write_weights(out: Path, network: nn.Module, spec: ModelSpec, config: Config, mantissa: int) -> None:
    """Write a checkpoint with half the bytes, and what its training said of itself.

    Raises:
        UserError: if a joint moves by too much, as where a weight is too large for fp16.
    """
    halved = copy.deepcopy(network)
    for weight in halved.parameters():
        if weight.dim() > 1:  # all but a fraction of a per cent; batch norms are no place to save
            weight.data = round_mantissa(weight.data, mantissa).half()
    as_read = JointNetwork(copy.deepcopy(halved).float(), spec.kernel_size)
    shift = joint_shift(as_read, network, spec, config, example_crops(3, spec.img_size)).max()
    limit = FP16_LIMIT if mantissa == FP16_MANTISSA else ROUNDED_LIMIT
    outcome = f"fp16 weights move joints by up to {shift:.3f} mm with a mantissa of {mantissa}"
    require_small(shift, limit, outcome, out)
    content = read_checkpoint(Path(config.load_model)) if config.load_model else {}
    kept = ("config", "revision", "step", "best_mpe_mm")
    save_checkpoint(out, halved, spec, **{name: content[name] for name in kept if name in content})
    size = out.stat().st_size / 1e6
    print(f"{spec.net}, {size:.1f} MB, in {out}: joints within {shift:.5f} mm of the fp32 weights'")


def round_mantissa(weight: Tensor, bits: int) -> Tensor:
    """Round numbers to so many bits after the leading one: zeros at the end of each pack well."""
    fraction, exponent = torch.frexp(weight)  # the fraction lies in [0.5, 1)
    steps = 2.0 ** (bits + 1)
    return torch.ldexp(torch.round(fraction * steps) / steps, exponent)


@torch.inference_mode()
def joint_shift(
    backend: Backend, network: nn.Module, spec: ModelSpec, config: Config, image: Tensor
) -> Tensor:
    """Distances (B, J), mm, of a backend's joints from the network's, where nothing is fused or rounded."""
    expected = dense_to_joints(network.eval()(image)[-1], image, spec.kernel_size)
    return joint_shift_mm(backend(image)[0], expected, max(config.cube))


def require_small(shift_mm: Tensor, limit_mm: float, outcome: str, out: Path) -> None:
    """Raise UserError where joints move by more than a limit, or are not numbers."""
    if not shift_mm <= limit_mm:
        raise UserError(f"{outcome}, more than {limit_mm} mm: nothing was written to {out}.")


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExportSettings)
