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
from dataloader.crop import Crop, crop_hand, network_input
from model.awr import adaptive_weights, dense_to_joints
from model.confidence import joint_confidence
from util import UserError
from util.camera import Camera, crop_to_uvd, to_millimetres
from util.checkpoint import RESULTS, ModelSpec, load_network, spec_from_config
from util.deployment.backends import (
    ENGINE_SUFFIX,
    best_precision,
    load_backend,
    load_engine,
    require_precision,
)
from util.deployment.folding import fuse_conv_bn, last_dense
from util.device import pick_device
from util.inference.find_hand import DEPTH_RANGE, center_from_depth, check_depth_range

Handedness = Literal["right", "left"]

# An installed package brings the smaller weights alone.
DEFAULT_CHECKPOINT = next(
    (path for path in (RESULTS / "resnet_18_synth.pth", RESULTS / "hourglass_1_synth.pth") if path.is_file()),
    RESULTS / "resnet_18_synth.pth",
)
MAX_BATCH = 32  # frames through the network at once
HAND_AREA = 2000.0  # mm² facing the camera; what is smaller is a finger or a speck
# Of the joints' mean confidence, for networks whose row in config.py has none: see NetworkInfo.
MIN_CONFIDENCE, REACQUIRE_BELOW = 0.3, 0.4
NEAREST = 1.0  # mm; a centre before it is in the lens, and its pixels overflow


class HandPose(NamedTuple):
    """A hand in one frame, in the frame's own camera.

    joints_xyz: (J, 3) float64 mm. joints_uvd: (J, 3) float64 full-frame pixels and mm.
    center_xyz: (3,) mm, centre of the crop. confidence: (J,) in [0, 1], higher means nearer the truth.
    crop: what the network saw, its image (S, S) in mm. weights: (J, F, F), each map sums to 1: how much
    each pixel of the crop counts for each joint; None unless asked for.
    """

    joints_xyz: np.ndarray
    joints_uvd: np.ndarray
    center_xyz: np.ndarray
    confidence: np.ndarray
    crop: Crop
    weights: np.ndarray | None = None


class HandPosePredictor:
    """A trained network, ready for frames of any resolution, unit and pinhole camera.

    Threads may share a predictor, whichever engine it has. A HandTracker belongs to one thread.

    Args:
        checkpoint: weights of the pose network, or an int8 file (.xml), which is run by OpenVINO on the CPU.
        device: auto, cpu, cuda or cuda:N.
        precision: of the network: fp32, bf16 or fp16, as far as the backend has it.
        backend: what runs the pose network: torch, compile, onnxruntime or openvino.
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
        checkpoint = self.checkpoint = Path(checkpoint)
        if checkpoint.suffix == ENGINE_SUFFIX:
            self.device, self.precision, self.network = torch.device("cpu"), "int8", None
            self.engine, self.spec = load_engine(checkpoint)
        else:
            self.device = pick_device(device)
            require_precision(backend, precision)
            self.precision = best_precision(backend, precision, self.device)
            network, self.spec = load_network(checkpoint, assumed or spec_from_config(Config().resolved()))
            self.network, self.engine = fuse_conv_bn(network.to(self.device), self.precision), None
            if backend != "torch":
                self.engine = load_backend(network, self.spec, backend, self.precision, self.device)
        if self.spec.target != "joints":
            raise UserError(
                f"{checkpoint} predicts the hand's centre: use it with `python -m util.inference.centers`."
            )
        if self.spec.dataset not in DATASETS:
            raise UserError(f"{checkpoint} does not say which data set it was trained on: pass `assumed`.")
        self.info = DATASETS[self.spec.dataset]
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
            handedness: a left hand is mirrored for the network, its joints are mirrored back.
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
        if handedness not in ("right", "left"):
            raise UserError(f"handedness is {handedness!r}: use 'right' or 'left'.")
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
            predict = self._predict if handedness == "right" else self._predict_mirrored
            poses += predict(frames[part], camera, given[part], weights)
        return poses

    def _predict_mirrored(
        self, frames: list[np.ndarray], camera: Camera, given: np.ndarray, weights: bool
    ) -> list[HandPose | None]:
        width = frames[0].shape[1]
        frames = [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]
        poses = self._predict(frames, camera.mirrored(width), given * (-1, 1, 1), weights)
        return [None if pose is None else mirrored_pose(pose, width) for pose in poses]

    def _predict(
        self, frames: list[np.ndarray], camera: Camera, given: np.ndarray, weights: bool
    ) -> list[HandPose | None]:
        """Poses of right hands; frames in mm, 0 for no reading; centres (N, 3) mm, NaN: find them."""
        centers, unknown = given.copy(), np.flatnonzero(np.isnan(given[:, 0]))
        centers[unknown] = self.find_centers([frames[i] for i in unknown], camera)
        poses = self._poses(frames, camera, centers, weights and len(unknown) < len(frames))
        # The centre that depth alone gives may be centimetres off: the first answer is a better one.
        again = [i for i in unknown if poses[i] is not None]
        centers = np.array([next_center(poses[i]) for i in again])
        second = self._poses([frames[i] for i in again], camera, centers, weights)
        for i, pose in zip(again, second, strict=True):
            poses[i] = pose
        return [pose if pose is not None and self._is_hand(pose, camera) else None for pose in poses]

    def _is_hand(self, pose: HandPose, camera: Camera) -> bool:
        """Whether an answer is taken for a hand: a network answers for every crop, also for a wall."""
        crop = pose.crop
        readings = crop.image[crop.image > 0].astype(np.float64)
        area = (readings**2).sum() / (float(crop.M[0, 0]) ** 2 * camera.fx * camera.fy)  # mm²
        return float(pose.confidence.mean()) >= self.min_confidence and area >= HAND_AREA

    def find_centers(self, frames: Sequence[np.ndarray], camera: Camera) -> np.ndarray:
        """The hand's centre in frames (H, W) mm: (N, 3) mm, NaN where nothing has a hand's size."""
        centers = np.full((len(frames), 3), np.nan)
        for i, frame in enumerate(frames):
            with suppress(UserError):
                centers[i] = center_from_depth(frame, camera, self.depth_range)
        return centers

    @torch.inference_mode()
    def _poses(
        self, frames: list[np.ndarray], camera: Camera, centers: np.ndarray, weights: bool
    ) -> list[HandPose | None]:
        """The network's answer for every frame whose centre's cube holds anything."""
        poses: list[HandPose | None] = [None] * len(frames)
        crops: dict[int, Crop] = {}
        for i, (frame, center) in enumerate(zip(frames, centers, strict=True)):
            crop = self._crop(frame, camera, center)
            if crop is not None:
                crops[i] = crop
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
            joints = dense_to_joints(dense, image, self.spec.kernel_size)
            confidence = joint_confidence(dense, image, self.spec.kernel_size)
            if weights:
                maps = adaptive_weights(dense, image).cpu().numpy()
        joints, confidence = joints.double().cpu().numpy(), confidence.cpu().numpy()
        if not np.isfinite(joints).all():
            raise UserError(
                f"The network's joints are not finite: its weights are damaged or {self.precision} overflows."
            )
        for i, uvd, sure, weight in zip(crops, joints, confidence, maps, strict=True):
            crop = crops[i]
            M = crop.M.astype(np.float64)
            uvd = crop_to_uvd(uvd, crop.center_xyz[2], crop.cube[2], M, self.spec.img_size)
            poses[i] = HandPose(camera.uvd_to_xyz(uvd), uvd, crop.center_xyz, sure, crop, weight)
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
    return (pose.joints_xyz.min(axis=0) + pose.joints_xyz.max(axis=0)) / 2


def mirrored_pose(pose: HandPose, width: int) -> HandPose:
    """A pose in a frame mirrored left to right -> the pose in the frame itself, `width` pixels wide."""
    across = np.array([-1.0, 1.0, 1.0])
    image, M = pose.crop.image[:, ::-1], pose.crop.M.copy()
    M[0, 2] = image.shape[1] - 1 - M[0, 0] * (width - 1) - M[0, 2]
    center = pose.center_xyz * across
    return HandPose(
        joints_xyz=pose.joints_xyz * across,
        joints_uvd=pose.joints_uvd * across + (width - 1, 0, 0),
        center_xyz=center,
        confidence=pose.confidence,
        crop=pose.crop._replace(image=image, center_xyz=center, M=M),
        weights=None if pose.weights is None else pose.weights[..., ::-1],
    )


def _checked_center(center: np.ndarray | None) -> np.ndarray:
    """(3,) mm, NaN where the hand is to be found."""
    if center is None:
        return np.full(3, np.nan)
    center = np.asarray(center, np.float64)
    if center.shape != (3,) or not np.isfinite(center).all() or center[2] <= 0:
        raise UserError(f"center is {center}: expected x, y, z in mm with z above 0.")
    return center
