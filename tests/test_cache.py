"""The cache of crops: the same samples with and without it, whatever happened to its files."""

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from config import NYU_CAMERA, Config
from dataloader import build_dataset
from dataloader.base import FrameIndex, HandDataset
from dataloader.cache.crop_cache import ENTRY_BYTES, HEADER_BYTES, CropCache
from tests.helpers.nyu_folder import ball_hand, open_hand, write_nyu_folder

FRAMES = 6
NAME = "crops_train_128.bin"
RECORD_BYTES = ENTRY_BYTES + 2 * 128**2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set of six hands in NYU's layout, two of them over the frame's edge."""
    root = tmp_path_factory.mktemp("written")
    centers = np.random.default_rng(0).uniform((-100, -80, 600), (100, 80, 900), (FRAMES, 3))
    centers[:2] = (-330, 240, 700), (250, -190, 420)
    joints = np.array([open_hand(center) for center in centers])
    write_nyu_folder(root / "nyu", "train", map(ball_hand, joints), joints, centers)
    return root


@pytest.fixture
def config(written, tmp_path):
    shutil.copytree(written / "nyu", tmp_path / "nyu")
    return Config(dataset="nyu", data_dir=str(tmp_path), split="train", cache=True, seed=5).resolved()


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
    again = build_dataset(config)
    reads = count_reads(again)
    assert_same(samples(again), samples(build_dataset(replace(config, cache=False))))
    assert not reads


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
    index = FrameIndex(
        joint_xyz=open_hand(np.array(center))[None],
        center_xyz=np.array([center]),
        cube=np.full((1, 3), 300.0),
        frame_path=lambda i: folder / "frame",
        read_depth=lambda path: depth,
    )
    cache = CropCache(folder / "crops.bin", 1, 64, NYU_CAMERA, depth.dtype)
    arguments = (index, NYU_CAMERA, depth.shape, 64, strength, seed)
    plain, cached = HandDataset(*arguments), HandDataset(*arguments, cache)
    expected = outcome(plain)
    assert outcome(cached) == expected
    assert outcome(cached) == expected  # now from the cache


def outcome(dataset):
    """The bytes of the first sample; or the complaint, if its window misses the frame or has no pixel."""
    try:
        return [value.tobytes() for value in dataset[0]]
    except ValueError as error:
        return str(error)


def change_frame(root):
    shutil.copy(root / "train" / "depth_1_0000005.png", root / "train" / "depth_1_0000004.png")


def touch_frame(root):
    os.utime(root / "train" / "depth_1_0000004.png", ns=(1, 1))


def change_center(root):
    path = root / "center_train_refined.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "1 2 700", *lines[4:]]) + "\n")


def tear_record(root):
    with (root / NAME).open("r+b") as file:
        file.seek(HEADER_BYTES + 3 * RECORD_BYTES + ENTRY_BYTES + 16384)
        file.write(b"torn")


def tear_entry(root):
    with (root / NAME).open("r+b") as file:
        file.seek(HEADER_BYTES + 3 * RECORD_BYTES)
        file.write(b"torn")


@pytest.mark.parametrize("damage", [change_frame, touch_frame, change_center, tear_record, tear_entry])
def test_a_stale_or_torn_record_is_made_again_and_no_other(config, damage):
    samples(build_dataset(config))
    damage(Path(config.data_dir, "nyu"))
    for expected_reads in (1, 0):
        cached = build_dataset(config)
        reads = count_reads(cached)
        assert_same(samples(cached), samples(build_dataset(replace(config, cache=False))))
        assert [path.name for path in reads] == ["depth_1_0000004.png"] * expected_reads


def damage_header(file):
    file.write_bytes(b"other" + file.read_bytes()[5:])


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda file: os.truncate(file, 100), lambda file: os.truncate(file, 9999), damage_header],
    ids=["gone", "header cut", "cut", "other header"],
)
def test_a_damaged_file_is_made_again(config, damage):
    samples(build_dataset(config))
    damage(Path(config.data_dir, "nyu", NAME))
    cached = build_dataset(config)
    reads = count_reads(cached)
    assert_same(samples(cached), samples(build_dataset(replace(config, cache=False))))
    assert len(reads) == FRAMES


@pytest.mark.parametrize("changes", [{"cube": (250.0, 250.0, 250.0)}, {"img_size": 64}])
def test_other_settings_get_other_crops(config, changes):
    samples(build_dataset(config))
    changed = replace(config, **changes)
    assert_same(samples(build_dataset(changed)), samples(build_dataset(replace(changed, cache=False))))


def test_another_number_of_frames_starts_again(config):
    samples(build_dataset(config))
    root = Path(config.data_dir, "nyu")
    joints = np.array([open_hand([0, 0, 700 + i]) for i in range(2)])
    shutil.rmtree(root / "train")
    write_nyu_folder(root, "train", map(ball_hand, joints), joints, joints.mean(axis=1))
    cached = build_dataset(config)
    assert_same(samples(cached), samples(build_dataset(replace(config, cache=False))))
    assert cached.cache.path.stat().st_size == HEADER_BYTES + 2 * RECORD_BYTES


def test_errors_of_the_loader_stay_its_own(config):
    cached = build_dataset(config)
    samples(cached)
    frame = cached.index.frame_path(2)
    frame.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0000003\.png is damaged"):
        cached[2]
    frame.unlink()
    with pytest.raises(FileNotFoundError, match=r"0000003\.png is missing"):
        cached[2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_workers_share_one_cache(config, method):
    cached = build_dataset(config)
    cached[0]  # open files do not travel
    loader = DataLoader(cached, 2, num_workers=2, multiprocessing_context=method)
    images = np.concatenate([batch.image.numpy() for batch in loader])
    expected = samples(build_dataset(replace(config, cache=False)))
    np.testing.assert_array_equal(images, [sample.image for sample in expected])
    reads = count_reads(cached)
    assert_same(samples(pickle.loads(pickle.dumps(build_dataset(config)))), expected)
    assert_same(samples(cached), expected)
    assert not reads


def test_a_cache_that_can_only_be_read_is_read(config, monkeypatch):
    samples(build_dataset(config))
    touch_frame(Path(config.data_dir, "nyu"))
    monkeypatch.setattr("dataloader.cache.crop_cache._open_for_writing", lambda path: -1)
    cached = build_dataset(config)
    reads = count_reads(cached)
    expected = samples(build_dataset(replace(config, cache=False)))
    for _ in range(2):
        assert_same(samples(cached), expected)
    assert len(reads) == 2  # the one frame that is stale, each time


def command(config, *more):
    names = ("dataset", "data_dir", "split")
    return [*(part for name in names for part in (f"--{name}", str(getattr(config, name)))), *more]


def test_the_command_fills_what_is_missing(config, run_script):
    root = Path(config.data_dir, "nyu")
    for damage, read in ((lambda _: None, FRAMES), (touch_frame, 1), (lambda _: None, 0)):
        damage(root)
        ran = run_script("dataloader.cache", *command(config, "--workers", "2"))
        assert ran.code == 0, ran.err
        assert f"6 frames, of which {read} were read now" in ran.out
        assert "RuntimeWarning" not in ran.err
    cached = build_dataset(config)
    reads = count_reads(cached)
    samples(cached)
    assert not reads


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on(config):
    root = Path(config.data_dir, "nyu")
    code = (
        "import sys, time; from dataloader import base; from util.cli import run; "
        "from dataloader.cache import __main__ as cache; "
        "fill = base.HandDataset.fill_cache; "
        "base.HandDataset.fill_cache = lambda self, i: fill(self, i) or True if i < 4 else time.sleep(60); "
        "run(cache.main, '', cache.CacheSettings)"
    )
    arguments = [sys.executable, "-c", code, *command(config, "--workers", "1")]
    process = subprocess.Popen(arguments, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        fourth = HEADER_BYTES + 3 * RECORD_BYTES
        if (root / NAME).is_file() and any((root / NAME).read_bytes()[fourth : fourth + ENTRY_BYTES]):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    cached = build_dataset(config)
    assert [cached.fill_cache(i) for i in range(FRAMES)] == [False] * 4 + [True] * 2
    assert_same(samples(cached), samples(build_dataset(replace(config, cache=False))))


def fails(run_script, arguments):
    ran = run_script("dataloader.cache", *arguments)
    assert ran.code == 2, ran
    *_, last = ran.err.strip().splitlines()
    assert last.startswith("error: ")
    assert last.endswith(".")
    assert "Traceback" not in ran.err
    return last


def test_a_full_disk_is_one_sentence_and_leaves_nothing(config, run_script, monkeypatch):
    root = Path(config.data_dir, "nyu")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert "MB and 0.0 MB are free there" in fails(run_script, command(config))
    monkeypatch.undo()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert f"{NAME}: File too large" in fails(run_script, command(config))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path.name for path in root.iterdir() if "crops" in path.name]


def test_a_disk_that_fills_while_writing_is_one_sentence(config, run_script, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    for workers in ("1", "2"):
        complaint = fails(run_script, command(config, "--workers", workers))
        assert NAME in complaint
        assert "No space left on device" in complaint


@pytest.mark.slow
def test_settings_that_cannot_work(config, run_script):
    assert "workers is 0" in fails(run_script, command(config, "--workers", "0"))
    assert "is missing" in fails(run_script, ["--data_dir", config.data_dir, "--split", "test"])


def test_depth_of_another_type_is_refused(tmp_path):
    cache = CropCache(tmp_path / "crops.bin", 1, 32, NYU_CAMERA, np.dtype(np.uint16))
    with pytest.raises(ValueError, match="keeps uint16 depth and cannot keep a frame of float32"):
        cache.write(0, bytes(16), np.zeros((32, 32), np.float32))
