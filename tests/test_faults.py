"""A camera's faults in crops, and rotation without blending."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Config
from dataloader.augment import Augmentation, apply_augmentation, draw_augmentation
from dataloader.crop import crop_hand
from dataloader.dataset import build_dataset
from dataloader.faults import FAULTS, add_faults, pixel_noise, put_in_front, shared_noise
from tests.helpers.nyu_folder import ball_hand, open_hand, write_hands
from util.camera import NYU_CAMERA

CENTER, CUBE = np.array([0.0, 0.0, 700.0]), np.full(3, 300.0)
JOINTS = open_hand(CENTER)
EDGES = (64, 128)


@pytest.fixture(scope="module", params=EDGES)
def crop(request):
    return crop_hand(ball_hand(JOINTS), NYU_CAMERA, CENTER, CUBE, request.param)


def faulty(crop, seed, strength=1.0):
    return add_faults(crop, np.random.default_rng(seed), strength).image


def test_the_seed_decides_which_faults_a_crop_has(crop):
    images = [faulty(crop, seed) for seed in range(60)]
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(faulty(crop, seed), image)
        np.testing.assert_array_equal(faulty(crop, seed, strength=0.0), crop.image)
    unchanged = sum(np.array_equal(image, crop.image) for image in images)
    assert 10 <= unchanged <= 35  # a third, and those that drew no fault
    changed = [image.tobytes() for image in images if not np.array_equal(image, crop.image)]
    assert len(set(changed)) == len(changed)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    strength=st.floats(0, 1),
    edge=st.sampled_from(EDGES),
    surface=st.sampled_from(["hand", "nothing", "wall"]),
)
def test_depths_stay_within_the_cube_or_are_lost(seed, strength, edge, surface):
    frames = {"hand": ball_hand(JOINTS), "nothing": np.zeros((480, 640)), "wall": np.full((480, 640), 700.0)}
    crop = crop_hand(frames[surface], NYU_CAMERA, CENTER, CUBE, edge)
    before = crop.image.copy()
    image = faulty(crop, seed, strength)
    np.testing.assert_array_equal(crop.image, before)
    assert (image.shape, image.dtype) == ((edge, edge), np.float32)
    assert ((image == 0) | ((image >= 550) & (image <= 850))).all()


@pytest.mark.parametrize("fault", [fault for _, fault in FAULTS], ids=lambda fault: fault.__name__)
def test_every_fault_changes_a_hand_and_survives_nothing(crop, fault):
    rng = np.random.default_rng(0)
    changed = [(fault(crop.image, rng, 1.0) != crop.image).any() for _ in range(10)]
    assert sum(changed) >= 4
    nothing = fault(np.zeros_like(crop.image), rng, 1.0)
    assert nothing.shape == crop.image.shape
    assert not nothing.any()


def test_what_stands_in_front_hides_what_is_farther(crop):
    rng = np.random.default_rng(0)
    for _ in range(30):
        image = put_in_front(crop, rng, 1.0)
        changed = image != crop.image
        assert len(np.unique(image[changed])) <= 1
        assert ((crop.image[changed] == 0) | (image[changed] < crop.image[changed])).all()
        assert (image[changed] < CENTER[2]).all()


@pytest.mark.parametrize(("noise", "largest_mm"), [(pixel_noise, 8.0), (shared_noise, 6.0)])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_noise_has_its_size(noise, largest_mm, strength):
    rng, wall = np.random.default_rng(0), np.full((128, 128), 700.0, np.float32)
    spread = np.array([(noise(wall, rng, strength) - wall).std() for _ in range(200)]) / strength
    assert spread.max() < 1.1 * largest_mm
    assert spread.max() > 0.6 * largest_mm  # neighbours that share it have less: it is interpolated
    assert spread.min() < 0.05 * largest_mm


def test_rotation_draws_the_same_angles_however_it_reads_its_pixels():
    draws = [
        [draw_augmentation(np.random.default_rng(seed), rotation=rotation) for seed in range(400)]
        for rotation in ("linear", "nearest", "both")
    ]
    angles = [[drawn.rotate_deg for drawn in each] for each in draws]
    assert angles[0] == angles[1] == angles[2]
    linear, nearest, both = ([d.blend for d in each if d.rotate_deg is not None] for each in draws)
    assert all(linear)
    assert not any(nearest)
    assert 0.35 < np.mean(both) < 0.65


@pytest.mark.parametrize("degrees", [-170.0, 33.0, 90.0])
def test_only_a_blended_rotation_invents_depths(crop, degrees):
    uvd = NYU_CAMERA.xyz_to_uvd(JOINTS)
    near, blended = (
        apply_augmentation(Augmentation(rotate_deg=degrees, blend=blend), crop, uvd, NYU_CAMERA)
        for blend in (False, True)
    )
    known = {0.0, *np.unique(crop.image).tolist()}
    assert set(np.unique(near[0].image).tolist()) <= known
    assert near[0].image.any()
    if degrees % 90:
        assert not set(np.unique(blended[0].image).tolist()) <= known
    np.testing.assert_array_equal(near[1], blended[1])


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """A data set of eight hands in NYU's layout."""
    root = tmp_path_factory.mktemp("data")
    write_hands(root, [[5.0 * i, -4.0 * i, 700 + 10 * i] for i in range(8)], "train", "test")
    return root


@pytest.mark.parametrize(("split", "augment"), [("train", True), ("train", False), ("test", False)])
def test_a_sensors_faults_change_pictures_and_no_labels(hands, split, augment):
    plain, rough, again = (
        build_dataset(Config("nyu", str(hands), split=split, sensor=sensor).resolved(), augment)
        for sensor in (0.0, 1.0, 1.0)
    )
    changed = 0
    for i in range(len(plain)):
        sample, other = plain[i], rough[i]
        changed += not np.array_equal(sample.image, other.image)
        np.testing.assert_array_equal(other.image, again[i].image)
        for name in ("joint_xyz", "joint_uvd", "center_xyz", "M", "cube"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(other, name), name)
    assert changed >= 2
