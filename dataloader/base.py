"""From a depth frame to what the network sees: frame -> crop -> augmentation -> Sample."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from dataloader.augment import Augmentation, apply_augmentation, draw_augmentation
from dataloader.cache.crop_cache import CropCache
from dataloader.crop import Crop, crop_hand, cut_window, finish_crop, network_input
from dataloader.faults import add_faults
from util import UserError
from util.camera import Camera, uvd_to_crop


class Sample(NamedTuple):
    """One training or test example, all float32; batched by PyTorch's default collation.

    `image` (1, S, S) normalised depth; `joint_xyz` (J, 3) and `joint_uvd` (J, 3) normalised;
    `center_xyz` (3,) mm; `M` (3, 3) full-frame pixels -> crop pixels; `cube` (3,) mm.
    """

    image: np.ndarray
    joint_xyz: np.ndarray
    joint_uvd: np.ndarray
    center_xyz: np.ndarray
    M: np.ndarray
    cube: np.ndarray


class FrameIndex(NamedTuple):
    """Where the frames of one split lie and what is known of them; no frame is read yet.

    `joint_xyz` (N, J, 3), `center_xyz` (N, 3), `cube` (N, 3): mm, possibly mapped from disk; joints
    are NaN where a benchmark withholds them. `frame_path(i)` is frame i's file and
    `read_depth(path)` gives its depth (H, W) in mm.
    """

    joint_xyz: np.ndarray
    center_xyz: np.ndarray
    cube: np.ndarray
    frame_path: Callable[[int], Path]
    read_depth: Callable[[Path], np.ndarray]

    @property
    def labelled(self) -> bool:
        """Whether the true joints are known."""
        return not np.isnan(self.joint_xyz[:1]).any()


def read_sized(
    read_depth: Callable[[Path], np.ndarray], path: Path, frame_size: tuple[int, int]
) -> np.ndarray:
    """A frame's depth (H, W) in mm.

    Raises:
        UserError: if it is damaged, or of another size than its data set's camera gives.
    """
    depth = read_depth(path)
    if depth.shape != frame_size:
        (height, width), (rows, columns) = depth.shape, frame_size
        raise UserError(f"{path} has {width}×{height} pixels, its data set's camera {columns}×{rows}.")
    return depth


def make_sample(
    depth: np.ndarray,
    camera: Camera,
    center_xyz: np.ndarray,
    cube: np.ndarray,
    joint_xyz: np.ndarray,
    img_size: int,
    augmentation: Augmentation | None = None,
) -> Sample:
    """Crop, augment and normalise one frame (docs/spec.md §2-§4).

    Args:
        depth: (H, W) frame, mm.
        camera: the camera that took it.
        center_xyz: (3,) mm.
        cube: (3,) mm.
        joint_xyz: (J, 3) true joints, mm.
        img_size: S, edge of the crop.
        augmentation: what was drawn for this sample; None for a test sample.

    Raises:
        UserError: if the crop window misses the frame.
    """
    crop = crop_hand(depth, camera, center_xyz, cube, img_size)
    return sample_from_crop(crop, camera, joint_xyz, augmentation)


def sample_from_crop(
    crop: Crop,
    camera: Camera,
    joint_xyz: np.ndarray,
    augmentation: Augmentation | None = None,
    change: Callable[[Crop], Crop] | None = None,
) -> Sample:
    """The second half of `make_sample`: augment a crop, `change` its image, and normalise it."""
    farthest = crop.image.max()
    joint_uvd = camera.xyz_to_uvd(np.asarray(joint_xyz, np.float64))
    if augmentation is not None:
        crop, joint_uvd = apply_augmentation(augmentation, crop, joint_uvd, camera)
        joint_xyz = camera.uvd_to_xyz(joint_uvd)
    if change is not None:
        crop = change(crop)
    arrays = Sample(
        image=network_input(crop, farthest),
        joint_xyz=(joint_xyz - crop.center_xyz) / (crop.cube / 2),
        joint_uvd=uvd_to_crop(joint_uvd, crop.center_xyz[2], crop.cube[2], crop.M, crop.image.shape[0]),
        center_xyz=crop.center_xyz,
        M=crop.M,
        cube=crop.cube,
    )
    return Sample(*(np.ascontiguousarray(array, np.float32) for array in arrays))


class HandDataset(Dataset):
    """The samples of one split.

    Args:
        index: where the frames lie.
        camera: the camera that took them.
        frame_size: (height, width) of its frames, pixels.
        img_size: S, edge of the crop.
        augment_strength: translation mm, scale, rotation degrees; None draws nothing (test).
        seed: of the augmentation and the noise.
        cache: what frames are cut to, kept on disk; None: every frame is decoded each time.
        center_noise: mm, standard deviation along each axis of where a crop lies around its centre.
        rotation: how a rotation reads its pixels: linear, nearest or both.
        sensor: strength of a camera's faults, 0 to 1.
    """

    def __init__(
        self,
        index: FrameIndex,
        camera: Camera,
        frame_size: tuple[int, int],
        img_size: int,
        augment_strength: tuple[float, float, float] | None = None,
        seed: int = 0,
        cache: CropCache | None = None,
        center_noise: float = 0.0,
        rotation: Literal["linear", "nearest", "both"] = "linear",
        sensor: float = 0.0,
    ):
        self.index = index
        self.camera = camera
        self.frame_size = frame_size
        self.img_size = img_size
        self.augment_strength = augment_strength
        self.seed = seed
        self.cache = cache
        self.center_noise = center_noise
        self.rotation: Literal["linear", "nearest", "both"] = rotation
        self.sensor = sensor
        # Shared memory: workers that outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Start another stream of augmentation; call it before an epoch's first batch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index.joint_xyz)

    def __getitem__(self, i: int) -> Sample:
        """Read and prepare frame i.

        Raises:
            UserError: naming the frame, if it cannot be decoded, has another size than the camera's
                frames, or its crop window misses it.
            FileNotFoundError: if the frame is not there.
        """
        # A stream of its own per sample and epoch: the draw depends neither on the worker
        # that happens to make it nor on what was drawn before (docs/spec.md §11).
        rng = np.random.default_rng((self.seed, int(self._epoch), i))
        augmentation = None
        if self.augment_strength is not None:
            augmentation = draw_augmentation(rng, self.augment_strength, self.rotation)
        change = partial(add_faults, rng=rng, strength=self.sensor) if self.sensor else None
        center_xyz = self._center(i)
        cut, _ = self._cut(i, center_xyz)
        try:
            crop = finish_crop(cut, self.camera, center_xyz, self.index.cube[i])
            return sample_from_crop(crop, self.camera, self.index.joint_xyz[i], augmentation, change)
        except UserError as error:
            raise UserError(f"{self.index.frame_path(i)}: {error}.") from error

    def fill_cache(self, i: int) -> bool:
        """Make sure that the cache holds frame i; returns whether the frame had to be read for it.

        Raises:
            UserError, FileNotFoundError: see `__getitem__`.
        """
        return self._cut(i, self._center(i))[1]

    def _cut(self, i: int, center_xyz: np.ndarray) -> tuple[np.ndarray, bool]:
        """All that a crop of frame i reads of it, (S, S), and whether the frame was read for it."""
        path, cube = self.index.frame_path(i), self.index.cube[i]
        if self.cache is None:
            return self._cut_frame(path, center_xyz, cube), True
        # Before the frame is read: if it changes meanwhile, the record counts as stale.
        key = self.cache.key(path, center_xyz, cube)
        cut = self.cache.read(i, key)
        if cut is not None:
            return cut, False
        cut = self._cut_frame(path, center_xyz, cube)
        self.cache.write(i, key, cut)
        return cut, True

    def _cut_frame(self, path: Path, center_xyz: np.ndarray, cube: np.ndarray) -> np.ndarray:
        depth = read_sized(self.index.read_depth, path, self.frame_size)
        try:
            return cut_window(depth, self.camera, center_xyz, cube, self.img_size)
        except UserError as error:
            raise UserError(f"{path}: {error}.") from error

    def _center(self, i: int) -> np.ndarray:
        """Where frame i is cropped around, (3,) mm."""
        center_xyz = np.asarray(self.index.center_xyz[i], np.float64)
        if not self.center_noise:
            return center_xyz
        # Beside the augmentation's stream, so that either can be switched without changing the other.
        rng = np.random.default_rng((self.seed, int(self._epoch), i, 1))
        noise = np.clip(rng.standard_normal(3), -2.5, 2.5)  # none so large that the crop loses the hand
        return center_xyz + self.center_noise * noise


def init_worker(_: int) -> None:
    """Begin a process that prepares samples or frames: the `worker_init_fn` of every loader."""
    # Ctrl-C and `timeout` reach a whole group: in one of their own, workers end when the main process says.
    # To ignore signals instead would make them deaf to that word too.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
