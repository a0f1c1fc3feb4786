"""Finding hands: in built scenes, beside others, refined by a network; files and the command."""

import json
import shutil

import cv2
import numpy as np
import pytest

from config import Config
from dataloader import dataset_info
from dataloader.crop import crop_hand
from dataloader.index import build_index, find_frames
from tests.helpers.blob_network import blob_predictor
from tests.helpers.layout_folders import spread_hands, write_hands17_folder, write_icvl_folder
from tests.helpers.nyu_folder import ball_hand, open_hand, two_hands
from tests.helpers.project import PROJECT
from tests.helpers.refused import refused
from util.camera import NYU_CAMERA, Camera
from util.checkpoint import RESULTS, ModelSpec, save_checkpoint
from util.inference import find_hand
from util.inference.centers import center_errors, find_centers, refine_center
from util.inference.find_hand import DEPTH_RANGE, center_from_depth
from util.inference.hands import Candidate
from util.inference.predictor import HandPosePredictor
from util.inference.separate import without_others
from util.points import read_centers, write_centers


def test_the_hand_of_a_synthetic_frame_is_found_beside_forearms_bodies_and_tables():
    """On frames of the bundled test split, which nothing was tuned on."""
    frames = find_frames(Config(split="test").resolved())
    every_fifth = slice(None, None, 5)
    paths = [frames.frame_path(i) for i in range(len(frames.joint_xyz))][every_fifth]
    found = [center_from_depth(frames.read_depth(path), NYU_CAMERA) for path in paths]
    errors = np.linalg.norm(found - frames.joint_xyz[every_fifth].mean(axis=1), axis=1)
    assert np.median(errors) < 20
    assert np.mean(errors > 60) < 0.05


def scene(camera, shape, parts):
    """Depth (H, W) mm of flat parts: (x, y, z, width, height) mm, nearer ones before farther ones."""
    rows, columns = np.indices(shape)
    depth = np.zeros(shape)
    for x, y, z, width, height in sorted(parts, key=lambda part: -part[2]):
        u, v, _ = camera.xyz_to_uvd(np.array([x, y, z], float))
        inside = (abs(columns - u) < width / 2 * camera.fx / z) & (abs(rows - v) < height / 2 * camera.fy / z)
        depth[inside] = z
    return depth


PALM = (-60, -40, 600, 90, 90)
FINGERS = [(-95 + 23 * i, -125, 598, 15, 80) for i in range(4)]
FOREARM = (-60, 115, 605, 60, 220)
BODY = (60, 60, 750, 380, 500)
WALL, SPECK = (0, 0, 1400, 3000, 3000), (150, -150, 400, 20, 20)
CAMERAS = [
    (Camera(475, 475, 320, 240), (480, 640)),
    (Camera(475, 475, 320, 240, flip=-1), (480, 640)),
    (Camera(241, 241, 160, 120), (240, 320)),
]


# A wall, from 540 mm on the left, nearer than the hand, over 650 behind it, to 900 mm on the right.
SLANTED = 1 / np.linspace(np.full(480, 1 / 540), 1 / 900, 640, axis=1)


def on_hand(center):
    """Whether it lies near the middle between palm and fingers, in x, y and z."""
    return (np.abs(center - (-60, -70, 600 + 10)) < (15, 40, 10)).all()


def test_several_hands_are_found_the_likeliest_first():
    camera, shape = CAMERAS[0]
    other = [(x + 260, y, z + 100, width, height) for x, y, z, width, height in (PALM, *FINGERS)]
    depth = scene(camera, shape, [PALM, *FINGERS, *other])
    first, second = find_hand.centers_from_depth(depth, camera, most=2)
    assert on_hand(first)
    assert on_hand(second - (260, 0, 100))
    (left_over,) = find_hand.centers_from_depth(depth, camera, most=1, known=[first])
    np.testing.assert_allclose(left_over, second)
    with pytest.raises(ValueError, match="as large as a hand"):
        find_hand.centers_from_depth(depth, camera, most=1, known=[first, second])


def test_a_wall_hides_no_hand():
    hand = scene(*CAMERAS[0], [PALM, *FINGERS])
    assert on_hand(center_from_depth(np.where(hand > 0, hand, SLANTED), CAMERAS[0][0]))


def test_an_edge_that_the_range_makes_is_no_outline():
    """A body bends away through the farthest depth: where it is cut off it has no edge."""
    camera, shape = CAMERAS[0]
    rows, columns = np.indices(shape)
    depth = 900 + 1000 * ((columns - 320) / 200) ** 2 + 1000 * ((rows - 240) / 200) ** 2
    depth[depth > 1400] = 0
    cut = find_hand.sample_frame(depth, camera, (100.0, 1100.0))
    whole = find_hand.sample_frame(depth, camera, (100.0, 1500.0))
    assert cut.xyz[:, 2].max() < 1100 < whole.xyz[:, 2].max()
    assert cut.outline.sum() == 0
    assert whole.outline.sum() > 500


@pytest.mark.parametrize(("camera", "shape"), CAMERAS)
@pytest.mark.parametrize(
    "others",
    [[], [FOREARM], [FOREARM, BODY], [FOREARM, BODY, WALL], [BODY, SPECK]],
    ids=["alone", "arm", "body", "wall", "speck"],
)
def test_the_hand_is_found_in_a_scene(camera, shape, others):
    parts = [PALM, *FINGERS, *others]
    if camera.flip < 0:
        parts = [(x, -y, *rest) for x, y, *rest in parts]
    center = center_from_depth(scene(camera, shape, parts), camera) * (1, camera.flip, 1)
    assert on_hand(center)


def test_noise_and_missing_readings_do_not_move_the_centre():
    camera, shape = CAMERAS[0]
    depth = scene(camera, shape, [PALM, *FINGERS, FOREARM, BODY])
    clean = center_from_depth(depth, camera)
    rng = np.random.default_rng(0)
    noisy = depth + rng.normal(0, 2, shape) * (depth > 0)
    noisy[rng.random(shape) < 0.05] = np.nan
    noisy[rng.random(shape) < 0.05] = 0
    noisy[rng.random(shape) < 0.01] = 65535
    specks = rng.random(shape) < 0.002
    noisy[specks] = rng.uniform(150, 500, np.count_nonzero(specks))
    assert np.linalg.norm(center_from_depth(noisy, camera) - clean) < 10


@pytest.mark.parametrize(
    ("depth", "sentence"),
    [
        (np.zeros((480, 640), np.uint16), "no reading between 100 and 1500 mm"),
        (np.full((480, 640), np.nan), "no reading"),
        (scene(*CAMERAS[0], [(0, 0, 300, 30, 30)]), "nothing in range is as large as a hand"),
        (np.indices((480, 640)).sum(0) % 2 * 500.0 + 400, "nothing in range"),
        (SLANTED, "as large as a hand"),
    ],
    ids=["zero", "NaN", "speck", "checkers", "wall"],
)
def test_no_hand_is_an_error(depth, sentence):
    with pytest.raises(ValueError, match=sentence):
        center_from_depth(depth, CAMERAS[0][0])


def test_errors_count_frames_without_a_centre():
    joints = np.tile([0.0, 0, 700], (4, 14, 1))
    centers = np.array([[0, 0, 700], [10, 0, 700], [0, 0, 740], [np.nan] * 3])
    assert center_errors(centers, joints) == pytest.approx((4, 1, 50 / 3, 10, 0.5))
    with refused("No frame has a centre"):
        center_errors(np.full((4, 3), np.nan), joints)


def test_centre_files_keep_invalid_frames(tmp_path):
    centers = np.array([[1.25, -2, 700], [np.nan] * 3, [3, 4, 500.125]])
    path = tmp_path / "center_test_refined.txt"
    write_centers(path, centers)
    assert path.read_text() == "1.250 -2.000 700.000\ninvalid\n3.000 4.000 500.125\n"
    np.testing.assert_array_equal(read_centers(path), centers)
    path.write_text("1 2 700\ninvalid invalid invalid\n\n1 2\n")
    with pytest.raises(ValueError, match="line 4 has 2 numbers"):
        read_centers(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("centres")
    write_icvl_folder(root / "icvl", spread_hands("icvl", 2, 1), spread_hands("icvl", 4, 2))
    write_hands17_folder(root / "hands17", spread_hands("hands17", 2, 3), spread_hands("hands17", 2, 4))
    return root


@pytest.mark.parametrize("method", ["labels", "depth", "refined"])
def test_the_command_writes_centres_that_the_loader_reads(written, method, tmp_path, succeeds):
    out = written / "icvl" / "center_test_refined.txt"
    out.unlink(missing_ok=True)  # what the command is for
    common = ("--dataset", "icvl", "--data_dir", written, "--method", method)
    if method == "refined":  # by a network that is sure of nothing
        spec = ModelSpec("resnet_18", 16, 4, 1.0, "icvl", 64)
        save_checkpoint(tmp_path / "a.pth", spec.build(), spec)
        common = (*common, "--load_model", tmp_path / "a.pth")
    ran = succeeds("util.inference.centers", *common, "--out", out, "--json", tmp_path / "errors.json")
    report = json.loads((tmp_path / "errors.json").read_text())
    assert report["frames"] == 4
    assert report["invalid"] == 0
    assert report["oracle"] == ("an oracle" in ran.out) == (method == "labels")
    assert report["mean_mm"] < (1e-3 if method == "labels" else 25)
    assert report["within_20mm"] >= 0.5
    index = build_index(Config(dataset="icvl", data_dir=str(written)).resolved())
    errors = center_errors(index.center_xyz, index.joint_xyz)
    assert errors.mean_mm == pytest.approx(report["mean_mm"], abs=2e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_that_cannot_be_used_get_no_centre_and_cost_the_others_nothing(
    written, workers, tmp_path, run_script
):
    shutil.copytree(written / "icvl", tmp_path / "icvl")
    out = tmp_path / "centers.txt"
    flags = ("--dataset", "icvl", "--data_dir", tmp_path, "--out", out, "--num_workers", workers)

    def find():
        ran = run_script("util.inference.centers", *flags)
        assert ran.code == 0, ran.err
        return ran.out + ran.err, read_centers(out)

    _, expected = find()
    damaged, small = sorted((tmp_path / "icvl" / "Testing").rglob("*.png"))[-2:]
    damaged.write_bytes(b"no picture")
    cv2.imwrite(str(small), np.ones((20, 20), np.uint16))
    said, found = find()
    assert f"{damaged} is damaged: it cannot be decoded" in said
    assert str(small) in said
    assert np.isnan(found[-2:]).all()
    np.testing.assert_array_equal(found[:-2], expected[:-2])
    before = out.read_bytes()
    assert run_script("util.inference.centers", *flags, "--json", tmp_path).code == 2  # it is a folder
    assert out.read_bytes() == before


def test_the_command_without_labels(written, tmp_path, succeeds):
    out = tmp_path / "e.json"
    succeeds("util.inference.centers", "--dataset", "hands17", "--data_dir", written, "--json", out)
    report = json.loads(out.read_text())
    assert report["frames"] == 2
    assert "mean_mm" not in report


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--dataset bighand", "There is no data set 'bighand'"),
        ("--method guess", "--method"),
        ("--depth_range 900 300", "the nearest depth comes first"),
        ("--dataset msra", "msra/P0 is missing"),
        ("--dataset icvl --method refined --load_model no.pth", "no.pth is missing"),
        ("--dataset hands17 --method labels", "are withheld"),
    ],
)
def test_settings_that_cannot_work(written, flags, sentence, fails):
    assert sentence in fails("util.inference.centers", "--data_dir", written, *flags.split())


CENTER = np.array([20.0, -30.0, 700.0])
FRAME = ball_hand(open_hand(CENTER)).astype(np.float32)


def test_the_centre_is_the_mean_of_the_joints_in_a_crop_around_the_first_joints(tmp_path):
    predictor = blob_predictor(tmp_path, denoise=False)
    rough = CENTER + np.array([40, 10, 0])
    refined = refine_center(predictor, FRAME, NYU_CAMERA, rough)
    (first,) = predictor.answer([Candidate(FRAME, rough, "right")], NYU_CAMERA)
    (second,) = predictor.answer([Candidate(FRAME, first.middle, "right")], NYU_CAMERA)
    np.testing.assert_allclose(refined, second.joints_xyz.mean(0))
    assert np.linalg.norm(refined - first.joints_xyz.mean(0)) > 1


@pytest.mark.parametrize("rough", [np.array([9000.0, 0, 700]), CENTER])
def test_where_the_network_sees_no_hand_the_depth_centre_stays(tmp_path, rough):
    strict = blob_predictor(tmp_path, min_confidence=1.0, denoise=False)
    assert refine_center(strict, FRAME, NYU_CAMERA, rough) is rough


@pytest.fixture(scope="module")
def shipped():
    return HandPosePredictor(RESULTS / "resnet_18_synth.pth", "cpu", denoise=False)


@pytest.mark.slow
def test_the_shipped_network_finds_the_centres_of_the_bundled_frames(shipped):
    frames = find_frames(Config(data_dir=str(PROJECT / "data")).resolved())
    frames = frames._replace(joint_xyz=frames.joint_xyz[::10], names=frames.names[::10])
    rough, refined = (
        center_errors(find_centers(frames, dataset_info("synth"), DEPTH_RANGE, predictor), frames.joint_xyz)
        for predictor in (None, shipped)
    )
    assert refined.median_mm < 5 < 9 < rough.median_mm
    assert refined.within_20mm > 0.95


@pytest.mark.parametrize(("apart", "behind"), [(200.0, 0.0), (60.0, 120.0), (0.0, 120.0)])
def test_a_hands_frame_has_nothing_of_another(apart, behind):
    both, left, right = (frame.astype(np.float32) for frame in two_hands(apart, behind))
    joints = [open_hand([-apart / 2, 0, 600]), open_hand([apart / 2, 0, 600 + behind])]
    cube = np.array([300.0, 300, 300])
    without = without_others(both, NYU_CAMERA, joints, cube)
    for frame, own, middle in zip(without, (left, right), joints, strict=True):
        center = (middle.min(0) + middle.max(0)) / 2
        shown, scene, alone = (
            crop_hand(view, NYU_CAMERA, center, cube, 128).image for view in (frame, both, own)
        )
        seen = (scene == alone) & (alone > 0)  # of this hand
        others = (scene > 0) & ~seen
        assert np.count_nonzero(shown[seen]) > 0.95 * np.count_nonzero(seen)
        assert np.count_nonzero(shown[others]) < 0.05 * np.count_nonzero(others)
    np.testing.assert_array_equal(without_others(left, NYU_CAMERA, joints[:1], cube)[0], left)
    outside = [hand + np.array([5000, 0, 0]) for hand in joints]
    for frame in without_others(both, NYU_CAMERA, outside, cube):
        np.testing.assert_array_equal(frame, both)


def test_two_hands_that_touch_are_parted_between_their_joints():
    one = np.zeros((480, 640), np.float32)
    one[200:260, 240:400] = 600  # a bar, of which each hand has half; a pixel and a bit a mm
    hands = [NYU_CAMERA.uvd_to_xyz(np.array([[u, 230.0, 600.0]])) for u in (270, 370)]
    left, right = without_others(one, NYU_CAMERA, hands, np.array([300.0, 300, 300]))
    assert np.flatnonzero(left[230]).tolist() == list(range(240, 321))
    assert np.flatnonzero(right[230]).tolist() == list(range(320, 400))
