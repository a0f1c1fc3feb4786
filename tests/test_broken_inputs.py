"""Every broken input ends in one sentence and exit code 2, and leaves nothing half-written behind."""

import json
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from tests.helpers.nyu_folder import SMALL, write_scored_hands
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint

FRAMES = 3
LABELS, CENTERS = "nyu/test/joint_data.mat", "nyu/center_test_refined.txt"
KINDS = "nyu/test/kinds.txt"
FRAME, MODEL, JOINTS = "nyu/test/depth_1_0000002.png", "small.pth", "true.txt"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A data set of three hands, predictions for it and a checkpoint; each case breaks a copy."""
    root = tmp_path_factory.mktemp("healthy")
    write_scored_hands(root, FRAMES)
    return root


# What breaks a file: takes its path.


def text(content):
    return lambda path: path.write_text(content)


def second_line(line):
    def write(path):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")

    return write


def labels(value, *index, shape=(3, FRAMES, 36, 3), healthy=700.0):
    """Labels of this shape, with a value at a place or everywhere."""

    def write(path):
        content = np.full(shape, healthy, np.asarray(value).dtype if not index else float)
        content[index or ...] = value
        savemat(path, {"joint_xyz": content})

    return write


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def enlarge(path):
    """Make a PNG's header, checksum included, announce 60,000 × 60,000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def picture(frame):
    return lambda path: cv2.imwrite(str(path), frame)


def another_camera(folder):
    (folder / "generator.json").write_text(json.dumps({"camera": NYU_CAMERA._replace(fx=475.0)._asdict()}))


def foreign_weights(path):
    torch.save(ModelSpec("hourglass_1", 14, 2, 0.4).build().state_dict(), path)


def other_joints(path):
    spec = SMALL._replace(num_joints=16, dataset=None)
    save_checkpoint(path, spec.build(), spec)


def broken_weights(path):
    network = SMALL.build()
    torch.nn.init.constant_(network.final1.bias, torch.nan)
    save_checkpoint(path, network, SMALL)


# name: (file of a healthy folder, how it is broken, what the sentence must say)
FILES = {
    "no data set": ("nyu", shutil.rmtree, "nyu/test is missing"),
    "no labels": (LABELS, Path.unlink, "joint_data.mat is missing"),
    "labels are text": (LABELS, text("x" * 200), "cannot be read as a MATLAB file"),
    "labels cut off": (LABELS, cut, "joint_data.mat"),
    "labels without joints": (LABELS, lambda path: savemat(path, {"a": 1}), "of shape (0,)"),
    "labels of another shape": (LABELS, labels(0.0, shape=(3, FRAMES, 14, 3)), "(3, 3, 14, 3)"),
    "labels of objects": (LABELS, labels(np.array("7", object)), "joint_xyz holds object of shape"),
    "labels of words": (LABELS, labels("a"), "joint_data.mat"),
    "labels of no camera": (LABELS, labels(0.0, shape=(0, FRAMES, 36, 3)), "(0, 3, 36, 3)"),
    "complex labels": (LABELS, labels(1j), "complex128"),
    "a label too many": (LABELS, labels(7.0, shape=(3, 4, 36, 3)), "3 depth frames, 4 labels and 3 centres"),
    "label is NaN": (LABELS, labels(np.nan, 0, 1, 3), "depth_1_0000002.png"),
    "label behind the camera": (LABELS, labels(-1, 0, 2, 32, 2), "0000003.png"),
    "kinds in Latin-1": (KINDS, lambda path: path.write_bytes(b"\xe9t\xe9"), "kinds.txt is not UTF-8 text"),
    "kinds in UTF-16": (KINDS, lambda path: path.write_bytes("plain".encode("utf-16")), "is not UTF-8 text"),
    "kinds of bytes": (KINDS, lambda path: path.write_bytes(b"\0\x01\x80"), "is not UTF-8 text"),
    "no centres": (CENTERS, Path.unlink, "center_test_refined.txt is missing"),
    "centres empty": (CENTERS, text(""), "center_test_refined.txt: the file is empty"),
    "centre of two numbers": (CENTERS, second_line("1 2"), "line 2 has 2 numbers, expected 3"),
    "centre is a word": (CENTERS, second_line("1 2 far"), "line 2 holds 'far'"),
    "centre is NaN": (CENTERS, second_line("1 2 nan"), "line 2 holds 'nan', which is not a finite"),
    "centre behind the camera": (CENTERS, second_line("0 0 -700"), "depth_1_0000002.png"),
    "centre misses the frame": (CENTERS, second_line("5000 0 700"), "0000002.png: the crop window"),
    "centre in metres": (CENTERS, second_line("0 0 1e9"), "smaller than a pixel"),
    "a frame missing": (FRAME, Path.unlink, "2 depth frames, 3 labels and 3 centres"),
    "a frame misnamed": (
        FRAME,
        lambda path: path.rename(path.with_name("depth_1_0000009.png")),
        "0000002.png; the first frame without a label is",
    ),
    "a frame of another camera": (FRAME, picture(np.full((240, 320, 3), 2, np.uint8)), "has 320×240 pixels"),
    "a frame of an absurd size": (FRAME, enlarge, "0000002.png is damaged"),
    "a frame empty": (FRAME, text(""), "0000002.png is damaged"),
    "a frame cut off": (FRAME, cut, "0000002.png is damaged"),
    "a frame of 16 bits": (FRAME, picture(np.full((480, 640), 7, np.uint16)), "expected an 8-bit 3-channel"),
    "rendered with another camera": ("nyu/test", another_camera, "was rendered with Camera"),
    "no checkpoint": (MODEL, Path.unlink, "small.pth is missing"),
    "checkpoint cut off": (MODEL, cut, "small.pth is damaged"),
    "checkpoint of another network": (MODEL, foreign_weights, "does not fit resnet_18"),
    "checkpoint of other joints": (MODEL, other_joints, "predicts 16 joints"),
    "weights are NaN": (MODEL, broken_weights, "are not finite"),
    "no predictions": (JOINTS, Path.unlink, "true.txt is missing"),
    "a frame too few": (JOINTS, text("700 " * 42), "has 1 frames, the labels have 3"),
    "a line too short": (JOINTS, second_line("700 " * 41), "line 2 has 41 numbers, expected 42"),
    "a word": (JOINTS, second_line("700 " * 41 + "x"), "line 2 holds 'x'"),
    "a NaN": (JOINTS, second_line("700 " * 41 + "nan"), "line 2 holds 'nan'"),
    "UTF-16": (JOINTS, lambda path: path.write_bytes("1 2\n".encode("utf-16")), "is UTF-16 text: save it as"),
    "UTF-16 BE": (JOINTS, lambda path: path.write_bytes(b"\xfe\xff\0001\0\n"), "is UTF-16 text: save it as"),
}

SETTINGS = {
    "unknown flag": ("--kernel 1", "--kernel"),
    "word for a number": ("--batch_size many", "--batch_size"),
    "unknown data set": ("--dataset bighand", "There is no data set 'bighand'"),
    "unknown network": ("--net resnet_34 --load_model=", "There is no network 'resnet_34'"),
    "unknown family": ("--net vit --load_model=", "There is no network 'vit'"),
    "downsample 3": ("--downsample 3", "--downsample"),
    "downsample of an hourglass": ("--net hourglass_1 --downsample 4 --load_model=", "downsample 4"),
    "odd crop": ("--img_size 100", "img_size is 100"),
    "no batch": ("--batch_size 0", "batch_size is 0"),
    "negative workers": ("--num_workers -1", "num_workers is -1"),
    "kernel of nothing": ("--kernel_size -1", "kernel_size is -1"),
    "endless kernel": ("--kernel_size inf", "kernel_size is inf"),
    "kernel in pixels": ("--kernel_size 40", "kernel_size is 40.0: it must be at least 0.01 and at most 4."),
    "endless batch": (f"--batch_size {10**20}", "batch_size is 1"),
    "endless seed": (f"--seed {2**32}", "it must be at least 0 and at most 4,294,967,295."),
    "too many workers": ("--num_workers 100000", "at most 1,000."),
    "no number": ("--sensor nan", "sensor is nan: it must be at least 0 and at most 1."),
    "flat cube": ("--cube 300 300 0", "cube is (300.0, 300.0, 0.0)"),
    "endless cube": ("--cube inf 300 300", "must be at least 1 and at most 10,000"),
    "half a cube": ("--cube 300", "--cube"),
    "negative seed": ("--seed -1", "seed is -1"),
    "negative augmentation": ("--augment_para -1 0 0", "augment_para"),
    "absent device": ("--device cuda:7", "'cuda:7'"),
    "no such device": ("--device abacus", "'abacus'"),
    "device without memory": ("--device meta", "'meta'"),
    "nameless comparison": ("--compare file.txt", "NAME=FILE"),
    "comparison missing": ("--compare a=absent.txt", "absent.txt is missing"),
    "two rows of one name": ("--compare a=b a=b", "the name a is taken"),
}


@pytest.fixture
def folder(healthy, tmp_path):
    return Path(shutil.copytree(healthy, tmp_path / "broken"))


@pytest.fixture
def refuses(folder, fails):
    """Run test.py on the folder and require one sentence that says this, exit code 2 and no file."""

    def run(sentence, *arguments):
        out = folder / "out"
        common = ("--dataset", "nyu", "--data_dir", folder, "--output_dir", out, "--num_workers", "0")
        assert sentence in fails("test.py", *common, *arguments, beside=("%|", "libpng error: ", "warning: "))
        assert not out.exists()

    return run


@pytest.mark.parametrize("name", FILES)
def test_broken_file(name, folder, refuses):
    file, damage, sentence = FILES[name]
    damage(folder / file)
    scored = ("--predictions", folder / JOINTS) if file == JOINTS else ("--load_model", folder / MODEL)
    refuses(sentence, *scored)


@pytest.mark.parametrize("name", SETTINGS)
def test_broken_setting(name, folder, refuses):
    flags, sentence = SETTINGS[name]
    refuses(sentence, "--load_model", folder / MODEL, *flags.split())
