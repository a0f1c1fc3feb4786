"""The cache of crops: the same samples with and without it, whatever happened to its files."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from torch.utils.data import DataLoader

from config import Config
from dataloader.crop_cache import open_cache
from dataloader.dataset import HandDataset, build_dataset
from dataloader.index import FrameIndex
from tests.helpers.full_disk import file_limit
from tests.helpers.nyu_folder import open_hand, write_hands
from tests.helpers.project import PROJECT
from util.camera import NYU_CAMERA

FRAMES = 6
NAME = "crops_train_128-*.bin"
RECORD_BYTES = 4 + 2 * 128**2  # with the checksum


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set of six hands in NYU's layout, two of them over the frame's edge."""
    root = tmp_path_factory.mktemp("written")
    centers = np.random.default_rng(0).uniform((-100, -80, 600), (100, 80, 900), (FRAMES, 3))
    centers[:2] = (-330, 240, 700), (250, -190, 420)
    write_hands(root, centers, "train")
    return root


@pytest.fixture
def config(written, tmp_path):
    shutil.copytree(written / "nyu", tmp_path / "nyu")
    return Config(
        dataset="nyu", data_dir=str(tmp_path), split="train", val_split="test", cache=True, seed=5
    ).resolved()


def samples(dataset, epoch=0):
    dataset.set_epoch(epoch)
    return [dataset[i] for i in range(len(dataset))]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for name, value in one._asdict().items():
            np.testing.assert_array_equal(value, getattr(other, name), name)


def count_reads(dataset):
    """Counts, from now on, how often a data set decodes a frame."""
    paths, read = [], dataset.index.read_depth
    dataset.index = dataset.index._replace(read_depth=lambda path: paths.append(path) or read(path))
    return paths


def test_samples_are_the_same_and_no_frame_is_read_twice(config):
    plain = build_dataset(replace(config, cache=False), augment=True)
    cached = build_dataset(config, augment=True)
    reads = count_reads(cached)
    for epoch in range(8):
        assert_same(samples(cached, epoch), samples(plain, epoch))
    assert len(reads) == FRAMES
    assert read_again(config) == []
    for changes in ({"cube": (250.0, 250.0, 250.0)}, {"img_size": 64}):  # get other crops
        read_again(replace(config, **changes))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    center=st.tuples(st.floats(-400, 400), st.floats(-300, 300), st.floats(150, 1500)),
    strength=st.sampled_from([(10.0, 0.1, 180.0), (200.0, 2.0, 180.0)]),
    kind=st.sampled_from([np.uint16, np.float32]),
)
def test_any_augmentation_of_any_window_is_exact(tmp_path_factory, seed, center, strength, kind):
    """However far an augmentation reaches, it reads the crop: nothing of the frame beyond it is missed."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0, 1600, (480, 640)).astype(kind)
    depth[rng.random(depth.shape) < 0.5] = 0
    folder = tmp_path_factory.mktemp("frame")
    (folder / "frame").touch()
    centers, cubes, joints = np.array([center]), np.full((1, 3), 300.0), open_hand(np.array(center))[None]
    index = FrameIndex(joints, centers, cubes, np.array([b"frame"]), folder, lambda path: depth)
    cache = open_cache(folder / "crops.bin", index, NYU_CAMERA, 64)
    arguments = (index, NYU_CAMERA, depth.shape, 64, strength, seed)
    plain, cached = HandDataset(*arguments), HandDataset(*arguments, cache)
    assert outcome(plain) == outcome(cached) == outcome(cached)  # the second time from the cache


def outcome(dataset):
    """The bytes of the first sample; or the complaint, if its window misses the frame or has no pixel."""
    try:
        return [value.tobytes() for value in dataset[0]]
    except ValueError as error:
        return str(error)


def the_cache(config):
    (file,) = Path(config.data_dir, "nyu").glob(NAME)
    return file


def read_again(config):
    """The names of the frames that a new data set had to read for the same samples as without a cache."""
    cached = build_dataset(config)
    reads = count_reads(cached)
    assert_same(samples(cached), samples(build_dataset(replace(config, cache=False))))
    return [path.name for path in reads]


def change_frame(root):
    shutil.copy(root / "train" / "depth_1_0000005.png", root / "train" / "depth_1_0000004.png")


def touch_frame(root):
    os.utime(root / "train" / "depth_1_0000004.png", ns=(1, 1))


def change_center(root):
    path = root / "center_train_refined.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "1 2 700", *lines[4:]]) + "\n")


def change_label(root):
    path = root / "train" / "joint_data.mat"
    labels = loadmat(path)
    labels["joint_xyz"][0, 3] += 1
    savemat(path, {name: labels[name] for name in ("joint_xyz", "joint_uvd")})


def lose_frames(root):
    shutil.rmtree(root / "train")
    write_hands(root.parent, [[0, 0, 700], [0, 0, 701]], "train")


@pytest.mark.parametrize("change", [change_frame, touch_frame, change_label, change_center, lose_frames])
def test_a_change_begins_another_file(config, change):
    samples(build_dataset(config))
    before = the_cache(config)
    change(Path(config.data_dir, "nyu"))
    frames = 2 if change == lose_frames else FRAMES
    assert len(read_again(config)) == frames
    assert the_cache(config) != before  # which is gone
    assert the_cache(config).stat().st_size == frames * RECORD_BYTES
    assert read_again(config) == []


def tear(offset):
    def damage(path):
        with path.open("r+b") as file:
            file.seek(3 * RECORD_BYTES + offset)
            file.write(b"torn")

    return damage


@pytest.mark.parametrize(
    ("damage", "frames"),
    [
        (Path.unlink, FRAMES),
        (lambda file: os.truncate(file, 9999), FRAMES),
        (tear(0), 1),
        (tear(4 + 16384), 1),
    ],
    ids=["gone", "cut", "checksum", "depths"],
)
def test_what_is_damaged_is_made_again_and_nothing_else(config, damage, frames):
    samples(build_dataset(config))
    damage(the_cache(config))
    read = read_again(config)
    assert (len(read), read[-1 if frames == 1 else 3]) == (frames, "depth_1_0000004.png")
    assert read_again(config) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_workers_share_one_cache(config, method):
    cached = build_dataset(config)
    cached[0]  # open files do not travel
    loader = DataLoader(cached, 2, num_workers=2, multiprocessing_context=method)
    images = np.concatenate([batch.image.numpy() for batch in loader])
    expected = samples(build_dataset(replace(config, cache=False)))
    np.testing.assert_array_equal(images, [sample.image for sample in expected])
    assert_same(samples(pickle.loads(pickle.dumps(build_dataset(config)))), expected)
    assert read_again(config) == []


def test_a_cache_that_can_only_be_read_is_read(config, monkeypatch):
    cached = build_dataset(config)
    for i in range(FRAMES - 1):
        cached[i]
    monkeypatch.setattr(os, "access", lambda *_: False)  # this process may be root's
    for _ in range(2):
        assert read_again(config) == ["depth_1_0000006.png"]


def command(config, *more):
    names = ("dataset", "data_dir", "split", "val_split")
    settings = [part for name in names for part in (f"--{name}", str(getattr(config, name)))]
    return ["dataloader.cache", *settings, *more]


def test_the_command_fills_what_is_missing(config, succeeds):
    build_dataset(config).fill_cache(range(4))  # by a run that was stopped
    for change, read in ((lambda _: None, 2), (lambda _: None, 0), (touch_frame, FRAMES)):
        change(Path(config.data_dir, "nyu"))
        ran = succeeds(*command(config, "--num_workers", "2"))
        assert f"6 frames, of which {read} were read now" in ran.out
    assert read_again(config) == []


@pytest.mark.slow
def test_processes_that_start_together_share_one_file(config):
    arguments = [sys.executable, "-m", *command(config, "--num_workers", "2")]
    started = [subprocess.Popen(arguments, cwd=PROJECT, stderr=subprocess.PIPE) for _ in range(3)]
    complaints = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 3
    assert not any(b"Warning" in complaint for complaint in complaints)
    assert the_cache(config)
    assert read_again(config) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(config, fails, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    with file_limit(100_000):
        complaint = fails(*command(config))
    assert re.search("nyu/crops_train_128-.*File too large", complaint)
    assert not list(Path(config.data_dir, "nyu").glob("*crops*.bin"))
    monkeypatch.setattr(os, "pwrite", full)  # it fills while crops are written
    for workers in ("0", "2"):
        complaint = fails(*command(config, "--num_workers", workers))
        assert re.search("nyu/crops_train_128-.*No space left on device", complaint)
