"""The live page: the hand's points and skeleton to turn in a browser, with the adaptive weights.

Built on viser, which brings the page and the connection; this module says what is on it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from dataloader import DatasetInfo
from util import UserError
from util.demo.overlay import (
    BACKGROUND,
    cube_points,
    draw_frame,
    glow,
    hand_color,
    joint_colors,
    skeleton_segments,
    weight_level,
    weight_picture,
    weight_sheet,
)
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.demo.stream import Poser
from util.inference.predictor import HandPose, HandPosePredictor
from util.inference.separate import without_others

HOST = "127.0.0.1"  # this machine alone
LOCAL_NAMES = (HOST, "localhost", "::1")
LOOP = 600  # frames of an endless source that can be asked for again, before it starts over
UNIT = 100.0  # mm a unit of the scene: a hand is a few units large, as viser's own controls expect
POINT_SIZE, LINE_WIDTH, JOINT_RADIUS = 0.012, 0.05, 0.065  # units
MAX_POINTS = 2000  # more would hide the skeleton, which lies behind the skin
ALL_JOINTS = "all joints"
SHEET_WIDTH, SHEET_COLUMNS = 600, 5
IDLE = 0.02  # seconds between looks at the controls while nothing plays


def serve(sources: Sequence[Source], predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Serve the page until Ctrl-C; a recording is not played faster than it was taken."""
    page = LivePage(sources, predictor, settings)
    try:
        print(f"Open {page.address} in a browser on this machine; Ctrl-C ends.", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                started = time.perf_counter()
                pause = 1 / page.source.rate if page.step() else IDLE
                time.sleep(max(pause - (time.perf_counter() - started), 0))
    finally:
        page.close()


@contextmanager
def _only_local_requests() -> Iterator[None]:
    """Servers that viser starts inside refuse what does not come from a page of this machine.

    A website could otherwise read the frames through the visitor's browser: by a WebSocket of its own, whose
    Origin is the website, or after giving its name this machine's address (DNS rebinding), so that the Host
    is the website. viser has no setting for that; its server is that of the package websockets.
    """
    from websockets.asyncio import server

    serve = server.serve

    def guarded(*arguments: Any, process_request: Any, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            names = request.headers.get_all("Host") + request.headers.get_all("Origin")
            if not names or not all(map(is_local, names)):
                return connection.respond(403, "This page is for this machine alone.\n")
            return process_request(connection, request)

        # A visitor who leaves in the middle of a request is no error to report.
        logger = logging.getLogger("awr.live_page")
        logger.setLevel(logging.CRITICAL)
        return serve(*arguments, process_request=check, logger=logger, **options)

    server.serve = guarded
    try:
        yield
    finally:
        server.serve = serve


def is_local(name: str) -> bool:
    """Whether a Host or Origin header names this machine: `localhost:8080`, `http://127.0.0.1:8080`."""
    try:
        return urlsplit(name if "//" in name else f"//{name}").hostname in LOCAL_NAMES
    except ValueError:
        return False


class LivePage:
    """What the page shows, and what its controls ask for.

    Args:
        sources: to choose from.
        predictor: of the poses.
        settings: `hands`, `handedness`, and the page's `port`; where that is taken, the next free one.
    """

    def __init__(self, sources: Sequence[Source], predictor: HandPosePredictor, settings: DemoSettings):
        try:
            import viser
        except ImportError as error:
            raise UserError(
                "--serve needs viser: `pip install -r requirements-demo.txt` brings it."
            ) from error
        self.sources = {source.name: source for source in sources}
        self.predictor, self.settings = predictor, settings
        self.info: DatasetInfo = predictor.info
        with _only_local_requests():
            self.server = viser.ViserServer(HOST, settings.port, label="AWR", verbose=False)
        port = self.server.get_port()
        if port != settings.port:
            print(f"Port {settings.port} is in use: the page is on port {port}.")
        self.address = f"http://{HOST}:{port}"
        self.rate = 0.0
        self._shown: tuple | None = None
        self._choose(sources[0].name)
        self._build_controls()
        scene = self.server.scene
        scene.set_up_direction("+y")
        scene.set_background_image(np.full((1, 1, 3), BACKGROUND, np.uint8))
        self.nodes = [HandNodes(scene, self.info, number) for number in range(settings.hands)]
        # From a little to the side, so that depth is seen at once; two hands from further away.
        view = self.server.initial_camera
        view.position = np.array([1.0, 0.5, 2.6]) * (1.0 if settings.hands == 1 else 1.7)
        view.look_at, view.up = (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)

    def close(self) -> None:
        """End the page."""
        self.server.stop()

    def step(self) -> bool:
        """Show the next frame, or what the controls ask for; False where nothing has changed."""
        started = time.perf_counter()
        if self.source_choice.value != self.source.name:
            self._choose(self.source_choice.value)
            self.frame_slider.max, self.frame_slider.value = self._slider_max, 0
            self.frame_slider.disabled = self.source.live
        i = min(self.frame_slider.value, self._last)
        if self._predicted is not None and (self.play.value or self.source.live):
            i = 0 if i >= self._last else i + 1
            self.frame_slider.value = i
        if i != self._predicted:
            self._predict(i)
        controls = (self.confidence.value, self.joint_choice.value, self.play.value)
        wanted = (self.source.name, self._predicted, *controls)
        if wanted == self._shown:
            return False
        with self.server.atomic():
            self._show()
        self._shown = wanted
        seconds = time.perf_counter() - started
        self.rate = 1 / seconds if not self.rate else 0.9 * self.rate + 0.1 / seconds
        return True

    def _choose(self, name: str) -> None:
        """Start a source."""
        self.source = self.sources[name]
        self._last = (self.source.length or LOOP) - 1
        self._slider_max = max(self._last, 1)  # a slider needs two ends, also for a single frame
        self.poser = Poser(self.source, self.predictor, self.settings)
        self._predicted: int | None = None
        self.hands: list[HandPose] = []

    def _predict(self, i: int) -> None:
        live = self.source.live
        if not live and i - 1 != self._predicted:
            self.poser.reset()  # the hand is somewhere else
        self._predicted, self._problem = i, ""
        try:
            self.depth = self.source.read(i)
            moment = time.perf_counter() if live else self.source.seconds(i)
            self.hands, self._reason = self.poser(self.depth, moment)
        except (UserError, OSError) as error:  # one damaged frame must not end the page
            self.hands, self.depth, self._problem = [], np.zeros((480, 640), np.float32), str(error)
            self.poser.reset()

    def _build_controls(self) -> None:
        gui = self.server.gui
        # The share button would send the page to somebody else's server.
        gui.configure_theme(control_width="large", dark_mode=True, show_logo=False, show_share_button=False)
        gui.set_panel_label("AWR hand pose")
        gui.main_panel.dock_right()
        self.status = gui.add_markdown("")
        names, joints = list(self.sources), [ALL_JOINTS, *self.info.joint_names]
        self.source_choice = gui.add_dropdown("Source", names, initial_value=names[0])
        self.frame_slider = gui.add_slider("Frame", 0, self._slider_max, 1, 0, disabled=self.source.live)
        self.play = gui.add_checkbox("Play", bool(self.source.sequence))
        hint = "Joints of less confidence are hidden."
        self.confidence = gui.add_slider("Confidence", 0.0, 1.0, 0.01, 0.0, hint=hint)
        hint = "One joint's also colour the points."
        self.joint_choice = gui.add_dropdown("Weights of", joints, initial_value=ALL_JOINTS, hint=hint)
        empty = np.full((60, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
        self.weights_picture = gui.add_image(empty, label="Adaptive weights over the crop", format="jpeg")
        self.frame_picture = gui.add_image(empty, label="Depth frame", format="jpeg")

    def _show(self) -> None:
        middle = np.mean([hand.center_xyz for hand in self.hands], axis=0) if self.hands else np.zeros(3)
        joints = [hand.joints_xyz for hand in self.hands]
        frames = without_others(self.depth, self.source.camera, joints, self.predictor.cube)
        shown = 0
        for nodes, hand, frame in zip(self.nodes, self.hands, frames, strict=False):
            shown += nodes.show_joints(hand, self._to_scene(hand.joints_xyz, middle), self.confidence.value)
            xyz, colors = self._cloud(hand, frame)
            nodes.show_points(self._to_scene(xyz, middle), colors)
        for nodes in self.nodes[len(self.hands) :]:
            nodes.hide()
        first = self.hands[0] if self.hands else None
        self.weights_picture.image = self._weights(first)[..., ::-1]
        picture = draw_frame(self.depth, self.hands, self.info)
        self.frame_picture.image = cv2.resize(picture, None, fx=0.75, fy=0.75)[..., ::-1]
        self.status.content = self._status(shown)

    def _status(self, shown: int) -> str:
        if self._problem:
            return f"**{self._problem}**"
        rate = f"**{self.rate:.1f} frames/s**" if self.rate else "first frame"
        frame = f"frame {self.source.label(self._predicted)}"
        plays = self.source.live or self.play.value or not self._last
        paused = "" if plays else " · paused: check Play, or move Frame"
        if not self.hands:
            return f"**no hand** in {frame}: {self._reason} · {rate}{paused}"
        hands = ", ".join(f"{hand.handedness} hand {hand.mean_confidence:.2f}" for hand in self.hands)
        every = len(self.hands) * len(self.info.joint_names)
        return f"{frame} · {rate} · {hands} · {shown} of {every} joints shown{paused}"

    def _cloud(self, hand: HandPose, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A hand's points (n, 3) mm and their colours, from a frame (H, W) mm without the other hands."""
        xyz, uv = cube_points(depth, hand.crop, self.source.camera, MAX_POINTS)
        if not len(xyz):
            return xyz, np.zeros((0, 3), np.uint8)
        level = 230 - 150 * (xyz[:, 2:] - xyz[:, 2].min()) / max(np.ptp(xyz[:, 2]), 1.0)
        colors = np.repeat(level, 3, axis=1)
        if self.joint_choice.value != ALL_JOINTS:
            weight = weight_level(hand.weights[self._joint])
            u, v = (uv * len(weight) / len(hand.crop.image)).astype(int).T
            colors = glow(colors[None] * 0.6, weight[None, v, u])[0, :, ::-1]
        elif len(self.hands) > 1:
            colors = colors * np.array(hand_color(hand)[::-1]) / 255
        return xyz, np.ascontiguousarray(colors, np.uint8)

    def _weights(self, hand: HandPose | None) -> np.ndarray:
        """Every joint's weights, or one's; of the same size without a hand: what is below stays there."""
        if self.joint_choice.value == ALL_JOINTS:
            return weight_sheet(hand, self.info, SHEET_WIDTH, SHEET_COLUMNS)
        if hand is None:
            return np.full((SHEET_WIDTH, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
        return weight_picture(hand.crop, hand.weights[self._joint], SHEET_WIDTH)

    @property
    def _joint(self) -> int:
        return self.info.joint_names.index(self.joint_choice.value)

    def _to_scene(self, xyz: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Camera space (n, 3) mm -> the scene: the hands' middle at 0, y up, the camera on the side of +z."""
        up = -self.source.camera.flip
        return ((xyz - middle) * (1, up, -1) / UNIT).astype(np.float32)


class HandNodes:
    """What stands for one hand in the scene: its points, bones and joints.

    Args:
        scene: viser's.
        info: of the data set whose joints these are.
        number: of the hand on the page, from 0.
    """

    def __init__(self, scene: Any, info: DatasetInfo, number: int):
        self.segments, colors = skeleton_segments(info)
        # viser takes the colours of lines for linear light, and would show them too bright.
        self.colors = np.rint(255 * (colors / 255) ** 2.2).astype(np.uint8)
        nothing, look = np.zeros((1, 3), np.float32), {"point_shape": "circle", "point_shading": "flat"}
        self.cloud = scene.add_point_cloud(f"/hand{number}", nothing, nothing, point_size=POINT_SIZE, **look)
        bones = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.uint8)
        self.bones = scene.add_line_segments(f"/bones{number}", *bones, thickness=LINE_WIDTH)
        shadows = {"cast_shadow": False, "receive_shadow": False}
        self.joints = [
            scene.add_icosphere(f"/joints{number}/{name}", JOINT_RADIUS, color, **shadows)
            for name, color in zip(info.joint_names, joint_colors(info), strict=True)
        ]

    def hide(self) -> None:
        """Show no hand."""
        for node in (self.cloud, self.bones, *self.joints):
            node.visible = False

    def show_joints(self, hand: HandPose, places: np.ndarray, least: float) -> int:
        """Show a hand's joints of at least some confidence at their places (J, 3), and the bones between
        them; how many."""
        confident = hand.confidence >= least
        for sphere, place, visible in zip(self.joints, places, confident, strict=True):
            sphere.position, sphere.visible = tuple(map(float, place)), bool(visible)
        shown = confident[self.segments].all(axis=1)
        self.bones.visible = bool(shown.any())
        if shown.any():
            self.bones.points = places[self.segments[shown]]
            self.bones.colors = np.repeat(self.colors[shown][:, None], 2, axis=1)
        return int(confident.sum())

    def show_points(self, places: np.ndarray, colors: np.ndarray) -> None:
        """Show points (n, 3) of the hand's surface in colours (n, 3) uint8."""
        self.cloud.visible = len(places) > 0
        if len(places):
            self.cloud.points, self.cloud.colors = places, colors
