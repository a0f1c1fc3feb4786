"""A trained network for others to use: as an ONNX graph, in int8, or its weights in half the bytes.

python -m util.deployment.export --load_model output/synth/hourglass_1/best.pth --out model.onnx
python -m util.deployment.export --load_model results/resnet_18_synth.pth --precision int8 --out int8.xml
python -m util.deployment.export --load_model output/synth/resnet_18/best.pth --out half.pth
"""

import copy
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from config import Config
from dataloader import dataset_info
from model.awr import dense_to_joints
from util import UserError, require
from util.checkpoint import (
    RESULTS,
    ModelSpec,
    check_spec,
    load_network,
    read_checkpoint,
    save_checkpoint,
    spec_from_config,
)
from util.cli import run
from util.deployment.backends import Backend, load_engine, openvino_core, run_by_onnxruntime
from util.deployment.graph import OPSET, JointNetwork, graph_metadata, to_onnx
from util.deployment.int8 import calibration_dataset, quantize, spread_crops
from util.files import atomic_write, sha256

CALIBRATION_FRAMES, CHECKED_FRAMES = 128, 32
# How far joints may move, mm: at most by becoming a graph or by fp16 weights, where rounding moves them by
# tenths and an overflow by centimetres; on average by int8.
LIMITS = {".onnx": 0.05, ".pth": 2.0, ".xml": 2.0}


@dataclass
class ExportSettings:
    """What is exported, and as what. What a checkpoint says of itself wins over `dataset` to `cube`."""

    load_model: str = ""  # checkpoint; empty: results/<net>_<dataset>.pth
    out: str = "model.onnx"  # file to write: .onnx a graph, .xml int8 for OpenVINO, .pth weights
    precision: Literal["fp32", "int8"] = "fp32"  # int8: with ranges measured on crops of the data set
    opset: Literal[17, 18, 19, 20, 21, 22, 23] = OPSET  # of an .onnx: 17 for older engines, as TensorRT 8
    data_dir: str = "data"  # folder that holds the data sets; read for int8 alone
    dataset: str = "synth"  # whose joints the network predicts
    net: str = "resnet_18"  # resnet_18, resnet_50, resnet_101, resnet_152, or hourglass_N
    downsample: Literal[1, 2, 4] = 2  # crop edge / edge of the dense maps
    kernel_size: float | None = None  # K of the closeness, in half cubes; None: the network's own
    img_size: int = 128  # edge of its crops, pixels
    cube: tuple[float, float, float] | None = None  # edges of the cropped volume, mm; None: the data set's

    def resolved(self) -> "ExportSettings":
        self.config(), self.ending()
        return self

    def ending(self) -> str:
        """Of `out`, which must fit the precision."""
        ending = Path(self.out).suffix
        if ending not in LIMITS or (ending == ".xml") != (self.precision == "int8"):
            raise UserError(
                f"precision is {self.precision} and out {self.out}: it must end in .onnx, for a graph, .xml, "
                "for int8, or .pth, for weights; int8, and only int8, is a .xml."
            )
        return ending

    def config(self) -> Config:
        """The project's settings with these among them."""
        own = ("out", "precision", "opset")
        return Config(**{name: value for name, value in vars(self).items() if name not in own}).resolved()


def main(settings: ExportSettings) -> None:
    """Write the file, and only if it computes what the network does."""
    config = settings.config()
    path = config.load_model or str(RESULTS / f"{config.net}_{config.dataset}.pth")
    network, spec = load_network(Path(path), spec_from_config(config))
    spec = spec._replace(dataset=spec.dataset or config.dataset)
    if spec.dataset != config.dataset:
        print(f"{path} was trained on {spec.dataset}: this wins over {config.dataset}.")
    config = replace(config, load_model=path, dataset=spec.dataset, cube=spec.cube).resolved()
    check_spec(path, spec, config)
    opset = settings.opset if settings.ending() == ".onnx" else OPSET
    export(Path(settings.out), network, spec, replace(config, img_size=spec.img_size), opset)


def export(out: Path, network: nn.Module, spec: ModelSpec, config: Config, opset: int = OPSET) -> None:
    """Write a network on the CPU to the file that the ending names, if the joints stay within LIMITS.

    `config` names the checkpoint, `load_model`, and the data set on which int8's ranges are measured.
    """
    kind, size = out.suffix, spec.img_size
    planes = torch.linspace(0, 1, 4).view(-1, 1, 1, 1) * torch.linspace(-1, 1, size)  # differently tilted
    image = planes.expand(-1, -1, size, -1).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{kind}")
        if kind == ".onnx":
            path.write_bytes(to_onnx(network, spec, opset))
            backend = run_by_onnxruntime(path.read_bytes())
        elif kind == ".xml":
            dataset = calibration_dataset(config)
            image = torch.from_numpy(spread_crops(dataset, CHECKED_FRAMES))
            crops = spread_crops(dataset, CALIBRATION_FRAMES)
            backend = write_int8(path, network, spec, Path(config.load_model), crops)
        else:
            backend = write_weights(path, network, spec, Path(config.load_model))
        with torch.inference_mode():
            expected = dense_to_joints(network.eval()(image)[-1], image, spec.kernel_size)
            edge_mm = max(config.cube or dataset_info(config.dataset).cube)
            shift = (backend(image)[0] - expected).norm(dim=-1) * edge_mm / 2
        outcome = f"joints move by {shift.mean():.5f} mm on average, by {shift.max():.5f} at most"
        moved = shift.mean() if kind == ".xml" else shift.max()
        if not moved <= LIMITS[kind]:
            raise UserError(f"{outcome}, more than {LIMITS[kind]}: nothing was written to {out}.")
        files = sorted(Path(folder).iterdir())
        for file in files:
            with atomic_write(out.with_suffix(file.suffix)) as temporary:
                shutil.copyfile(file, temporary)
        megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{spec.net}, {megabytes:.1f} MB, in {out}: over {len(image)} crops, {outcome}.")


def write_int8(path: Path, network: nn.Module, spec: ModelSpec, source: Path, crops: np.ndarray) -> Backend:
    """Write OpenVINO's .xml and .bin, with ranges measured on crops (N, 1, S, S), and load them.

    The .xml has the SHA-256 of the checkpoint, `source`, and of the .bin.
    """
    save_model = require("openvino", "deploy").save_model
    model = quantize(openvino_core().read_model(to_onnx(network, spec)), crops)
    save_model(model, path)
    entries = graph_metadata(spec) | {
        "spec": json.dumps(spec._asdict()),
        "checkpoint_sha256": sha256(source),
        "weights_sha256": sha256(path.with_suffix(".bin")),
    }
    for key, value in entries.items():
        model.set_rt_info(value, ["awr", key])
    save_model(model, path)
    return load_engine(path)[0]


def write_weights(path: Path, network: nn.Module, spec: ModelSpec, source: Path) -> Backend:
    """Write the weights in fp16, with what the checkpoint `source` says of its training, and load them."""
    halved = copy.deepcopy(network)
    for weight in halved.parameters():
        if weight.dim() > 1:  # all but a fraction of a per cent; batch norms are no place to save
            weight.data = weight.data.half()
    content = read_checkpoint(source)
    kept = ("config", "revision", "step", "best_mpe_mm")
    save_checkpoint(path, halved, spec, **{name: content[name] for name in kept if name in content})
    return JointNetwork(load_network(path, spec)[0], spec.kernel_size)


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExportSettings)
