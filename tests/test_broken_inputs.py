"""Every broken input ends in one sentence and exit code 2, and leaves nothing half-written behind."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from config import Config
from tests.helpers.nyu_folder import ball_hand, encode_depth, open_hand, write_nyu_folder
from tests.helpers.project import PROJECT
from util import UserError
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint
from util.cli import parse_settings, run
from util.device import pick_device
from util.files import atomic_write, locked_folder

FRAMES = 3


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A data set of three hands, predictions for it and a checkpoint; each case breaks a copy."""
    root = tmp_path_factory.mktemp("healthy")
    joints = np.array([open_hand([10.0 * i, 0, 700]) for i in range(FRAMES)])
    write_nyu_folder(root / "nyu", "test", map(ball_hand, joints), joints, joints.mean(axis=1))
    np.savetxt(root / "predictions.txt", joints.reshape(FRAMES, -1), fmt="%.3f")
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "nyu", 64)
    save_checkpoint(root / "model.pth", spec.build(), spec)
    return root


class Folder(NamedTuple):
    """A copy of the healthy data set, to break."""

    root: object

    @property
    def labels(self):
        return self.root / "nyu" / "test" / "joint_data.mat"

    @property
    def centers(self):
        return self.root / "nyu" / "center_test_refined.txt"

    @property
    def frame(self):
        return self.root / "nyu" / "test" / "depth_1_0000002.png"

    @property
    def predictions(self):
        return self.root / "predictions.txt"

    @property
    def model(self):
        return self.root / "model.pth"

    def save_labels(self, joint_xyz):
        savemat(self.labels, {"joint_xyz": joint_xyz})

    def save_center(self, line):
        lines = self.centers.read_text().splitlines()
        self.centers.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")

    def save_prediction(self, line):
        lines = self.predictions.read_text().splitlines()
        self.predictions.write_text("\n".join([lines[0], line]) + "\n")


def labels_with(value, index):
    labels = np.full((3, FRAMES, 36, 3), 700.0)
    labels[index] = value
    return labels


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def enlarge(path):
    """Make a PNG's header, checksum included, announce 60,000 × 60,000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def save_camera(folder):
    camera = NYU_CAMERA._replace(fx=475.0)
    (folder / "generator.json").write_text(json.dumps({"camera": camera._asdict()}))


def save_foreign_weights(path):
    torch.save(ModelSpec("hourglass_1", 14, 2, 0.4).build().state_dict(), path)


def save_other_joints(path):
    spec = ModelSpec("resnet_18", 16, 4, 1.0)
    save_checkpoint(path, spec.build(), spec)


def save_broken_weights(path):
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "nyu", 64)
    network = spec.build()
    torch.nn.init.constant_(network.final1.bias, torch.nan)
    save_checkpoint(path, network, spec)


# name: (how to break a healthy folder, further flags, what the sentence must say)
FILES = {
    "no data set": (lambda f: shutil.rmtree(f.root / "nyu"), (), "nyu/test is missing"),
    "no labels": (lambda f: f.labels.unlink(), (), "joint_data.mat is missing"),
    "labels are text": (lambda f: f.labels.write_text("x" * 200), (), "cannot be read as a MATLAB file"),
    "labels cut off": (lambda f: cut(f.labels), (), "joint_data.mat"),
    "labels without joints": (lambda f: savemat(f.labels, {"a": 1}), (), "holds no joint_xyz"),
    "labels of another shape": (lambda f: f.save_labels(np.zeros((3, FRAMES, 14, 3))), (), "(3, 3, 14, 3)"),
    "labels of objects": (
        lambda f: f.save_labels(np.full((3, FRAMES, 36, 3), "7", object)),
        (),
        "joint_xyz holds object of shape",
    ),
    "labels of one frame too many": (
        lambda f: f.save_labels(np.full((3, FRAMES + 1, 36, 3), 700.0)),
        (),
        "3 depth frames, 4 labels and 3 centres",
    ),
    "label is NaN": (lambda f: f.save_labels(labels_with(np.nan, (0, 1, 3))), (), "depth_1_0000002.png"),
    "label behind the camera": (lambda f: f.save_labels(labels_with(-1, (0, 2, 32, 2))), (), "0000003.png"),
    "no centres": (lambda f: f.centers.unlink(), (), "center_test_refined.txt is missing"),
    "centres empty": (lambda f: f.centers.write_text(""), (), "center_test_refined.txt: the file is empty"),
    "centre of two numbers": (
        lambda f: f.save_center("1 2"),
        (),
        "line 2 has 2 numbers, expected 3",
    ),
    "centre is a word": (lambda f: f.save_center("1 2 far"), (), "line 2 holds 'far'"),
    "centre is NaN": (lambda f: f.save_center("1 2 nan"), (), "line 2 holds 'nan', which is not a finite"),
    "centre behind the camera": (lambda f: f.save_center("0 0 -700"), (), "depth_1_0000002.png"),
    "centre misses the frame": (lambda f: f.save_center("5000 0 700"), (), "0000002.png: the crop window"),
    "centre in metres": (lambda f: f.save_center("0 0 1e9"), (), "smaller than a pixel"),
    "a frame missing": (lambda f: f.frame.unlink(), (), "2 depth frames, 3 labels and 3 centres"),
    "a frame misnamed": (
        lambda f: f.frame.rename(f.frame.with_name("depth_1_0000009.png")),
        (),
        "the first label without a frame is that of",
    ),
    "a frame of another camera": (
        lambda f: cv2.imwrite(str(f.frame), np.full((240, 320, 3), 2, np.uint8)),
        (),
        "0000002.png has 320×240 pixels",
    ),
    "a frame that announces an absurd size": (lambda f: enlarge(f.frame), (), "0000002.png is damaged"),
    "labels of no camera": (lambda f: f.save_labels(np.zeros((0, FRAMES, 36, 3))), (), "(0, 3, 36, 3)"),
    "labels of words": (lambda f: f.save_labels(np.full((3, FRAMES, 36, 3), "a")), (), "joint_data.mat"),
    "complex labels": (lambda f: f.save_labels(np.full((3, FRAMES, 36, 3), 1j)), (), "complex128"),
    "rendered with another camera": (lambda f: save_camera(f.frame.parent), (), "was rendered with Camera"),
    "a frame empty": (lambda f: f.frame.write_bytes(b""), (), "0000002.png is damaged"),
    "a frame cut off": (lambda f: cut(f.frame), (), "0000002.png is damaged"),
    "a frame of 16 bits": (
        lambda f: cv2.imwrite(str(f.frame), np.full((480, 640), 700, np.uint16)),
        (),
        "expected an 8-bit 3-channel PNG",
    ),
    "no checkpoint": (lambda f: f.model.unlink(), (), "model.pth is missing"),
    "checkpoint cut off": (lambda f: cut(f.model), (), "model.pth is damaged"),
    "checkpoint of another network": (lambda f: save_foreign_weights(f.model), (), "does not fit resnet_18"),
    "checkpoint of other joints": (lambda f: save_other_joints(f.model), (), "predicts 16 joints"),
    "weights are NaN": (lambda f: save_broken_weights(f.model), (), "are not finite"),
}

PREDICTIONS = {
    "no predictions": (lambda f: f.predictions.unlink(), "predictions.txt is missing"),
    "a frame too few": (lambda f: f.save_prediction("700 " * 42), "has 2 frames, the labels have 3"),
    "a line too short": (lambda f: f.save_prediction("700 " * 41), "line 2 has 41 numbers, expected 42"),
    "a word": (lambda f: f.save_prediction("700 " * 41 + "x"), "line 2 holds 'x'"),
    "a NaN": (lambda f: f.save_prediction("700 " * 41 + "nan"), "line 2 holds 'nan'"),
}

SETTINGS = {
    "unknown flag": (("--kernel", "1"), "--kernel"),
    "word for a number": (("--batch_size", "many"), "--batch_size"),
    "unknown data set": (("--dataset", "bighand"), "There is no data set 'bighand'"),
    "unknown network": (("--net", "resnet_34", "--load_model", ""), "There is no network 'resnet_34'"),
    "unknown family": (("--net", "vit", "--load_model", ""), "There is no network 'vit'"),
    "downsample 3": (("--downsample", "3"), "--downsample"),
    "downsample of an hourglass": (
        ("--net", "hourglass_1", "--downsample", "4", "--load_model", ""),
        "downsample 4",
    ),
    "odd crop": (("--img_size", "100"), "img_size is 100"),
    "no batch": (("--batch_size", "0"), "batch_size is 0"),
    "negative workers": (("--num_workers", "-1"), "num_workers is -1"),
    "kernel of nothing": (("--kernel_size", "-1"), "kernel_size is -1"),
    "flat cube": (("--cube", "300", "300", "0"), "cube is (300.0, 300.0, 0.0)"),
    "absent device": (("--device", "cuda:7"), "'cuda:7'"),
    "no such device": (("--device", "abacus"), "'abacus'"),
    "endless kernel": (("--kernel_size", "inf"), "kernel_size is inf"),
    "endless cube": (("--cube", "inf", "300", "300"), "must be positive and finite"),
    "half a cube": (("--cube", "300"), "--cube"),
    "negative seed": (("--seed", "-1"), "seed is -1"),
    "negative augmentation": (("--augment_para", "-1", "0", "0"), "augment_para"),
    "device without memory": (("--device", "meta"), "'meta'"),
    "nameless comparison": (("--compare", "file.txt"), "NAME=FILE"),
    "comparison missing": (("--compare", "a=absent.txt"), "absent.txt is missing"),
}


@pytest.fixture
def folder(healthy, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(healthy, root)
    return Folder(root)


@pytest.fixture
def fails(folder, run_script):
    """Run test.py on the folder and require one sentence, exit code 2 and no file."""

    def run(arguments, sentence):
        out = folder.root / "out"
        common = ("--dataset", "nyu", "--data_dir", folder.root, "--output_dir", out, "--num_workers", "0")
        ran = run_script("test.py", *common, *arguments)
        assert ran.code == 2, ran
        *before, last = ran.err.strip().splitlines()
        assert last.startswith("error: ")
        assert sentence in last
        assert last.endswith(".")
        assert not any("error: " in line and not line.startswith("libpng") for line in before), before
        assert "Traceback" not in ran.err
        assert not out.exists()

    return run


@pytest.mark.parametrize("name", FILES)
def test_broken_file(name, folder, fails):
    damage, flags, sentence = FILES[name]
    damage(folder)
    fails(("--load_model", folder.model, *flags), sentence)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_broken_predictions(name, folder, fails):
    damage, sentence = PREDICTIONS[name]
    damage(folder)
    fails(("--predictions", folder.predictions), sentence)


def test_two_rows_of_one_name(folder, fails):
    compare = ("--compare", f"predictions={folder.predictions}")
    fails(("--predictions", folder.predictions, *compare), "the name predictions is taken")


@pytest.mark.parametrize("name", SETTINGS)
def test_broken_setting(name, folder, fails):
    flags, sentence = SETTINGS[name]
    model = () if "--load_model" in flags else ("--load_model", folder.model)
    fails((*model, *flags), sentence)


def test_the_healthy_folder_is_healthy(folder, run_script):
    """Otherwise the cases above could fail for another reason than theirs."""
    common = ("--dataset", "nyu", "--data_dir", folder.root, "--output_dir", folder.root / "out")
    ran = run_script("test.py", *common, "--load_model", folder.model, "--predictions", folder.predictions)
    assert ran.code == 0, ran.err
    assert run_script("test.py", *common, "--load_model", folder.model).code == 0


def test_frames_hold_what_they_show():
    depth = np.array([[0, 255, 256, 65535]])
    assert (encode_depth(depth)[..., 1].astype(int) * 256 + encode_depth(depth)[..., 0] == depth).all()


@pytest.mark.slow
def test_a_mistyped_flag_is_a_sentence_on_any_terminal():
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "test.py", "--epochs", "3"]
    ran = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert "--epochs" in ran.stderr
    assert ran.stderr.endswith("; --help lists the settings.\n")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_mistyped_flag_comes_with_the_likely_one(monkeypatch, encoding):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    expected = "--load_modle, a. Perhaps you meant --load_model; --help lists the settings."
    with pytest.raises(UserError, match=f"^Unrecognized options: {expected}$"):
        parse_settings(["--load_modle", "a"], "Test.", Config)


def test_help_keeps_example_lines(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help"], "Do.\n\npython a.py --one\npython a.py --two\n", Config)
    assert "\n  python a.py --one\n  python a.py --two\n" in capsys.readouterr().out


def test_auto_takes_the_gpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="'mps' is not available here"):  # this machine is none
        pick_device("auto")


LOCKING = """
import os, sys, time
from pathlib import Path
from util.files import locked_folder
with locked_folder(Path(sys.argv[1])):
    if os.fork() == 0:
        print("locked", flush=True)
    time.sleep(30)
"""


def test_a_lock_ends_with_its_process_although_a_worker_lives(tmp_path):
    command = [sys.executable, "-c", LOCKING, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            with pytest.raises(UserError, match="Another run writes into"), locked_folder(tmp_path):
                pass
            process.kill()
            process.wait()
            with locked_folder(tmp_path):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_terminated_script_leaves_nothing_half_written(monkeypatch, capsys, tmp_path):
    def write(_: Config) -> None:
        with atomic_write(tmp_path / "metrics.json"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does, to the process and to its group

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sys.argv", ["test.py"])
    with pytest.raises(SystemExit) as stop:
        run(write, "Write.", Config)
    assert stop.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped.\n"
    assert list(tmp_path.iterdir()) == []


def no_compiler():
    error = type("InductorError", (RuntimeError,), {"__module__": "torch._dynamo.exc"})
    raise error("no g++ found.\nMore")


def full_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (no_compiler, "torch.compile does not work here: no g++ found; do without it."),
        (full_gpu, "the GPU's memory is full: use smaller batches, bf16, or --device cpu."),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(monkeypatch, capsys, fail, sentence):
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as stop:
        run(lambda _: fail(), "Train.", Config)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
