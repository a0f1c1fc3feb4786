"""From a depth frame to what the network sees: frame -> crop -> augmentation -> Sample."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from config import Config
from dataloader import dataset_info
from dataloader.augment import Augmentation, apply_augmentation, draw_augmentation
from dataloader.crop import Crop, cut_window, finish_crop, network_input
from dataloader.crop_cache import CropCache, open_cache
from dataloader.faults import add_faults
from dataloader.frames import FrameIndex
from dataloader.index import build_index, data_root
from util import UserError
from util.camera import ACROSS, Camera, uvd_to_crop


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


def make_sample(
    crop: Crop,
    camera: Camera,
    joint_xyz: np.ndarray,
    augmentation: Augmentation | None = None,
    change: Callable[[Crop], Crop] | None = None,
) -> Sample:
    """Augment a crop, `change` its image, and normalise it (docs/spec.md §3, §4).

    `joint_xyz` (J, 3) true joints, mm; `augmentation`: what was drawn, None for a test sample.
    """
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


@dataclass(eq=False)
class HandDataset(Dataset):
    """The samples of one split; frames with a left hand are mirrored."""

    index: FrameIndex
    camera: Camera  # that took the frames, or each frame's own
    frame_size: tuple[int, int]  # their height and width, pixels
    img_size: int  # S, edge of the crop
    augment_strength: tuple[float, float, float] | None = None  # translation mm, scale, degrees; None: none
    seed: int = 0  # of the augmentation and the camera's faults
    cache: CropCache | None = None  # what frames are cut to; None: a frame is decoded each time
    rotation: Literal["linear", "nearest", "both"] = "linear"  # how a rotation reads its pixels
    sensor: float = 0.0  # strength of a camera's faults, 0 to 1

    def __post_init__(self):
        # Shared memory: workers that outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Start another stream of augmentation; call it before an epoch's first batch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index.joint_xyz)

    def __getitem__(self, i: int) -> Sample:
        """Read and prepare frame i."""
        # A stream of its own per sample and epoch: the draw depends neither on the worker
        # that happens to make it nor on what was drawn before (docs/spec.md §11).
        rng = np.random.default_rng((self.seed, int(self._epoch), i))
        augmentation = None
        if self.augment_strength is not None:
            augmentation = draw_augmentation(rng, self.augment_strength, self.rotation)
        change = partial(add_faults, rng=rng, strength=self.sensor) if self.sensor else None
        camera, center_xyz, joint_xyz = self.known(i)
        crop = finish_crop(self._cut(i), camera, center_xyz, self.index.cube[i])
        return make_sample(crop, camera, joint_xyz, augmentation, change)

    def known(self, i: int) -> tuple[Camera, np.ndarray, np.ndarray]:
        """Camera, centre (3,) and joints (J, 3), mm, of frame i as a network sees it."""
        camera, center_xyz, joint_xyz = self.camera.of(i), self.index.center_xyz[i], self.index.joint_xyz[i]
        if not self.index.is_left(i):
            return camera, center_xyz, joint_xyz
        return camera.mirrored(self.frame_size[1]), center_xyz * ACROSS, joint_xyz * ACROSS

    def cameras(self, frames: Sequence[int], device: torch.device) -> Camera:
        """The camera of some frames as a network sees them: the one of all, or with tensors (B, 1)."""
        if self.index.intrinsics is None:
            return self.camera
        return Camera(*torch.tensor([self.known(i)[0] for i in frames], device=device).T[..., None])

    def fill_cache(self, frames: Iterable[int]) -> int:
        """Cache those of some frames that are not yet; returns how many had to be read."""
        missing = [i for i in frames if self.cache.read(i) is None]
        for i in missing:
            self._cut(i)
        return len(missing)

    def _cut(self, i: int) -> np.ndarray:
        """All that a crop of frame i reads of it, (S, S), as `cut_window` gives it."""
        cut = self.cache.read(i) if self.cache else None
        if cut is None:
            depth, (camera, center_xyz, _) = self.index.read_frame(i, self.frame_size), self.known(i)
            depth = depth[:, ::-1] if self.index.is_left(i) else depth
            try:
                cut = cut_window(depth, camera, center_xyz, self.index.cube[i], self.img_size)
            except UserError as error:
                raise UserError(f"{self.index.frame_path(i)}: {error}.") from error
            if self.cache:
                self.cache.write(i, cut)
        return cut


def init_worker(_: int) -> None:
    """Begin a process that prepares samples or frames: the `worker_init_fn` of every loader."""
    # Ctrl-C and `timeout` reach a whole group: in one of their own, workers end when the main process says.
    # To ignore signals instead would make them deaf to that word too.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def build_dataset(config: Config, augment: bool = False) -> HandDataset:
    """The samples of `config.split`, augmented or not, and cached if `config.cache`."""
    index, info = build_index(config), dataset_info(config.dataset)
    strength, cache = config.augment_para if augment else None, None
    if config.cache:
        fold = f"_{config.fold.removeprefix('P')}" if config.fold else ""
        path = data_root(config) / f"crops_{config.split}{fold}_{config.img_size}.bin"
        cache = open_cache(path, index, info.camera, config.img_size)
    what = (index, index.camera(info.camera), info.frame_size, config.img_size, strength, config.seed, cache)
    return HandDataset(*what, rotation=config.rotation, sensor=config.sensor)


def join(datasets: list[HandDataset]) -> HandDataset:
    """The samples of several folds, one after the other."""
    if len(datasets) == 1:
        return datasets[0]
    parts, names = [dataset.index for dataset in datasets], ("joint_xyz", "center_xyz", "cube", "names")
    known = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(datasets[0], index=parts[0]._replace(**known), cache=None)
