"""DexYCB, HO-3D and HANDS 2019 from folders in their described layouts: splits, left hands, scores, files."""

import json
import pickle
import shutil

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from config import Config
from dataloader import dataset_info, dexycb
from dataloader.dataset import build_dataset
from dataloader.index import build_index, find_frames
from dataloader.joint_orders import ORDERS, columns_of
from tests.helpers import grasp_folders as grasps
from tests.helpers.grasp_folders import DEXYCB, HO3D, LEFT, RIGHT, SERIALS, SUBJECTS, in_order
from tests.helpers.refused import refused
from util.camera import parse_camera
from util.checkpoint import ModelSpec, save_checkpoint
from util.inference.predictor import HandPosePredictor
from util.metrics import official_scores

MIDDLE = (600.0, 600.0, 319.5, 239.5)  # of the frame: mirrored, it is the same camera
TRUE = [RIGHT[0], RIGHT[1], RIGHT[1], RIGHT[0], *LEFT, *LEFT]  # of DexYCB's test split, those with a hand
SETS = ("dexycb", "ho3d", "hands19")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with all data sets, HO-3D in both versions."""
    root = tmp_path_factory.mktemp("grasps")
    grasps.write_all(root)
    return root


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Files of a network with random weights for each data set's joints."""
    folder, spec = tmp_path_factory.mktemp("networks"), ModelSpec("resnet_18", 21, 4, 1.0, "dexycb", 64)
    for dataset in SETS:
        save_checkpoint(folder / f"{dataset}.pth", spec.build(), spec._replace(dataset=dataset))
    return {dataset: folder / f"{dataset}.pth" for dataset in SETS}


def settings(root, dataset="dexycb", split="test", **others):
    others = {"setup": "s1", "centers": "labels"} | others
    return Config(dataset=dataset, data_dir=str(root), split=split, **others).resolved()


@pytest.fixture
def run(succeeds):
    """Run a script on a data set of a folder."""

    def run(script, root, dataset, *flags):
        return succeeds(script, "--dataset", dataset, "--data_dir", root, "--setup", "s1", *flags)

    return run


def test_the_splits_are_the_official_ones():
    numbers = [(s, c, i) for s in range(10) for c in range(8) for i in range(100)]
    found = {
        (setup, split): np.array([each for each in numbers if of(*each) == split])
        for setup, of in dexycb.SPLIT_OF.items()
        for split in ("train", "val", "test")
    }
    counts = [len(takes) for takes in found.values()]
    assert counts == [6400, 320, 1280, 5600, 800, 1600, 6000, 1000, 1000, 6000, 800, 1200]
    assert set(found["s0", "test"][:, 0]) == set(range(2, 10))
    assert set(found["s1", "train"][:, 0]) == {0, 1, 2, 3, 4, 5, 9}
    assert set(found["s2", "val"][:, 1]) == {6}
    assert set(found["s3", "val"][:, 2] // 5) == {3, 19}
    assert set(found["s3", "test"][:, 2] // 5) == {7, 11, 15}


def test_dexycb_has_the_labelled_joints_and_counts_what_it_leaves_out(written, capsys):
    for _ in range(2):  # read, then from the cache
        index = build_index(settings(written))
        np.testing.assert_allclose(index.joint_xyz, [in_order(hand, DEXYCB) for hand in TRUE], atol=0.01)
        assert index.left.tolist() == [False] * 4 + [True] * 4
        assert index.intrinsics.tolist() == [list(grasps.CAMERAS[c]) for c in (0, 0, 3, 3, 0, 0, 3, 3)]
        assert np.flatnonzero(index.labels_used).tolist() == [0, 2, 3, 4, 6, 7, 8, 9]
        assert "2 frames of test show no hand: left out." in capsys.readouterr().err


@pytest.mark.parametrize("version", ["v2", "ho3d"])
def test_ho3d_is_read_in_both_versions(written, version):
    train = find_frames(settings(written / version, "ho3d", "train", val_split="test"))
    np.testing.assert_allclose(train.joint_xyz, [in_order(hand, HO3D) for hand in RIGHT * 2], atol=0.01)
    assert train.intrinsics.tolist() == [list(grasps.CAMERAS[c]) for c in (0, 0, 3, 3)]
    assert (train.without_hand, len(find_frames(settings(written / version, "ho3d", "val")).names)) == (1, 1)
    test = find_frames(settings(written / version, "ho3d"))
    assert test.names.tolist() == [b"SM1/depth/0000.png", b"SM1/depth/0001.png", b"AP11/depth/0000.png"]
    assert test.labelled == (version == "ho3d")
    if test.labelled:
        np.testing.assert_allclose(test.joint_xyz[1], in_order(RIGHT[1], HO3D), atol=1e-6)


@pytest.mark.parametrize(("dataset", "split"), [("dexycb", "test"), ("ho3d", "test"), ("hands19", "train")])
def test_joints_lie_on_the_hand_in_the_crop(written, dataset, split):
    samples = build_dataset(settings(written, dataset, split))
    for sample in map(samples.__getitem__, range(len(samples))):
        column, row = np.rint((sample.joint_uvd[:, :2] + 1) * 64 - 0.5).astype(int).T
        away_mm = (sample.image[0, row, column] - sample.joint_uvd[:, 2]) * sample.cube[2] / 2
        assert (np.abs(away_mm) < 30).all()


def test_a_left_hand_is_seen_and_scored_as_the_right_hand_that_it_mirrors(tmp_path, networks, run):
    samples, scores, pixels, centers = [], [], [], []
    for side in ("right", "left"):
        sign, root = -1 if side == "left" else 1, tmp_path / side
        hands = [grasps.named_hand([60.0 * sign, 10, 650], side == "left")]
        grasps.write_dexycb(root, [(7, "sequence", side, {0: hands})], {0: MIDDLE})
        samples.append(build_dataset(settings(root))[0])
        load = ("--load_model", networks["dexycb"], "--num_workers")
        run("test.py", root, "dexycb", *load, 0, "--centers", "labels", "--output_dir", root)
        refined = ("--method", "refined", "--out", root / "c.txt")
        run("util.inference.centers", root, "dexycb", *load, 1, *refined)
        scores.append(json.loads((root / "metrics.json").read_text())["mpe_mm"])
        pixels.append((np.loadtxt(root / "predictions.txt").reshape(21, 3) - (319.5, 0, 0)) * (sign, 1, 1))
        centers.append(np.loadtxt(root / "c.txt") * (sign, 1, 1))
    for found, expected in zip(*samples, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    np.testing.assert_allclose(*pixels, atol=0.002)
    np.testing.assert_allclose(*centers, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SETS)
def test_an_epoch_of_training_and_its_scores(written, dataset, tmp_path, run):
    tiny = ("--num_workers", 0, "--img_size", 32, "--centers", "labels")
    recipe = "--net hourglass_1 --batch_size 2 --max_epoch 1 --cache --augment_para 10 0.2 180"
    ran = run("train.py", written, dataset, *tiny, *recipe.split(), "--output_dir", tmp_path)
    assert "Centres are made from the labels" in ran.err
    flags = ("--split", "val" if dataset == "hands19" else "test", "--output_dir", tmp_path / "out")
    run("test.py", written, dataset, *tiny, *flags, "--load_model", tmp_path / "best.pth")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["centers"] == "labels"


@pytest.mark.parametrize("dataset", SETS)
def test_found_centres_serve(written, dataset, tmp_path, run):
    split, out = "train" if dataset == "hands19" else "test", tmp_path / "centers.txt"
    run("util.inference.centers", written, dataset, "--split", split, "--out", out, "--num_workers", 1)
    index = build_index(settings(written, dataset, split, centers=str(out)))
    assert np.linalg.norm(index.center_xyz - index.joint_xyz.mean(axis=1), axis=1).max() < 40


def test_dexycb_writes_the_official_lines_of_a_whole_split(written, tmp_path, run, monkeypatch):
    frames = [LEFT[0], None]  # of every sequence: one each of two people before eight cameras
    takes = [(subject, "s", "left", dict.fromkeys(range(8), frames)) for subject in (7, 8)]
    grasps.write_dexycb(tmp_path / "whole", takes, dict.fromkeys(range(8), MIDDLE))
    predicted = np.tile(in_order(LEFT[0], DEXYCB).ravel() + 0.5, (16, 1))
    np.savetxt(tmp_path / "p.txt", predicted, fmt="%.4f")
    flags = ("--predictions", tmp_path / "p.txt", "--predictions_format", "xyz", "--output_dir", tmp_path)
    ran = run("test.py", tmp_path / "whole", "dexycb", *flags)
    assert "1584 sequences before a camera, missing" in ran.out
    assert not (tmp_path / "dexycb_results.txt").exists()  # a part of the split
    official = json.loads((tmp_path / "metrics.json").read_text())["official"]
    assert list(official) == ["absolute", "root-relative", "procrustes"]
    assert official["absolute"]["mpjpe_mm"] == pytest.approx(0.75**0.5, abs=0.01)
    monkeypatch.setattr(dexycb, "SEQUENCES", 1)
    run("test.py", tmp_path / "whole", "dexycb", *flags)
    lines = np.loadtxt(tmp_path / "dexycb_results.txt", delimiter=",")
    np.testing.assert_allclose(lines, np.column_stack([range(0, 32, 2), predicted]), atol=0.01)


@pytest.mark.parametrize("version", ["v2", "ho3d"])
def test_ho3d_writes_pred_json(written, version, tmp_path, networks, run):
    np.savetxt(tmp_path / "c.txt", [[0, 20, 600]] * 3)
    flags = ("--load_model", networks["ho3d"], "--centers", tmp_path / "c.txt", "--num_workers", 0)
    ran = run("test.py", written / version, "ho3d", *flags, "--output_dir", tmp_path)
    joints, meshes = json.loads((tmp_path / "pred.json").read_text())
    u, v, d = np.loadtxt(tmp_path / "predictions.txt")[0].reshape(21, 3).T
    fx, fy, cx, cy = grasps.CAMERAS[3]
    expected = np.column_stack([(u - cx) * d / fx, (cy - v) * d / fy, -d]) / 1000
    np.testing.assert_allclose(joints[0], expected, atol=1e-5)
    assert len(joints) == len(meshes) == 3
    assert (tmp_path / "metrics.json").exists() == (version == "ho3d") != ("labels are withheld" in ran.out)


def test_hands19_writes_its_submission_as_hands17_does(written, tmp_path, networks, run):
    np.savetxt(tmp_path / "c.txt", [[0, 20, 600]] * 2)
    flags = ("--load_model", networks["hands19"], "--centers", tmp_path / "c.txt", "--num_workers", 0)
    run("test.py", written, "hands19", *flags, "--output_dir", tmp_path)
    rows = [line.split("\t") for line in (tmp_path / "submission.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == [f"image_D0000000{i}.png" for i in (1, 2)]
    submitted = np.array([row[1:] for row in rows], float).reshape(2, 21, 3)
    uvd = np.loadtxt(tmp_path / "predictions.txt").reshape(2, 21, 3)
    assert np.abs(submitted - dataset_info("hands19").camera.uvd_to_xyz(uvd)).max() < 0.01


def test_official_scores_are_those_of_an_independent_computation():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(0, 60, (2, 40, 21, 3))
    predicted[:20] = true[:20] * 1.2 + rng.normal(0, 8, (20, 21, 3)) + 15  # half of them good

    def procrustes(joints, goal):
        source, target = joints - joints.mean(axis=0), goal - goal.mean(axis=0)
        turn, size = orthogonal_procrustes(source, target)
        return source @ turn * size / (source**2).sum() + goal.mean(axis=0)

    def sized(joints, goal):
        lengths = [np.linalg.norm(each[4] - each[0]) for each in (goal, joints)]
        return (joints - joints[0]) * lengths[0] / lengths[1] + goal[0]

    ways = {"absolute": lambda p, t: p, "root-relative": lambda p, t: p - p[0] + t[0]}
    ways |= {"procrustes": procrustes, "scale-translation": sized}
    found, thresholds = official_scores(predicted, true, tuple(ways)), np.linspace(0, 50, 100)
    for name, way in ways.items():
        errors = np.linalg.norm([way(*pair) - pair[1] for pair in zip(predicted, true, strict=True)], axis=-1)
        pck = np.mean([[(joint <= t).mean() for t in thresholds] for joint in errors.T], axis=0)
        area = ((pck[1:] + pck[:-1]) / 2 * np.diff(thresholds)).sum() / 50
        assert (found[name].mpe_mm, found[name].auc) == pytest.approx((errors.mean(), area), abs=1e-9)


def test_orders_are_those_of_the_named_joints(written, tmp_path, run):
    assert (ORDERS["dexycb"], ORDERS["ho3d"]) == (DEXYCB, HO3D)
    mano, numbers = ORDERS["mano"], columns_of("dexycb", ORDERS["mano"])
    assert numbers == [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 8, 12, 20, 16, 4]
    places = {1: "index MCP", 7: "pinky MCP", 15: "thumb DIP", 16: "index tip", 19: "ring tip"}
    assert {i: mano[i] for i in places} == places
    for order, names in ORDERS.items():
        np.savetxt(tmp_path / "p.txt", [in_order(hand, names).ravel() for hand in TRUE], fmt="%.4f")
        flags = ("--predictions", tmp_path / "p.txt", "--predictions_format", "xyz", "--output_dir", tmp_path)
        run("test.py", written, "dexycb", *flags, "--predictions_order", order)
        assert json.loads((tmp_path / "metrics.json").read_text())["mpe_mm"] < 0.01


class Runs:
    """Its pickle would run code."""

    def __reduce__(self):
        return print, ("it ran",)


def write(text):
    return lambda path: path.write_bytes(text.encode("latin1") if isinstance(text, str) else text)


TAKE = f"{SUBJECTS[7]}/20201002_110227"
LABEL, META = f"{TAKE}/{SERIALS[0]}/labels_000000.npz", f"{TAKE}/meta.yml"
CALIBRATION, PICKLE = f"calibration/intrinsics/{SERIALS[3]}_640x480.yml", "evaluation/SM1/meta/0001.pkl"
DAMAGES = [
    ("dexycb", LABEL, write("no archive"), "is damaged: expected joint_3d"),
    ("dexycb", LABEL, lambda path: np.savez(path, joint_3d=np.full((1, 21, 3), -0.5)), "a joint that is not"),
    ("dexycb", CALIBRATION, lambda path: path.unlink(), "is missing: color: {fx"),
    ("dexycb", CALIBRATION, write("depth: 1"), "is damaged: expected color"),
    ("dexycb", META, write("num_frames: 3\nmano_sides: [both]"), "is damaged: expected num_frames"),
    ("dexycb", META, write("a: [" * 9), "is damaged"),
    ("ho3d", PICKLE, write(pickle.dumps(Runs())), "as it asks for builtins.print, which may run"),
    ("ho3d", PICKLE, write("\x80\x02"), "is damaged: it cannot be read"),
    ("ho3d", PICKLE, write(pickle.dumps({"camMat": None})), "is damaged: expected camMat (3, 3)"),
    ("ho3d", "evaluation_xyz.json", write("[[1, 2]]"), "joints of each of 3 frames"),
    ("ho3d", "evaluation.txt", write("SM1 0001"), "expected `<sequence>/<frame>` a line"),
    ("hands19", "Task 1/test_bbs.txt", write("image_D00000001.png 1 2 3 4"), "no line of image_D00000002"),
]


@pytest.mark.parametrize(
    ("dataset", "file", "damage", "sentence"), DAMAGES, ids=[each[3] for each in DAMAGES]
)
def test_damage_ends_in_a_sentence(written, dataset, file, damage, sentence, tmp_path, capsys):
    shutil.copytree(written / dataset, tmp_path / dataset)
    damage(tmp_path / dataset / file)
    with refused(sentence):
        build_index(settings(tmp_path, dataset))
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("setup", ["s0", "s3"])
def test_a_part_cannot_be_split_by_sequences(written, setup):
    with pytest.raises(ValueError, match=f"has 1 of 100 sequences, and {setup} goes by a sequence's number"):
        find_frames(settings(written, setup=setup))


@pytest.mark.parametrize("dataset", SETS)
def test_the_predictor_and_the_presets_know_the_data_set(dataset, networks):
    preset, depth = parse_camera(dataset), np.zeros((480, 640), np.float32)
    depth[200:280, 280:360] = 600
    predictor = HandPosePredictor(networks[dataset], "cpu", min_confidence=0.0)
    pose = predictor.predict(depth, preset.camera, np.array([0.0, 0, 600]), handedness="right")
    assert pose.joint_names == dataset_info(dataset).joint_names
