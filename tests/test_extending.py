"""docs/extending.md is true: a network, a data set and a loss, added in a copy of the project as it says."""

import json
import re
import shutil
import sys
import textwrap

import cv2
import numpy as np
import pytest

from dataloader import dataset_info
from tests.helpers.balls import along_bones, render_balls
from tests.helpers.layout_folders import spread_hands
from tests.helpers.project import PROJECT, output_of
from util.camera import Camera

NETWORK = """
import torch
from torch import nn

class MyNetwork(nn.Module):
    def __init__(self, width, joints, downsample):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=downsample, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, 4 * joints, 1)

    def forward(self, image):
        return [self.head(self.norm(self.stem(image)).relu())]

def build(size: str, num_joints: int, downsample: int) -> nn.Module:
    return MyNetwork(int(size), num_joints, downsample)
"""

BONE_LOSS = """

def bone_loss(predicted, true):
    return huber(predicted.diff(dim=1), true.diff(dim=1))

"""


@pytest.fixture
def project(tmp_path):
    """A copy of the code, and frames of a data set called mydata, in the page's layout."""
    copy = tmp_path / "project"
    ignored = shutil.ignore_patterns(".git", "results", "data", "output", "tests", "__pycache__", ".*")
    shutil.copytree(PROJECT, copy, ignore=ignored)
    for seed, split in enumerate(("train", "val", "test")):
        depth = copy / "data" / "mydata" / split / "depth"
        depth.mkdir(parents=True)
        joints = spread_hands("dexycb", 6, seed)  # whose order the page's data set has
        np.save(depth.with_name("joints.npy"), joints)
        for i, joint_xyz in enumerate(joints):
            points = along_bones(joint_xyz, dataset_info("dexycb").chains)
            frame = render_balls(points, Camera(475.0, 475.0, 320.0, 240.0), (480, 640), 9.0)
            assert cv2.imwrite(str(depth / f"{i:06}.png"), frame.round().astype(np.uint16))
    return copy


def add_after(path, marker, text):
    """Insert lines behind the first line that contains the marker."""
    content = path.read_text()
    end = content.index("\n", content.index(marker)) + 1
    path.write_text(content[:end] + text + content[end:])


@pytest.mark.slow
def test_a_network_a_data_set_and_a_loss_are_added_as_the_page_says(project):
    page = (PROJECT / "docs" / "extending.md").read_text()
    row = re.search(r'^   ("mynet": NetworkInfo\(.*\),)$', page, re.M)[1]
    (project / "model" / "my_network.py").write_text(NETWORK)
    add_after(project / "config.py", "NETWORKS = {", f"    {row}\n")

    reader = re.search(r'^   ```python\n(   """My data.*?)^   ```$', page, re.M | re.S)[1]
    (project / "dataloader" / "mydata.py").write_text(textwrap.dedent(reader))
    new_set = re.search(r'^   ("mydata": DatasetRow\(.*\),)$', page, re.M)[1]
    add_after(project / "config.py", "DATASETS = {", f"    {new_set}\n")

    term, weight = re.findall(r'^   "bones": .*,$', page, re.M)
    loss = project / "model" / "loss.py"
    add_after(loss, "HUBER_DELTA =", BONE_LOSS)
    add_after(loss, '"coord": sum(', f"     {term}\n")
    add_after(project / "config.py", "coord_weight: float | None", "    bones_weight: float = 2.0\n")
    engine = project / "util" / "training" / "engine.py"
    engine.write_text(engine.read_text().replace('return {"dense"', f'return {{{weight} "dense"'))

    def run(*command):
        return output_of(sys.executable, *command, cwd=project)

    centers = re.search(r"^   python (-m util.inference.centers .*)$", page, re.M)[1]
    for split in ("train", "val", "test"):
        said = run(*centers.replace("train", split).split())
        assert "within 20 mm" in said
        true = np.load(project / "data" / "mydata" / split / "joints.npy").mean(axis=1)
        made = np.loadtxt(project / "data" / "mydata" / f"center_{split}_refined.txt")
        assert np.linalg.norm(made - true, axis=1).max() < 40
    flags = ("--dataset", "mydata", "--net", "mynet_8", "--img_size", "64", "--num_workers", "0")
    run("train.py", *flags, "--max_epoch", "1", "--batch_size", "2", "--log_every", "1")
    checkpoint = "output/mydata/mynet_8/best.pth"
    assert (project / checkpoint).is_file()
    step = json.loads((project / "output/mydata/mynet_8/log.jsonl").read_text().splitlines()[0])
    assert step["loss"] == pytest.approx(step["dense"] + step["coord"] + 2 * step["bones"])
    assert step["bones"] > 0
    assert "MPE (mm)" in run("test.py", *flags, "--load_model", checkpoint)
