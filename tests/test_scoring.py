"""test.py from its command line: the published figures, the real frame, and every output file."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config import Config
from model import build_network
from tests.helpers.bundled import write_bundled
from tests.helpers.nyu_folder import ball_hand, open_hand, write_nyu_folder
from tests.helpers.project import PROJECT, SHARED
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint

NYU_FOLDER = PROJECT.parent / "shared" / "nyu"
needs_nyu = pytest.mark.skipif(not NYU_FOLDER.is_dir(), reason="NYU is not redistributable and not here")
PICTURES = ("pck.png", "success.png", "joints.png", "gallery.png")


@pytest.fixture(scope="module")
def nyu_labels():
    """The 8,252 public test labels in xyz, and the released centres."""
    uvd = np.load(NYU_FOLDER / "test_labels_uvd.npz")["joint_uvd"].astype(np.float64)
    return NYU_CAMERA.uvd_to_xyz(uvd), np.loadtxt(NYU_FOLDER / "center_test_refined.txt")


@needs_nyu
@pytest.mark.parametrize("name", ["resnet_18", "hourglass_1"])
def test_the_published_predictions_score_as_published(name, nyu_labels, tmp_path, run_script):
    write_nyu_folder(tmp_path / "nyu", "test", [], *nyu_labels)
    arguments = ("--predictions", NYU_FOLDER / f"{name}.txt", "--output_dir", tmp_path / "out")
    ran = run_script("test.py", "--dataset", "nyu", "--data_dir", tmp_path, *arguments)
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = json.loads((NYU_FOLDER / "expected_metrics.json").read_text())[name]
    assert found["frames"] == expected["frames"] == 8252
    assert found["mpe_mm"] == pytest.approx(expected["mean_mm"], abs=1e-4)
    assert found["mpe_mm"] == pytest.approx({"resnet_18": 7.754, "hourglass_1": 7.700}[name], abs=5e-4)
    assert found["median_mm"] == pytest.approx(expected["mean_of_joint_medians_mm"], abs=1e-4)
    assert found["auc"] == pytest.approx(expected["auc_0_50mm"], abs=1e-5)
    assert found["success_20mm"] == pytest.approx(expected["frames_all_joints_within_20mm"], abs=1e-5)
    assert found["success_40mm"] == pytest.approx(expected["frames_all_joints_within_40mm"], abs=1e-5)
    assert list(found["per_joint_mm"].values()) == pytest.approx(expected["per_joint_mean_mm"], abs=1e-3)
    assert (tmp_path / "out" / "predictions.txt").read_text() == (NYU_FOLDER / f"{name}.txt").read_text()


@pytest.mark.skipif(not (SHARED / "published").is_dir(), reason="published predictions are not ours to ship")
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["icvl", "nyu"])
def test_a_comparison_of_published_predictions_has_the_published_means(
    dataset, nyu_labels, tmp_path, run_script
):
    published = json.loads((SHARED / "published" / "published.json").read_text())[dataset]
    files = {name: SHARED / "published" / "predictions" / dataset / f"{name}.txt" for name in published}
    if dataset == "nyu":
        published |= {"resnet_18": 7.754, "hourglass_1": 7.700}
        files |= {name: NYU_FOLDER / f"{name}.txt" for name in ("resnet_18", "hourglass_1")}
        write_nyu_folder(tmp_path / "nyu", "test", [], *nyu_labels)
    else:
        shutil.copytree(SHARED / "published" / "icvl", tmp_path / "icvl")
    first, *others = files
    compared = [f"{name}={files[name]}" for name in others]
    arguments = ("--predictions", files[first], "--compare", *compared, "--output_dir", tmp_path / "out")
    ran = run_script("test.py", "--dataset", dataset, "--data_dir", tmp_path, *arguments)
    assert ran.code == 0, ran.err
    rows = [line.split("|") for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()[2:]]
    found = {row[1].strip(): float(row[2]) for row in rows}
    assert found == pytest.approx(published, abs=1e-4)  # both have three digits
    assert list(found.values()) == sorted(found.values())
    assert cv2.imread(str(tmp_path / "out" / "comparison.png")).shape[0] > 500


@needs_nyu
def test_the_real_frame_runs_and_its_published_line_has_its_error(nyu_labels, tmp_path, run_script):
    joint_xyz, center_xyz = (array[:1] for array in nyu_labels)
    write_nyu_folder(tmp_path / "nyu", "test", [], joint_xyz, center_xyz)
    shutil.copy(NYU_FOLDER / "depth_1_0000001.png", tmp_path / "nyu" / "test")
    common = ("test.py", "--dataset", "nyu", "--data_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert run_script(*common, "--load_model", "random").code == 0

    line = (NYU_FOLDER / "resnet_18.txt").read_text().splitlines()[0]
    (tmp_path / "line.txt").write_text(line + "\n")
    assert run_script(*common, "--predictions", tmp_path / "line.txt").code == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    predicted = NYU_CAMERA.uvd_to_xyz(np.array(line.split(), float).reshape(14, 3))
    assert found["mpe_mm"] == pytest.approx(np.linalg.norm(predicted - joint_xyz[0], axis=1).mean(), abs=1e-6)


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Five hands in NYU's layout, their joints, and a checkpoint."""
    root = tmp_path_factory.mktemp("data")
    centers = np.random.default_rng(1).uniform((-100, -80, 600), (100, 80, 900), (5, 3))
    joints = np.array([open_hand(center) for center in centers])
    write_nyu_folder(root / "nyu", "test", map(ball_hand, joints), joints, centers)
    torch.manual_seed(0)
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "nyu", 64)
    save_checkpoint(root / "small.pth", build_network(*spec[:3]), spec)
    return root, joints


def test_every_output_is_written_and_reproducible(hands, tmp_path, run_script):
    root, _ = hands
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--load_model", root / "small.pth")
    first = run_script(*common, "--batch_size", "2", "--output_dir", tmp_path / "a")
    assert first.code == 0, first.err
    assert "MPE (mm)" in first.out
    assert "wrist radial" in first.out
    assert "frames: " in first.err  # the progress bar
    for picture in PICTURES:
        assert cv2.imread(str(tmp_path / "a" / picture)).shape[0] > 100
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == sorted(
        ["metrics.json", "predictions.txt", *PICTURES]
    )
    predictions = tmp_path / "a" / "predictions.txt"
    assert len(predictions.read_text().splitlines()) == 5

    # Scoring what was written gives the same figures, and a comparison draws both.
    again = run_script(
        *common[:5],
        "--predictions",
        predictions,
        "--compare",
        f"same={predictions}",
        "--output_dir",
        tmp_path / "b",
    )
    assert again.code == 0, again.err
    figures = [json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "ab"]
    assert figures[1]["mpe_mm"] == pytest.approx(figures[0]["mpe_mm"], abs=1e-3)
    assert "same" in again.out
    assert "| same |" in (tmp_path / "b" / "comparison.md").read_text()
    assert cv2.imread(str(tmp_path / "b" / "comparison.png")).shape[0] > 100


@pytest.mark.slow
def test_another_networks_results_have_a_folder_of_their_own(hands, tmp_path, run_script, monkeypatch):
    root, _ = hands
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec("hourglass_1", 14, 2, 0.4, "nyu", 64)
    save_checkpoint(tmp_path / "other.pth", build_network(*spec[:3]), spec)
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--load_model")
    assert run_script(*common, root / "small.pth").code == 0
    first = tmp_path / "output" / "nyu" / "small" / "predictions.txt"
    before = first.read_bytes()
    ran = run_script(*common, "other.pth")
    assert "Written to output/nyu/other/" in ran.out
    assert first.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "theirs"), [("checkpoint", "theirs/true.pth"), ("data_dir", "theirs"), ("split", "train")]
)
def test_the_results_of_another_run_are_not_replaced(hands, tmp_path, run_script, monkeypatch, key, theirs):
    root, joints = hands
    monkeypatch.chdir(tmp_path)
    np.savetxt("true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(5, -1), fmt="%.3f")
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--predictions", "true.txt")
    assert run_script(*common).code == 0
    assert run_script(*common).code == 0  # the same run may write again
    path = tmp_path / "output" / "nyu" / "scored_true" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: theirs}))
    ran = run_script(*common)
    assert ran.code == 2
    assert f"another run ({key} {theirs}): choose another folder with --output_dir" in ran.err
    assert json.loads(path.read_text())[key] == theirs
    assert run_script(*common, "--output_dir", path.parent / "mine").code == 0


def test_random_weights_are_scored_only_if_asked_for(hands, tmp_path, run_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ("test.py", "--dataset", "nyu", "--data_dir", hands[0], "--img_size", "64")
    ran = run_script(*common)
    assert ran.code == 2
    assert "results/ has no weights of resnet_18 for nyu" in ran.err
    ran = run_script(*common, "--load_model", "random")
    assert ran.code == 0
    assert "its predictions are meaningless" in ran.out
    assert (tmp_path / "output" / "nyu" / "random" / "metrics.json").is_file()


@pytest.mark.parametrize("flags", [("--predictions", "gone.txt"), ("--compare", "a=gone.txt")])
def test_a_missing_file_is_found_before_pytorch_is_imported(flags):
    code = """if True:
        import runpy, sys
        try:
            runpy.run_path("test.py", run_name="__main__")
        finally:
            assert "torch" not in sys.modules"""
    failed = subprocess.run([sys.executable, "-c", code, *flags], cwd=PROJECT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: gone.txt is missing")


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ({"load_model": "output/nyu/mine/best.pth"}, "output/nyu/mine"),
        ({"load_model": "output/synth/mine/last.pth", "split": "val"}, "output/nyu/mine/val"),
        ({"load_model": "ft/best.pth"}, "output/nyu/ft"),
        ({"load_model": "results/hourglass_1.pth"}, "output/nyu/hourglass_1"),
        (
            {"load_model": "output/msra/mine/P3/best.pth", "dataset": "msra", "test_subject": 3},
            "output/msra/mine/P3",
        ),
        (
            {"load_model": "output/msra/mine/P{subject}/best.pth", "dataset": "msra", "test_subject": "all"},
            "output/msra/mine",
        ),
        ({"predictions": "theirs/best.txt"}, "output/nyu/scored_theirs"),
        ({"predictions": "theirs.txt", "output_dir": "mine"}, "mine"),
    ],
)
def test_the_results_folder_is_called_like_what_is_scored(arguments, folder):
    test = runpy.run_path(str(PROJECT / "test.py"))
    config = Config(**{"dataset": "nyu"} | arguments).resolved()
    name = test["run_name"](Path(config.predictions or config.load_model))
    assert str(test["results_folder"](config, name, {})) == folder


@pytest.mark.parametrize(("net", "asked"), [("resnet_18", ()), ("hourglass_1", ("--net", "hourglass_1"))])
@pytest.mark.slow
def test_the_shipped_weights_print_the_shipped_figures(net, asked, tmp_path, run_script):
    """The first 40 frames' joints are the shipped ones; all 400 shipped ones have the shipped error."""
    shipped = PROJECT / "results" / f"{net}_synth"
    write_bundled(tmp_path / "synth", 40)
    ran = run_script("test.py", *asked, "--data_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert f"{net}_synth.pth" in ran.out
    found = np.loadtxt(tmp_path / "out" / "predictions.txt")
    np.testing.assert_allclose(found, np.loadtxt(shipped / "predictions.txt")[:40], atol=0.05)
    arguments = ("--predictions", shipped / "predictions.txt", "--output_dir", tmp_path / "all")
    assert run_script("test.py", *arguments).code == 0
    scores = [json.loads((each / "metrics.json").read_text()) for each in (shipped, tmp_path / "all")]
    assert scores[0]["frames"] == scores[1]["frames"] == 400
    assert scores[0]["mpe_mm"] == pytest.approx(scores[1]["mpe_mm"], abs=1e-3)


def test_predictions_do_not_overwrite_those_they_are_compared_with(hands, tmp_path, run_script, monkeypatch):
    root, joints = hands
    monkeypatch.chdir(tmp_path)
    np.savetxt("true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(5, -1), fmt="%.3f")
    mine = tmp_path / "output" / "nyu" / "resnet_18" / "predictions.txt"
    mine.parent.mkdir(parents=True)
    np.savetxt(mine, NYU_CAMERA.xyz_to_uvd(joints + 5).reshape(5, -1), fmt="%.3f")
    before = mine.read_bytes()
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--predictions", "true.txt")
    assert run_script(*common, "--compare", f"mine={mine}").code == 0
    assert (tmp_path / "output" / "nyu" / "scored_true" / "predictions.txt").is_file()
    ran = run_script(*common, "--compare", f"mine={mine}", "--output_dir", mine.parent)
    assert ran.code == 2
    assert "would be overwritten" in ran.err
    assert mine.read_bytes() == before


def test_perfect_predictions_score_zero(hands, tmp_path, run_script):
    root, joints = hands
    np.savetxt(tmp_path / "true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(5, -1), fmt="%.3f")
    arguments = ("--predictions", tmp_path / "true.txt", "--output_dir", tmp_path / "out")
    assert run_script("test.py", "--dataset", "nyu", "--data_dir", root, *arguments).code == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["mpe_mm"] < 2e-3
    assert found["auc"] > 0.98  # the curve starts at a threshold of 0 mm, which rounding misses
    assert found["success_20mm"] == 1


def test_predictions_need_no_readable_image(hands, tmp_path, run_script):
    root, joints = hands
    shutil.copytree(root / "nyu", tmp_path / "nyu")
    for frame in (tmp_path / "nyu" / "test").glob("*.png"):
        frame.write_bytes(b"no picture")
    np.savetxt(tmp_path / "true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(5, -1), fmt="%.3f")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gallery.png").write_bytes(b"of another run")
    arguments = ("--predictions", tmp_path / "true.txt", "--output_dir", tmp_path / "out")
    ran = run_script("test.py", "--dataset", "nyu", "--data_dir", tmp_path, *arguments)
    assert ran.code == 0, ran.err
    assert "No gallery" in ran.out
    assert (tmp_path / "out" / "metrics.json").is_file()
    assert not (tmp_path / "out" / "gallery.png").exists()


# An hourglass has batch norms that nothing is folded into: they stay in fp32.
@pytest.mark.parametrize(
    ("net", "precision"), [("resnet_18", "bf16"), ("resnet_18", "fp16"), ("hourglass_1", "bf16")]
)
@pytest.mark.slow
def test_half_precision_moves_joints_little(tmp_path, run_script, net, precision):
    write_bundled(tmp_path / "synth", 2)  # some processors take 10 s for a frame in bf16
    # Trained weights: an initial network's joints are the middle of the hand, whatever it computes.
    common = ("test.py", "--net", net, "--data_dir", tmp_path)
    for name in ("fp32", precision):
        ran = run_script(*common, "--precision", name, "--output_dir", tmp_path / name)
        assert ran.code == 0, ran.err
    full, half = (
        NYU_CAMERA.uvd_to_xyz(np.loadtxt(tmp_path / name / "predictions.txt").reshape(-1, 14, 3))
        for name in ("fp32", precision)
    )
    assert 0 < np.linalg.norm(full - half, axis=-1).mean() < 0.3  # mm


@pytest.mark.slow
def test_an_error_in_a_worker_process_ends_in_one_sentence(hands, tmp_path):
    root, _ = hands
    shutil.copytree(root / "nyu", tmp_path / "nyu")
    broken = tmp_path / "nyu" / "test" / "depth_1_0000003.png"
    broken.write_bytes(b"no picture")
    command = [sys.executable, "test.py", "--dataset", "nyu", "--load_model", root / "small.pth"]
    arguments = ["--data_dir", tmp_path, "--output_dir", tmp_path / "bad", "--num_workers", "2"]
    failed = subprocess.run([*command, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == f"error: {broken} is damaged: it cannot be decoded as an image."
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "bad").exists()
