"""From a depth frame of any camera to the joints of the hand: find it, crop, run the network, decide.

predictor = HandPosePredictor("results/resnet_18_synth.pth")
pose = predictor.predict(depth_mm, Camera(fx=475, fy=475, cx=320, cy=240))
if pose is not None:
    print(pose.joints_xyz)
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from config import find_network
from dataloader.crop import Crop, network_input
from model.awr import decode
from util import UserError
from util.camera import Camera, crop_to_uvd
from util.checkpoint import ModelSpec
from util.deployment.folding import last_dense
from util.inference.find_hand import DEPTH_RANGE, centers_from_depth, check_depth_range
from util.inference.frames import checked_center, enter
from util.inference.hands import (
    ACROSS,
    Candidate,
    Found,
    Handedness,
    HandPose,
    Side,
    crop_candidate,
    distinct,
    is_hand,
    most_confident,
    next_center,
    sides_of,
    to_crop_again,
    touches_edge,
    why_no_hand,
)
from util.inference.load import DEFAULT_CHECKPOINT, load_pose_network
from util.inference.separate import without_others

MAX_BATCH = 32  # crops through the network at once
Poses = list[HandPose | None]
Answer = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # joints, confidence, weights
# Of the joints' mean confidence, for networks whose row in config.py has none: see NetworkInfo.
MIN_CONFIDENCE, REACQUIRE_BELOW = 0.3, 0.4
SPARE_CENTERS = 2  # tried beside the wanted hands: an elbow or a head may come before a hand


class HandPosePredictor:
    """A trained network, ready for frames of any resolution, unit and pinhole camera.

    Threads may share a predictor, whichever engine it has. A HandTracker belongs to one thread.

    Args:
        checkpoint: weights of the pose network, or an int8 file (.xml), which is run by OpenVINO on the CPU.
        device: auto, cpu, cuda or cuda:N.
        precision: of the network: fp32, bf16 or fp16, as far as the backend has it.
        min_confidence: mean confidence of the joints below which there is no hand; None: the network's own.
        assumed: what to take for a checkpoint that does not say what it holds, as published ones.
        backend: what runs the network: torch, compile, onnxruntime or openvino; auto: an int8 file beside
            the checkpoint, else the fastest, with its precision. The attributes say what it became.
        depth_range: nearest and farthest depth of a hand that is to be found, mm.
        denoise: take noise and flying pixels out of every frame, where its pixels are fine enough.
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
        denoise: bool = True,
    ):
        check_depth_range(depth_range)
        self.depth_range, self.denoise = depth_range, denoise
        loaded = load_pose_network(Path(checkpoint), device, backend, precision, assumed)
        self.checkpoint, self.spec, self.info, self.device, self.backend, self.precision, *rest = loaded
        self.network, self.engine = rest
        self.cube = np.array(self.spec.cube or self.info.cube, np.float64)
        row = find_network(self.spec.net)
        self.min_confidence = row.min_confidence or MIN_CONFIDENCE
        if min_confidence is not None:
            self.min_confidence = min_confidence
        self.reacquire_below = row.reacquire_below or REACQUIRE_BELOW

    def predict(
        self,
        depth: np.ndarray,
        camera: Camera,
        center: np.ndarray | None = None,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> HandPose | None:
        """The hand in one frame, None where there is none: `explain` says why.

        Args:
            depth: (H, W) any integer or float dtype; NaN, infinity, 0, 65535 and below 0 are no readings.
            camera: that took it.
            center: (3,) of the hand, mm; None: find it.
            handedness: a left hand is mirrored for the network, its joints are mirrored back; auto: both
                sides are tried, at the cost of a pass of the network or two, and the more confident is taken.
            depth_scale: mm a unit of `depth`: 1000 for metres, 0.125 for an SR305's frames.
            weights: also give the adaptive weight maps.
        """
        centers = None if center is None else [center]
        return self.predict_batch([depth], camera, centers, handedness, depth_scale, weights)[0]

    def predict_batch(
        self,
        depths: Sequence[np.ndarray],
        camera: Camera,
        centers: Sequence[np.ndarray | None] | None = None,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> Poses:
        """The hand in each of several frames; arguments as for `predict`. A None among `centers` is found."""
        sides = sides_of(handedness)
        frames = [self.enter(depth, camera, depth_scale) for depth in depths]
        centers = [None] * len(frames) if centers is None else list(centers)
        rough = [center is None for center in centers]
        for i, frame in enumerate(frames):
            if not rough[i]:
                centers[i] = checked_center(centers[i])
                continue
            centers[i] = np.full(3, np.nan)
            with suppress(UserError):  # there is none
                centers[i] = self.find(frame, camera, sides)[0]
        poses = self.answer_around(frames, camera, centers, rough, sides, weights)
        return [pose if is_hand(pose, camera, self.min_confidence) else None for pose in poses]

    def predict_hands(
        self,
        depth: np.ndarray,
        camera: Camera,
        max_hands: int = 2,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
        weights: bool = False,
    ) -> list[HandPose]:
        """At most `max_hands` hands in one frame, the most confident first; others as for `predict`."""
        frame = self.enter(depth, camera, depth_scale)
        return self.search(frame, camera, max_hands, handedness, weights).hands

    def explain(
        self,
        depth: np.ndarray,
        camera: Camera,
        center: np.ndarray | None = None,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
    ) -> str:
        """Why `predict` finds no hand with these arguments; empty where it finds one."""
        frame = self.enter(depth, camera, depth_scale)
        if center is None:
            return self.search(frame, camera, 1, handedness).reason
        sides, centers = sides_of(handedness), [checked_center(center)]
        (pose,) = self.answer_around([frame], camera, centers, [False], sides)
        return why_no_hand(pose, camera, self.min_confidence)

    def enter(self, depth: np.ndarray, camera: Camera, depth_scale: float = 1.0) -> np.ndarray:
        """A frame as the methods below take it: (H, W) float32 mm, filtered if `denoise`."""
        return enter(depth, camera, depth_scale, self.denoise)

    def search(
        self,
        frame: np.ndarray,
        camera: Camera,
        max_hands: int = 1,
        handedness: Handedness = "auto",
        weights: bool = False,
        known: Sequence[HandPose] = (),
    ) -> Found:
        """At most `max_hands` hands in one frame of `enter`, without those `known`; if there is none, why."""
        if not isinstance(max_hands, int | np.integer) or max_hands < 1:
            raise UserError(f"max_hands is {max_hands}: it must be at least 1, and a whole number.")
        sides = sides_of(handedness)
        most = max_hands + SPARE_CENTERS if max_hands > 1 or known else 1
        try:
            centers = self.find(frame, camera, sides, most, known)
        except UserError as error:
            return Found([], str(error))
        count = len(centers)
        poses = self.answer_around([frame] * count, camera, centers, [True] * count, sides, weights)
        hands = [pose for pose in poses if is_hand(pose, camera, self.min_confidence)]
        hands = distinct(hands, known)[:max_hands]
        if not hands:
            return Found([], why_no_hand(most_confident(poses), camera, self.min_confidence))
        if len(hands) + len(known) > 1:  # once more, each without the others in its crop
            frames = without_others(frame, camera, [hand.joints_xyz for hand in (*hands, *known)], self.cube)
            pairs = zip(frames, hands, strict=False)
            candidates = [Candidate(own, next_center(hand), hand.handedness) for own, hand in pairs]
            second = self.follow(candidates, camera, weights)
            hands = distinct([new or old for new, old in zip(second, hands, strict=True)], known)
        return Found(hands)

    def follow(self, candidates: Sequence[Candidate], camera: Camera, weights: bool = False) -> Poses:
        """The hand of each candidate, None where there is none; cropped again if it touches the edge."""
        poses = self.answer(candidates, camera, weights)
        cut = [i for i, pose in enumerate(poses) if pose is not None and touches_edge(pose)]
        again = [candidates[i]._replace(center=next_center(poses[i])) for i in cut]
        for i, pose in zip(cut, self.answer(again, camera, weights), strict=True):
            poses[i] = pose or poses[i]
        return [pose if is_hand(pose, camera, self.min_confidence) else None for pose in poses]

    def answer_around(
        self,
        frames: Sequence[np.ndarray],
        camera: Camera,
        centers: Sequence[np.ndarray],
        rough: Sequence[bool],
        sides: tuple[Side, ...],
        weights: bool = False,
    ) -> Poses:
        """The network's answer around each centre (3,) mm, of a second crop where that is `rough`."""
        tries = [Candidate(*place, side) for place in zip(frames, centers, strict=True) for side in sides]
        first = self.answer(tries, camera, weights)
        answers = [first[i : i + len(sides)] for i in range(0, len(first), len(sides))]
        # The centre that depth alone gives may be centimetres off: the first answer is a better one.
        least = self.min_confidence
        again = [(i, pose) for i in np.flatnonzero(rough) for pose in to_crop_again(answers[i], least)]
        tries = [Candidate(frames[i], next_center(pose), pose.handedness) for i, pose in again]
        for i, _ in again:
            answers[i] = []
        for (i, _), pose in zip(again, self.answer(tries, camera, weights), strict=True):
            answers[i].append(pose)
        return [most_confident(poses) for poses in answers]

    def find(
        self,
        frame: np.ndarray,
        camera: Camera,
        sides: Sequence[Side],
        most: int = 1,
        known: Sequence[HandPose] = (),
    ) -> np.ndarray:
        """Rough centres (n, 3) mm of what is like a hand, see `centers_from_depth`; of left hands alone they
        are exactly a right hand's in the mirrored frame."""
        places, across = [next_center(hand) for hand in known], 1.0
        if sides == ("left",):
            frame, camera, across = frame[:, ::-1], camera.mirrored(frame.shape[1]), np.array(ACROSS)
        places = [place * across for place in places]
        return centers_from_depth(frame, camera, self.depth_range, most, places) * across

    def answer(self, candidates: Sequence[Candidate], camera: Camera, weights: bool = False) -> Poses:
        """The network's answer for each candidate, None where there is nothing to see; not only for hands."""
        crops = [crop_candidate(candidate, camera, self.cube, self.spec.img_size) for candidate in candidates]
        there = [i for i, crop in enumerate(crops) if crop is not None]
        poses: Poses = [None] * len(crops)
        answers = self.run([crops[i] for i in there], weights)
        for i, (uvd, confidence, maps) in zip(there, answers, strict=True):
            (frame, _, side), crop = candidates[i], crops[i]
            width, M = frame.shape[1], crop.M.astype(np.float64)
            view = camera.mirrored(width) if side == "left" else camera
            uvd = crop_to_uvd(uvd, crop.center_xyz[2], crop.cube[2], M, self.spec.img_size)
            joints_xyz, names = view.uvd_to_xyz(uvd), self.info.joint_names
            pose = HandPose(joints_xyz, uvd, crop.center_xyz, confidence, crop, maps, names)
            poses[i] = pose.mirrored(width) if side == "left" else pose
        return poses

    @torch.inference_mode()
    def run(self, crops: Sequence[Crop], weights: bool = False) -> list[Answer]:
        """Joints (J, 3) float64 normalised uvd, confidence (J,) and weights (J, F, F) of each crop."""
        if weights and self.network is None:
            raise UserError("An int8 file gives no weight maps: use the checkpoint that it was made from.")
        answers = []
        for start in range(0, len(crops), MAX_BATCH):
            image = np.stack([network_input(crop) for crop in crops[start : start + MAX_BATCH]])
            image, maps = torch.from_numpy(image).to(self.device), [None] * len(image)
            if self.engine is not None and not weights:
                uvd, confidence = self.engine(image)
            else:  # an engine gives no maps
                dense = last_dense(self.network, image)
                uvd, confidence, weight = decode(dense, image, self.spec.kernel_size)
                maps = weight.cpu().numpy() if weights else maps
            if not uvd.isfinite().all():
                raise UserError(
                    f"Joints are not finite: the weights are damaged, or {self.precision} overflows."
                )
            answers += zip(uvd.double().cpu().numpy(), confidence.cpu().numpy(), maps, strict=True)
        return answers
