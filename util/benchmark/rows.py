"""Rows of what happens before and after a network: loading, the head, metrics."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from dataloader import build_dataset
from dataloader.cache import CropCache
from dataloader.crop import crop_hand, network_input
from model.awr import dense_to_joints, joints_to_dense
from util.benchmark import baseline
from util.benchmark.measure import FEW, Row, compare, compare_memory, for_each
from util.benchmark.settings import BenchmarkConfig
from util.deployment.folding import example_crops
from util.metrics import joint_errors, score

BATCH = 32


@torch.inference_mode()
def head_rows(config: BenchmarkConfig, device: torch.device) -> Iterator[Row]:
    """Dense maps to joints and back, batch 32, maps of 64: time, and a GPU's peak memory."""
    torch.manual_seed(config.seed)
    image, joint_uvd = example_crops(BATCH, 128).to(device), (torch.rand(BATCH, 14, 3) - 0.5).to(device)
    dense = joints_to_dense(joint_uvd, image, 0.4, 64)
    dense += 0.05 * torch.randn_like(dense)
    decoders = baseline.joints_of_dense, dense_to_joints
    encoders = baseline.dense_of_joints, joints_to_dense
    for name, ways in {
        "head_decode": [partial(way, dense, image, 0.4) for way in decoders],
        "head_encode": [partial(way, joint_uvd, image, 0.4, 64) for way in encoders],
    }.items():
        if config.wants(name):
            yield compare(name, *ways, config.repeats, device)
        if config.wants(f"memory_{name}"):
            yield from compare_memory(f"memory_{name}", *ways, device)


def metrics_rows(config: BenchmarkConfig) -> Iterator[Row]:
    """All metrics of as many frames as NYU's test split has, against a loop over the frames."""
    if config.wants("metrics_8252"):
        rng = np.random.default_rng(config.seed)
        true_xyz = rng.uniform(-100, 100, (8252, 14, 3))
        found = true_xyz + rng.normal(0, 8, true_xyz.shape)
        ways = partial(baseline.metrics, found, true_xyz), lambda: score(joint_errors(found, true_xyz))
        yield compare("metrics_8252", *ways, min(config.repeats, FEW))


def loading_rows(config: BenchmarkConfig) -> Iterator[Row]:
    """Crop and normalise, a sample from the cache, and whole loaders beside bare decoding.

    Raises:
        FileNotFoundError, UserError: for a data set that is not there.
    """
    if not config.wants("crop", "cached_sample", "loader_decoded", "loader_cached"):
        return
    decoded, cached = (build_dataset(config.project_config(), augment=True) for _ in range(2))
    index, camera, size = decoded.index, decoded.camera, config.img_size
    paths = [index.frame_path(i) for i in range(len(decoded))]
    depths = [index.read_depth(path) for path in paths[:BATCH]]

    def plain_crop(i: int) -> np.ndarray:
        return baseline.crop(depths[i], camera, index.center_xyz[i], index.cube[i], size)

    def our_crop(i: int) -> np.ndarray:
        return network_input(crop_hand(depths[i], camera, index.center_xyz[i], index.cube[i], size))

    def load_all(frames: Sequence, **options: Callable) -> None:
        # As in training, a batch is freed before the next: all of them would fill the shared memory.
        deque(DataLoader(frames, BATCH, num_workers=config.num_workers, **options), maxlen=0)

    with tempfile.TemporaryDirectory() as folder:  # the cache is filled by the runs that are not timed
        cached.cache = CropCache(Path(folder, "crops.bin"), index, camera, size)
        pairs = {"crop": (plain_crop, our_crop), "cached_sample": (decoded.__getitem__, cached.__getitem__)}
        for name, ways in pairs.items():
            if config.wants(name):
                runs = (for_each(range(len(depths)), way) for way in ways)
                yield compare(name, *runs, config.repeats, frames=len(depths))
        plain = partial(load_all, paths, collate_fn=partial(decode_bare, index.read_depth))
        for name, dataset in {"loader_decoded": decoded, "loader_cached": cached}.items():
            if config.wants(name):
                ways, repeats = (plain, partial(load_all, dataset)), min(config.repeats, FEW)
                yield compare(name, *ways, repeats, frames=len(paths), unit="frames/s")


def decode_bare(read_depth: Callable[[Path], np.ndarray], paths: list[Path]) -> int:
    """Decode frames, by OpenCV alone where they are PNG files, and do nothing else; gives their number."""
    for path in paths:
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.suffix == ".png" else read_depth(path)
    return len(paths)
