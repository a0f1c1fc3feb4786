"""From a depth frame of any camera to the joints of the hand: find it, crop, run the network, map back.

predictor = HandPosePredictor("results/resnet_18_synth.pth")
pose = predictor.predict(depth_mm, Camera(fx=475, fy=475, cx=320, cy=240))
if pose is not None:
    print(pose.joints_xyz)
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from config import DATASETS, Config, find_network
from dataloader import dataset_info
from dataloader.crop import Crop, crop_hand, network_input
from model.awr import decode
from util import UserError
from util.camera import Camera, crop_to_uvd, to_millimetres
from util.checkpoint import RESULTS, ModelSpec, load_network, spec_from_config
from util.deployment.backends import (
    ENGINE_SUFFIX,
    best_precision,
    exported_int8,
    fastest_backend,
    load_backend,
    load_engine,
    require_precision,
)
from util.deployment.folding import fuse_conv_bn, last_dense
from util.device import pick_device
from util.inference.find_hand import DEPTH_RANGE, centers_from_depth, check_depth_range
from util.inference.separate import box_middle, without_others

Side = Literal["right", "left"]
Handedness = Literal["auto", "right", "left"]
SIDES = ("right", "left")

# An installed package brings the smaller weights alone.
DEFAULT_CHECKPOINT = next(
    (path for path in (RESULTS / "resnet_18_synth.pth", RESULTS / "hourglass_1_synth.pth") if path.is_file()),
    RESULTS / "resnet_18_synth.pth",
)
MAX_BATCH = 32  # crops through the network at once
HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck
# Of the joints' mean confidence, for networks whose row in config.py has none: see NetworkInfo.
MIN_CONFIDENCE, REACQUIRE_BELOW = 0.3, 0.4
NEAREST = 1.0  # mm; a centre before it is in the lens, and its pixels overflow
SAME_HAND = 40.0  # mm between the joints of two answers, in the mean, below which they are of one hand
# A found hand is looked at again around its joints if they lie so many mm from the centre. At 15, 4 of 10 of
# 200 synthetic hands are not, which costs 0.03 mm of their mean error of 7 (both networks).
CENTER_MOVED = 15.0
# Its answer at the rough centre may be less sure by so much than the other side's, and than min_confidence,
# to look again. A second look made it surer by at most 0.15 (90 frames of four sets, hourglass_1).
SIDE_MARGIN, MOST_GAIN = 0.1, 0.15
SPARE_CENTERS = 2  # looked at beside the wanted hands: an elbow or a head may come before a hand


class HandPose(NamedTuple):
    """A hand in one frame, in the frame's own camera.

    joints_xyz: (J, 3) float64 mm. joints_uvd: (J, 3) float64 full-frame pixels and mm.
    center_xyz: (3,) mm, centre of the crop. confidence: (J,) in [0, 1], higher means nearer the truth.
    crop: what the network saw, its image (S, S) in mm. weights: (J, F, F), each map sums to 1: how much
    each pixel of the crop counts for each joint; None unless asked for. joint_names: of the J joints.
    handedness: the side that it was taken for. identity: of a tracked hand, from 0, see `HandTracker`.
    """

    joints_xyz: np.ndarray
    joints_uvd: np.ndarray
    center_xyz: np.ndarray
    confidence: np.ndarray
    crop: Crop
    weights: np.ndarray | None = None
    joint_names: tuple[str, ...] = ()
    handedness: Side = "right"
    identity: int = 0

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the joints."""
        return float(self.confidence.mean())

    def to_dict(self) -> dict:
        """The pose as lists and strings, for JSON, to three digits; without the crop and the weights."""
        fields = ("joints_xyz", "joints_uvd", "center_xyz", "confidence")
        # In float32, three digits would be printed as eleven.
        lists = {name: np.asarray(getattr(self, name), np.float64).round(3).tolist() for name in fields}
        return {
            "identity": self.identity,
            "handedness": self.handedness,
            "joint_names": list(self.joint_names),
            **lists,
        }


class Look(NamedTuple):
    """A hand to be predicted: `frame` (H, W) mm, 0 for no reading; `center` (3,) mm; `side`."""

    frame: np.ndarray
    center: np.ndarray
    side: Side


class Found(NamedTuple):
    """Hands in a frame; where there is none, the reason for people."""

    hands: list[HandPose]
    reason: str = ""


class HandPosePredictor:
    """A trained network, ready for frames of any resolution, unit and pinhole camera.

    Threads may share a predictor, whichever engine it has. A HandTracker belongs to one thread.

    Args:
        checkpoint: weights of the pose network, or an int8 file (.xml), which is run by OpenVINO on the CPU.
        device: auto, cpu, cuda or cuda:N.
        precision: of the network: fp32, bf16 or fp16, as far as the backend has it.
        backend: what runs the pose network: torch, compile, onnxruntime or openvino; auto: an
            int8 file beside the checkpoint, see `exported_int8`, else as `fastest_backend` says, which
            chooses the precision too. The attributes say what it became.
        min_confidence: mean confidence of the joints below which there is no hand; None: the network's own.
        assumed: what to take for a checkpoint that does not say what it holds, as published ones.
        depth_range: nearest and farthest depth of a hand that is to be found, mm.

    Raises:
        FileNotFoundError, UserError: in one sentence, if a checkpoint or the device cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | Path = DEFAULT_CHECKPOINT,
        device: str = "auto",
        precision: str = "fp32",
        min_confidence: float | None = None,
        assumed: ModelSpec | None = None,
        backend: str = "torch",
        depth_range: tuple[float, float] = DEPTH_RANGE,
    ):
        checkpoint = Path(checkpoint)
        if backend == "auto" and checkpoint.is_file():
            checkpoint = exported_int8(checkpoint, pick_device(device)) or checkpoint
        self.checkpoint = checkpoint
        if checkpoint.suffix == ENGINE_SUFFIX:
            self.device, self.network = torch.device("cpu"), None
            self.backend, self.precision = "openvino", "int8"
            self.engine, self.spec = load_engine(checkpoint)
        else:
            self.device = pick_device(device)
            if backend == "auto":
                backend, precision = fastest_backend(self.device, precision)
            require_precision(backend, precision)
            self.backend, self.precision = backend, best_precision(backend, precision, self.device)
            network, self.spec = load_network(checkpoint, assumed or spec_from_config(Config().resolved()))
            self.network, self.engine = fuse_conv_bn(network.to(self.device), self.precision), None
            if backend != "torch":
                self.engine = load_backend(network, self.spec, backend, self.precision, self.device)
        if self.spec.dataset not in DATASETS:
            raise UserError(f"{checkpoint} does not say which data set it was trained on: pass `assumed`.")
        self.info = dataset_info(self.spec.dataset)
        if self.spec.num_joints != len(self.info.joint_names):
            raise UserError(
                f"{checkpoint} predicts {self.spec.num_joints} joints, "
                f"data set {self.spec.dataset} has {len(self.info.joint_names)}."
            )
        check_depth_range(depth_range)
        self.depth_range = depth_range
        row = find_network(self.spec.net)
        self.reacquire_below = row.reacquire_below or REACQUIRE_BELOW
        self.min_confidence = row.min_confidence or MIN_CONFIDENCE
        if min_confidence is not None:
            self.min_confidence = min_confidence
        self.cube = np.array(self.spec.cube or self.info.cube, np.float64)

    def predict(
        self,
        depth: np.ndarray,
        camera: Camera,
        center: np.ndarray | None = None,
        handedness: Handedness = "right",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> HandPose | None:
        """The hand in one frame, None where there is none.

        Args:
            depth: (H, W) any integer or float dtype; NaN, infinity, 0, 65535 and below 0 are no readings.
            camera: that took it.
            center: (3,) of the hand, mm; None: find it.
            handedness: a left hand is mirrored for the network, its joints are mirrored back; auto: both
                sides are tried, at the cost of a pass of the network or two, and the surer one is taken.
            depth_scale: mm a unit of `depth`: 1000 for metres, 0.125 for an SR305's frames.
            weights: also give the adaptive weight maps.

        Raises:
            UserError: in one sentence, for an argument that makes no sense.
        """
        centers = None if center is None else [center]
        return self.predict_batch([depth], camera, centers, handedness, depth_scale, weights)[0]

    def predict_batch(
        self,
        depths: Sequence[np.ndarray],
        camera: Camera,
        centers: Sequence[np.ndarray | None] | None = None,
        handedness: Handedness = "right",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> list[HandPose | None]:
        """The hand in each of several frames of one size; arguments as for `predict`.

        A None among `centers` is found.
        """
        camera.check()
        sides = sides_of(handedness)
        frames = [to_millimetres(depth, depth_scale) for depth in depths]
        if len({frame.shape for frame in frames}) > 1:
            raise UserError("The frames of a batch have different sizes: predict them one by one.")
        centers = [None] * len(frames) if centers is None else centers
        if len(centers) != len(frames):
            raise UserError(f"{len(frames)} frames have {len(centers)} centres: they must be as many.")
        given = np.array([_checked_center(center) for center in centers]).reshape(-1, 3)
        poses = []
        for start in range(0, len(frames), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            found = np.isnan(given[part, 0])
            around = given[part].copy()
            unknown = [frames[start + i] for i in np.flatnonzero(found)]
            around[found] = self.find_centers(unknown, camera, mirrored=sides == ("left",))
            poses += self._predict(frames[part], camera, around, found, sides, weights)
        return [pose if self._is_hand(pose, camera) else None for pose in poses]

    def predict_hands(
        self,
        depth: np.ndarray,
        camera: Camera,
        max_hands: int = 2,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> list[HandPose]:
        """The hands in one frame, the surest first; other arguments as for `predict`.

        Args:
            max_hands: how many there are at most.
        """
        return self.search(to_millimetres(depth, depth_scale), camera, max_hands, handedness, weights).hands

    def search(
        self,
        frame: np.ndarray,
        camera: Camera,
        max_hands: int = 1,
        handedness: Handedness = "right",
        weights: bool = False,
        known: Sequence[HandPose] = (),
    ) -> Found:
        """The hands in one frame (H, W) mm, 0 for no reading, and if there is none, why.

        Args:
            max_hands: how many there are at most.
            known: hands that are known already, and not wanted again.
            camera, handedness, weights: as for `predict`.
        """
        camera.check()
        sides = sides_of(handedness)
        if max_hands < 1:
            raise UserError(f"max_hands is {max_hands}: it must be at least 1.")
        most = max_hands + SPARE_CENTERS if max_hands > 1 or known else 1
        try:
            places = [next_center(hand) for hand in known]
            centers = centers_from_depth(frame, camera, self.depth_range, most, places)
        except UserError as error:
            return Found([], str(error))
        frames, found = [frame] * len(centers), np.ones(len(centers), bool)
        poses = self._predict(frames, camera, centers, found, sides, weights)
        hands = distinct([pose for pose in poses if self._is_hand(pose, camera)], known)[:max_hands]
        if not hands:
            best = max(map(sureness, poses))
            unsure = 0 <= best < self.min_confidence
            return Found([], f"low confidence: {best:.2f}" if unsure else "too small for a hand")
        if len(hands) + len(known) > 1:  # once more, each without the others in its crop
            everyone = [hand.joints_xyz for hand in (*hands, *known)]
            frames = without_others(frame, camera, everyone, self.cube)
            looks = [
                Look(own, next_center(hand), hand.handedness)
                for own, hand in zip(frames, hands, strict=False)
            ]
            second = self.look(looks, camera, weights)
            hands = distinct([new or old for new, old in zip(second, hands, strict=True)], known)
        return Found(hands)

    def _predict(
        self,
        frames: list[np.ndarray],
        camera: Camera,
        centers: np.ndarray,
        found: np.ndarray,
        sides: tuple[Side, ...],
        weights: bool = False,
    ) -> list[HandPose | None]:
        """The network's answer around each centre (N, 3) mm, NaN: None.

        `found` (N,) says which centres are rough. An answer need not be a hand's.
        """
        answers: list[dict[Side, HandPose | None]] = [{} for _ in frames]
        asked = [(i, side) for i in range(len(frames)) for side in sides]
        looks = [Look(frames[i], centers[i], side) for i, side in asked]
        first = self.look(looks, camera, weights, every=True)
        for (i, side), pose in zip(asked, first, strict=True):
            answers[i][side] = pose
        # The centre that depth alone gives may be centimetres off: the first answer is a better one.
        again = [(i, side) for i in np.flatnonzero(found) for side in self._promising(answers[i])]
        looks = [Look(frames[i], next_center(answers[i][side]), side) for i, side in again]
        second: list[dict[Side, HandPose | None]] = [{} for _ in frames]
        for (i, side), pose in zip(again, self.look(looks, camera, weights, every=True), strict=True):
            second[i][side] = pose
        return [
            max((later or earlier).values(), key=sureness)
            for earlier, later in zip(answers, second, strict=True)
        ]

    def _promising(self, answers: dict[Side, HandPose | None]) -> list[Side]:
        """Sides to look at again: that may be the right one, where the first answers moved the centre."""
        best = max(map(sureness, answers.values()))
        least = max(best - SIDE_MARGIN, self.min_confidence - MOST_GAIN)
        likely = {side: pose for side, pose in answers.items() if sureness(pose) >= least}
        moved = [np.linalg.norm(next_center(pose) - pose.center_xyz) for pose in likely.values()]
        return list(likely) if max(moved, default=0.0) > CENTER_MOVED else []

    def look(
        self, looks: Sequence[Look], camera: Camera, weights: bool = False, every: bool = False
    ) -> list[HandPose | None]:
        """The network's answer to every look, in batches; None for what is no hand.

        Args:
            looks: at frames of one camera.
            camera: that took them.
            weights: also give the adaptive weight maps.
            every: also what is not taken for a hand: None is only where there is nothing.
        """
        if len(looks) > MAX_BATCH:
            first = self.look(looks[:MAX_BATCH], camera, weights, every)
            return first + self.look(looks[MAX_BATCH:], camera, weights, every)
        views = []
        for frame, center, side in looks:
            mirrored = side == "left"
            views.append(
                (frame[:, ::-1], camera.mirrored(frame.shape[1]), center * (-1, 1, 1))
                if mirrored
                else (frame, camera, center)
            )
        poses = self._poses(views, weights)
        for i, (look, pose) in enumerate(zip(looks, poses, strict=True)):
            if pose is not None and look.side == "left":
                poses[i] = mirrored_pose(pose, look.frame.shape[1])
        return [pose if every or self._is_hand(pose, camera) else None for pose in poses]

    def _is_hand(self, pose: HandPose | None, camera: Camera) -> bool:
        """Whether an answer is taken for a hand: a network answers for every crop, also for a wall."""
        if pose is None:
            return False
        crop = pose.crop
        readings = crop.image[crop.image > 0].astype(np.float64)
        area = (readings**2).sum() / (float(crop.M[0, 0]) ** 2 * camera.fx * camera.fy)  # mm²
        return pose.mean_confidence >= self.min_confidence and area >= HAND_AREA

    def find_centers(
        self, frames: Sequence[np.ndarray], camera: Camera, mirrored: bool = False
    ) -> np.ndarray:
        """The hand's centre in frames (H, W) mm: (N, 3) mm, NaN where nothing has a hand's size.

        `mirrored` frames are searched for a left hand, so that its centre is exactly a right hand's.
        """
        centers = np.full((len(frames), 3), np.nan)
        for i, frame in enumerate(frames):
            if mirrored:
                frame = np.ascontiguousarray(frame[:, ::-1])
            seen_by = camera.mirrored(frame.shape[1]) if mirrored else camera
            with suppress(UserError):
                centers[i] = centers_from_depth(frame, seen_by, self.depth_range)[0]
        return centers * (-1, 1, 1) if mirrored else centers

    @torch.inference_mode()
    def _poses(
        self, views: list[tuple[np.ndarray, Camera, np.ndarray]], weights: bool
    ) -> list[HandPose | None]:
        """The network's answer, as for a right hand, to every (frame, camera, centre) whose cube holds
        anything.
        """
        poses: list[HandPose | None] = [None] * len(views)
        crops = {i: crop for i, view in enumerate(views) if (crop := self._crop(*view)) is not None}
        if not crops:
            return poses
        image = torch.from_numpy(np.stack([network_input(crop) for crop in crops.values()])).to(self.device)
        maps = [None] * len(image)
        if weights and self.network is None:
            raise UserError("An int8 file gives no weight maps: use the checkpoint that it was made from.")
        if self.engine is not None and not weights:
            joints, confidence = self.engine(image)
        else:  # an engine gives no maps
            dense = last_dense(self.network, image)
            joints, confidence, weight = decode(dense, image, self.spec.kernel_size)
            if weights:
                maps = weight.cpu().numpy()
        joints, confidence = joints.double().cpu().numpy(), confidence.cpu().numpy()
        if not np.isfinite(joints).all():
            raise UserError(
                f"The network's joints are not finite: its weights are damaged or {self.precision} overflows."
            )
        for i, uvd, sure, weight in zip(crops, joints, confidence, maps, strict=True):
            crop, camera = crops[i], views[i][1]
            M = crop.M.astype(np.float64)
            uvd = crop_to_uvd(uvd, crop.center_xyz[2], crop.cube[2], M, self.spec.img_size)
            joints_xyz, names = camera.uvd_to_xyz(uvd), self.info.joint_names
            poses[i] = HandPose(joints_xyz, uvd, crop.center_xyz, sure, crop, weight, names)
        return poses

    def _crop(self, frame: np.ndarray, camera: Camera, center: np.ndarray) -> Crop | None:
        if not center[2] >= NEAREST:  # NaN: there is no centre
            return None
        try:
            crop = crop_hand(frame, camera, center, self.cube, self.spec.img_size)
        except UserError:
            return None  # outside the frame, or too far away to be seen
        return crop if crop.image.any() else None


def next_center(pose: HandPose) -> np.ndarray:
    """Where to crop for a hand known from a pose: (3,) mm, the middle of the joints' bounding box.

    NYU's released centres lie there, and the networks were trained with such.
    """
    return box_middle(pose.joints_xyz)


def mirrored_pose(pose: HandPose, width: int) -> HandPose:
    """A pose in a frame mirrored left to right -> the pose in the frame itself, `width` pixels wide."""
    across = np.array([-1.0, 1.0, 1.0])
    image, M = pose.crop.image[:, ::-1], pose.crop.M.copy()
    M[0, 2] = image.shape[1] - 1 - M[0, 0] * (width - 1) - M[0, 2]
    center = pose.center_xyz * across
    return pose._replace(
        joints_xyz=pose.joints_xyz * across,
        joints_uvd=pose.joints_uvd * across + (width - 1, 0, 0),
        center_xyz=center,
        crop=pose.crop._replace(image=image, center_xyz=center, M=M),
        weights=None if pose.weights is None else pose.weights[..., ::-1],
        handedness="left" if pose.handedness == "right" else "right",
    )


def distinct(poses: Sequence[HandPose | None], known: Sequence[HandPose] = ()) -> list[HandPose]:
    """The poses of different hands, the surest first: of several of one hand, the surest is kept.

    None is left out, and so are hands that are `known`.
    """
    kept: list[HandPose] = []
    for pose in sorted(filter(None, poses), key=sureness, reverse=True):
        if all(joint_distance(pose, other) > SAME_HAND for other in (*kept, *known)):
            kept.append(pose)
    return kept


def joint_distance(one: HandPose, other: HandPose) -> float:
    """Mean distance of the joints of two poses, mm, whatever finger each is of: sides may differ."""
    apart = np.linalg.norm(one.joints_xyz[:, None] - other.joints_xyz, axis=-1)
    return float((apart.min(axis=0).mean() + apart.min(axis=1).mean()) / 2)


def sides_of(handedness: Handedness) -> tuple[Side, ...]:
    """The sides to try.

    Raises:
        UserError: for another word.
    """
    if handedness not in ("auto", *SIDES):
        raise UserError(f"handedness is {handedness!r}: use 'auto', 'right' or 'left'.")
    return SIDES if handedness == "auto" else (handedness,)


def sureness(pose: HandPose | None) -> float:
    """Mean confidence of the joints; None is less sure than any hand."""
    return -np.inf if pose is None else pose.mean_confidence


def _checked_center(center: np.ndarray | None) -> np.ndarray:
    """(3,) mm, NaN where the hand is to be found."""
    if center is None:
        return np.full(3, np.nan)
    center = np.asarray(center, np.float64)
    if center.shape != (3,) or not np.isfinite(center).all() or center[2] <= 0:
        raise UserError(f"center is {center}: expected x, y, z in mm with z above 0.")
    return center
