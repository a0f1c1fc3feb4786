"""From a depth frame to poses: mirrored, in any unit, damaged, of two hands, and with no hand in it."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import Config
from dataloader.crop import crop_hand
from dataloader.dataset import build_dataset
from tests.helpers.blob_network import CAMERA, blob_predictor
from tests.helpers.nyu_folder import ball_hand, open_hand, two_hands
from tests.helpers.project import PROJECT
from tests.helpers.refused import refused
from util.camera import CAMERAS, NYU_CAMERA, Camera, to_millimetres, uvd_to_crop
from util.checkpoint import RESULTS, ModelSpec, save_checkpoint
from util.inference.frames import denoised, enter
from util.inference.hands import Candidate
from util.inference.predictor import CUT_OFF, HandPosePredictor
from util.inference.tracker import HandTracker


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    return blob_predictor(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=["resnet_18", "hourglass_1"])
def trained(request):
    return HandPosePredictor(RESULTS / f"{request.param}_synth.pth", "cpu")


@pytest.fixture(scope="module")
def hand():
    """A rendered right hand off the middle (480, 640) uint16 mm, and a body's wall behind it."""
    dataset = build_dataset(Config(dataset="synth", data_dir=str(PROJECT / "data")).resolved())
    return dataset.index.read_depth(dataset.index.frame_path(181))


@pytest.fixture(scope="module")
def pose(blob, hand):
    return blob.predict(hand, NYU_CAMERA, weights=True, handedness="right")


def test_a_pose_fits_together(blob, hand, pose):
    assert pose.joints_xyz.shape == pose.joints_uvd.shape == (14, 3)
    np.testing.assert_allclose(NYU_CAMERA.xyz_to_uvd(pose.joints_xyz), pose.joints_uvd, atol=1e-6)
    assert pose.confidence.shape == (14,)
    assert ((pose.confidence >= 0) & (pose.confidence <= 1)).all()
    assert pose.crop.image.shape == (64, 64)
    assert pose.weights.shape == (14, 32, 32)
    np.testing.assert_allclose(pose.weights.sum((1, 2)), 1, atol=1e-5)
    # The weights gather where the joint is: the pose's three pictures of a joint agree.
    centers = np.array([pose.crop.center_xyz[2], pose.crop.cube[2]])
    crop_uv = uvd_to_crop(pose.joints_uvd, *centers, pose.crop.M.astype(float), 64)[:, :2]
    places = (np.arange(32) + 0.5) / 16 - 1
    mean_u, mean_v = pose.weights.sum(1) @ places, pose.weights.sum(2) @ places
    assert np.abs(np.stack([mean_u, mean_v], axis=1) - crop_uv).max() < 0.2
    assert blob.predict(hand, NYU_CAMERA, handedness="right").weights is None
    around = blob.predict(hand, NYU_CAMERA, pose.center_xyz, weights=True, handedness="right")
    np.testing.assert_allclose(around.weights.sum((1, 2)), 1, atol=1e-5)


def test_a_left_hand_is_the_mirrored_right_hand(blob, hand, pose):
    mirrored, camera = np.ascontiguousarray(hand[:, ::-1]), NYU_CAMERA.mirrored(640)
    left = blob.predict(mirrored, camera, handedness="left", weights=True)
    across = np.array([-1, 1, 1])
    np.testing.assert_allclose(left.joints_xyz * across, pose.joints_xyz, atol=1e-3)
    assert left.handedness == "left"
    assert np.abs(left.joints_uvd - (pose.joints_uvd * across + (639, 0, 0))).max() < 0.1
    np.testing.assert_array_equal(left.crop.image, pose.crop.image[:, ::-1])
    np.testing.assert_array_equal(left.weights, pose.weights[..., ::-1])
    # The crop is where its M says: the same reading in the frame and in the crop.
    v, u = (int(np.median(index)) for index in np.nonzero(left.crop.image))
    frame_u, frame_v, _ = np.linalg.inv(left.crop.M) @ (u, v, 1)
    around = mirrored[int(frame_v) - 3 : int(frame_v) + 4, int(frame_u) - 3 : int(frame_u) + 4]
    assert np.abs(around - left.crop.image[v, u]).min() < 5
    # With a given centre too, and it matters: a right hand's answer for that frame is another.
    again = blob.predict(mirrored, camera, left.center_xyz, handedness="left")
    assert np.abs(again.joints_xyz - left.joints_xyz).max() < 0.1
    assert np.abs(blob.predict(mirrored, camera, handedness="right").joints_xyz - left.joints_xyz).max() > 5


FRAMES = {  # of one hand: the frame, mm a unit
    "float32": lambda hand: (hand.astype(np.float32), 1),
    "int32": lambda hand: (hand.astype(np.int32), 1),
    "metres": lambda hand: (hand / 1000, 1000),
    "metres in float32": lambda hand: ((hand / 1000).astype(np.float32), 1000),
    "eighths": lambda hand: (np.minimum(hand.astype(np.uint32) * 8, 65534).astype(np.uint16), 0.125),
    "masked": lambda hand: (np.ma.masked_array(np.where(hand > 0, hand, 500), mask=hand == 0), 1),
} | {
    f"{x} for none": lambda hand, x=x: (np.where(hand > 0, hand, x), 1)
    for x in (np.nan, np.inf, -np.inf, -1, 65535, 1e30)
}


@pytest.mark.parametrize("name", FRAMES)
def test_unit_type_and_missing_readings_change_nothing(blob, hand, pose, name):
    frame, scale = FRAMES[name](hand)
    found = blob.predict(frame, NYU_CAMERA, depth_scale=scale, handedness="right")
    np.testing.assert_array_equal(found.joints_xyz, pose.joints_xyz)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_any_resolution_and_camera(blob, scale):
    """The same scene by two cameras: the pose is the same within two pixels of the crop, 4.7 mm each."""
    joints = open_hand([30.0, -20, 600])
    full = blob.predict(ball_hand(joints), NYU_CAMERA, handedness="right")
    focal, middle = np.multiply(NYU_CAMERA[:2], scale), np.multiply((320.5, 240.5), scale) - 0.5
    camera = Camera(*focal, *middle, NYU_CAMERA.flip)
    rows, columns = (np.floor(np.arange(int(n * scale)) / scale).astype(int) for n in (480, 640))
    other = blob.predict(ball_hand(joints)[np.ix_(rows, columns)], camera, handedness="right")
    assert np.abs(other.joints_xyz - full.joints_xyz).max() < 9


def nothing(height=240, width=320):
    return np.zeros((height, width), np.uint16)


UNREAD, SMALL = "no reading between 100 and 1500 mm", "nothing in range is as large as a hand"
EMPTY = "nothing was measured around the centre"
NO_HAND = {  # the frame, a given centre, and why there is no hand
    "nothing": (nothing(), None, UNREAD),
    "all NaN": (np.full((240, 320), np.nan), None, UNREAD),
    "wall": (np.full((240, 320), 900, np.uint16), None, SMALL),
    "far wall": (np.full((240, 320), 3000, np.uint16), None, UNREAD),
    "speck": (np.pad(np.full((6, 6), 500, np.uint16), 100), None, SMALL),
    "one pixel": (np.full((1, 1), 500.0), None, SMALL),
    "a row": (np.full((1, 640), 500.0), None, SMALL),
    "a column": (np.full((640, 1), 500.0), None, SMALL),
    "nothing around": (nothing(), (0, 0, 600), EMPTY),
    "nothing aside": (nothing(), (5000, 0, 600), EMPTY),
    "at the lens": (nothing(), (0, 0, 1e-3), EMPTY),
    "far away": (nothing(), (0, 0, 1e6), EMPTY),
}


@pytest.mark.parametrize("name", NO_HAND)
def test_no_hand_gives_none_and_a_reason(blob, name):
    depth, center, reason = NO_HAND[name]
    assert blob.predict(depth, CAMERA, center, handedness="right") is None
    assert blob.explain(depth, CAMERA, center) == reason


@pytest.mark.parametrize(("edge", "taken"), [(6, False), (60, True)])
def test_what_is_smaller_than_a_hand_is_none_even_at_a_given_centre(blob, edge, taken):
    # Sloped: a crop's farthest reading counts as background (docs/spec.md §4). The network is sure of both.
    patch = np.pad(500 + np.arange(edge)[:, None] / 3 + np.zeros(edge), 100)
    center = CAMERA.uvd_to_xyz(np.array([99.5 + edge / 2, 99.5 + edge / 2, 500.0]))
    assert (blob.predict(patch, CAMERA, center, handedness="right") is not None) == taken


def test_an_unsure_network_gives_none(hand, pose, tmp_path):
    stricter = blob_predictor(tmp_path, min_confidence=pose.mean_confidence + 0.01)
    assert stricter.predict(hand, NYU_CAMERA, handedness="right") is None
    untrained = HandPosePredictor(tmp_path / "blob.pth", "cpu")
    assert untrained.predict(hand, NYU_CAMERA) is None


frame = nothing()
MISTAKES = {  # what is passed, and what the sentence says
    "a list": ({"depth": [[500]]}, "is a NumPy array"),
    "colour": ({"depth": np.zeros((4, 4, 3), np.uint8)}, "shape (4, 4, 3)"),
    "bool": ({"depth": frame > 0}, "holds bool"),
    "complex": ({"depth": frame + 1j}, "holds complex128"),
    "text": ({"depth": frame.astype(str)}, "holds <U5"),
    "empty": ({"depth": frame[:0]}, "shape (0, 320)"),
    "centre": ({"center": (0, 0)}, "expected x, y, z in mm"),
    "centre behind": ({"center": (0, 0, -1)}, "z above 0"),
    "centre NaN": ({"center": (0, np.nan, 500)}, "z above 0"),
    "scale": ({"depth_scale": 0}, "depth_scale is 0"),
    "scale NaN": ({"depth_scale": np.nan}, "depth_scale is nan"),
    "hand": ({"handedness": "both"}, "handedness is 'both'"),
    "camera's row": ({"camera": CAMERAS["sr305"]}, "a row of CAMERAS has as its .camera"),
    "camera's numbers": ({"camera": (500, 500, 160, 120)}, "camera is a tuple"),
    "camera": ({"camera": Camera(0, 500, 1, 1)}, "fx and fy above 1"),
    "camera NaN": ({"camera": Camera(500, 500, np.nan, 1)}, "cx=nan"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_a_sentence(blob, name):
    arguments, sentence = MISTAKES[name]
    with refused(sentence):
        blob.predict(**({"depth": frame, "camera": CAMERA} | arguments))


@pytest.mark.parametrize(
    ("joints", "dataset", "sentence"), [(16, "synth", "has 14"), (14, None, "which data set")]
)
def test_checkpoints_that_cannot_be_used(tmp_path, joints, dataset, sentence):
    spec = ModelSpec("resnet_18", joints, 4, 1.0, dataset, 64)
    save_checkpoint(tmp_path / "a.pth", spec.build(), spec)
    with refused(sentence):
        HandPosePredictor(tmp_path / "a.pth", "cpu")


def test_a_far_hand_is_found_in_its_range(tmp_path):
    frame = ball_hand(open_hand([0.0, 0, 2000]))
    assert blob_predictor(tmp_path).predict(frame, NYU_CAMERA, handedness="right") is None
    far = blob_predictor(tmp_path, depth_range=(100.0, 3000.0))
    pose = far.predict(frame, NYU_CAMERA, handedness="right")
    assert abs(pose.joints_xyz.mean(axis=0)[2] - 2000) < 40
    with pytest.raises(ValueError, match="nearest depth comes first"):
        blob_predictor(tmp_path, depth_range=(3000.0, 100.0))


def test_a_checkpoint_brings_its_cube(tmp_path, hand):
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "synth", 64, cube=(200.0, 210.0, 220.0))
    save_checkpoint(tmp_path / "a.pth", spec.build(), spec)
    predictor = HandPosePredictor(tmp_path / "a.pth", "cpu", min_confidence=0.0)
    pose = predictor.predict(hand, NYU_CAMERA, handedness="right")
    np.testing.assert_array_equal(pose.crop.cube, spec.cube)


def test_broken_weights_are_an_error_not_a_nan(tmp_path, hand):
    spec = ModelSpec("resnet_18", 14, 4, 1.0, "synth", 64)
    network = spec.build()
    torch.nn.init.constant_(network.final1.bias, torch.nan)
    save_checkpoint(tmp_path / "nan.pth", network, spec)
    with pytest.raises(ValueError, match="are not finite"):
        HandPosePredictor(tmp_path / "nan.pth", "cpu").predict(hand, NYU_CAMERA)


@st.composite
def damaged_frames(draw):
    """(frame, focal length, depth scale): noise, extremes, a hand; holes, spikes and odd dtypes."""
    focal, scale = draw(st.floats(1, 2000)), draw(st.sampled_from([1.0, 1.0, 0.125, 1000.0, 1e-6, 1e6]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, kind = draw(st.tuples(st.integers(1, 48), st.integers(1, 64))), draw(st.integers(0, 2))
    if kind == 0:
        frame = rng.uniform(-100, 2000, shape)
    elif kind == 1:
        frame = rng.choice([0, 1e-300, 1e300, 1.0, 99.99, 100.01, 1500.0, 9999.0], shape)
    else:
        frame, focal, scale = ball_hand(open_hand([0.0, 0, 600]))[::10, ::10], NYU_CAMERA.fx / 10, 1.0
    for value in draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0, -5, 65535, 500]), max_size=4)):
        frame = np.where(rng.random(frame.shape) < 0.1, value, frame)
    types = [np.float64, np.float32, np.float16, np.uint16, np.int16, np.uint8, np.int64]
    with np.errstate(all="ignore"):
        return frame.astype(draw(st.sampled_from(types))), focal, scale


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_500_damaged_frames(blob):
    """A pose, a None or a clear error; never a crash or a NaN. All three outcomes do occur."""
    outcomes = []

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        scene=damaged_frames(),
        center=st.none()
        | st.tuples(*[st.floats(-50, 50)] * 2, st.floats(200, 900))
        | st.tuples(*[st.floats(-1e4, 1e4)] * 2, st.floats(-1, 1e5)),
        handedness=st.sampled_from(["right", "left"]),
    )
    def predict(scene, center, handedness):
        frame, focal, depth_scale = scene
        height, width = frame.shape
        camera = Camera(focal, focal, width / 2, height / 2)
        try:
            pose = blob.predict(frame, camera, center, handedness, depth_scale)
        except ValueError as error:
            outcomes.append("error" if str(error).endswith("z above 0.") else str(error))
            return
        outcomes.append("none" if pose is None else "pose")
        if pose is not None:
            for name in ("joints_xyz", "joints_uvd", "center_xyz", "confidence"):
                assert np.isfinite(getattr(pose, name)).all(), name

    predict()
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    assert len(outcomes) >= 500
    assert set(counts) == {"error", "none", "pose"}, counts
    assert min(counts.values()) >= 10, counts


@pytest.mark.filterwarnings("error")
def test_millimetres_keep_what_was_measured():
    half = np.array([[np.nan, np.inf, -np.inf, -1, 0.5]], np.float16)
    np.testing.assert_array_equal(to_millimetres(half, 1000), [[0, 0, 0, 0, 500]])
    raw = np.array([[0, 1, 4000, 65534, 65535]], np.uint16)
    np.testing.assert_array_equal(to_millimetres(raw, 0.125), [[0, 0.125, 500, 8191.75, 0]])
    np.testing.assert_array_equal(to_millimetres(np.float32([[0.7254]]), 1000), [[725.40625]])  # to 1/64 mm


def test_both_sides_are_tried_and_the_more_confident_is_taken(blob, hand, monkeypatch):
    answer = HandPosePredictor.answer

    def left_has_more(self, candidates, camera, weights=False):
        poses = answer(self, candidates, camera, weights)
        share = {"left": 1.0, "right": 0.9}
        return [pose and pose._replace(confidence=share[pose.handedness] * pose.confidence) for pose in poses]

    monkeypatch.setattr(HandPosePredictor, "answer", left_has_more)
    pose = blob.predict(hand, NYU_CAMERA, weights=True)
    expected = blob.predict(hand, NYU_CAMERA, pose.center_xyz, handedness="left", weights=True)
    assert pose.handedness == "left"
    np.testing.assert_allclose(pose.joints_xyz, expected.joints_xyz)
    np.testing.assert_array_equal(pose.weights, expected.weights)
    assert blob.predict(np.zeros_like(hand), NYU_CAMERA) is None


def test_two_hands_are_found_each_without_the_other(blob):
    both, left, right = two_hands(260.0)
    hands = blob.predict_hands(both, NYU_CAMERA, handedness="right")
    assert len(hands) == 2
    for alone, x in ((left, -130), (right, 130)):
        (near,) = [hand for hand in hands if abs(hand.joints_xyz[:, 0].mean() - x) < 60]
        expected = blob.predict(alone, NYU_CAMERA, handedness="right")
        assert np.linalg.norm(near.joints_xyz - expected.joints_xyz, axis=1).max() < 12
    assert len(blob.predict_hands(both, NYU_CAMERA, max_hands=1)) == 1
    assert blob.predict_hands(np.zeros_like(both), NYU_CAMERA) == []
    for number in (0, 2.5):
        with pytest.raises(ValueError, match=f"max_hands is {number}"):
            blob.predict_hands(both, NYU_CAMERA, number)


def test_a_pose_as_a_dictionary(blob, hand):
    pose = blob.predict(hand, NYU_CAMERA, handedness="left")
    record = json.loads(json.dumps(pose.to_dict()))
    assert record["joint_names"] == list(blob.info.joint_names) == list(pose.joint_names)
    assert (record["handedness"], record["identity"]) == ("left", 0)
    np.testing.assert_allclose(record["joints_xyz"], pose.joints_xyz, atol=6e-4)


def test_low_confidence_is_a_reason(blob, hand, tmp_path):
    assert blob.explain(hand, NYU_CAMERA) == ""
    strict = blob_predictor(tmp_path, min_confidence=1.0)
    for center in (None, blob.predict(hand, NYU_CAMERA).center_xyz):
        assert strict.explain(hand, NYU_CAMERA, center).startswith("low confidence: 0.")
    assert strict.search(strict.enter(hand, NYU_CAMERA), NYU_CAMERA).reason.startswith("low confidence")


@pytest.mark.slow
def test_more_confident_joints_are_nearer(trained):
    """Calibration on the bundled test split: the mean error falls from quarter to quarter of confidence."""
    dataset = build_dataset(Config(dataset="synth", data_dir=str(PROJECT / "data")).resolved())
    errors, confidence = [], []
    picked = range(0, len(dataset), 6)
    for i in picked:
        depth = dataset.index.read_depth(dataset.index.frame_path(i))
        pose = trained.predict(depth, NYU_CAMERA, dataset.index.center_xyz[i])
        if pose is not None:
            errors.append(np.linalg.norm(pose.joints_xyz - dataset.index.joint_xyz[i], axis=1))
            confidence.append(pose.confidence)
    assert len(errors) > 0.95 * len(picked)
    order = np.argsort(np.concatenate(confidence))
    quarters = [part.mean() for part in np.array_split(np.concatenate(errors)[order], 4)]
    assert quarters == sorted(quarters, reverse=True)
    assert np.mean(quarters[:2]) > 1.5 * np.mean(quarters[2:])


def test_a_found_hand_is_cropped_again_around_its_joints(blob, hand):
    frame = blob.enter(hand, NYU_CAMERA)
    first = blob.find(frame, NYU_CAMERA, "right")[0]
    (rough,) = blob.answer([Candidate(frame, first, "right")], NYU_CAMERA)
    pose = blob.predict(hand, NYU_CAMERA, handedness="right")
    np.testing.assert_allclose(pose.center_xyz, rough.middle)
    assert np.linalg.norm(pose.center_xyz - first) > 1


def test_a_hand_at_its_crops_edge_is_cropped_again(blob, hand, pose):
    middle = pose.center_xyz
    hand = np.where(np.indices(hand.shape)[1] < NYU_CAMERA.xyz_to_uvd(middle)[0] - 20, hand, 0)
    aside = Candidate(hand.astype(np.float32), middle + np.array([115, 0, 0]), "right")
    (once,), (again,) = blob.answer([aside], NYU_CAMERA), blob.follow([aside], NYU_CAMERA)
    assert once.off_center > CUT_OFF > again.off_center
    np.testing.assert_allclose(again.center_xyz, once.middle)


def test_two_left_hands_are_the_mirrored_right_hands(blob):
    frame = two_hands(260.0)[0]
    mirrored, camera = np.ascontiguousarray(frame[:, ::-1]), NYU_CAMERA.mirrored(640)
    right = blob.predict_hands(frame, NYU_CAMERA, 2, "right")
    left = blob.predict_hands(mirrored, camera, 2, "left")
    assert [hand.handedness for hand in left] == ["left"] * len(right) == ["left"] * 2
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.joints_xyz * (-1, 1, 1), other.joints_xyz, atol=1e-3)


def test_noise_and_flying_pixels_are_taken_out_of_fine_frames():
    clean = np.full((120, 160), 600, np.float32)
    clean[:, 80:] = 700
    noisy = clean.copy()
    noisy[::7, ::7] = 0
    noisy[:, 80] = 650  # between both surfaces
    found = denoised(noisy, CAMERA._replace(fx=400.0))
    assert (found[:, 80] == 0).all()
    np.testing.assert_array_equal(np.delete(found, 80, 1), np.delete(clean, 80, 1))
    coarse = CAMERA._replace(fx=250.0)  # pixels of 2.4 and 2.8 mm
    np.testing.assert_array_equal(denoised(noisy, coarse), noisy)


@pytest.mark.parametrize("denoise", [True, False])
def test_every_way_in_filters_the_frame_or_none_does(tmp_path, hand, denoise):
    predictor = blob_predictor(tmp_path, denoise=denoise)
    noisy = hand.astype(np.float32)
    noisy[::5, ::5] = 0
    expected = denoised(noisy, NYU_CAMERA) if denoise else noisy
    np.testing.assert_array_equal(predictor.enter(noisy, NYU_CAMERA), expected)
    cropped = [
        predictor.predict(noisy, NYU_CAMERA, handedness="right"),
        *predictor.predict_hands(noisy, NYU_CAMERA, 1, "right"),
        HandTracker(predictor, NYU_CAMERA, "right").update(noisy),
    ]
    for pose in cropped:
        same = crop_hand(expected, NYU_CAMERA, pose.center_xyz, predictor.cube, 64)
        np.testing.assert_array_equal(pose.crop.image, same.image)


WRONG = [(588, 320, 587, 240), (365, 255, 365, 205)]  # K's order
WRONG += [(920, 920, 640, 360), (588, 587, 240, 320)]  # another stream's, swapped
WRONG += [(588, 587, 0.5, 0.5)]  # shares


@pytest.mark.parametrize("numbers", WRONG)
def test_intrinsics_of_other_frames_are_warned_of(blob, hand, numbers):
    with pytest.warns(UserWarning, match="is hardly that of frames of 640×480 pixels"):
        blob.predict(hand, Camera(*numbers))
    with warnings.catch_warnings(action="error"):
        for known in CAMERAS.values():
            enter(np.zeros(known.frame_size), known.camera, 1.0, denoise=False)
