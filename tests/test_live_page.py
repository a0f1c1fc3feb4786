"""The live page: its controls, and what a real browser shows of it."""

import socket
import time
import urllib.error
import urllib.request
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.helpers.blob_network import CAMERA, blob_predictor, stand_in
from tests.helpers.browser import CHROMIUM, Browser, wait_until
from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import need_synthetic_hand
from util import UserError
from util.demo.live_page import DEPTH, LOOP, SURROUNDINGS, LivePage, serve
from util.demo.settings import DemoSettings
from util.demo.sources import Source, open_source

pytest.importorskip("viser", reason="pip install -r requirements-demo.txt")
FRAMES = 5
PORT = 18080
HAND = ball_hand(open_hand([0.0, 0, 600]))[::2, ::2]
RIGHT = DemoSettings(handedness="right", serve=True, port=PORT)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A stack of five frames with a hand in all but the fourth, a folder, and a rendered hand."""
    root = tmp_path_factory.mktemp("sources")
    frames = [ball_hand(open_hand([15.0 * i, 0, 600]))[::2, ::2].astype(np.uint16) for i in range(FRAMES)]
    frames[3][:] = 0
    np.save(root / "stack.npy", np.stack(frames))
    (root / "folder").mkdir()
    cv2.imwrite(str(root / "folder" / "left.png"), frames[2])
    cv2.imwrite(str(root / "folder" / "right.png"), frames[4])
    options = replace(RIGHT, camera="294,293.5,159.5,119.5")
    need_synthetic_hand()
    return [open_source(str(name), options) for name in (root / "stack.npy", root / "folder", "synthetic")]


@pytest.fixture
def open_page(tmp_path):
    """Open a page of some sources; it ends with the test."""
    pages = []

    def show(*sources, **changes):
        pages.append(LivePage(list(sources), blob_predictor(tmp_path), replace(RIGHT, **changes)))
        return pages[-1]

    yield show
    for page in pages:
        page.server.stop()


@pytest.fixture
def page(sources, open_page):
    return open_page(*sources)


def test_it_plays_and_starts_over(page):
    seen = []
    for _ in range(FRAMES + 1):
        assert page.step()
        seen.append((page.frame_slider.value, bool(page.hands)))
    assert seen == [(0, True), (1, True), (2, True), (3, False), (4, True), (0, True)]
    assert "frames/s" in page.status.content


def test_the_controls_do_what_they_say(page):
    page.play.value = False
    assert page.step()
    assert "paused" in page.status.content
    assert not page.step()  # nothing plays and nothing was asked for

    page.frame_slider.value = 2
    assert page.step()
    assert not page.step()
    assert "frame 2" in page.status.content
    moved = page.hands[0].joints_xyz

    depth = page.nodes[0].cloud.colors.copy()
    page.joint_choice.value = "thumb tip"
    assert page.step()
    assert np.abs(page.nodes[0].cloud.colors.astype(int) - depth).max() > 50  # the weights glow
    page.joint_choice.value = DEPTH
    page.step()
    np.testing.assert_array_equal(page.nodes[0].cloud.colors, depth)

    assert not page.surroundings.visible
    with_hand = page.weights_picture.image
    page.frame_slider.value = 3
    page.step()
    assert "no hand" in page.status.content
    assert not page.nodes[0].root.visible
    assert page.weights_picture.image.shape == with_hand.shape
    assert np.ptp(with_hand) > 100
    assert np.ptp(page.weights_picture.image) == 0

    page.source_choice.value = page.source_choice.options[1]
    page.play.value = True
    page.step()
    assert not page.play.value  # nobody knows whether a folder's files follow one another
    assert page.frame_slider.max == 1
    assert "left.png" in page.status.content
    np.testing.assert_allclose(page.hands[0].joints_xyz, moved, atol=1)
    page.source_choice.value = "synthetic"
    page.step()
    assert page.frame_slider.max == LOOP - 1


def test_the_scene_is_the_hand_seen_from_the_camera(page):
    page.step()
    pose = page.hands[0]
    places = np.array([joint.position for joint in page.nodes[0].joints])
    x, y, z = ((pose.joints_xyz - pose.center_xyz) / 100).T
    np.testing.assert_allclose(places, np.stack([x, -y, -z], axis=1), atol=1e-5)  # y down in this camera
    assert 500 < len(page.nodes[0].cloud.points) == len(page.nodes[0].cloud.colors)
    assert np.abs(page.nodes[0].cloud.points).max() < 2.5


def test_a_camera_is_tracked_without_end(open_page, monkeypatch):
    monkeypatch.setattr("util.demo.live_page.LOOP", 2)
    page = open_page(Source("camera", lambda _: HAND, None, CAMERA, live=True))
    page.step()
    monkeypatch.setattr(page.poser.tracker, "reset", lambda: pytest.fail("it forgets the hand"))
    for _ in range(4):
        page.step()


def test_without_a_hand_the_page_shows_what_the_camera_sees(open_page):
    wall = np.full((240, 320), 1000.0, np.float32)
    page = open_page(Source("wall", lambda i: wall, 3, CAMERA))
    page.step()
    assert "no hand" in page.status.content
    assert page.surroundings.visible
    places = page.surroundings.points
    assert 10000 < len(places) == len(page.surroundings.colors) <= SURROUNDINGS
    np.testing.assert_array_equal(places[:, 2], 0)  # around its middle
    assert np.ptp(places[:, 0]) == pytest.approx(319 / CAMERA.fx * 1000 / 400, rel=0.02)  # a quarter as large


def test_a_damaged_frame_does_not_end_the_page(open_page):
    def read(i):
        if i == 1:
            raise UserError("frame 1 is damaged.")
        return HAND

    page = open_page(Source("film", read, 3, CAMERA))
    for said in ("right hand", "frame 1 is damaged.", "right hand"):
        page.step()
        assert said in page.status.content


def test_two_hands_on_the_page(open_page):
    one, other = (ball_hand(open_hand([x, 0, 600]))[::2, ::2] for x in (-110.0, 110.0))
    page = open_page(Source("both", lambda i: np.maximum(one, other), 3, CAMERA), hands=2)
    page.step()
    assert page.status.content.count("right hand") == 2
    sides = [np.sign(nodes.cloud.points[:, 0].mean()) for nodes in page.nodes]
    assert sorted(sides) == [-1, 1]
    for nodes, side in zip(page.nodes, sides, strict=True):  # no cloud has the other hand
        assert (np.sign(nodes.cloud.points[:, 0]) == side).mean() > 0.95


def test_the_page_ends_with_an_error(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(LivePage, "step", lambda page: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        serve(sources, blob_predictor(tmp_path), RIGHT)
    with pytest.raises(urllib.error.URLError):  # nobody answers any more
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}", timeout=2)


def test_demo_serves_it_until_ctrl_c(succeeds, monkeypatch, tmp_path):
    stand_in(monkeypatch)
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, HAND)
    seen = []

    def interrupted(page):
        seen.extend(page.sources)
        raise KeyboardInterrupt

    monkeypatch.setattr(LivePage, "step", interrupted)
    sources = ("--source", tmp_path / "a.npy", tmp_path / "b.npy")
    ran = succeeds("demo.py", *sources, "--camera", "294,293.5,159.5,119.5", "--serve", "--port", PORT)
    assert f"Open http://127.0.0.1:{PORT}" in ran.out
    assert seen == [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.slow
def test_a_browser_shows_the_hand(page, tmp_path):
    page.play.value = False
    page.step()
    with Browser(tmp_path / "browser") as browser:
        browser.open(page.address)
        wait_until(lambda: "right hand" in (browser.text() or ""), "the page's controls")
        for label in ("Source", "Frame", "Colour by", "Adaptive weights"):
            assert label in browser.text()
        # The colours of the fingers are on the scene, whose right part is left to the controls.
        wait_until(lambda: colorful(scene(browser)) > 200, "the skeleton")
        before = scene(browser)
        browser.open(page.address, size=(390, 844))  # a phone's: the controls cover the lower part
        wait_until(lambda: "right hand" in (browser.text() or ""), "the page's controls")
        wait_until(lambda: colorful(scene(browser, rows=slice(120, 330))) > 200, "the skeleton above them")
        browser.open(page.address)
        wait_until(lambda: "right hand" in (browser.text() or ""), "the page's controls")
        page.frame_slider.value = 3  # no hand there
        page.step()
        wait_until(lambda: "no hand" in browser.text(), "the empty frame")
        assert "frames/s" in browser.text()
        wait_until(lambda: colorful(scene(browser)) < 20, "the skeleton's end")
        assert np.abs(before.astype(int) - scene(browser)).max() > 50
        # What a person moves in the browser reaches the page: one step of the slider.
        browser.run("document.querySelectorAll('[role=slider]')[0].focus()")
        browser.press("ArrowRight")
        wait_until(lambda: page.frame_slider.value == 4, "the slider's step")
        page.step()
        wait_until(lambda: "frame 4" in browser.text(), "the next frame")


def scene(browser, rows=slice(200, None)):
    """The part of the page that shows the hand, away from notices in its corner: (H, W, 3)."""
    picture = cv2.imdecode(np.frombuffer(browser.picture(), np.uint8), cv2.IMREAD_COLOR)
    return picture[rows, :880]


def colorful(picture):
    """Number of strongly coloured pixels."""
    return int((np.ptp(picture.astype(int), axis=2) > 100).sum())


def answer_to(page, path="/", **headers):
    """Status of a request with headers of one's own, as another website's page would send it."""
    request = urllib.request.Request(page.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_other_machines_and_websites_are_refused(page):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    port = page.server.get_port()
    assert answer_to(page) == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(page.address.replace("127.0.0.1", "127.0.0.2"), timeout=2)
    for name in (f"localhost:{port}", f"[::1]:{port}"):
        assert answer_to(page, Host=name) == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1"):
        assert answer_to(page, Host=host) == 403
    assert answer_to(page, Origin="http://evil.example") == 403
    address = page.address.replace("http", "ws")
    for origin in ("http://evil.example", "null", f"http://127.0.0.1.evil.example:{port}"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin=origin, open_timeout=10)
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, additional_headers={"Host": "evil.example"}, open_timeout=10)
    connect(address, origin=page.address, subprotocols=["viser-v1.1.1"], open_timeout=10).close()


def test_where_a_port_is_busy_the_next_is_taken(page, sources, open_page):
    other = open_page(*sources, port=page.server.get_port())
    assert other.address != page.address
    assert answer_to(other) == 200


def test_a_source_of_one_frame(open_page):
    several = Source("several", lambda i: HAND, 3, CAMERA)
    page = open_page(Source("one", lambda i: [HAND][i], 1, CAMERA), several)
    for name, play in (("one", True), ("several", False), ("one", True)):
        page.source_choice.value = name
        page.step()
        page.play.value = play
        page.frame_slider.value = page.frame_slider.max
        page.step()
        assert ("frame 0" if name == "one" else "frame 2") in page.status.content
        assert not page.step()  # also where it plays, nothing changes


def test_a_connection_that_breaks_off_prints_nothing(page, capfd):
    for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n", b"\0"):
        with socket.create_connection(("127.0.0.1", page.server.get_port()), timeout=5) as connection:
            connection.sendall(sent)
    time.sleep(0.5)
    assert "Traceback" not in "".join(capfd.readouterr())
