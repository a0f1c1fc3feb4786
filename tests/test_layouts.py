"""ICVL, MSRA15 and HANDS 2017 from folders in their real layouts: joints, crops, folds, broken files."""

import importlib
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from config import DATASETS, Config
from dataloader import augment, dataset_info
from dataloader.dataset import build_dataset
from dataloader.index import build_index, find_frames
from tests.helpers.layout_folders import (
    spread_hands,
    write_bin,
    write_center_file,
    write_hands17_folder,
    write_icvl_folder,
    write_msra_folder,
)
from tests.helpers.refused import refused
from util.checkpoint import ModelSpec, save_checkpoint

SUBJECTS = {0: 1.0, 3: 0.9, 8: 0.75}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the three data sets, and the true joints by data set and split."""
    root = tmp_path_factory.mktemp("layouts")
    icvl = {"train": spread_hands("icvl", 3, 1), "test": spread_hands("icvl", 5, 2)}
    write_icvl_folder(root / "icvl", **icvl)
    hands17 = {"train": spread_hands("hands17", 3, 3), "test": spread_hands("hands17", 2, 4)}
    write_hands17_folder(root / "hands17", **hands17)
    subjects = {
        s: {gesture: spread_hands("msra", 2, 10 * s + n, scale) for n, gesture in enumerate(("1", "IP"))}
        for s, scale in SUBJECTS.items()
    }
    write_msra_folder(root / "msra", subjects)
    joined = {subject: np.concatenate([*gestures.values()]) for subject, gestures in subjects.items()}
    msra = {"train": np.concatenate([joined[0], joined[8]]), "test": joined[3]}
    return root, {"icvl": icvl, "hands17": hands17, "msra": msra, "msra subjects": joined}


@pytest.fixture
def copied(written, tmp_path):
    """A copy of one data set, to break."""

    def copy(dataset):
        shutil.copytree(written[0] / dataset, tmp_path / dataset)
        return tmp_path / dataset

    return copy


def settings(root, dataset, split="test", **others):
    others.setdefault("test_subject", 3)
    return Config(dataset=dataset, data_dir=str(root), split=split, **others).resolved()


SPLITS = [(dataset, split) for dataset in ("icvl", "msra", "hands17") for split in ("train", "test")]
LABELLED = [pair for pair in SPLITS if pair != ("hands17", "test")]


@pytest.mark.parametrize(("dataset", "split"), LABELLED)
def test_joints_come_back(written, dataset, split):
    root, truth = written
    # Parsed, then from the cache; the data set's own folder serves, too.
    for folder in (root, root / dataset):
        found = build_index(settings(folder, dataset, split)).joint_xyz
        assert found.shape == truth[dataset][split].shape
        assert np.abs(found - truth[dataset][split]).max() < 0.01


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_joints_lie_on_the_hand_in_the_crop(written, dataset, split):
    root, truth = written
    samples = build_dataset(settings(root, dataset, split))
    assert len(samples) == len(truth[dataset][split])
    for i, joint_xyz in enumerate(truth[dataset][split]):
        sample = samples[i]
        uv = samples.camera.xyz_to_uvd(joint_xyz)[:, :2]
        column, row = np.rint(uv @ sample.M[:2, :2].T + sample.M[:2, 2]).astype(int).T
        surface = sample.image[0, row, column] * sample.cube[2] / 2 + sample.center_xyz[2]
        # The front of the joint's own ball, or of a ball before it.
        assert (sample.image[0, row, column] < 0.99).all()
        assert (np.abs(joint_xyz[:, 2] - surface) < 50).all()
        if samples.index.labelled:
            assert np.abs(sample.joint_uvd).max() < 1
    assert samples.index.labelled == ((dataset, split) != ("hands17", "test"))
    (batch,) = DataLoader(build_dataset(settings(root, dataset, split), augment=True), 8, num_workers=1)
    assert batch.image.shape == (len(samples), 1, 128, 128)
    assert batch.joint_uvd.shape == truth[dataset][split].shape


def test_the_tables_name_every_joint_once():
    for info in map(dataset_info, DATASETS):
        assert len(set(info.joint_names)) == len(info.joint_names)
        assert set().union(*info.chains) == set(range(len(info.joint_names)))
        assert len(info.chains) == 6


def test_a_subject_is_left_out_and_has_its_cube(written):
    root, truth = written
    train, test = (build_index(settings(root, "msra", split, test_subject=8)) for split in ("train", "test"))
    assert {train.frame_path(i).parts[-3] for i in range(8)} == {"P0", "P3"}
    assert train.cube[:, 0].tolist() == [200] * 4 + [180] * 4
    assert test.cube[:, 0].tolist() == [150] * 4
    assert np.abs(test.joint_xyz - truth["msra subjects"][8]).max() < 0.01
    assert [str(test.frame_path(i))[-19:] for i in (1, 2)] == ["/1/000001_depth.bin", "IP/000000_depth.bin"]


def test_hands17_validates_on_training_frames(written, tmp_path):
    assert len(build_index(settings(written[0], "hands17", "val")).joint_xyz) == 1
    shutil.copytree(written[0] / "hands17", tmp_path / "hands17")
    (tmp_path / "hands17" / "center_train_refined.txt").unlink()
    with pytest.raises(FileNotFoundError, match="--split train --method depth"):  # val's alone would not do
        build_index(settings(tmp_path, "hands17", "val"))


@pytest.mark.slow
def test_all_folds_are_averaged_over_their_frames(written, tmp_path, succeeds, fails):
    root, truth = written
    spec = ModelSpec("resnet_18", 21, 4, 1.0, "msra", 64)
    for subject in SUBJECTS:
        save_checkpoint(tmp_path / f"P{subject}.pth", spec.build(), spec)
    common = ("--dataset", "msra", "--data_dir", root, "--num_workers", "0")

    def scored(subject, model):
        out = tmp_path / f"out{subject}"
        flags = ("--test_subject", subject, "--load_model", model, "--output_dir", out)
        succeeds("test.py", *common, *flags)
        return json.loads((out / "metrics.json").read_text()), np.loadtxt(out / "predictions.txt")

    figures, predicted = scored("all", tmp_path / "P{subject}.pth")
    np.testing.assert_array_equal(predicted[4:8], scored(3, tmp_path / "P3.pth")[1])
    predicted_xyz = dataset_info("msra").camera.uvd_to_xyz(predicted.reshape(12, 21, 3))
    true = np.concatenate([*truth["msra subjects"].values()])
    errors = np.linalg.norm(predicted_xyz - true, axis=-1)
    assert figures["frames"] == 12
    assert figures["mpe_mm"] == pytest.approx(errors.mean(), abs=0.01)
    labels = find_frames(settings(root, "msra", test_subject="all")).joint_xyz
    assert np.abs(labels - true).max() < 0.01
    flags = ("--test_subject", "all", "--load_model", tmp_path / "P3.pth")
    assert "{subject}" in fails("test.py", *common, *flags)


def test_centres_of_all_icvl_lines_serve_the_unrotated(written, copied):
    root = copied("icvl")
    centers = np.loadtxt(root / "center_train_refined.txt")
    both = np.repeat(centers, 2, axis=0) + [[9, 9, 9], [0, 0, 0]] * 3
    write_center_file(root / "center_train_refined.txt", both)
    index = build_index(settings(root.parent, "icvl", "train"))
    np.testing.assert_allclose(index.center_xyz, centers)


def make_invalid(path, *places):
    lines = enumerate(path.read_text().splitlines())
    path.write_text("".join("invalid\n" if i in places else f"{line}\n" for i, line in lines))


@pytest.mark.parametrize(
    ("dataset", "fold", "test_centers"), [("icvl", "", [1, 1, 1, 4, 4]), ("msra", "3_", [0, 0, 3, 3])]
)
def test_frames_without_centre_leave_training_and_take_the_nearest_in_testing(
    copied, dataset, fold, test_centers
):
    root = copied(dataset)
    whole = {split: build_index(settings(root.parent, dataset, split)) for split in ("train", "test")}
    lost = [i for i, nearest in enumerate(test_centers) if i != nearest]
    make_invalid(root / f"center_train_{fold}refined.txt", 1)
    make_invalid(root / f"center_test_{fold}refined.txt", *lost)
    whole["train"].frame_path(1).unlink()  # V2V-PoseNet says invalid of frames that are not there, too

    train = build_index(settings(root.parent, dataset, "train"))
    kept = [i for i in range(len(whole["train"].joint_xyz)) if i != 1]
    np.testing.assert_array_equal(train.joint_xyz, whole["train"].joint_xyz[kept])
    np.testing.assert_array_equal(train.cube, whole["train"].cube[kept])
    assert train.frame_path(1) == whole["train"].frame_path(2)
    assert np.isfinite(train.center_xyz).all()

    test = build_index(settings(root.parent, dataset, "test"))
    assert len(test.joint_xyz) == len(whole["test"].joint_xyz)
    np.testing.assert_array_equal(test.center_xyz, whole["test"].center_xyz[test_centers])
    assert (test.center_xyz[0] != test.center_xyz[-1]).any()


def edit(name, old, new, count=-1):
    """A damage that replaces text in a file."""
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new, count))


def remove(name):
    return lambda root: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in root.glob(name)]


def cut(name, size):
    return lambda root: os.truncate(root / name, size)


def move_centers(name, count):
    """A damage that puts some centres behind the camera."""
    return lambda root: np.savetxt(root / f"{name}_refined.txt", [[0, 0, -400]] * count)


def bad_header(root):
    content = np.frombuffer((root / BIN).read_bytes(), np.int32).copy()
    content[4] = 999  # the window's right edge
    (root / BIN).write_bytes(content.tobytes())


FRAME, BIN = "Testing/Depth/test_seq_2/image_0001.png", "P3/IP/000001_depth.bin"
SEQUENCE, ANNOTATION = "Testing/test_seq_1.txt", "training/Training_Annotation.txt"
# Data set, how to break it, what the sentence must say. Lines of label files: test_labels.py.
DAMAGES = [
    ("icvl", remove("Testing"), "icvl/Testing is missing"),
    ("icvl", remove("Testing/*.txt"), "test_seq_1.txt is missing: labels"),
    ("icvl", remove("center_test_refined.txt"), "python -m util.inference.centers --dataset icvl"),
    ("icvl", remove(FRAME), "4 depth frames, 5 labels and 5 centres"),
    ("icvl", move_centers("center_test", 4), "5 labels and 4 centres"),
    ("icvl", edit(SEQUENCE, "image_0001.png ", "image_0001.png"), "line 2 has 48 fields, expected 49"),
    ("icvl", cut(SEQUENCE, 0), "is empty"),
    ("icvl", cut(FRAME, 99), f"{FRAME} is damaged"),
    ("icvl", lambda root: cv2.imwrite(str(root / FRAME), np.ones((240, 320), np.uint8)), "a 16-bit grey PNG"),
    ("msra", remove("P3"), "msra/P3 is missing"),
    ("msra", remove("P?"), "P3 is missing"),
    ("msra", remove("P3/IP/joint.txt"), "P3/IP/joint.txt is missing"),
    ("msra", remove("center_test_3_refined.txt"), "--test_subject 3 --method depth"),
    ("msra", remove(BIN), "3 depth frames, 4 labels and 4 centres"),
    ("msra", edit("P3/IP/joint.txt", "2", "3", 1), "announces 3 frames in its first line and holds 2"),
    ("msra", edit("P3/IP/joint.txt", "2", "x", 1), "line 1 holds 'x"),
    ("msra", cut("P3/IP/joint.txt", 0), "line 1 holds '', not a number"),
    ("msra", edit("P3/1/joint.txt", " -", " "), "line 2 has a joint at or behind the camera"),
    ("msra", cut(BIN, 999), "is damaged, or not in MSRA's format"),
    ("msra", cut(BIN, 20), "it has 20 bytes and begins with"),
    ("msra", bad_header, "begins with [320, 240,"),
    ("msra", lambda root: write_bin(root / BIN, np.full((240, 320), np.nan, np.float32)), "finite number"),
    ("hands17", remove("training"), "hands17/training is missing"),
    ("hands17", remove(ANNOTATION), "Annotation.txt is missing"),
    ("hands17", remove("training/images"), "0 depth frames, 3 labels"),
    ("hands17", remove("training/images/*2.png"), "2 depth frames, 3 labels and 3 centres"),
    ("hands17", edit(ANNOTATION, "\t", "\tnan", 1), "line 1 holds 'nan"),
    ("hands17", move_centers("center_train", 3), "image_D00000001.png: the centre, z = -"),
]


@pytest.mark.parametrize(("dataset", "damage", "sentence"), DAMAGES, ids=[each[2] for each in DAMAGES])
def test_damage_ends_in_a_sentence(dataset, damage, sentence, copied):
    root = copied(dataset)
    damage(root)
    config = settings(root.parent, dataset, "train" if dataset == "hands17" else "test")
    with refused(sentence):
        list(DataLoader(build_dataset(config), batch_size=None))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--dataset icvl --test_subject all", "icvl has no subjects"),
        (f"--dataset hands17 --predictions {__file__}", "are withheld"),
    ],
    ids=["subjects", "labels"],
)
def test_what_a_data_set_does_not_have_is_said(written, flags, sentence, fails, tmp_path):
    where = ("--data_dir", written[0], "--output_dir", tmp_path / "out")
    assert sentence in fails("test.py", *flags.split(), *where)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("junk", ["._{}", ".{}.swp", "copy_of_{}", "{}~"])
@pytest.mark.parametrize(("dataset", "frames"), [("icvl", 5), ("msra", 4)])
def test_other_files_in_a_data_set_are_not_counted(copied, dataset, frames, junk):
    root = copied(dataset)
    if dataset == "msra":
        (root / "P3" / ".ipynb_checkpoints").mkdir()
    for frame in [*root.rglob("*.bin"), *root.rglob("image_*.png")]:
        frame.with_name(junk.format(frame.name)).write_bytes(b"\0" * 163)
    assert len(build_index(settings(root.parent, dataset)).joint_xyz) == frames


@pytest.mark.parametrize(("gone", "frames"), [("test_seq_1", 3), ("test_seq_2", 2)])
def test_one_of_icvls_test_sequences_is_scored_and_called_so(succeeds, copied, tmp_path, gone, frames):
    (copied("icvl") / "Testing" / f"{gone}.txt").unlink()
    flags = ("--data_dir", tmp_path, "--output_dir", tmp_path, "--img_size", "32", "--num_workers", "0")
    ran = succeeds("test.py", "--dataset", "icvl", *flags, "--load_model", "random")
    assert ran.out.splitlines()[-1] == f"Only a part of the split was scored: {gone} missing."
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert (record["missing"], record["frames"]) == ([gone], frames)


def test_an_older_opencv_is_said(monkeypatch, capsys):
    monkeypatch.setattr(cv2, "__version__", "4.11.0")
    importlib.reload(augment)
    assert "warning: OpenCV 4.11.0 rounds warps" in capsys.readouterr().err
