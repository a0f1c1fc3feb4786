"""Geometry of the crop, randomness of the augmentation, and the data set on real files."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from config import Config
from dataloader import dataset_info
from dataloader.augment import Augmentation, draw_augmentation
from dataloader.crop import crop_hand, find_window, limit_depth, network_input
from dataloader.dataset import build_dataset, make_sample
from dataloader.nyu import read_depth
from tests.helpers.nyu_folder import ball_hand, encode_depth, open_hand, write_hands, write_nyu_folder
from util.camera import NYU_CAMERA, Camera, crop_to_uvd, uvd_to_crop

CUBE = np.array([300.0, 300.0, 300.0])
CENTERS = st.tuples(st.floats(-200, 200), st.floats(-150, 150), st.floats(400, 1500)).map(np.array)


@given(
    xyz=st.tuples(st.floats(-800, 800), st.floats(-800, 800), st.floats(100, 3000)),
    flip=st.sampled_from([1, -1]),
)
def test_camera_round_trip(xyz, flip):
    camera = Camera(475.07, 475.06, 315.94, 245.29, flip)
    np.testing.assert_allclose(camera.uvd_to_xyz(camera.xyz_to_uvd(np.array(xyz))), xyz, atol=1e-6)


@given(center=CENTERS, edge=st.floats(100, 400))
def test_crop_coordinates_round_trip_around_the_centre(center, edge):
    M = find_window(NYU_CAMERA, center, np.full(3, edge), 128).M.astype(np.float64)
    uvd = NYU_CAMERA.xyz_to_uvd(open_hand(center))
    crop = uvd_to_crop(uvd, center[2], np.float64(edge), M, 128)
    np.testing.assert_allclose(crop_to_uvd(crop, center[2], np.float64(edge), M, 128), uvd, atol=1e-3)
    np.testing.assert_allclose(np.linalg.inv(M) @ M, np.eye(3), atol=1e-6)
    M = find_window(NYU_CAMERA, center, CUBE, 128).M
    middle = uvd_to_crop(NYU_CAMERA.xyz_to_uvd(center[None]), center[2], CUBE[2], M, 128)
    np.testing.assert_allclose(middle[0], 0, atol=0.05)


@settings(max_examples=30, deadline=None)
@given(center=CENTERS)
def test_normalised_depth_stays_in_its_range(center):
    depth = ball_hand(open_hand(np.array([0.0, 0.0, center[2]])))
    crop = crop_hand(depth, NYU_CAMERA, np.array([0.0, 0.0, center[2]]), CUBE, 128)
    image = network_input(crop)
    assert image.min() >= -1
    assert image.max() == pytest.approx(1, abs=1e-6)


def test_depth_limits_keep_no_reading_apart():
    np.testing.assert_array_equal(
        limit_depth(np.array([0, 100, 650, 900], np.float32), 700, 300), [0, 550, 650, 0]
    )


def test_each_augmentation_has_a_quarter_and_its_strength():
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(rng, (10.0, 0.1, 180.0)) for _ in range(8000)]
    translations = np.array([d.translate_mm for d in drawn if d.translate_mm is not None])
    scales = np.array([d.scale for d in drawn if d.scale is not None])
    rotations = np.array([d.rotate_deg for d in drawn if d.rotate_deg is not None])
    nothing = [d for d in drawn if all(part is None for part in d[:3])]
    for kind in (translations, scales, rotations, nothing):
        assert len(kind) == pytest.approx(2000, abs=200)
    assert translations.shape[1:] == (3,)  # each axis has its own
    assert np.abs(np.corrcoef(translations.T) - np.eye(3)).max() < 0.1
    assert translations.std(axis=0) == pytest.approx(10, rel=0.1)
    assert scales.std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(rotations).max() <= 180
    assert rotations.std() == pytest.approx(360 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(
    "augmentation",
    [{}, {"translate_mm": np.array([12.0, -9.0, 6.0])}, {"scale": 1.1}, {"rotate_deg": 50.0}],
    ids=str,
)
def test_joints_move_with_the_picture(augmentation):
    """Every ball's front stays one radius in front of its joint, whatever the augmentation."""
    joints = open_hand(np.array([20.0, -30.0, 750.0]))
    crop = crop_hand(ball_hand(joints), NYU_CAMERA, joints.mean(axis=0), CUBE, 128)
    sample = make_sample(crop, NYU_CAMERA, joints, Augmentation(**augmentation))
    pixels = ((sample.joint_uvd[:, :2] + 1) * 64).astype(int)
    surface = sample.image[0][pixels[:, 1], pixels[:, 0]]
    in_front_mm = (sample.joint_uvd[:, 2] - surface) * sample.cube[2] / 2
    np.testing.assert_allclose(in_front_mm, 18, atol=4)


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """A data set of six hands in NYU's layout."""
    root = tmp_path_factory.mktemp("data")
    centers = np.random.default_rng(0).uniform((-100, -80, 600), (100, 80, 900), (6, 3))
    write_hands(root, centers, "train", "test")
    return Config(dataset="nyu", data_dir=str(root), split="train", val_split="test", seed=5).resolved()


def images(dataset, epoch, num_workers=0):
    dataset.set_epoch(epoch)
    return np.concatenate([batch.image.numpy() for batch in DataLoader(dataset, 2, num_workers=num_workers)])


def test_augmentation_is_fresh_each_epoch_and_alike_for_any_number_of_workers(hands):
    dataset = build_dataset(hands, augment=True)
    epochs = [images(dataset, epoch) for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(images(dataset, 0, num_workers=2), epochs[0])
    # Workers that outlive an epoch see the next one.
    loader = DataLoader(dataset, batch_size=6, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        np.testing.assert_array_equal(next(iter(loader)).image.numpy(), epochs[epoch])


def test_labels_come_back_as_written(hands):
    dataset = build_dataset(hands)
    for i, true_xyz in enumerate(dataset.index.joint_xyz):
        _, joint_xyz, joint_uvd, center_xyz, M, cube = (array.astype(np.float64) for array in dataset[i])
        uvd = crop_to_uvd(joint_uvd, center_xyz[2], cube[2], M, 128)
        np.testing.assert_allclose(NYU_CAMERA.uvd_to_xyz(uvd), true_xyz, atol=0.01)
        np.testing.assert_allclose(joint_xyz * cube / 2 + center_xyz, true_xyz, atol=0.01)


def test_frames_are_not_read_before_they_are_needed(hands, monkeypatch):
    monkeypatch.setattr("util.files.cv2.imdecode", lambda *_: pytest.fail("a frame was read"))
    assert len(build_dataset(hands)) == 6


@pytest.mark.parametrize("alpha", [False, True])
def test_depth_beyond_eight_bits_survives(tmp_path, alpha):
    depth = np.arange(480 * 640, dtype=np.uint32).reshape(480, 640) % 10000
    channels = [encode_depth(depth)] + [np.full(depth.shape, 255, np.uint8)] * alpha
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack(channels))
    np.testing.assert_array_equal(read_depth(tmp_path / "a.png"), depth)


def test_the_second_test_subject_has_the_smaller_cube(tmp_path):
    frames = dataset_info("nyu").smaller_hand_from + 2
    joints = np.repeat(open_hand([0, 0, 700])[None], frames, axis=0)
    write_nyu_folder(tmp_path / "nyu", "test", [], joints, np.full((frames, 3), (0.0, 0, 700)))
    for i in range(frames):
        (tmp_path / "nyu" / "test" / f"depth_1_{i + 1:07d}.png").touch()
    cube = build_dataset(Config(dataset="nyu", data_dir=str(tmp_path)).resolved()).index.cube
    assert cube[frames - 3, 0] == 300
    assert cube[frames - 2, 0] == cube[-1, 0] == 250


def test_a_hand_at_the_lens_needs_no_gigantic_window():
    crop = crop_hand(np.full((480, 640), 1, np.uint16), NYU_CAMERA, np.array([0.0, 0.0, 1.0]), CUBE, 128)
    assert crop.image.shape == (128, 128)
