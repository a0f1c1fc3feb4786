"""`pip install .` gives a package awr that lives beside a user's own modules of the same names."""

import subprocess
import sys
import sysconfig
import venv

import numpy as np
import pytest

from config import VERSION
from tests.helpers.project import PROJECT
from util.camera import Camera
from util.inference.predictor import HandPosePredictor

FRAME = PROJECT / "data" / "synth" / "test" / "depth_1_0000001.png"
FIVE_LINES = f"""
import config, util, awr
assert config.MINE and util.MINE
from awr import Camera, HandPosePredictor, HandTracker
from awr.dataloader.nyu import read_depth
from pathlib import Path
import numpy as np

depth = read_depth(Path({str(FRAME)!r}))
pose = HandPosePredictor().predict(depth, Camera(fx=588.03, fy=587.07, cx=320, cy=240))
np.save("joints.npy", pose.joints_xyz)
print(awr.__version__)
"""


@pytest.mark.slow
def test_an_installed_package_gives_the_same_joints(tmp_path):
    # PyTorch is not installed anew: the new environment sees the packages of this one.
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "host.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    installed = subprocess.run([*pip, str(PROJECT)], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr

    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("util.py", "config.py", "model.py"):
        (mine / name).write_text("MINE = True\n")
    ran = subprocess.run([python, "-c", FIVE_LINES], cwd=mine, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == VERSION
    from dataloader.nyu import read_depth

    predictor = HandPosePredictor(PROJECT / "results" / "hourglass_1_synth.pth")
    pose = predictor.predict(read_depth(FRAME), Camera(fx=588.03, fy=587.07, cx=320, cy=240))
    np.testing.assert_allclose(np.load(mine / "joints.npy"), pose.joints_xyz, atol=1e-3)

    bank = "from awr.dataloader.synthetic.hand.bank import BUNDLED, HandBank; HandBank(BUNDLED, 'train')"
    subprocess.run([python, "-c", bank], cwd=mine, check=True)
    command = [python, "-m", "awr.test", "--help"]
    ran = subprocess.run(command, cwd=mine, capture_output=True, text=True, check=False)
    assert "usage: python -m awr.test" in ran.stdout
