"""Kinds of synthetic frames: signs, held things, other hands, sensors; and errors by kind."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("embreex", reason="the synthetic hand needs requirements-synth.txt")

from config import Config
from dataloader.index import find_frames
from dataloader.nyu import KINDS_FILE, read_kinds
from dataloader.synthetic.hand.bank import HandBank
from dataloader.synthetic.hand.pose import lean_fingers, overlap, sample_pose
from dataloader.synthetic.hand.signs import PRESSED, SIGNS, TOUCHING, finger_gaps, sample_sign
from dataloader.synthetic.hand.skeleton import pose_joints, scaled
from dataloader.synthetic.kinds import GROUPS, KINDS, PLAIN_SHARE, draw_kinds
from dataloader.synthetic.objects import Thing, distance_to, gaps_to, mesh_of, sample_grasp
from dataloader.synthetic.scene import sample_scene
from dataloader.synthetic.sensor import SensorStyle, apply_sensor, sample_coarse_style
from dataloader.synthetic.writer import SplitSettings, kinds_of, sample_frame
from util.camera import NYU_CAMERA, Camera

ALL = SplitSettings("train", 40, 0, NYU_CAMERA, (480, 640), kinds=KINDS)


@pytest.fixture(scope="module")
def people():
    shapes = HandBank()
    return [shapes.sample_shape(np.random.default_rng(seed)) for seed in range(6)]


def test_every_kind_has_its_share():
    drawn = [draw_kinds(np.random.default_rng(i), KINDS) for i in range(4000)]
    of_any_frame = {"sizes", "reaching"}
    for group in GROUPS:
        for kind, share in group.items():
            expected = share if kind in of_any_frame else (1 - PLAIN_SHARE) * share
            assert np.mean([kind in frame for frame in drawn]) == pytest.approx(expected, abs=0.02)
        assert max(sum(kind in frame for kind in group) for frame in drawn) == 1
    assert np.mean([set(frame) <= of_any_frame for frame in drawn]) == pytest.approx(0.4, abs=0.02)


def small_scenes(people, kinds, count):
    """Frames of 160×120 pixels."""
    camera = Camera(147.0, 147.0, 80.0, 60.0, -1)
    for seed in range(count):
        yield sample_scene(np.random.default_rng(seed), people[seed % len(people)], camera, (120, 160), kinds)


def test_joints_scale_with_the_size_of_the_hand(people):
    angles = sample_pose(np.random.default_rng(0), people[0])
    larger = pose_joints(scaled(people[0], 1.2), angles)[1]
    np.testing.assert_allclose(larger, 1.2 * pose_joints(people[0], angles)[1])
    sized, plain = (
        np.stack([scene.joints21[[0, 9, 10]] for scene in small_scenes(people, kinds, 120)])
        for kinds in (("sizes",), ())
    )
    sized, plain = (np.linalg.norm(np.diff(each, axis=1), axis=2).sum(1) for each in (sized, plain))
    factors = sized / plain
    assert 0.85 <= factors.min() < 0.88
    assert 1.22 < factors.max() <= 1.25
    assert sized.min() < 159 < sized.max()  # mm, wrist to middle PIP: NYU's first test subject


def test_index_fingers_reach_as_in_nyus_frames(people):
    far = {}
    for kinds in (("reaching",), ()):
        joints = np.stack([scene.joints36 for scene in small_scenes(people, kinds, 100)])
        wrist = (joints[:, 30] + joints[:, 31]) / 2
        tip, palm = (np.linalg.norm(joints[:, slot] - wrist, axis=1) for slot in (18, 32))
        far[kinds] = np.mean(tip > 1.75 * palm)
    assert far["reaching",] >= 0.95
    assert far[()] < 0.85


def test_a_kind_left_out_changes_no_other_frame(people):
    without = ALL._replace(kinds=tuple(kind for kind in KINDS if kind != "objects"))
    for frame in range(60):
        kinds = kinds_of(ALL, frame)
        assert kinds_of(without, frame) == tuple(kind for kind in kinds if kind != "objects")
    frame = next(i for i in range(60) if len(kinds_of(ALL, i)) == 1 and "objects" not in kinds_of(ALL, i))
    one, other = (sample_frame(settings, frame, people[0]) for settings in (ALL, without))
    np.testing.assert_array_equal(one.depth, other.depth)


@pytest.mark.parametrize(
    ("name", "sign"), [*SIGNS.items(), *((f"touching {name}", sign) for name, sign in TOUCHING.items())]
)
def test_signs_are_what_they_say(people, name, sign):
    for seed, shape in enumerate(people[:3]):
        angles = sample_sign(np.random.default_rng(seed), shape, {name: sign})
        joints = pose_joints(shape, angles)[1]
        depth = overlap(shape, joints[None])[0]
        assert depth < 9
        reach = np.linalg.norm(joints[1:, 4] - joints[1:, 1], axis=1)  # straight fingers are long
        straight = np.array(sign.curl) < 0.1
        assert reach[straight].min(initial=99) > reach[~straight].max(initial=0) - 15
        if sign.crossed:
            assert joints[1, 4, 0] < joints[2, 4, 0] + 3  # the index finger's tip is not on the thumb's side
        elif sign.opening == PRESSED and straight.all():
            gaps = finger_gaps(shape, joints)
            assert np.abs(gaps).max() < 2.5  # mm: they touch


@pytest.mark.parametrize(
    ("kind", "half", "volume"),
    [
        ("box", (10.0, 20, 30), 8 * 10 * 20 * 30),
        ("cylinder", (10.0, 10, 30), np.pi * 100 * 60),
        ("ball", (10.0, 10, 10), np.pi * 4000 / 3),
    ],
)
def test_a_things_distance_and_mesh_agree(kind, half, volume):
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    thing = Thing(kind, np.array([1.0, 2, 3]), turn, np.array(half))
    assert distance_to(thing, thing.center) == pytest.approx(-10)
    assert distance_to(thing, thing.center + 15 * turn[0]) == pytest.approx(5)
    assert distance_to(thing, thing.center + (half[2] + 7) * turn[2]) == pytest.approx(7)
    for axes in (turn, turn * [[-1], [1], [1]]):  # of either handedness
        vertices, faces = mesh_of(thing._replace(axes=axes))
        on_surface = np.delete(vertices, [-1, -2], axis=0) if kind != "ball" else vertices
        np.testing.assert_allclose(distance_to(thing._replace(axes=axes), on_surface), 0, atol=1e-9)
        a, b, c = (vertices[faces[:, i]] - thing.center for i in range(3))
        assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(volume, rel=0.06)  # outward, as the hand's


def test_hands_hold_things_and_do_not_reach_into_them(people):
    touching, deepest = 0, []
    for seed in range(40):
        shape = people[seed % len(people)]
        angles, thing = sample_grasp(np.random.default_rng(seed), shape)
        gaps = gaps_to(shape, angles, thing)
        touching += (np.abs(gaps) < 6).sum() >= 2
        deepest.append(gaps.min())
    assert touching >= 34
    assert np.percentile(deepest, 10) > -6


def test_another_hand_hides_only_some_joints(people):
    for seed in range(6):
        scene = sample_scene(np.random.default_rng(seed), people[0], NYU_CAMERA, (480, 640), ("hands",))
        u, v, d = NYU_CAMERA.xyz_to_uvd(scene.joints21).T
        inside = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
        front = scene.exact[v[inside].astype(int), u[inside].astype(int)]
        assert ((front > 0) & (front < d[inside] - 45)).mean() < 0.6  # its own fingers hide some, too


PLAIN_SENSOR = SensorStyle(0.0, 0, 0.0, 0.0, (1, 1), 0, 0.0, 0.0, 3, 40.0, 0.0, 0.0)


def sense(depth, **style):
    return apply_sensor(np.random.default_rng(0), depth, NYU_CAMERA, PLAIN_SENSOR._replace(**style))


def test_a_coarse_sensor_sees_blocks_of_pixels():
    rows, columns = np.mgrid[:480, :640]
    ball = np.float32(np.where((rows - 240) ** 2 + (columns - 320) ** 2 < 8000, 500 + 0.2 * columns, 0))
    seen = sense(ball, coarse=2.0)
    assert seen.shape == ball.shape
    np.testing.assert_array_equal(seen[::2, ::2], seen[1::2, 1::2])
    both = (seen > 0) & (ball > 0)
    assert both.sum() > 0.95 * (ball > 0).sum()
    assert np.abs(seen[both] - ball[both]).max() < 3


def test_time_of_flight_fills_corners_and_nothing_else():
    columns = np.arange(640, dtype=np.float32)
    corner = np.tile(600 - np.abs(columns - 320) * 0.5, (480, 1)).astype(np.float32)
    rounded = {"rounding": 0.5, "noise_mm": 1e-6}
    change = sense(corner, **rounded)[100] - corner[100]
    assert change[320] < -0.5  # nearer than it is
    assert np.abs(change[50:300]).max() <= 0.5  # rounded to mm
    assert np.mean(sense(corner, **rounded, dropout=0.1) == 0) == pytest.approx(0.1, abs=0.01)
    assert (sense(np.full((480, 640), 700, np.float32), **rounded)[20:-20, 20:-20] == 700).all()


def test_near_hands_are_seen_by_sensors_that_can():
    near = np.full((480, 640), 200, np.float32)
    assert not sense(near).any()
    assert (sense(near, nearest=150) > 0).all()
    styles = [sample_coarse_style(np.random.default_rng(seed)) for seed in range(50)]
    assert all(style.coarse > 1 or style.noise_mm for style in styles)


def test_val_hard_is_scored_by_kind(tmp_path, succeeds):
    frames = 2 * len(KINDS)
    common = ("--out", tmp_path / "synth", "--split", "val_hard", "--frames", frames, "--num_workers", "1")
    ran = succeeds("dataloader.synthetic", *common, "--sheet", tmp_path / "sheet.png")
    folder = tmp_path / "synth" / "val_hard"
    assert read_kinds(folder) == [(kind,) for kind in KINDS] * 2
    for kind in KINDS:
        assert cv2.imread(str(tmp_path / f"sheet_{kind}.png")).std() > 5
    distances = np.load(folder / "joints21.npz")["xyz"][..., 2].mean(axis=1).reshape(2, -1)
    for kind, seen in zip(KINDS, distances.T, strict=True):
        usual = (seen > 330) & (seen < 1100)
        assert ((seen < 480) | (seen > 900)).all() if kind == "range" else usual.all()
    config = Config(dataset="synth", data_dir=str(tmp_path), split="val_hard").resolved()
    true_uvd = NYU_CAMERA.xyz_to_uvd(find_frames(config).joint_xyz)
    true_uvd[3, :, 2] += 10  # an object
    np.savetxt(tmp_path / "predictions.txt", true_uvd.reshape(frames, -1), fmt="%.3f")
    arguments = ("--data_dir", tmp_path, "--split", "val_hard", "--predictions", tmp_path / "predictions.txt")
    ran = succeeds("test.py", *arguments, "--output_dir", tmp_path / "out")
    by_kind = json.loads((tmp_path / "out" / "metrics.json").read_text())["by_kind"]
    assert {kind: score["frames"] for kind, score in by_kind.items()} == dict.fromkeys(KINDS, 2)
    wrong = max(by_kind, key=lambda kind: by_kind[kind]["mpe_mm"])
    assert wrong == KINDS[3]
    assert f"{wrong:<12}     2 frames" in ran.out
    (folder / KINDS_FILE).write_text("objects\n")
    succeeds("test.py", *arguments, "--output_dir", tmp_path / "again")
    assert "by_kind" not in json.loads((tmp_path / "again" / "metrics.json").read_text())


def test_leaning_fingers_go_to_one_side_and_stay_free(people):
    sides = []
    for seed in range(40):
        rng, shape = np.random.default_rng(seed), people[seed % len(people)]
        before = sample_pose(rng, shape)
        after = lean_fingers(rng, shape, before)
        moved = (after.spread - before.spread)[1:]
        assert (moved >= 0).all() or (moved <= 0).all()
        assert after.spread[0] == before.spread[0]
        depth = [overlap(shape, pose_joints(shape, angles)[1][None])[0] for angles in (before, after)]
        assert depth[1] <= max(depth[0], 2.5)
        sides.append(moved[np.argmin(before.flex[1:, 1])] * 180 / np.pi)  # the straightest finger's
    assert min(sides) < -8
    assert max(sides) > 8
