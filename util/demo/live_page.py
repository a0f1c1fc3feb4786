"""The live page: the hand's points and skeleton to turn in a browser, with the adaptive weights.

Built on viser, which brings the page and the connection; this module says what is on it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from config import DatasetInfo
from util import UserError
from util.camera import to_millimetres
from util.demo.overlay import (
    BACKGROUND,
    cube_points,
    draw_curve,
    draw_frame,
    empty_sheet,
    glow,
    hand_color,
    joint_colors,
    skeleton_segments,
    weight_level,
    weight_picture,
    weight_sheet,
)
from util.demo.poses import Poser
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.inference.predictor import HandPose, HandPosePredictor
from util.inference.separate import without_others

HOST = "127.0.0.1"  # this machine alone
LOCAL_NAMES = (HOST, "localhost", "::1")
CURVE_FRAMES = 280  # of the curve of confidence, two pixels each
LOOP = 600  # frames of an endless source that can be asked for again, before it starts over
UNIT = 100.0  # mm a unit of the scene: a hand is a few units large, as viser's own controls expect
POINT_SIZE, LINE_WIDTH, JOINT_RADIUS = 0.012, 0.05, 0.065  # units
MAX_POINTS = 2000  # more would hide the skeleton, which lies behind the skin
ALL_JOINTS = "all joints"
SHEET_WIDTH, SHEET_COLUMNS = 600, 5
NARROW = 700  # px; on narrower screens the view is from so many times further, and so much higher
FURTHER, UPPER_PART = 1.7, 0.6
FRAME_TIME = 1 / 30  # seconds; a recording is not played faster than it was taken
IDLE = 0.02  # seconds between looks at the controls while nothing plays


def serve(sources: Sequence[Source], predictor: HandPosePredictor, settings: DemoSettings) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: in one sentence, if viser is missing.
    """
    page = LivePage(sources, predictor, settings)
    try:
        print(f"Open {page.address} in a browser on this machine; Ctrl-C ends.", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                started = time.perf_counter()
                pause = FRAME_TIME if page.step() else IDLE
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


def places_of(hands: Sequence[HandPose], places: int) -> dict[int, HandPose]:
    """Each of at most so many hands in a place: its identity's, or where another hand is, a free one."""
    taken: dict[int, HandPose] = {}
    for hand in hands:
        own = hand.identity % places
        free = next(place for place in range(places) if place not in taken)
        taken[free if own in taken else own] = hand
    return taken


class LivePage:
    """What the page shows, and what its controls ask for.

    Args:
        sources: to choose from.
        predictor: of the poses.
        settings: `hands`, `handedness`, and the page's `port`; where that is taken, the next free one.

    Raises:
        UserError: in one sentence, if viser is missing.
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
        port = settings.port
        with _only_local_requests():
            self.server = viser.ViserServer(HOST, port, label="AWR", verbose=False)
        if self.server.get_port() != port:
            print(f"Port {port} is in use: the page is on port {self.server.get_port()}.")
        self.address = f"http://{HOST}:{self.server.get_port()}"
        self.rate = 0.0
        self._shown: tuple | None = None
        self._choose(sources[0].name)
        self.server.on_client_connect(self._make_room)
        self._build_controls()
        self._build_scene()

    def close(self) -> None:
        """End the page."""
        self.server.stop()

    def step(self) -> bool:
        """Show the next frame, or what the controls ask for; False where nothing has changed."""
        started = time.perf_counter()
        if self.source_choice.value != self.source.name:
            self._choose(self.source_choice.value)
            self.frame_slider.max, self.frame_slider.value = self._slider_max, 0
            self.frame_slider.disabled = self._live
        i = min(self.frame_slider.value, self._last)
        if self._predicted is not None and (self.play.value or self._live):
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
        # A camera's frames come when they come; a rendered hand's can be asked for by number.
        self._live = self.source.live
        self._last = (self.source.length or LOOP) - 1
        self.poser = Poser(self.source, self.predictor, self.settings)
        self._predicted: int | None = None
        self.hands: list[HandPose] = []
        self.curve: deque[float | None] = deque(maxlen=CURVE_FRAMES)

    def _predict(self, i: int) -> None:
        if not self._live and i - 1 != self._predicted:
            self.poser.reset()  # the hand is somewhere else
            self.curve.clear()
        self._predicted, self._problem = i, ""
        try:
            depth = self.source.read(i)
            self.hands, self._reason = self.poser(depth, time.perf_counter())
            self.depth_mm = to_millimetres(depth, self.source.depth_scale)
        except (UserError, OSError) as error:  # one damaged frame must not end the page
            self.hands, self.depth_mm, self._problem = [], np.zeros((480, 640), np.float32), str(error)
            self.poser.reset()
        self.curve.append(max((hand.mean_confidence for hand in self.hands), default=None))

    def _build_controls(self) -> None:
        gui = self.server.gui
        # The share button would send the page to somebody else's server.
        gui.configure_theme(
            control_width="large",
            dark_mode=True,
            show_logo=False,
            show_share_button=False,
        )
        gui.set_panel_label("AWR hand pose")
        gui.main_panel.dock_right()
        self.status = gui.add_markdown("")
        names = list(self.sources)
        self.source_choice = gui.add_dropdown("Source", names, initial_value=names[0])
        self.frame_slider = gui.add_slider("Frame", 0, self._slider_max, 1, 0, disabled=self._live)
        self.play = gui.add_checkbox("Play", bool(self.source.sequence))
        self.confidence = gui.add_slider(
            "Confidence", 0.0, 1.0, 0.01, 0.0, hint="Joints of less confidence are hidden."
        )
        choices = [ALL_JOINTS, *self.info.joint_names]
        self.joint_choice = gui.add_dropdown(
            "Weights of",
            choices,
            initial_value=ALL_JOINTS,
            hint="One joint's also colour the points.",
        )
        empty = np.full((60, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
        self.curve_picture = gui.add_image(empty, label="Confidence over time", format="jpeg")
        self.weights_picture = gui.add_image(empty, label="Adaptive weights over the crop", format="jpeg")
        self.frame_picture = gui.add_image(empty, label="Depth frame", format="jpeg")

    def _build_scene(self) -> None:
        scene = self.server.scene
        scene.set_up_direction("+y")
        scene.set_background_image(np.full((1, 1, 3), BACKGROUND, np.uint8))
        self.nodes = [HandNodes(scene, self.info, number) for number in range(self.settings.hands)]
        self.server.initial_camera.position = self._viewpoint()
        self.server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self.server.initial_camera.up = (0.0, 1.0, 0.0)

    def _viewpoint(self) -> np.ndarray:
        """From a little to the side, so that depth is seen at once; two hands from further away."""
        return np.array([1.0, 0.5, 2.6]) * (1.0 if self.settings.hands == 1 else 1.7)

    def _make_room(self, client: Any) -> None:
        """On a narrow screen, a phone's, the controls cover the lower part: the hand goes above them."""
        if client.camera.image_width < NARROW:
            away = self._viewpoint() * FURTHER
            # Half of what is seen lies this far from the middle, above and below.
            half = float(np.tan(client.camera.fov / 2) * np.linalg.norm(away))
            below = np.array([0.0, -UPPER_PART * half, 0.0])
            client.camera.position, client.camera.look_at = away + below, below

    def _show(self) -> None:
        middle = np.mean([hand.center_xyz for hand in self.hands], axis=0) if self.hands else np.zeros(3)
        shown = 0
        by_place = places_of(self.hands, len(self.nodes))
        joints = [hand.joints_xyz for hand in self.hands]
        frames = without_others(self.depth_mm, self.source.camera, joints, self.predictor.cube)
        own = {hand.identity: frame for hand, frame in zip(self.hands, frames, strict=True)}
        for number, nodes in enumerate(self.nodes):
            hand = by_place.get(number)
            shown += nodes.show(hand, partial(self._to_scene, middle=middle), self.confidence.value)
            if hand is not None:
                self._show_cloud(hand, own[hand.identity], nodes, middle)
        first = self.hands[0] if self.hands else None
        self.weights_picture.image = self._weights(first)[..., ::-1]
        picture = draw_frame(self.depth_mm, self.hands, self.info)
        self.frame_picture.image = cv2.resize(picture, None, fx=0.75, fy=0.75)[..., ::-1]
        self.curve_picture.image = draw_curve(self.curve, SHEET_WIDTH)[..., ::-1]
        self.status.content = self._status(shown)

    def _status(self, shown: int) -> str:
        if self._problem:
            return f"**{self._problem}**"
        rate = f"**{self.rate:.1f} frames/s**" if self.rate else "first frame"
        frame = f"frame {self.source.label(self._predicted)}"
        if not self.hands:
            return f"**no hand** in {frame}: {self._reason} · {rate}{self._waits()}"
        hands = ", ".join(f"{hand.handedness} hand {hand.mean_confidence:.2f}" for hand in self.hands)
        every = len(self.hands) * len(self.info.joint_names)
        return f"{frame} · {rate} · {hands} · {shown} of {every} joints shown{self._waits()}"

    def _waits(self) -> str:
        """What a page that stands still waits for."""
        if self._live or self.play.value or not self._last:
            return ""
        return " · paused: check Play, or move Frame"

    def _show_cloud(self, hand: HandPose, depth: np.ndarray, nodes: "HandNodes", middle: np.ndarray) -> None:
        """A hand's points, from a depth frame (H, W) mm without the other hands."""
        points = cube_points(depth, hand.crop, self.source.camera, MAX_POINTS)
        nodes.cloud.visible = len(points.xyz) > 0
        if not nodes.cloud.visible:
            return
        near, far = points.xyz[:, 2].min(), points.xyz[:, 2].max()
        level = 230 - 150 * (points.xyz[:, 2:] - near) / max(far - near, 1.0)
        colors = np.repeat(level, 3, axis=1)
        if self.joint_choice.value != ALL_JOINTS:
            weight = weight_level(hand.weights[self._joint])
            u, v = (points.uv * len(weight) / len(hand.crop.image)).astype(int).T
            colors = glow(colors[None] * 0.6, weight[None, v, u])[0, :, ::-1]
        elif len(self.hands) > 1:
            colors = colors * np.array(hand_color(hand)[::-1]) / 255
        nodes.cloud.points = self._to_scene(points.xyz, middle)
        nodes.cloud.colors = np.ascontiguousarray(colors, np.uint8)

    def _weights(self, pose: HandPose | None) -> np.ndarray:
        if pose is None:  # of the same size, so that what is below stays where it is
            if self.joint_choice.value == ALL_JOINTS:
                return empty_sheet(self.info, SHEET_WIDTH, SHEET_COLUMNS)
            return np.full((SHEET_WIDTH, SHEET_WIDTH, 3), BACKGROUND, np.uint8)
        if self.joint_choice.value == ALL_JOINTS:
            return weight_sheet(pose.crop, pose.weights, self.info, SHEET_WIDTH, SHEET_COLUMNS)
        return weight_picture(pose.crop, pose.weights[self._joint], SHEET_WIDTH)

    @property
    def _slider_max(self) -> int:
        return max(self._last, 1)  # a slider needs two ends, also for a single frame

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
        nothing = np.zeros((1, 3), np.float32)
        self.segments, colors = skeleton_segments(info)
        # viser takes the colours of lines for linear light, and would show them too bright.
        self.colors = np.rint(255 * (colors / 255) ** 2.2).astype(np.uint8)
        self.cloud = scene.add_point_cloud(
            f"/hand{number}",
            nothing,
            nothing,
            point_size=POINT_SIZE,
            point_shape="circle",
            point_shading="flat",
        )
        self.bones = scene.add_line_segments(
            f"/bones{number}",
            np.zeros((1, 2, 3), np.float32),
            np.zeros((1, 2, 3), np.uint8),
            thickness=LINE_WIDTH,
        )
        self.joints = [
            scene.add_icosphere(
                f"/joints{number}/{name}", JOINT_RADIUS, color, cast_shadow=False, receive_shadow=False
            )
            for name, color in zip(info.joint_names, joint_colors(info), strict=True)
        ]

    def show(self, hand: HandPose | None, to_scene: Callable[[np.ndarray], np.ndarray], least: float) -> int:
        """Show a hand's joints of at least some confidence, and the bones between them; how many."""
        sure = np.zeros(len(self.joints), bool) if hand is None else hand.confidence >= least
        for sphere, visible in zip(self.joints, sure, strict=True):
            sphere.visible = bool(visible)
        self.cloud.visible = hand is not None
        shown = sure[self.segments].all(axis=1)
        self.bones.visible = bool(shown.any())
        if hand is None:
            return 0
        places = to_scene(hand.joints_xyz)
        for sphere, place in zip(self.joints, places, strict=True):
            sphere.position = tuple(map(float, place))
        if shown.any():
            self.bones.points = places[self.segments[shown]]
            self.bones.colors = np.repeat(self.colors[shown][:, None], 2, axis=1)
        return int(sure.sum())
