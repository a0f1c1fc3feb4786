"""test.py from its command line: the published figures, the real frame, and every output file."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from config import VERSION, Config
from dataloader.index import build_index
from tests.helpers.bundled import write_bundled
from tests.helpers.nyu_folder import write_nyu_folder, write_scored_hands
from tests.helpers.project import PROJECT, SHARED, need_shared
from util.camera import NYU_CAMERA
from util.points import doubt_format, parse_format, read_predictions
from util.scoring import results_folder, run_name

NYU_FOLDER = SHARED / "nyu"
PICTURES = ("pck.png", "success.png", "joints.png", "gallery.png")


@pytest.fixture(scope="module")
def nyu_labels():
    """The 8,252 public test labels in xyz, and the released centres."""
    uvd = np.load(NYU_FOLDER / "test_labels_uvd.npz")["joint_uvd"].astype(np.float64)
    return NYU_CAMERA.uvd_to_xyz(uvd), np.loadtxt(NYU_FOLDER / "center_test_refined.txt")


@need_shared("nyu")
@pytest.mark.parametrize("name", ["resnet_18", "hourglass_1"])
def test_the_published_predictions_score_as_published(name, nyu_labels, tmp_path, succeeds):
    write_nyu_folder(tmp_path / "nyu", "test", [], *nyu_labels)
    arguments = ("--predictions", NYU_FOLDER / f"{name}.txt", "--output_dir", tmp_path / "out")
    succeeds("test.py", "--dataset", "nyu", "--data_dir", tmp_path, *arguments)
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


@need_shared("published")
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["icvl", "nyu"])
def test_a_comparison_of_published_predictions_has_the_published_means(
    dataset, nyu_labels, tmp_path, succeeds
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
    succeeds("test.py", "--dataset", dataset, "--data_dir", tmp_path, *arguments)
    rows = [line.split("|") for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()[2:]]
    found = {row[1].strip(): float(row[2].split()[0]) for row in rows}
    assert found == pytest.approx(published, abs=1e-4)  # both have three digits
    assert list(found.values()) == sorted(found.values())
    assert cv2.imread(str(tmp_path / "out" / "comparison.png")).shape[0] > 500


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Folder of five hands in NYU's layout, true.txt and small.pth; and the joints."""
    root = tmp_path_factory.mktemp("data")
    return root, write_scored_hands(root, 5)


@pytest.fixture
def scores(hands, run_script):
    """Run test.py on the hands, by default true.txt; it must end with `code`."""

    def run(*arguments, code=0, data_dir=hands[0], predictions=hands[0] / "true.txt"):
        scored = () if "--load_model" in arguments or not predictions else ("--predictions", predictions)
        ran = run_script("test.py", "--dataset", "nyu", "--data_dir", data_dir, *scored, *arguments)
        assert ran.code == code, ran.err
        return ran

    return run


def test_every_output_is_written_and_reproducible(hands, tmp_path, scores):
    model = ("--load_model", hands[0] / "small.pth")
    first = scores(*model, "--batch_size", "2", "--output_dir", tmp_path / "a", "--per_joint")
    assert "95 % interval" in first.out
    assert "wrist radial" in first.out
    assert "frames: " in first.err  # the progress bar
    for picture in PICTURES:
        assert cv2.imread(str(tmp_path / "a" / picture)).shape[0] > 100
    written = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert written == sorted(["metrics.json", "predictions.txt", *PICTURES])
    predictions = tmp_path / "a" / "predictions.txt"
    assert len(predictions.read_text().splitlines()) == 5

    # Scoring what was written gives the same figures, and a comparison draws both.
    compared = ("--compare", f"same={predictions}", "--output_dir", tmp_path / "b")
    again = scores(*compared, predictions=predictions)
    figures = [json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "ab"]
    assert figures[1]["mpe_mm"] == pytest.approx(figures[0]["mpe_mm"], abs=1e-3)
    assert "same" in again.out
    assert "wrist radial" not in again.out
    told = {"dataset": "nyu", "split": "test", "backend": "torch", "precision": "fp32", "version": VERSION}
    assert figures[0].items() >= told.items()
    assert {"mpe_interval_mm", "aligned_mm", "rigid_mm", "centers", "data_dir"} < figures[0].keys()
    assert "| same |" in (tmp_path / "b" / "comparison.md").read_text()
    assert cv2.imread(str(tmp_path / "b" / "comparison.png")).shape[0] > 100


def test_several_answers_are_averaged_in_millimetres(hands, tmp_path, scores, monkeypatch):
    monkeypatch.chdir(tmp_path)
    true_xyz = NYU_CAMERA.uvd_to_xyz(np.loadtxt(hands[0] / "true.txt").reshape(5, 14, 3))
    for name, x in (("right", 10.0), ("left", -4.0)):
        joints = NYU_CAMERA.xyz_to_uvd(true_xyz + np.array([x, 0, 0]))
        np.savetxt(f"{name}.txt", joints.reshape(5, -1), fmt="%.9f")
    scores("--predictions", "right.txt", "left.txt", predictions="")
    record = json.loads(Path("output/nyu/scored_right+left/metrics.json").read_text())
    assert record["mpe_mm"] == pytest.approx(3.0, abs=1e-3)
    assert record["spread_mm"] == pytest.approx(7.0, abs=1e-3)
    assert len(record["sha256"]) == 2

    # A network with itself is the same network.
    weights = hands[0] / "small.pth"
    for number in (1, 2):
        scores("--load_model", *[weights] * number, "--output_dir", f"{number}")
    one, two = (json.loads(Path(str(number), "metrics.json").read_text()) for number in (1, 2))
    assert one["per_joint_mm"] == pytest.approx(two["per_joint_mm"], abs=1e-4)


@pytest.mark.parametrize(
    ("key", "theirs"), [("checkpoint", "theirs/true.pth"), ("data_dir", "theirs"), ("split", "train")]
)
def test_the_results_of_another_run_are_not_replaced(tmp_path, scores, monkeypatch, key, theirs):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the same run may write again
        scores()
    path = tmp_path / "output" / "nyu" / "scored_true" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: theirs}))
    said = scores(code=2).err
    assert f"has results of {key} {theirs}: choose another --output_dir" in said
    assert json.loads(path.read_text())[key] == theirs
    scores("--output_dir", path.parent / "mine")


def test_random_weights_are_scored_only_if_asked_for(tmp_path, scores, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = scores("--img_size", "64", predictions="", code=2).err
    assert "results/ has no weights of resnet_18 for nyu" in said
    assert "its predictions are meaningless" in scores("--img_size", "64", "--load_model", "random").out
    assert (tmp_path / "output" / "nyu" / "random" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ({"load_model": "output/nyu/mine/best.pth"}, "output/nyu/mine"),
        ({"load_model": "output/synth/mine/last.pth", "split": "val"}, "output/nyu/mine/val"),
        ({"load_model": "ft/best.pth"}, "output/nyu/ft"),
        ({"load_model": "ft/best.pth", "centers": "my/refined.txt"}, "output/nyu/ft/refined"),
        ({"load_model": "ft/best.pth", "sensor": 0.5}, "output/nyu/ft/sensor_0.5"),
        ({"load_model": "results/hourglass_1.pth"}, "output/nyu/hourglass_1"),
        ({"load_model": ("a.pth", "ft/best.pth")}, "output/nyu/a+ft"),
        ({"load_model": "output/msra/mine/P3/best.pth", "test_subject": 3}, "output/msra/mine/P3"),
        ({"load_model": "output/msra/mine/P{subject}/best.pth", "test_subject": "all"}, "output/msra/mine"),
        ({"predictions": "theirs/best.txt"}, "output/nyu/scored_theirs"),
        ({"predictions": "theirs.txt", "output_dir": "mine"}, "mine"),
    ],
)
def test_the_results_folder_is_called_like_what_is_scored(arguments, folder):
    config = Config(dataset="msra" if "test_subject" in arguments else "nyu", **arguments).resolved()
    name = run_name(config.predictions or config.load_model)
    assert str(results_folder(config, name, {})) == folder


@pytest.mark.parametrize(("net", "asked"), [("resnet_18", ()), ("hourglass_1", ("--net", "hourglass_1"))])
@pytest.mark.slow
def test_the_shipped_weights_print_the_shipped_figures(net, asked, tmp_path, succeeds):
    """The first 40 frames' joints are the shipped ones; all 400 shipped ones have the shipped error."""
    shipped = PROJECT / "results" / f"{net}_synth"
    write_bundled(tmp_path / "synth", 40)
    ran = succeeds("test.py", *asked, "--data_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert f"{net}_synth.pth" in ran.out
    found = np.loadtxt(tmp_path / "out" / "predictions.txt")
    np.testing.assert_allclose(found, np.loadtxt(shipped / "predictions.txt")[:40], atol=0.05)
    arguments = ("--predictions", shipped / "predictions.txt", "--output_dir", tmp_path / "all")
    succeeds("test.py", *arguments)
    scores = [json.loads((each / "metrics.json").read_text()) for each in (shipped, tmp_path / "all")]
    assert scores[0]["frames"] == scores[1]["frames"] == 400
    assert scores[0]["mpe_mm"] == pytest.approx(scores[1]["mpe_mm"], abs=1e-3)


def test_predictions_do_not_overwrite_those_they_are_compared_with(hands, tmp_path, scores, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "output" / "nyu" / "resnet_18" / "predictions.txt"
    said = scores("--compare", f"mine={mine}", code=2).err
    assert "is missing" in said
    mine.parent.mkdir(parents=True)
    np.savetxt(mine, NYU_CAMERA.xyz_to_uvd(hands[1] + 5).reshape(5, -1), fmt="%.3f")
    before = mine.read_bytes()
    scores("--compare", f"mine={mine}")
    assert (tmp_path / "output" / "nyu" / "scored_true" / "predictions.txt").is_file()
    said = scores("--compare", f"mine={mine}", "--output_dir", mine.parent, code=2).err
    assert "would be overwritten" in said
    assert mine.read_bytes() == before


def test_perfect_predictions_score_zero_and_need_no_readable_image(hands, tmp_path, scores):
    root, _ = hands
    shutil.copytree(root / "nyu", tmp_path / "nyu")
    for frame in (tmp_path / "nyu" / "test").glob("*.png"):
        frame.write_bytes(b"no picture")
    out = tmp_path / "out"
    out.mkdir()
    (out / "gallery.png").write_bytes(b"of another run")
    assert "No gallery" in scores("--output_dir", out, data_dir=tmp_path).out
    assert not (out / "gallery.png").exists()
    found = json.loads((out / "metrics.json").read_text())
    assert found["mpe_mm"] < 2e-3
    assert found["auc"] > 0.98  # the curve starts at a threshold of 0 mm, which rounding misses
    assert found["success_20mm"] == 1
    assert (found["predictions"], len(found["sha256"])) == (str(root / "true.txt"), 64)


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="there is no folder that takes no files")
def test_places_to_write_are_tried_before_the_work(scores, monkeypatch):
    monkeypatch.setattr("dataloader.dataset.build_dataset", lambda *_: pytest.fail("the work began"))
    said = scores("--output_dir", "/proc/sys/out", predictions="", code=2).err
    assert "error: /proc/sys/out: " in said


def test_predictions_as_xyz_are_doubted_and_read(hands, tmp_path, scores):
    np.savetxt(tmp_path / "a.txt", hands[1].reshape(5, -1), fmt="%.3f")
    common = {"predictions": tmp_path / "a.txt"}
    assert "pass --predictions_format xyz, or" in scores("--output_dir", tmp_path / "out", **common).err
    ran = scores("--output_dir", tmp_path / "out", "--predictions_format", "xyz", **common)
    assert "warning" not in ran.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["mpe_mm"] < 0.01


@pytest.mark.parametrize("name", ["xyz", "x-yz", "xyz_m", "vud", "uvd_m", "xyz_cm", "yxz", "xy-z"])
def test_every_usual_format_is_recognised_and_read(hands, tmp_path, capsys, name):
    joints, points, pixels = hands[1], parse_format(name), "u" in name
    written = NYU_CAMERA.xyz_to_uvd(joints) if pixels else joints.copy()
    written = written / ((1, 1, points.unit_mm) if pixels else points.unit_mm) * points.signs
    np.savetxt(tmp_path / "a.txt", written[..., np.argsort(points.columns)].reshape(5, -1), fmt="%.6f")
    numbers, uvd = read_predictions(tmp_path / "a.txt", 5, 14, NYU_CAMERA, points)
    np.testing.assert_allclose(NYU_CAMERA.uvd_to_xyz(uvd), joints, atol=0.01)
    doubt_format(tmp_path / "a.txt", numbers, joints, NYU_CAMERA, points, "--flag")
    assert not capsys.readouterr().err
    doubt_format(tmp_path / "a.txt", numbers, joints, NYU_CAMERA, parse_format("uvd"), "--flag")
    assert f"pass --flag {name}, or" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "name"), [((1, -1, 1), "x-yz"), ((0.001,) * 3, "xyz_m"), ((0.1,) * 3, "xyz_cm")]
)
def test_centres_of_another_convention_are_doubted_and_read(hands, change, name, capsys, tmp_path):
    root, path = hands[0], tmp_path / "centers.txt"
    np.savetxt(path, np.loadtxt(root / "nyu" / "center_test_refined.txt") * change, fmt="%.6f")

    def centers(**settings):
        return build_index(Config(dataset="nyu", data_dir=str(root), **settings).resolved()).center_xyz

    centers(centers=str(path))
    assert f"pass --centers_format {name}, or" in capsys.readouterr().err
    found = centers(centers=str(path), centers_format=name)
    assert not capsys.readouterr().err
    np.testing.assert_allclose(found, centers())


@pytest.mark.parametrize("text", ["uvz", "xy", "xyzz", "xyz_km", "-uvd", "xxz", "xvd", "x-vd", ""])
def test_a_format_that_cannot_be(text):
    with pytest.raises(ValueError, match="no format of points"):
        parse_format(text)


# An hourglass has batch norms that nothing is folded into: they stay in fp32.
@pytest.mark.parametrize(
    ("net", "precision"), [("resnet_18", "bf16"), ("resnet_18", "fp16"), ("hourglass_1", "bf16")]
)
@pytest.mark.slow
def test_half_precision_moves_joints_little(tmp_path, succeeds, net, precision):
    write_bundled(tmp_path / "synth", 2)  # some processors take 10 s for a frame in bf16
    # Trained weights: an initial network's joints are the middle of the hand, whatever it computes.
    common = ("test.py", "--net", net, "--data_dir", tmp_path)
    for name in ("fp32", precision):
        succeeds(*common, "--precision", name, "--output_dir", tmp_path / name)
    full, half = (
        NYU_CAMERA.uvd_to_xyz(np.loadtxt(tmp_path / name / "predictions.txt").reshape(-1, 14, 3))
        for name in ("fp32", precision)
    )
    assert 0 < np.linalg.norm(full - half, axis=-1).mean() < 0.3  # mm
