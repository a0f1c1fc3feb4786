"""From a depth frame of any camera to the joints of the hand: find it, crop, run the network, decide.

predictor = HandPosePredictor("results/resnet_18_synth.pth")
pose = predictor.predict(depth_mm, Camera(fx=475, fy=475, cx=320, cy=240))
if pose is not None:
    print(pose.joints_xyz)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from config import find_network
from dataloader.crop import Crop, crop_hand, network_input
from model.awr import decode
from util import UserError
from util.camera import ACROSS, Camera, crop_to_uvd
from util.checkpoint import ModelSpec
from util.deployment.folding import last_dense
from util.files import Files, listed
from util.inference.find_hand import DEPTH_RANGE, centers_from_depth, check_depth_range
from util.inference.frames import enter
from util.inference.hands import Candidate, Found, Handedness, HandPose, distinct, most_confident, sides_of
from util.inference.load import DEFAULT_CHECKPOINT, load_together
from util.inference.separate import without_others
from util.metrics import average_joints

Poses, Hands = list[HandPose | None], Sequence[HandPose]
Answer = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # each network's joints, confidence, weights
# Of the joints' mean confidence, for networks whose row in config.py has none: see NetworkInfo.
MIN_CONFIDENCE, REACQUIRE_BELOW = 0.3, 0.4
SPARE_CENTERS = 2  # tried beside the wanted hands: an elbow or a head may come before a hand
NEAREST = 1.0  # mm; a centre before it is in the lens, and its pixels overflow
HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck
CENTER_MOVED = 15.0  # mm from the centre to the joints' middle; a found hand is cropped again beyond
CUT_OFF = 30.0  # the same of a followed hand: beyond, the crop may cut off a finger
# The answer at the rough centre may have so much less confidence than the other side's, and than
# min_confidence, to be cropped again: that adds at most 0.15.
SIDE_MARGIN, MOST_GAIN = 0.1, 0.15


class HandPosePredictor:
    """A trained network, ready for frames of any resolution, unit and pinhole camera.

    Threads may share a predictor, whichever engine it has. A HandTracker belongs to one thread.

    Args:
        checkpoint: weights of the pose network, or an int8 file (.xml), which is run by OpenVINO on the CPU;
            or several, whose joints are averaged in mm: `HandPose.spread_mm` says how far they differ.
        device, precision: auto, cpu, cuda or cuda:N; fp32, bf16 or fp16, as far as the backend has it.
        min_confidence: mean confidence of the joints below which there is no hand; None: the network's own.
        assumed: what to take for a checkpoint that does not say what it holds, as published ones.
        backend: what runs the network: torch, compile, onnxruntime or openvino; auto: an int8 file beside
            the checkpoint, else the fastest, with its precision. The attributes say what it became.
        depth_range: nearest and farthest depth of a hand that is to be found, mm.
        denoise: take noise and flying pixels out of every frame, where its pixels are fine enough.
    """

    def __init__(
        self,
        checkpoint: Files = DEFAULT_CHECKPOINT,
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
        files = list(map(Path, listed(checkpoint)))
        self.networks = load_together(files, device, backend, precision, assumed)
        first = self.networks[0]
        self.checkpoint, self.spec, self.info, self.device, self.backend, self.precision, *_ = first
        self.cube = np.array(self.spec.cube or self.info.cube, np.float64)
        rows = [find_network(loaded.spec.net) for loaded in self.networks]
        least = float(np.mean([row.min_confidence or MIN_CONFIDENCE for row in rows]))
        self.min_confidence = least if min_confidence is None else min_confidence
        self.reacquire_below = float(np.mean([row.reacquire_below or REACQUIRE_BELOW for row in rows]))

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
        frame = self.enter(depth, camera, depth_scale)
        found = self.search(frame, camera, 1, handedness, weights, center=center)
        return next(iter(found.hands), None)

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
        return self.search(frame, camera, 1, handedness, center=center).reason

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
        known: Hands = (),
        center: np.ndarray | None = None,
    ) -> Found:
        """At most `max_hands` hands in one frame of `enter`, without those `known`; if there is none, why.
        With a `center` (3,) mm the hand there."""
        sides = sides_of(handedness, max_hands)

        def at(place: np.ndarray) -> list[Candidate]:
            return [Candidate(frame, place, side) for side in sides]

        if center is not None:
            center = np.asarray(center, np.float64)
            if center.shape != (3,) or not np.isfinite(center).all() or center[2] <= 0:
                raise UserError(f"center is {center}: expected x, y, z in mm with z above 0.")
            pose = most_confident(self.answer(at(center), camera, weights))
            reason = self.decide(pose, camera)
            return Found([] if reason else [pose], reason)
        most = max_hands + SPARE_CENTERS if max_hands > 1 or known else 1
        try:
            centers = self.find(frame, camera, handedness, most, known)
        except UserError as error:
            return Found([], str(error))
        poses = [self.refine(at(center), camera, weights) for center in centers]
        hands = distinct([pose for pose in poses if not self.decide(pose, camera)], known)
        if not hands:
            return Found([], self.decide(most_confident(poses), camera))
        if len(hands) + len(known) > 1:  # once more, each without the others in its crop
            frames = without_others(frame, camera, [hand.joints_xyz for hand in (*hands, *known)], self.cube)
            pairs = zip(frames, hands[:max_hands], strict=False)
            candidates = [Candidate(own, hand.middle, hand.handedness) for own, hand in pairs]
            second = self.follow(candidates, camera, weights)
            hands = distinct([new or old for new, old in zip(second, hands, strict=False)], known)
        return Found(hands[:max_hands])

    def follow(self, candidates: Sequence[Candidate], camera: Camera, weights: bool = False) -> Poses:
        """The hand of each candidate, None where there is none; cropped again if it is not in the middle."""
        poses = self.answer(candidates, camera, weights)
        moved = [i for i, pose in enumerate(poses) if pose is not None and pose.off_center > CUT_OFF]
        again = [candidates[i]._replace(center=poses[i].middle) for i in moved]
        for i, pose in zip(moved, self.answer(again, camera, weights), strict=True):
            poses[i] = pose or poses[i]
        return [None if self.decide(pose, camera) else pose for pose in poses]

    def refine(self, sides: Sequence[Candidate], camera: Camera, weights: bool = False) -> HandPose | None:
        """The network's answer for a rough centre's candidates, one a side: of a second crop around the first
        joints where they are not in the middle, as the centre that depth alone gives may be centimetres off.
        """
        first = self.answer(sides, camera, weights)
        best = max((pose.mean_confidence for pose in first if pose), default=0.0)
        least = max(best - SIDE_MARGIN, self.min_confidence - MOST_GAIN)
        likely = [pose for pose in first if pose and pose.mean_confidence >= least]
        if not any(pose.off_center > CENTER_MOVED for pose in likely):
            return most_confident(first)
        again = [Candidate(sides[0].frame, pose.middle, pose.handedness) for pose in likely]
        return most_confident(self.answer(again, camera, weights))

    def answer(self, candidates: Sequence[Candidate], camera: Camera, weights: bool = False) -> Poses:
        """The network's answer for each candidate, None where there is nothing to see; not only for hands."""
        crops = [self.crop(candidate, camera) for candidate in candidates]
        there = [i for i, crop in enumerate(crops) if crop is not None]
        poses: Poses = [None] * len(crops)
        answers = self.run([crops[i] for i in there], weights)
        for i, (normalised_uvd, confidence, maps) in zip(there, answers, strict=True):
            (frame, _, side), crop = candidates[i], crops[i]
            width, M = frame.shape[1], crop.M.astype(np.float64)
            view = camera.mirrored(width) if side == "left" else camera
            answers_uvd = crop_to_uvd(normalised_uvd, crop.center_xyz[2], crop.cube[2], M, self.spec.img_size)
            xyz, uvd, spread_mm = average_joints(answers_uvd, view)
            names, spread_mm = self.info.joint_names, spread_mm if len(self.networks) > 1 else None
            pose = HandPose(xyz, uvd, crop.center_xyz, confidence, crop, maps, names, spread_mm=spread_mm)
            poses[i] = pose.mirrored(width) if side == "left" else pose
        return poses

    def find(
        self, frame: np.ndarray, camera: Camera, handedness: Handedness, most: int = 1, known: Hands = ()
    ) -> np.ndarray:
        """Rough centres (n, 3) mm of what is like a hand, see `centers_from_depth`; of left hands alone they
        are exactly a right hand's in the mirrored frame."""
        across = np.ones(3)
        if handedness == "left":
            frame, camera, across = frame[:, ::-1], camera.mirrored(frame.shape[1]), np.array(ACROSS)
        places = [hand.middle * across for hand in known]
        return centers_from_depth(frame, camera, self.depth_range, most, places) * across

    def crop(self, candidate: Candidate, camera: Camera) -> Crop | None:
        """What the network is to see, a left hand as a right one; None where nothing was measured."""
        frame, center, side = candidate
        if center[2] < NEAREST:
            return None
        if side == "left":
            frame, camera, center = frame[:, ::-1], camera.mirrored(frame.shape[1]), center * ACROSS
        try:
            crop = crop_hand(frame, camera, center, self.cube, self.spec.img_size)
        except UserError:
            return None  # outside the frame, or too far away to be seen
        return crop if crop.image.any() else None

    @torch.inference_mode()
    def run(self, crops: Sequence[Crop], weights: bool = False) -> list[Answer]:
        """Each network's joints (networks, J, 3) float64 normalised uvd, their mean confidence (J,) and the
        first network's weights (J, F, F) of each crop."""
        if weights and self.networks[0].network is None:
            raise UserError("An int8 file gives no weight maps: use the checkpoint that it was made from.")
        if not crops:
            return []
        image = torch.from_numpy(np.stack([network_input(crop) for crop in crops])).to(self.device)
        answers, maps = [], [None] * len(crops)
        for place, loaded in enumerate(self.networks):
            if loaded.engine is not None and not (weights and place == 0):
                answers.append(loaded.engine(image))
                continue
            dense = last_dense(loaded.network, image)  # an engine gives no maps
            *answer, weight = decode(dense, image, loaded.spec.kernel_size)
            answers.append(answer)
            maps = weight.cpu().numpy() if weights and place == 0 else maps
        uvd, confidence = (torch.stack(parts, dim=1).cpu() for parts in zip(*answers, strict=True))
        if not uvd.isfinite().all():
            raise UserError(f"Joints are not finite: the weights are damaged, or {self.precision} overflows.")
        return list(zip(uvd.double().numpy(), confidence.mean(dim=1).numpy(), maps, strict=True))

    def decide(self, pose: HandPose | None, camera: Camera) -> str:
        """Why an answer is not taken for a hand, for people; empty where it is: a wall's crop has one too."""
        if pose is None:
            return "nothing was measured around the centre"
        if pose.mean_confidence < self.min_confidence:
            return f"low confidence: {pose.mean_confidence:.2f}"
        return "too small for a hand" if pose.shown_area(camera) < HAND_AREA else ""
