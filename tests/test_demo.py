"""demo.py from its command line: films, folders, poses as JSON, and errors in one sentence."""

import itertools
import json
import re
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config import Config
from dataloader import dataset_info
from tests.helpers.blob_network import CAMERA, blob_predictor, stand_in
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT, need_synthetic_hand
from util import UserError
from util.camera import NYU_CAMERA, Camera
from util.demo import recording
from util.demo.overlay import MAX_POINTS, cube_points, draw_panel, joint_colors, weight_sheet
from util.demo.run import weights_of
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.demo.stream import read_ahead, run_stream, stayed
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker

FRAMES = 8


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
    def run(*arguments, source=stack, camera=CAMERA_FLAG):
        defaults = {"--handedness": "right", "--backend": "torch"}
        flags = [part for flag, value in defaults.items() if flag not in arguments for part in (flag, value)]
        return run_script("demo.py", "--source", source, *camera, *flags, *arguments)

    return run


def test_poses_as_json(demo, tmp_path, stack):
    ran = demo("--json", tmp_path / "out.jsonl")
    assert ran.code == 0, ran.err
    assert "A hand in 6 of 8 frames" in ran.out
    assert "frames a second from end to end" in ran.out
    assert "8/8" in ran.err  # the progress bar knows the length
    header, *lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert header["format"] == "awr-poses"
    assert header["joint_names"] == list(dataset_info("synth").joint_names)
    assert Camera(**header["camera"]) == CAMERA
    assert (header["handedness"], header["net"]) == ("right", "resnet_18")
    assert [line["frame"] for line in lines] == [str(i) for i in range(FRAMES)]
    assert [line["pose"] is None for line in lines] == [False] * 6 + [True] * 2
    tracker = HandTracker(blob_predictor(tmp_path), CAMERA, "right")
    for line, frame in zip(lines[:6], np.load(stack), strict=False):
        pose = tracker.update(frame)
        for name in ("joints_xyz", "joints_uvd", "center_xyz", "confidence"):
            np.testing.assert_allclose(line["pose"][name], getattr(pose, name), atol=6e-4)


def test_poses_of_two_hands_as_json(demo, tmp_path, stack):
    both = np.load(stack)[0].copy()
    both[:, 200:] = np.load(stack)[0][:, 100:220]  # the hand once more, to the right
    np.save(tmp_path / "both.npy", np.stack([both] * 2))
    ran = demo("--hands", 2, "--json", tmp_path / "a.jsonl", source=tmp_path / "both.npy")
    assert ran.code == 0, ran.err
    header, *lines = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert header["hands"] == 2
    for line in lines:
        assert "pose" not in line
        assert [hand["identity"] for hand in line["poses"]] == [0, 1]
        assert {hand["handedness"] for hand in line["poses"]} == {"right"}
        places = [np.mean(hand["joints_uvd"], axis=0)[0] for hand in line["poses"]]
        assert abs(places[0] - places[1]) > 50


def test_a_film_a_gif_and_a_folder(demo, tmp_path):
    for name in ("film.mp4", "film.gif", "pictures"):
        ran = demo("--save", tmp_path / name, "--weights")
        assert ran.code == 0, ran.err
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
        assert gif.size == (first.shape[1] // 2, first.shape[0] // 2)
    assert not list(tmp_path.glob(".*"))


def test_a_png_holds_one_frame(demo, tmp_path):
    ran = demo("--save", tmp_path / "one.png", "--frames", 1)
    assert ran.code == 0, ran.err
    assert cv2.imread(str(tmp_path / "one.png")).shape == (480, 880, 3)
    ran = demo("--save", tmp_path / "all.png")
    assert ran.code == 2
    assert "holds one frame: pass --frames 1, or name a film or folder." in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_pictures_keep_the_names_of_their_frames(demo, tmp_path, stack):
    for i, frame in enumerate(np.load(stack)[:2]):
        (tmp_path / f"take{i}").mkdir()
        cv2.imwrite(str(tmp_path / f"take{i}" / "same.png"), frame)
    cv2.imwrite(str(tmp_path / "take0" / "other.tiff"), frame)
    ran = demo("--save", tmp_path / "out", source=tmp_path / "take*" / "*")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "other.png",
        "same.png",
        "same_2.png",
    ]


def test_frames_ends_early_and_a_folder_is_tracked_where_frames_are_alike(demo, tmp_path, stack, monkeypatch):
    frames = np.load(stack)
    for i, frame in enumerate((frames[0], frames[0], np.roll(frames[0], 120, axis=1), frames[2])):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame)
    searched, search = [], HandPosePredictor.search
    monkeypatch.setattr(HandPosePredictor, "search", lambda *given: searched.append(1) or search(*given))
    ran = demo("--json", tmp_path / "a.jsonl", "--frames", 3, source=tmp_path)
    assert ran.code == 0, ran.err
    assert "A hand in 3 of 3 frames" in ran.out
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[3])["frame"] == "2.png"
    assert len(searched) == 2  # the second follows from the first, the third does not
    searched.clear()
    assert demo("--json", tmp_path / "a.jsonl", "--track", "False", source=tmp_path).code == 0
    assert len(searched) == 4


def test_a_hand_that_jumps_in_a_room_that_rests_has_not_stayed(tmp_path):
    hand = ball_hand(open_hand([0.0, 0, 600]))[::2, ::2].astype(np.float32)
    room = np.where(hand > 0, hand, 2000).astype(np.float32)
    crop = blob_predictor(tmp_path).predict(room, CAMERA).crop
    assert stayed(crop, room, room)
    assert stayed(crop, room, np.roll(room, 4, axis=1))
    assert stayed(crop, room, np.where(np.eye(240, 320) > 0, 0, room))
    assert not stayed(crop, room, room[:200])
    assert not stayed(crop, room, np.roll(room, 60, axis=1))
    assert not stayed(crop, room, np.where(room < 2000, room + 60, 2000))


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_saved(demo, tmp_path, monkeypatch):
    need_synthetic_hand()
    calls = itertools.count()
    update = HandTracker.update_hands

    def interrupted(self, depth, seconds):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return update(self, depth, seconds)

    monkeypatch.setattr(HandTracker, "update_hands", interrupted)
    ran = demo("--save", tmp_path / "film.mp4", "--json", tmp_path / "out.jsonl", source="synthetic")
    assert ran.code == 0, ran.err
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1 + 4


def test_a_camera_that_stops_keeps_what_was_saved(demo, tmp_path, stack, monkeypatch):
    frames, taken = np.load(stack), threading.Semaphore(1)

    def read(i):
        assert taken.acquire(timeout=60)  # the network has the frame before
        if i == 5:
            raise UserError("The camera stopped sending frames.")
        return frames[i]

    update = HandTracker.update_hands
    monkeypatch.setattr(HandTracker, "update_hands", lambda *given: taken.release() or update(*given))
    camera = Source("camera", read, None, CAMERA, live=True)
    monkeypatch.setattr("util.demo.run.open_source", lambda *_: camera)
    ran = demo("--save", tmp_path / "pictures", "--json", tmp_path / "out.jsonl")
    assert ran.code == 2
    assert "The camera stopped sending frames." in ran.err
    assert re.search(r"From read to drawn: \d+ ms \(median\)", ran.out)
    assert len(list((tmp_path / "pictures").iterdir())) == 5
    _, *lines, last = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert len(lines) == 5
    assert all("seconds" in line for line in lines)
    assert last["error"] == "The camera stopped sending frames."


def test_of_a_camera_the_newest_frame_is_taken():
    third_is_read, ended = threading.Event(), threading.Event()

    def read(i):
        if i == 3:
            third_is_read.set()
            ended.wait(60)
        return np.full((4, 4), i)

    with read_ahead(Source("camera", read, None, CAMERA, live=True), None) as frames:
        third_is_read.wait(60)
        assert next(frames).i == 2
        ended.set()
        assert next(frames).i >= 3


@pytest.mark.parametrize("times", [None, np.array([0, 0.1, 0.3])])
def test_smoothing_is_told_a_recordings_own_times(tmp_path, stack, times, monkeypatch):
    told = []
    monkeypatch.setattr(HandTracker, "update_hands", lambda _, depth, seconds: told.append(seconds) or [])
    frames = np.load(stack)[:3].astype(np.float32)
    source = Source("film", lambda i: frames[i], 3, CAMERA, rate=10.0, times=times)
    run_stream(source, blob_predictor(tmp_path), DemoSettings(smooth=True))
    assert told == pytest.approx([0.1, 0.1, 0.1 if times is None else 0.2])


def test_a_bug_in_a_source_keeps_its_trace(tmp_path):
    def read(i):
        raise IndexError("our bug")

    for live in (True, False):
        source = Source("bug", read, 3, CAMERA, live=live)
        with read_ahead(source, 3) as frames:
            assert isinstance(next(frames).error, IndexError)
        with pytest.raises(IndexError, match="our bug"):
            run_stream(source, blob_predictor(tmp_path), DemoSettings())


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "pictures"])
def test_a_frame_that_breaks_costs_the_others_nothing(demo, tmp_path, stack, name):
    source = tmp_path / "frames"
    source.mkdir()
    for i, frame in enumerate(np.load(stack)[:3]):
        cv2.imwrite(str(source / f"{i}.png"), frame)
    (source / "3.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    ran = demo("--save", out / name, "--json", out / "poses.jsonl", source=source)
    assert ran.code == 2
    assert (
        ran.err.strip().splitlines()[-1]
        == f"error: {source / '3.png'} is damaged: it cannot be decoded as an image."
    )
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in out.iterdir()) == sorted([name, "poses.jsonl"])  # and nothing hidden
    if name == "film.mp4":
        assert cv2.VideoCapture(str(out / name)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


ERRORS = {
    "nothing to do": ((), "No output selected"),
    "show without a display": (("--show",), "--show needs a display"),
    "an odd ending": (("--save", "film.wmv"), "ends in .mp4, .gif or .png"),
    "serve and save": (("--serve", "--save", "a.gif"), "--save has no effect with --serve: leave it out"),
    "two sources": (("--json", "a", "--source", "a.png", "b.png"), "2 sources"),
    "port": (("--serve", "--port", "0"), "port is 0"),
    "frames": (("--json", "a", "--frames", "-1"), "frames is -1"),
    "seed": (("--json", "a", "--source", "synthetic", "--seed", "-1"), "seed is -1"),
    "depth scale": (("--json", "a", "--depth_scale", "0"), "depth_scale is 0.0"),
    "smooth": (("--json", "a", "--smooth", "--track", "False"), "pass --track True too"),
    "serve and smooth": (("--serve", "--smooth"), "--smooth has no effect with --serve"),
    "poses among pictures": (("--save", "out", "--json", "out/p.jsonl"), "name a place of its own"),
    "one file for both": (("--save", "a.gif", "--json", "a.gif"), "name a place of its own"),
    "RealSense": (
        ("--json", "a", "--source", "realsense"),
        "--camera has no effect with a RealSense, which knows it",
    ),
    "rendered in metres": (
        ("--json", "a", "--source", "synthetic", "--depth_scale", "1000"),
        "--depth_scale has no effect with --source synthetic",
    ),
    "port without a page": (("--json", "a", "--port", "9000"), "--port has no effect without --serve"),
    "a rendered hand's flags": (
        ("--json", "a", "--seed", "3", "--body"),
        "--seed, --body has no effect without --source synthetic",
    ),
    "frame rate": (("--json", "a", "--fps", "0"), "fps is 0.0"),
    "device": (("--json", "a", "--device", "cuda:7"), "'cuda:7'"),
    "handedness": (("--json", "a", "--handedness", "both"), "--handedness"),
    "engine without maps": (
        ("--save", "a.mp4", "--weights", "--backend", "openvino"),
        "--backend has no effect with --weights or --serve, which need PyTorch",
    ),
    "range": (("--json", "a", "--depth_range", "900", "300"), "the nearest depth comes first"),
    "net": (("--json", "a", "--net", "vit"), "There is no network 'vit'"),
    "no weights": (("--json", "a", "--net", "resnet_50"), "No weights of resnet_50 for synth come with"),
    "no focal length": (("--json", "a", "--camera", "0,0,320,240"), "fx and fy above 1"),
    "camera": (("--json", "a", "--camera", "webcam"), "--camera 'webcam'"),
    "source": (("--json", "a", "--source", "absent.png"), "absent.png is missing"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_a_sentence(demo, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    flags, sentence = ERRORS[name]
    ran = demo(*flags)
    assert ran.code == 2
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert last.endswith(".")
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("net", ["resnet_18", "hourglass_1"])
def test_a_network_brings_its_weights(net):
    assert Path(weights_of(Config(net=net).resolved())).name == f"{net}_synth.pth"


def test_a_missing_checkpoint_is_a_sentence(run_script, stack, tmp_path):
    flags = ("--load_model", "absent.pth", "--json", tmp_path / "a.jsonl")
    ran = run_script("demo.py", "--source", stack, *CAMERA_FLAG, *flags)
    assert ran.code == 2
    assert "absent.pth is missing" in ran.err


def test_a_folder_that_is_not_empty_is_left_alone(demo, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    ran = demo("--save", tmp_path)
    assert ran.code == 2
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
    assert ran.code == 0, ran.err
    assert len(shown) == 4
    assert shown[-1] == "closed"
    assert re.search(r"of [34] frames", ran.out)  # one more was under way


def test_an_opencv_without_windows_is_a_sentence(demo, monkeypatch):
    def unimplemented(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", unimplemented)
    ran = demo("--show")
    assert ran.code == 2
    assert "instead of opencv-python-headless" in ran.err


def test_the_panel_shows_the_joints_where_they_are(tmp_path):
    depth = ball_hand(open_hand([30.0, -20, 600])).astype(np.float32)
    info = dataset_info("nyu")
    pose = blob_predictor(tmp_path).predict(depth, NYU_CAMERA, weights=True)
    pose = pose._replace(confidence=np.ones(14, np.float32))
    plain = draw_panel(depth, [], info, NYU_CAMERA, "")
    panel = draw_panel(depth, [pose], info, NYU_CAMERA, "headline", weights=True)
    assert plain.shape == (480, 880, 3)
    assert panel.shape[0] == 480 + 2 * (880 // 7)
    # The first joint is drawn first and so may be covered; the last is on top.
    u, v = np.rint(pose.joints_uvd[-1, :2]).astype(int)
    np.testing.assert_array_equal(panel[v, u], joint_colors(info)[-1][::-1])
    changed = (panel[:480, :640] != plain[:, :640]).any(2)
    assert changed[max(v - 60, 0) : v + 60, max(u - 60, 0) : u + 60].sum() > 100
    assert changed[:20].any()  # the headline
    assert panel[480:].std() > 10
    assert weight_sheet(pose, info, 700).shape == (200, 700, 3)


def test_points_of_the_cube_are_the_frames(tmp_path):
    depth = ball_hand(open_hand([30.0, -20, 600])).astype(np.float32)
    pose = blob_predictor(tmp_path).predict(depth, NYU_CAMERA)
    xyz, uv = cube_points(depth, pose.crop, NYU_CAMERA)
    u, v, d = NYU_CAMERA.xyz_to_uvd(xyz).T
    np.testing.assert_allclose(depth[np.rint(v).astype(int), np.rint(u).astype(int)], d, atol=1e-3)
    assert 2000 < len(d) <= MAX_POINTS
    assert 400 < len(cube_points(depth, pose.crop, NYU_CAMERA, 1000)[0]) < 1100  # steps are whole pixels
    assert np.abs(xyz - pose.center_xyz).max() < 190  # the cube, which perspective widens behind
    # In the crop's pixels they lie on what the network saw.
    u, v = np.clip(uv.astype(int), 0, 63).T
    assert np.mean(pose.crop.image[v, u] > 0) > 0.8  # its pixels are coarse


def test_pose_lines_hold_three_digits(tmp_path):
    pose = blob_predictor(tmp_path).predict(ball_hand(open_hand([0.0, 0, 600])), NYU_CAMERA)
    text = recording.pose_line("x", [pose])
    assert not re.search(r"\.\d{4}", text)
    line = json.loads(text)
    assert line["frame"] == "x"
    assert "seconds" not in line
    assert json.loads(recording.pose_line("x", [], 1.23456)) == {
        "frame": "x",
        "seconds": 1.235,
        "pose": None,
    }
    np.testing.assert_array_equal(line["pose"]["joints_xyz"], pose.joints_xyz.round(3))


def test_the_five_lines_of_the_readme(blob_weights, capsys):
    text = (PROJECT / "README.md").read_text()
    section = text[text.index("## Start") :]
    code = section.split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 5
    exec(code, {"depth": ball_hand(open_hand([0.0, 0, 600]))})
    assert capsys.readouterr().out.count("[") == 15  # 14 joints
