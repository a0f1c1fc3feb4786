"""demo.py from its command line: films, folders, poses as JSON, and errors in one sentence."""

import itertools
import json
import os
import re

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from dataloader import dataset_info
from tests.helpers.blob_network import CAMERA, blob_predictor, stand_in
from tests.helpers.layout_folders import write_png
from tests.helpers.nyu_folder import ball_hand, open_hand
from util import UserError
from util.camera import NYU_CAMERA, Camera
from util.demo.overlay import MAX_POINTS, STRIP, cube_points, draw_panel, skeleton, weight_sheet
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.demo.stream import Poser, run_stream, stayed
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker
from util.plots import chain_colors

FRAMES = 8
UNEVEN = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)


@pytest.fixture
def blob_weights(monkeypatch):
    """The demo's checkpoint is the stand-in network."""
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Eight frames of a hand that moves to the right and is gone in the last two."""
    frames = [ball_hand(open_hand([15.0 * i, 0, 600]))[::2, ::2] for i in range(FRAMES - 2)]
    path = tmp_path_factory.mktemp("stack") / "clip.npy"
    np.save(path, np.stack([*frames, *np.zeros((2, 240, 320))]).astype(np.uint16))
    return path


CAMERA_FLAG = ("--camera", ",".join(map(str, CAMERA[:4])))


@pytest.fixture
def demo(blob_weights, run_script, stack):
    def run(*arguments, source=stack, camera=CAMERA_FLAG, code=0):
        defaults = {"--handedness": "right", "--backend": "torch"}
        flags = [part for flag, value in defaults.items() if flag not in arguments for part in (flag, value)]
        ran = run_script("demo.py", "--source", source, *camera, *flags, *arguments)
        assert ran.code == code, ran.err
        return ran

    return run


def test_poses_as_json(demo, tmp_path, stack):
    ran = demo("--json", tmp_path / "out.jsonl")
    assert re.search("A hand in 6 of 8 frames; .* frames a second from end to end", ran.out)
    assert "8/8" in ran.err  # the progress bar knows the length
    text = (tmp_path / "out.jsonl").read_text()
    assert not re.search(r"\.\d{4}", text[text.index("\n") :])  # three digits are enough
    header, *lines = map(json.loads, text.splitlines())
    assert header["format"] == "awr-poses"
    assert header["joint_names"] == list(dataset_info("synth").joint_names)
    assert Camera(**header["camera"]) == CAMERA
    assert (header["handedness"], header["net"], header["hands"]) == ("right", "resnet_18", 1)
    assert [line["frame"] for line in lines] == [str(i) for i in range(FRAMES)]
    assert [line["pose"] is None for line in lines] == [False] * 6 + [True] * 2
    tracker = HandTracker(blob_predictor(tmp_path), CAMERA, "right")
    for line, frame in zip(lines[:6], np.load(stack), strict=False):
        pose = tracker.update(frame)
        for name in ("joints_xyz", "joints_uvd", "center_xyz", "confidence"):
            np.testing.assert_allclose(line["pose"][name], getattr(pose, name), atol=6e-4)


def test_poses_of_two_hands_as_json(poses, tmp_path, stack):
    both = np.load(stack)[0].copy()
    both[:, 200:] = np.load(stack)[0][:, 100:220]  # the hand once more, to the right
    np.save(tmp_path / "both.npy", np.stack([both] * 2))
    _, lines = poses(tmp_path / "both.npy", "--hands", 2)
    for line in lines:
        hands = [(hand["identity"], hand["handedness"]) for hand in line["poses"]]
        assert hands == [(0, "right"), (1, "right")]
        places = [np.mean(hand["joints_uvd"], axis=0)[0] for hand in line["poses"]]
        assert abs(places[0] - places[1]) > 50


def test_a_film_a_gif_a_folder_and_a_picture(demo, tmp_path):
    for name in ("film.mp4", "film.gif", "pictures"):
        demo("--save", tmp_path / name, "--weights")
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"{i:06d}.png" for i in range(FRAMES)]  # frames of an array have no names
    first, last = (cv2.imread(str(tmp_path / "pictures" / names[i])) for i in (0, -1))
    assert first.shape[0] > 700  # the weight maps are below
    assert last.shape == first.shape  # also without a hand: a film has one size
    assert film.read()[1].shape[:2] == tuple(edge // 2 * 2 for edge in first.shape[:2])
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames >= 3
        assert gif.size == (first.shape[1], first.shape[0])
    demo("--save", tmp_path / "one.png", "--frames", 1)
    assert cv2.imread(str(tmp_path / "one.png")).shape == (480 + 2 * STRIP, 880, 3)


def test_pictures_keep_the_names_of_their_frames(demo, tmp_path, stack):
    for i, frame in enumerate(np.load(stack)[:2]):
        write_png(tmp_path / f"take{i}" / "same.png", frame)
    write_png(tmp_path / "take0" / "other.tiff", frame)
    demo("--save", tmp_path / "out", source=tmp_path / "take*" / "*")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["other.png", "same.png", "same_2.png"]


def test_frames_ends_early_and_a_folder_is_tracked_where_frames_are_alike(
    poses, tmp_path, stack, monkeypatch
):
    frames = np.load(stack)
    for i, frame in enumerate((frames[0], frames[0], np.roll(frames[0], 120, axis=1), frames[2])):
        write_png(tmp_path / "alike" / f"{i}.png", frame)
    searched, search = [], HandPosePredictor.search
    monkeypatch.setattr(HandPosePredictor, "search", lambda *given: searched.append(1) or search(*given))
    ran, lines = poses(tmp_path / "alike", "--frames", 3)
    assert "A hand in 3 of 3 frames" in ran.out
    assert lines[2]["frame"] == "2.png"
    assert len(searched) == 2  # the second follows from the first, the third does not
    searched.clear()
    poses(tmp_path / "alike", "--track", "False")
    assert len(searched) == 4


def test_ctrl_c_keeps_what_was_saved(demo, tmp_path, monkeypatch):
    calls, update = itertools.count(), HandTracker.update_hands

    def interrupted(*given):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return update(*given)

    monkeypatch.setattr(HandTracker, "update_hands", interrupted)
    demo("--save", tmp_path / "film.mp4", "--json", tmp_path / "out.jsonl")
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1 + 4


def test_a_camera_that_stops_keeps_what_was_saved(demo, tmp_path, stack, monkeypatch):
    frames, used = np.load(stack), []

    def read(i):
        assert len(used) == i  # the newest frame is taken, when the network is ready for it
        if i == 5:
            raise UserError("The camera stopped sending frames.")
        return frames[i]

    update = HandTracker.update_hands
    monkeypatch.setattr(HandTracker, "update_hands", lambda *given: used.append(1) or update(*given))
    camera = Source("camera", read, None, CAMERA, live=True)
    monkeypatch.setattr("util.demo.run.open_source", lambda *_: camera)
    demo("--save", tmp_path / "pictures", "--json", tmp_path / "out.jsonl", code=2)
    assert len(list((tmp_path / "pictures").iterdir())) == 5
    _, *lines, last = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert ["seconds" in line for line in lines] == [True] * 5
    assert last["error"] == "The camera stopped sending frames."


def test_smoothing_is_told_the_times_of_a_recording_or_those_that_passed(tmp_path, stack, monkeypatch):
    told, frames = [], np.load(stack)[:3].astype(np.float32)
    monkeypatch.setattr(HandTracker, "update_hands", lambda _, depth, seconds: told.append(seconds) or [])
    predictor, smooth = blob_predictor(tmp_path), DemoSettings(smooth=True)
    source = Source("film", lambda i: frames[i], 3, CAMERA, rate=10.0, times=np.array([0, 0.1, 0.3]))
    for film in (source, source._replace(times=None)):
        run_stream(film, predictor, smooth)
    assert told == pytest.approx([0.1, 0.1, 0.2, 0.1, 0.1, 0.1])
    told.clear()
    poser = Poser(Source("camera", None, None, CAMERA, live=True), predictor, smooth)
    for frame, moment in zip(frames, (10.0, 10.2, 10.5), strict=True):
        poser(frame, moment)
    assert told == pytest.approx([1 / 30, 0.2, 0.3])


def test_a_bug_in_a_source_keeps_its_trace(tmp_path):
    def read(i):
        raise IndexError("our bug")

    for live in (True, False):
        source = Source("bug", read, 3, CAMERA, live=live)
        with pytest.raises(IndexError, match="our bug"):
            run_stream(source, blob_predictor(tmp_path), DemoSettings())


@pytest.fixture
def frames(tmp_path, stack):
    """A folder of four frames with a hand."""
    for i, frame in enumerate(np.load(stack)[:4]):
        write_png(tmp_path / "frames" / f"{i}.png", frame)
    return tmp_path / "frames"


@pytest.fixture
def poses(demo, tmp_path):
    """Run the demo, and give how it ended and its lines of poses."""

    def run(source, *flags, code=0):
        ran = demo("--json", tmp_path / "poses.jsonl", *flags, source=source, code=code)
        return ran, [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()[1:]]

    return run


@pytest.mark.parametrize(
    ("name", "number", "damage", "complaint"),
    [
        ("film.mp4", 3, lambda path: os.truncate(path, 900), "is damaged: it cannot be decoded as an image."),
        ("film.gif", 0, lambda path: os.truncate(path, 900), "is damaged"),
        ("pictures", 1, lambda path: cv2.imwrite(str(path), UNEVEN), "has lost it"),
        ("pictures", 3, lambda path: write_png(path, UNEVEN[:9, :9, 0] * 9.0), "the first frame"),
    ],
)
def test_a_bad_frame_is_named_and_the_others_kept(poses, frames, tmp_path, name, number, damage, complaint):
    damage(frames / f"{number}.png")
    out = tmp_path / "out"
    ran, lines = poses(frames, "--save", out / name, code=2)
    assert re.search(f"error: {frames}/{number}.png.*{complaint}", ran.err)
    assert "Traceback" not in ran.err
    assert ["error" in line and line["pose"] is None for line in lines] == [i == number for i in range(4)]
    assert complaint in lines[number]["error"]
    assert [path.name for path in out.iterdir()] == [name]  # and nothing hidden
    assert not list(tmp_path.glob(".*"))
    if name == "film.mp4":
        assert cv2.VideoCapture(str(out / name)).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    elif name == "pictures":
        assert len(list((out / name).iterdir())) == 3


def test_bad_frames_are_counted_and_strict_stops_at_the_first(poses, frames):
    for number in (1, 2):
        os.truncate(frames / f"{number}.png", 900)
    assert "2 of 4 frames could not be used; the first:" in poses(frames, code=2)[0].err
    assert len(poses(frames, "--strict", code=2)[1]) == 2  # the one before it, and its error


@pytest.mark.parametrize(
    ("scale", "dtype", "reason"),
    [
        (0.001, np.float32, "--depth_scale 1000"),
        (8, np.uint16, "--depth_scale 0.1"),
        (65535 / 600, np.uint16, "lost their unit"),
        (0, np.uint16, "No frame has a depth reading"),
        (-0.001, np.float32, "below 0, as OpenGL's z is: change their sign"),
        (-1, np.int16, "below 0, as OpenGL's z is: change their sign"),
    ],
)
def test_no_hand_comes_with_a_reason(poses, stack, tmp_path, scale, dtype, reason):
    np.save(tmp_path / "a.npy", (np.load(stack)[:2] * np.float64(scale)).clip(-65535, 65535).astype(dtype))
    assert reason in poses(tmp_path / "a.npy")[0].out.splitlines()[-1]


ERRORS = {
    "": "No output selected",
    "--show": "--show needs a display",
    "--save film.wmv": "ends in .mp4, .gif or .png",
    "--save all.png": "holds one frame: pass --frames 1, or name a film or folder.",
    "--serve --save a.gif": "--save has no effect with --serve: leave it out",
    "--serve --smooth": "--smooth has no effect with --serve",
    "--serve --port 0": "port is 0",
    "--save out --json out/p.jsonl": "name a place of its own",
    "--save a.gif --json a.gif": "name a place of its own",
    "--save a.mp4 --weights --backend openvino": "--backend has no effect with --weights or --serve",
    "--json a --source a.png b.png": "2 sources",
    "--json a --source absent.png": "absent.png is missing",
    "--json a --source synthetic --seed -1": "seed is -1",
    "--json a --frames -1": "frames is -1",
    "--json a --min_confidence 75": "min_confidence is 75.0: it must be at least 0 and at most 1.",
    "--json a --min_confidence nan": "min_confidence is nan",
    "--json a --hands 99999999999999999999": "hands is 9",
    "--json a --fps inf": "fps is inf",
    "--json a --depth_scale 0": "depth_scale is 0.0",
    "--json a --depth_range 900 300": "the nearest depth comes first",
    "--json a --fps 0": "fps is 0.0",
    "--json a --smooth --track False": "pass --track True too",
    "--json a --device cuda:7": "'cuda:7'",
    "--json a --handedness both": "--handedness",
    "--json a --net vit": "There is no network 'vit'",
    "--json a --net resnet_50": "No weights of resnet_50 for synth come with",
    "--json a --camera 0,0,320,240": "fx and fy above 1",
    "--json a --camera webcam": "--camera 'webcam'",
}


@pytest.mark.parametrize("flags", ERRORS)
def test_errors_are_a_sentence(blob_weights, fails, stack, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert ERRORS[flags] in fails("demo.py", "--source", stack, *CAMERA_FLAG, *flags.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(demo, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    ran = demo("--save", tmp_path, code=2)
    assert "name a new folder" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_window_ends_at_q(demo, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    ran = demo("--show")
    assert len(shown) == 4
    assert shown[-1] == "closed"
    assert re.search(r"of [34] frames", ran.out)  # one more was under way


def test_the_panel_shows_the_joints_where_they_are(tmp_path):
    depth = ball_hand(open_hand([30.0, -20, 600])).astype(np.float32)
    info = dataset_info("nyu")
    pose = blob_predictor(tmp_path).predict(depth, NYU_CAMERA, weights=True)
    pose = pose._replace(confidence=np.ones(14, np.float32))
    plain = draw_panel(depth, [], info, NYU_CAMERA, "")
    panel = draw_panel(depth, [pose], info, NYU_CAMERA, "headline", weights=True)
    assert plain.shape == (480 + 2 * STRIP, 880, 3)
    assert panel.shape[0] == plain.shape[0] + 2 * (880 // 7)
    # The first joint is drawn first and so may be covered; the last is on top.
    u, v = np.rint(pose.joints_uvd[-1, :2] + np.array([0, STRIP])).astype(int)
    np.testing.assert_array_equal(panel[v, u], skeleton(info)[2][-1][::-1])
    changed = (panel[: len(plain)] != plain).any(2)
    assert changed[max(v - 60, 0) : v + 60, max(u - 60, 0) : u + 60].sum() > 100
    assert changed[:STRIP, :100].any()  # the headline
    assert changed[:STRIP, 700:].any()  # side and confidence
    assert not changed[len(plain) - STRIP :].any()  # the legend
    for color in chain_colors(info.chains):
        assert (plain[-STRIP:] == np.rint(255 * np.array(to_rgb(color)))[::-1]).all(2).any()
    assert panel[len(plain) :].std() > 10
    # Of two hands each keeps its place where the other is out of sight.
    left = [hand._replace(identity=i) for i, hand in enumerate([pose, pose])]
    both, second = (draw_panel(depth, hands, info, NYU_CAMERA, "", most=2) for hands in (left, left[1:]))
    lower = slice(STRIP + 240, STRIP + 480)
    np.testing.assert_array_equal(second[lower, 640:], both[lower, 640:])
    assert np.ptp(second[STRIP : STRIP + 240, 640:]) == 0
    assert weight_sheet(pose, info, 700).shape == (200, 700, 3)


def test_points_of_the_cube_are_the_frames(tmp_path):
    depth = ball_hand(open_hand([30.0, -20, 600])).astype(np.float32)
    pose = blob_predictor(tmp_path).predict(depth, NYU_CAMERA)
    xyz, uv = cube_points(depth, pose.crop, NYU_CAMERA)
    u, v, d = NYU_CAMERA.xyz_to_uvd(xyz).T
    np.testing.assert_allclose(depth[np.rint(v).astype(int), np.rint(u).astype(int)], d, atol=1e-3)
    assert 2000 < len(d) <= MAX_POINTS
    assert np.abs(xyz - pose.center_xyz).max() < 190  # the cube, which perspective widens behind
    # In the crop's pixels they lie on what the network saw.
    u, v = np.clip(uv.astype(int), 0, 63).T
    assert np.mean(pose.crop.image[v, u] > 0) > 0.8  # its pixels are coarse


def test_a_hand_that_jumps_in_a_room_that_rests_has_not_stayed(tmp_path):
    hand = ball_hand(open_hand([0.0, 0, 600]))[::2, ::2].astype(np.float32)
    room = np.where(hand > 0, hand, 2000).astype(np.float32)
    crop = blob_predictor(tmp_path).predict(room, CAMERA).crop
    for same in (room, np.roll(room, 4, axis=1), np.where(np.eye(240, 320) > 0, 0, room)):
        assert stayed(crop, same, CAMERA)
    for other in (np.roll(room, 60, axis=1), np.where(room < 2000, room + 60, 2000)):
        assert not stayed(crop, other, CAMERA)


@pytest.mark.parametrize("name", ["深度".encode("gbk"), b"\xff\xfe", b"pos\xe9"])
def test_names_that_are_no_text_are_drawn_with_replacements(poses, frames, tmp_path, name):
    os.rename(frames / "0.png", os.path.join(os.fsencode(frames), name + b".png"))
    poses(frames, "--save", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 4
