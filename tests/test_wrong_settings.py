"""What cannot work, by its settings or without a package, ends in one sentence before anything is written."""

import sys

import pytest

from tests.helpers.project import PROJECT, need_synthetic_hand

ENDINGS = "it must end in .onnx, for a graph, .xml, for int8, or .pth, for weights"

# Command line: what the sentence must say. More of test.py: test_broken_inputs.py; of the demo: test_demo.py.
WRONG = {
    "train.py --ema 1": "ema",
    "train.py --lr 0": "lr",
    "train.py --clip_grad -1": "clip_grad",
    "train.py --max_epoch -3": "max_epoch",
    "train.py --log_every 0": "log_every",
    "test.py --dataset nyu --split val_hard": "nyu has no split val_hard",
    "test.py --dataset icvl --split val": "icvl has no split val",
    "test.py --dataset msra --split val": "msra has no split val",
    "test.py --dataset msra --test_subject 9": "test_subject is 9",
    "dataloader.cache --num_workers -1": "num_workers is -1",
    "dataloader.cache --split train": "is missing",
    "util.benchmark --rows speed --nets hourglass_1": "No row starts with 'speed': they start with fra",
    "util.benchmark --repeats 0": "repeats is 0",
    "util.benchmark --nets resnet_18 hourglas_1": "There is no network 'hourglas_1'",
    "util.benchmark --nets resnet_18 --load_model missing.pth": "missing.pth is missing",
    "util.deployment.export --opset 16": "invalid choice '16' for argument '--opset'",
    "util.deployment.export --out weights.pt": ENDINGS,
    "util.deployment.export --out weights.PTH": ENDINGS,
    "util.deployment.export --out model": ENDINGS,
    "util.deployment.export --out model.onnx --precision int8": "int8, and only int8, is a .xml",
    "util.deployment.export --out model.pth --precision int8": "int8, and only int8, is a .xml",
    "util.deployment.export --out model.xml --precision fp32": "int8, and only int8, is a .xml",
    "util.deployment.export --net resnet_50": "resnet_50_synth.pth is missing: checkpoints in",
}


# Command line: the module that is not installed, and what the sentence must say.
MISSING = {
    "demo.py --source data/synth/test --serve": ("viser", "pip install -r requirements-demo.txt"),
    "demo.py --source realsense --json a.jsonl": ("pyrealsense2", "pip install pyrealsense2."),
    "demo.py --source synthetic --json a.jsonl": ("dataloader.synthetic.motion", "-r requirements-synth.txt"),
    "dataloader.synthetic --out a --frames 8": ("dataloader.synthetic.writer", "-r requirements-synth.txt"),
    "results/make_bank.py --out a --frames 8": ("anny", "pip install -r requirements-anny.txt"),
    "results/make_bank.py --out a.npz --people 20": ("anny", "pip install -r requirements-anny.txt"),
}


@pytest.mark.parametrize("command", [*WRONG, *MISSING])
def test_what_cannot_work_is_one_sentence_and_leaves_no_file(command, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(PROJECT / "data")
    package, sentence = MISSING[command] if command in MISSING else (None, WRONG[command])
    if command.startswith("results/make_bank.py"):
        need_synthetic_hand()  # embreex would be named first
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    assert sentence in fails(*command.split())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
