"""`pip install` gives a package awr that lives beside a user's own modules of the same names."""

import re
import sys
import sysconfig
import venv

import numpy as np
import pytest

from config import VERSION
from dataloader.nyu import read_depth
from tests.helpers.bundled import write_bundled
from tests.helpers.project import PROJECT, output_of
from util.camera import NYU_CAMERA, Camera
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


def joints_here(camera):
    """The frame's joints (14, 3) mm by this project's own modules."""
    predictor = HandPosePredictor(PROJECT / "results" / "hourglass_1_synth.pth")
    return predictor.predict(read_depth(FRAME), camera).joints_xyz


@pytest.mark.slow
def test_a_package_of_the_source_distribution_gives_the_same_joints(tmp_path):
    write_out = ("-q", "egg_info", "--egg-base", tmp_path)  # nothing is written into the project
    output_of(sys.executable, "setup.py", *write_out, "sdist", "--dist-dir", tmp_path, cwd=PROJECT)
    output_of(
        sys.executable, "setup.py", *write_out, "build_py", "--build-lib", tmp_path / "built", cwd=PROJECT
    )
    # PyTorch is not installed anew: the new environment sees the packages of this one.
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "host.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (sdist,) = tmp_path.glob("awr-*.tar.gz")
    output_of(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", sdist)
    files, built = (
        {str(file.relative_to(root)) for file in root.glob("awr/**/*") if file.suffix not in ("", ".pyc")}
        for root in (site, tmp_path / "built")
    )
    assert files == built
    assert {"awr/util/inference/tracker.py", "awr/demo.py", "awr/results/hourglass_1_synth.pth"} <= files
    (metadata,) = site.glob("awr-*.dist-info/METADATA")
    extras = re.findall("^Provides-Extra: (.*)$", metadata.read_text(), re.MULTILINE)
    assert {f"requirements-{name}" for name in extras} == {f.stem for f in PROJECT.glob("requirements-*")}

    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("util.py", "config.py", "model.py"):
        (mine / name).write_text("MINE = True\n")
    assert output_of(python, "-c", FIVE_LINES, cwd=mine).split()[-1] == VERSION
    expected = joints_here(Camera(fx=588.03, fy=587.07, cx=320, cy=240))
    np.testing.assert_allclose(np.load(mine / "joints.npy"), expected, atol=1e-3)

    missing = "from awr.util import require\ntry: require('nowhere', 'deploy')\n"
    missing += "except ValueError as error: print(error)"
    assert "nowhere is not installed: pip install awr[deploy]." in output_of(python, "-c", missing, cwd=mine)
    bank = "from awr.dataloader.synthetic.hand.bank import BUNDLED, HandBank; HandBank(BUNDLED, 'train')"
    output_of(python, "-c", bank, cwd=mine)
    assert "usage: python -m awr.test" in output_of(python, "-m", "awr.test", "--help", cwd=mine)
    write_bundled(mine / "data" / "synth", 2)
    scored = output_of(python, "-m", "awr.test", cwd=mine)
    assert "awr/results/hourglass_1_synth.pth, which came with the project" in scored


def test_torch_hub_gives_a_predictor(tmp_path):
    code = f"""
import torch
from pathlib import Path
predictor = torch.hub.load({str(PROJECT)!r}, "hand_pose", source="local", net="hourglass_1")
from util.camera import NYU_CAMERA
from dataloader.nyu import read_depth
print(*predictor.predict(read_depth(Path({str(FRAME)!r})), NYU_CAMERA).joints_xyz.round(2).flatten())
"""
    found = output_of(sys.executable, "-c", code, cwd=tmp_path)
    joints = np.array(found.split(), float).reshape(-1, 3)
    np.testing.assert_allclose(joints, joints_here(NYU_CAMERA), atol=0.02)
