"""The live page, by viser: the hand's points and skeleton to turn in a browser, with the adaptive weights."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dataloader import DatasetInfo
from util import UserError, require
from util.demo import overlay
from util.demo.settings import DemoSettings
from util.demo.sources import Source
from util.demo.stream import Poser
from util.inference.hands import HandPose
from util.inference.predictor import HandPosePredictor
from util.inference.separate import without_others

HOST = "127.0.0.1"  # this machine alone
LOCAL_NAMES = (HOST, "localhost", "::1")
LOOP = 600  # frames of an endless source that can be asked for again, before it starts over
UNIT = 100.0  # mm a unit of the scene: a hand is a few units large, as viser's own controls expect
POINT_SIZE, LINE_WIDTH, JOINT_RADIUS = 0.01, 0.05, 0.065  # units
DEPTH = "depth"  # what colours the points, if not one joint's weights
SHEET_WIDTH, SHEET_COLUMNS = 600, 5
SURROUNDINGS = 20000  # points of a whole frame
CONFIDENCE = """The number beside a hand is its **confidence**, 0 to 1: how near a joint the pixels are that
vote for it, and how near each other, the mean over the joints. A larger disc on a joint: more confidence."""
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
        page.server.stop()


def for_this_machine(serve: Callable[..., Any]) -> Callable[..., Any]:
    """The function `serve` of websockets, made to refuse what does not come from a page of this machine.

    A website could otherwise read the frames through the visitor's browser: by a WebSocket of its own, whose
    Origin is the website, or after giving its name this machine's address (DNS rebinding), so that the Host
    is the website. viser, which calls `serve`, has no setting for that.
    """

    def guarded(*arguments: Any, process_request: Any, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            names = request.headers.get_all("Host") + request.headers.get_all("Origin")
            if not names or not all(map(is_local, names)):
                return connection.respond(403, "This page is for this machine alone.\n")
            return process_request(connection, request)

        quiet = logging.Logger("page", logging.CRITICAL)  # a visitor who leaves in mid-request is no error
        return serve(*arguments, process_request=check, logger=quiet, **options)

    return guarded


def is_local(name: str) -> bool:
    """Whether a Host or Origin header names this machine: `localhost:8080`, `http://127.0.0.1:8080`."""
    try:
        return urlsplit(name if "//" in name else f"//{name}").hostname in LOCAL_NAMES
    except ValueError:
        return False


class LivePage:
    """What the page shows, and what its controls ask for; on the settings' port, or the next free one."""

    def __init__(self, sources: Sequence[Source], predictor: HandPosePredictor, settings: DemoSettings):
        viser, server = require("viser", "demo"), require("websockets.asyncio.server", "demo")
        self.sources = {source.name: source for source in sources}
        self.predictor, self.settings = predictor, settings
        serve, server.serve = server.serve, for_this_machine(server.serve)
        try:
            self.server = viser.ViserServer(HOST, settings.port, label="AWR", verbose=False)
        finally:
            server.serve = serve
        self.address = f"http://{HOST}:{self.server.get_port()}"
        self._shown: tuple | None = None
        self._build_controls()
        self._choose(sources[0].name)
        scene = self.server.scene
        scene.set_up_direction("+y")
        scene.set_background_image(np.full((1, 1, 3), overlay.BACKGROUND, np.uint8))
        self.nodes = [HandNodes(scene, predictor.info, number) for number in range(settings.hands)]
        self.surroundings = _add_cloud(scene, "/surroundings")  # all that the camera sees, without a hand
        # From a little to the side, so that depth is seen at once; two hands from further away.
        view = self.server.initial_camera
        view.position = np.array([1.0, 0.5, 2.6]) * (1.0 if settings.hands == 1 else 1.7)
        view.look_at, view.up = (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)
        self.server.on_client_connect(_clear_of_controls)

    def step(self) -> bool:
        """Show the next frame, or what the controls ask for; False where nothing has changed."""
        if self.source_choice.value != self.source.name:
            self._choose(self.source_choice.value)
        last = (self.source.length or LOOP) - 1
        i = min(self.frame_slider.value, last)
        if self._predicted is not None and (self.play.value or self.source.live):
            i = 0 if i >= last else i + 1
            self.frame_slider.value = i
        if i != self._predicted:
            self._predict(i)
        wanted = (self.source.name, i, self.joint_choice.value, self.play.value)
        if wanted == self._shown:
            return False
        with self.server.atomic():
            self._show()
        self._shown = wanted
        return True

    def _build_controls(self) -> None:
        gui = self.server.gui
        # The share button would send the page to somebody else's server.
        gui.configure_theme(control_width="large", dark_mode=True, show_logo=False, show_share_button=False)
        gui.set_panel_label("AWR hand pose")
        gui.main_panel.dock_right()
        empty = np.full((60, SHEET_WIDTH, 3), overlay.BACKGROUND, np.uint8)
        self.status = gui.add_markdown("")
        self.frame_picture = gui.add_image(empty, format="jpeg")
        self.source_choice = gui.add_dropdown("Source", list(self.sources))
        self.frame_slider = gui.add_slider("Frame", 0, 1, 1, 0)
        self.play = gui.add_checkbox("Play", False)
        joints = [DEPTH, *self.predictor.info.joint_names]
        self.joint_choice = gui.add_dropdown("Colour by", joints, hint="Depth, or the weights of a joint.")
        self.weights_picture = gui.add_image(empty, label="Adaptive weights over the crop", format="jpeg")
        gui.add_markdown(CONFIDENCE)

    def _choose(self, name: str) -> None:
        source = self.source = self.sources[name]
        self.poser, self._predicted = Poser(source, self.predictor, self.settings), None
        self.play.value = source.labels is None
        self.frame_slider.max = max((source.length or LOOP) - 1, 1)  # a slider needs two ends
        self.frame_slider.value, self.frame_slider.disabled = 0, source.live

    def _predict(self, i: int) -> None:
        started = time.perf_counter()
        if not self.source.live and i - 1 != self._predicted:
            self.poser.reset()  # the hand is somewhere else
        self._predicted = i
        try:
            self.depth = self.source.read(i)
            self.hands, self._reason = self.poser(self.depth, self.source.seconds(i))
        except (UserError, OSError) as error:  # one damaged frame must not end the page
            self.hands, self._reason, self.depth = [], str(error), np.zeros((480, 640), np.float32)
        self.rate = 1 / (time.perf_counter() - started)

    def _show(self) -> None:
        info, camera, hands = self.predictor.info, self.source.camera, self.hands
        frames = without_others(self.depth, camera, [hand.joints_xyz for hand in hands], self.predictor.cube)
        middle = np.mean([hand.center_xyz for hand in hands], axis=0) if hands else np.zeros(3)
        for nodes, hand, frame in zip(self.nodes, hands, frames, strict=False):
            xyz, colors = self._cloud(hand, frame)
            nodes.show(self._to_scene(hand.joints_xyz - middle), self._to_scene(xyz - middle), colors)
        for nodes in self.nodes[len(hands) :]:
            nodes.root.visible = False
        self._show_surroundings()
        sheet = overlay.weight_sheet(hands[0] if hands else None, info, SHEET_WIDTH, SHEET_COLUMNS)
        self.weights_picture.image = sheet[..., ::-1]
        frame = overlay.draw_frame(self.depth, hands, info)
        self.frame_picture.image = np.vstack([frame, overlay.draw_legend(info, frame.shape[1])])[..., ::-1]
        parts = [f"frame {self.source.label(self._predicted)}", f"**{self.rate:.1f} frames/s**"]
        parts += [f"{hand.handedness} hand {hand.mean_confidence:.2f}" for hand in hands]
        parts += [] if hands else [f"**no hand**: {self._reason}"]
        paused = not (self.play.value or self.source.live)
        self.status.content = " · ".join(parts + paused * ["paused: check Play, or move Frame"])

    def _to_scene(self, xyz: np.ndarray) -> np.ndarray:
        """Camera space (n, 3) mm from the scene's middle: y becomes up, the camera is on the side of +z."""
        return (xyz * (1, -self.source.camera.flip, -1) / UNIT).astype(np.float32)

    def _show_surroundings(self) -> None:
        """All that the camera sees where there is no hand, a quarter as large."""
        self.surroundings.visible = bool(not self.hands and self.depth.any())
        if self.surroundings.visible:
            xyz, uv = overlay.thin_points(self.depth, self.source.camera, SURROUNDINGS)
            shade = overlay.shade(self.depth, overlay.DARKEST, overlay.BRIGHTEST)
            self.surroundings.points = self._to_scene((xyz - np.median(xyz, axis=0)) / 4)
            self.surroundings.colors = shade[uv[:, 1], uv[:, 0]]

    def _cloud(self, hand: HandPose, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A hand's points (n, 3) mm and their colours, from a frame (H, W) mm without the other hands."""
        xyz, uv = overlay.cube_points(depth, hand.crop, self.source.camera)
        far = np.clip((xyz[:, 2:] - hand.center_xyz[2]) / hand.crop.cube[2] + 0.5, 0, 1)
        colors = (1.0 - 0.7 * far) * overlay.hand_color(hand)  # blue first
        if self.joint_choice.value != DEPTH:
            joint = self.predictor.info.joint_names.index(self.joint_choice.value)
            weight = overlay.weight_level(hand.weights[joint])
            u, v = (uv * len(weight) / len(hand.crop.image)).astype(int).T
            colors = overlay.glow(colors[None] * 0.6, weight[None, v, u])[0]
        return xyz, np.ascontiguousarray(colors[:, ::-1], np.uint8)


def _clear_of_controls(client: Any) -> None:
    """On a narrow screen, a phone's, the controls cover the lower half: show the hand in the upper one."""
    if client.camera.aspect < 1:
        low, far = np.array([0.0, -1.9, 0.0]), np.array([0.2, 0.1, 0.5])
        client.camera.position, client.camera.look_at = client.camera.position + far + low, low


def _add_cloud(scene: Any, name: str) -> Any:
    nothing, style = np.zeros((1, 3), np.float32), {"point_shape": "circle", "point_shading": "flat"}
    return scene.add_point_cloud(name, nothing, nothing, point_size=POINT_SIZE, **style)


class HandNodes:
    """What stands for one hand, the `number`-th, in viser's scene: its points, bones and joints."""

    def __init__(self, scene: Any, info: DatasetInfo, number: int):
        name = f"/hand{number}"
        self.root = scene.add_frame(name, show_axes=False)  # what it hides, hides all below
        self.segments, bone_colors, joint_colors = overlay.skeleton(info)
        self.cloud = _add_cloud(scene, f"{name}/points")
        # viser takes the colours of lines for linear light, and would show them too bright.
        colors = np.rint(255 * (bone_colors[:, None] / 255) ** 2.2).astype(np.uint8).repeat(2, axis=1)
        bones = np.zeros((*self.segments.shape, 3), np.float32)
        self.bones = scene.add_line_segments(f"{name}/bones", bones, colors, thickness=LINE_WIDTH)
        shadows = {"cast_shadow": False, "receive_shadow": False}
        self.joints = [
            scene.add_icosphere(f"{name}/joint{j}", JOINT_RADIUS, tuple(color), **shadows)
            for j, color in enumerate(joint_colors.tolist())
        ]

    def show(self, joints: np.ndarray, points: np.ndarray, colors: np.ndarray) -> None:
        """Show joints (J, 3) and points (n, 3) of the surface in colours (n, 3) uint8, where they are."""
        self.root.visible, self.cloud.visible = True, len(points) > 0
        self.bones.points = joints[self.segments]
        for sphere, place in zip(self.joints, joints.tolist(), strict=True):
            sphere.position = tuple(place)
        if len(points):
            self.cloud.points, self.cloud.colors = points, colors
