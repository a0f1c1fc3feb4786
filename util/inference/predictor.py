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

from dataloader.crop import Crop, network_input
from model.awr import decode
from util import UserError
from util.camera import Camera, crop_to_uvd
from util.checkpoint import ModelSpec
from util.deployment.folding import last_dense
from util.inference.find_hand import DEPTH_RANGE, centers_from_depth, check_depth_range
from util.inference.frames import check_max_hands, checked_center, enter
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
from util.inference.load import DEFAULT_CHECKPOINT, load_pose_network, thresholds
from util.inference.separate import without_others

MAX_BATCH = 32  # crops through the network at once
Poses = list[HandPose | None]
Answer = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # joints, confidence, weights
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
        backend: what runs the pose network: torch, compile, onnxruntime or openvino; auto: an
            int8 file beside the checkpoint, see `exported_int8`, else as `fastest_backend` says, which
            chooses the precision too. The attributes say what it became.
        depth_range: nearest and farthest depth of a hand that is to be found, mm.
        denoise: take noise and flying pixels out of every frame, where its pixels are fine enough.

    Raises:
        FileNotFoundError: if a checkpoint is missing.
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
        self.min_confidence, self.reacquire_below = thresholds(self.spec.net)
        if min_confidence is not None:
            self.min_confidence = min_confidence

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
        """The hand in each of several frames of one size; arguments as for `predict`.

        A None among `centers` is found.
        """
        sides = sides_of(handedness)
        frames = [self.enter(depth, camera, depth_scale) for depth in depths]
        if len({frame.shape for frame in frames}) > 1:
            raise UserError("The frames of a batch have different sizes: predict them one by one.")
        centers = [None] * len(frames) if centers is None else [checked_center(center) for center in centers]
        if len(centers) != len(frames):
            raise UserError(f"{len(frames)} frames have {len(centers)} centres: they must be as many.")
        rough = [center is None for center in centers]
        for i, frame in enumerate(frames):
            if rough[i]:
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
        return "" if is_hand(pose, camera, self.min_confidence) else why_no_hand([pose], self.min_confidence)

    def enter(self, depth: np.ndarray, camera: Camera, depth_scale: float = 1.0) -> np.ndarray:
        """A frame as the methods below take it: (H, W) float32 mm, see `util.inference.frames.enter`."""
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
        """At most `max_hands` hands in one frame of `enter`, and if there is none, why.

        Those `known` already are not wanted again. Other arguments as for `predict`.
        """
        check_max_hands(max_hands)
        sides = sides_of(handedness)
        most = max_hands + SPARE_CENTERS if max_hands > 1 or known else 1
        try:
            centers = self.find(frame, camera, sides, most, known)
        except UserError as error:
            return Found([], str(error))
        poses = self.answer_around(
            [frame] * len(centers), camera, centers, [True] * len(centers), sides, weights
        )
        hands = [pose for pose in poses if is_hand(pose, camera, self.min_confidence)]
        hands = distinct(hands, known)[:max_hands]
        if not hands:
            return Found([], why_no_hand(poses, self.min_confidence))
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
        """The network's answer around each centre (3,) mm; where that is rough, of a second crop."""
        tries = [Candidate(*place, side) for place in zip(frames, centers, strict=True) for side in sides]
        first = self.answer(tries, camera, weights)
        answers = [first[i : i + len(sides)] for i in range(0, len(first), len(sides))]
        # The centre that depth alone gives may be centimetres off: the first answer is a better one.
        least = self.min_confidence
        again = [(i, pose) for i in np.flatnonzero(rough) for pose in to_crop_again(answers[i], least)]
        tries = [Candidate(frames[i], next_center(pose), pose.handedness) for i, pose in again]
        later: dict[int, Poses] = {}
        for (i, _), pose in zip(again, self.answer(tries, camera, weights), strict=True):
            later.setdefault(i, []).append(pose)
        return [most_confident(later.get(i, poses)) for i, poses in enumerate(answers)]

    def find(
        self,
        frame: np.ndarray,
        camera: Camera,
        sides: Sequence[Side],
        most: int = 1,
        known: Sequence[HandPose] = (),
    ) -> np.ndarray:
        """Rough centres (n, 3) mm of what is like a hand, see `centers_from_depth`.

        Of left hands alone they are exactly a right hand's in the mirrored frame.
        """
        places = [next_center(hand) for hand in known]
        if sides != ("left",):
            return centers_from_depth(frame, camera, self.depth_range, most, places)
        frame, camera = np.ascontiguousarray(frame[:, ::-1]), camera.mirrored(frame.shape[1])
        places = [place * ACROSS for place in places]
        return centers_from_depth(frame, camera, self.depth_range, most, places) * ACROSS

    def answer(self, candidates: Sequence[Candidate], camera: Camera, weights: bool = False) -> Poses:
        """The network's answer for each candidate, None where there is nothing to see; not only for hands."""
        crops = [crop_candidate(candidate, camera, self.cube, self.spec.img_size) for candidate in candidates]
        answers = iter(self.run([crop for crop in crops if crop is not None], weights))
        poses: Poses = []
        for (frame, _, side), crop in zip(candidates, crops, strict=True):
            if crop is None:
                poses.append(None)
                continue
            uvd, confidence, maps = next(answers)
            width, left = frame.shape[1], side == "left"
            view, M = camera.mirrored(width) if left else camera, crop.M.astype(np.float64)
            uvd = crop_to_uvd(uvd, crop.center_xyz[2], crop.cube[2], M, self.spec.img_size)
            joints_xyz, names = view.uvd_to_xyz(uvd), self.info.joint_names
            pose = HandPose(joints_xyz, uvd, crop.center_xyz, confidence, crop, maps, names)
            poses.append(pose.mirrored(width) if left else pose)
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
