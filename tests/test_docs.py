"""The pages: their length, their commands and their code do what they say."""

import json
import os
import re
import shlex
import shutil
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from scipy.io import loadmat

from dataloader.nyu import read_depth
from dataloader.synthetic.hand.bank import BUNDLED
from dataloader.synthetic.kinds import KINDS
from results.fill_pages import fill
from tests.helpers.bundled import write_bundled
from tests.helpers.grasp_folders import write_all
from tests.helpers.layout_folders import (
    spread_hands,
    write_hands17_folder,
    write_icvl_folder,
    write_msra_folder,
    write_png,
    write_video,
)
from tests.helpers.project import PROJECT, need_synthetic_hand, output_of
from tests.helpers.sphere_hands import write_sphere_hands
from util.camera import NYU_CAMERA, Camera
from util.inference.predictor import HandPosePredictor

README = PROJECT / "README.md"
PAGES = [README, PROJECT / "data" / "README.md", PROJECT / "results" / "README.md"]
PAGES += [PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
RECIPES = sorted((PROJECT / "results").glob("*.sh"))
FRAMES = 24  # of the bundled split that the commands see

# Flags that make a command short: of two, the last counts.
SHORTER = {
    "train.py": "--max_epoch 1 --img_size 32 --batch_size 8 --num_workers 0 --bn_batches 1 --device cpu "
    "--no_compile --ema 0",
    "test.py": "--num_workers 0 --device cpu",
    "demo.py": "--frames 2 --device cpu",
    "dataloader.cache": "--num_workers 0",
    "dataloader.synthetic": f"--frames 2 --num_workers 1 --bank {BUNDLED}",
    "util.benchmark": "--rows moved_resnet_18_torch_fp32 --nets resnet_18 --repeats 1",
    "util.inference.centers": "--num_workers 1",
    "results.figures": f"--data_dir {PROJECT / 'data'}",  # it draws frame 181
}
# Commands that hold one of these words are not run here.
NOT_RUN = {
    "pip": "it changes the environment",
    "torchrun": "tests/test_distributed.py trains by several processes",
    "pytest": "these tests run already",
    "realsense": "it needs a camera",
    "util.experiments": "tests/test_experiments.py runs each",
    "--frames 1000 ": "it would replace a split; tests/test_synthetic.py draws from anny",
    "--frames 100 ": "likewise",
    "--people": "tests/test_synthetic.py makes a bank",
    "../shared": "its frames are not ours to ship",
    "A.pth": "no such files",
    "--show": "it needs a display",
    "--serve": "tests/test_live_page.py opens the page",
    "model.onnx": "test_the_graph_runs_without_this_project exports it",
    "--backend": "tests/test_deployment.py compares every engine",
    "int8": "tests/test_deployment.py exports and runs such a file",
    "mydata": "tests/test_extending.py adds that data set",
}
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SUBJECTS = (0, 3)  # of MSRA's nine
NOT_RUN |= {f"--test_subject {s}": "two subjects stand for nine" for s in range(9) if s not in SUBJECTS}
STUB = """#!/bin/bash
# Note the command and its arguments; and python's program, where it comes from standard input.
{ printf '%s\\0' "${0##*/}" "$@"; [ "$1" = - ] && printf '%s\\0' "$(cat)"; printf '\\n\\0'; } >>"$RECORD"
"""


def blocks(page, language=""):
    """The code blocks of a page in a language."""
    found = FENCED.findall(page.read_text())
    return [re.sub(f"(?m)^{indent}", "", code) for indent, kind, code in found if kind == language]


def shell_text(page):
    """A script, or a page's commands: those in blocks, and those in a sentence that are whole."""
    if page.suffix == ".sh":
        return page.read_text()
    lines = [line for block in blocks(page) for line in block.splitlines()]
    lines = [line for line in lines if re.match(r"(python|pip|for) ", line)]
    inline = re.findall(r"`((?:\w+=\S+ )*python [^`]*)`", FENCED.sub("", page.read_text()))
    return "\n".join(lines + [line for line in inline if "…" not in line and "--help" not in line])


def commands_of(page, folder):
    """What a page's commands call, in order, as lists of arguments; only the shell itself runs."""
    stubs, record = folder / "stubs", folder / "record"
    stubs.mkdir(exist_ok=True)
    record.write_bytes(b"")
    for name in ("python", "pip", "rm", "torchrun"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{stubs}:{os.environ['PATH']}", "RECORD": str(record)}
    output_of("bash", "-c", shell_text(page), env=environment, cwd=folder)
    return [entry.split("\0")[:-1] for entry in record.read_text().split("\n\0") if entry]


def run_command(arguments, run_script):
    """Run one of `commands_of` in this folder, shortened."""
    name, *rest = arguments
    text = shlex.join(arguments)
    if name == "rm":
        shutil.rmtree(rest[-1], ignore_errors=True)
    elif any(word in text for word in NOT_RUN):
        return
    elif rest[0] == "-":
        exec(rest[1], {})
    else:
        script, rest = (rest[1], rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])
        is_kept = script == "results/make_bank.py" and "test" in rest  # complete, nothing is rendered
        if script == "results/make_bank.py" and not is_kept:
            script = "dataloader.synthetic"  # the bundled bank's hands stand for anny's
        shorter = [] if is_kept else SHORTER.get(script, "").split()
        ran = run_script(script, *rest, *shorter)
        assert ran.code == 0, f"{text}\n{ran.err[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_pages_are_short_and_have_the_numbers_of_the_shipped_scores(page):
    text = page.read_text()
    assert len(text.splitlines()) <= (170 if page == README else 150)
    assert len(text.split()) <= 1800
    assert fill(text) == text, "run python results/fill_pages.py"
    if page == README:
        assert fill(text.replace("mm [", "cm [")) == text


def test_the_code_names_sections_that_are_there():
    spec = (PROJECT / "docs" / "spec.md").read_text()
    sections = set(re.findall(r"^## (\d+)\.", spec, re.MULTILINE))
    for folder in ("model", "dataloader", "util", "tests"):
        for path in (PROJECT / folder).rglob("*.py"):
            text = path.read_text()
            assert "SPEC" + " §" not in text, path
            assert set(re.findall(r"spec\.md\s§(\d+)", text)) <= sections, path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project's data and results, small, and the files that the pages name."""
    need_synthetic_hand()
    from dataloader.synthetic.writer import SplitSettings, write_split

    root = tmp_path_factory.mktemp("project")
    (root / "results").mkdir()
    for path in (PROJECT / "results").glob("*.pth"):
        (root / "results" / path.name).symlink_to(path)
    write_bundled(root / "data" / "synth", FRAMES)
    for split in ("train", "val"):  # as the shortened command does
        settings = SplitSettings(split, 2, 0, NYU_CAMERA, (480, 640), kinds=KINDS)
        write_split(settings, root / "data" / "synth", workers=1)
    for split in ("train", "test"):
        write_sphere_hands(root / "data" / "nyu", split, 4, seed=2)
    write_icvl_folder(root / "data" / "icvl", spread_hands("icvl", 4, 0), spread_hands("icvl", 4, 1))
    subjects = {subject: {"1": spread_hands("msra", 2, subject)} for subject in SUBJECTS}
    write_msra_folder(root / "data" / "msra", subjects)
    hands17 = [spread_hands("hands17", count, seed) for seed, count in enumerate((60, 2))]
    write_hands17_folder(root / "data" / "hands17", *hands17)
    write_all(root / "data")
    write_files(root)
    return root


def write_files(root):
    """What a user has: frames of a camera, and the authors' files for NYU."""
    depth = read_depth(PROJECT / "data" / "synth" / "test" / "depth_1_0000001.png")
    for i in range(2):
        write_png(root / "frames" / f"{i}.png", depth * 8.0)
    np.save(root / "clip.npy", np.stack([depth, depth]) / np.float32(1000))
    wide = np.pad(depth, ((48, 48), (0, 0)))  # an Azure Kinect's 640×576
    write_video(root / "depth.mkv", np.stack([wide, wide]))
    labels = loadmat(root / "data" / "nyu" / "test" / "joint_data.mat")
    true_uvd = NYU_CAMERA.xyz_to_uvd(labels["joint_xyz"][0])
    for net in ("hourglass_1", "resnet_18"):
        np.savetxt(root / "results" / f"{net}.txt", true_uvd[~np.isnan(true_uvd)].reshape(len(true_uvd), -1))
        shutil.copy(PROJECT / "results" / f"{net}_synth.pth", root / "results" / f"{net}.pth")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_commands_run_as_printed(page, folder, run_script, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.chdir(folder)
    for left in folder.rglob("last.pth"):
        left.unlink()  # of another page: a run is not overwritten
    for arguments in commands_of(page, folder):
        run_command(arguments, run_script)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_run(recipe, folder, run_script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(folder / "results")
    monkeypatch.setenv("RUNS", "1 12")
    write_bundled(tmp_path / "data" / "synth", 2)
    for arguments in commands_of(recipe, tmp_path):
        run_command(arguments, run_script)
    end = f"{recipe.stem}.pth"
    assert (tmp_path / "output" / end).is_file()


@pytest.mark.parametrize("page", [README, PROJECT / "docs" / "camera.md"], ids=lambda page: page.name)
def test_python_code_runs(page, monkeypatch):
    monkeypatch.chdir(PROJECT)
    (code,) = blocks(page, "python")
    names = {"depth": read_depth(PROJECT / "data" / "synth" / "test" / "depth_1_0000001.png")}
    exec(code, names)
    assert names["pose"].joints_xyz.shape == (14, 3)


@pytest.mark.slow
def test_the_notebook_runs():
    path = PROJECT / "docs" / "awr.ipynb"
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    pictures = sum("image/png" in text for text in map(str, notebook.cells))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert sum("image/png" in text for text in map(str, notebook.cells)) == pictures == 7
    assert path.stat().st_size < 1.5e6


@pytest.mark.slow
def test_the_graph_runs_without_this_project(folder, succeeds, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    weights = PROJECT / "results" / "hourglass_1_synth.pth"
    succeeds("util.deployment.export", "--load_model", weights, "--out", tmp_path / "model.onnx")
    shutil.copytree(folder / "data" / "synth" / "test", tmp_path / "data" / "synth" / "test")
    (code,) = blocks(PROJECT / "docs" / "deployment.md", "python")
    code += "\nimport sys\nassert not {'torch', 'util', 'config'} & set(sys.modules)\nnp.save('xyz.npy', xyz)"
    assert output_of(sys.executable, "-c", code, cwd=tmp_path).startswith("pinky tip ")
    center = np.array(json.loads(re.search(r"center = np\.array\((\[.*?\])", code)[1]))
    depth = read_depth(tmp_path / "data" / "synth" / "test" / "depth_1_0000001.png")
    pose = HandPosePredictor(weights, denoise=False).predict(depth, Camera(588.03, 587.07, 320, 240), center)
    np.testing.assert_allclose(np.load(tmp_path / "xyz.npy"), pose.joints_xyz, atol=0.05)
