"""Rows of what happens before and after the network: frames, crops, the cache, labels, metrics."""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from config import DATASETS
from dataloader import build_dataset
from dataloader.base import HandDataset
from dataloader.cache.crop_cache import CropCache
from dataloader.crop import crop_hand, normalize_depth
from dataloader.labels import read_label_files
from util.benchmark import baseline
from util.benchmark.measure import BenchmarkConfig, Row, duration_row, memory_rows, rate_row, time_in_turn
from util.metrics import joint_errors, score

SAMPLES = 32  # frames that one timed run prepares: a loader's batch


def metrics_rows(frames: int, repeats: int) -> Iterator[Row]:
    """All metrics of some frames against a loop over the frames, and their peak memory."""
    rng = np.random.default_rng(0)
    true_xyz = rng.uniform(-100, 100, (frames, 14, 3))
    predicted = true_xyz + rng.normal(0, 8, true_xyz.shape)
    ways = [lambda: baseline.metrics(predicted, true_xyz), lambda: score(joint_errors(predicted, true_xyz))]
    yield duration_row(f"metrics_{frames}", *time_in_turn(ways, min(repeats, 5) if frames < 100_000 else 1))
    yield from memory_rows(f"metrics_{frames}", *ways)


def loading_rows(config: BenchmarkConfig, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Crop and normalise, a sample from the cache, the loader beside bare decoding: the wanted ones."""
    with tempfile.TemporaryDirectory() as folder:
        decoded = build_dataset(replace(config, cache=False), augment=True)
        cached = _cached(config, Path(folder))
        frames = range(min(SAMPLES, len(decoded)))
        for i in frames:
            cached.fill_cache(i)
        index = decoded.index
        depths = [index.read_depth(index.frame_path(i)) for i in frames]

        def plain_crops() -> None:
            for i in frames:
                baseline.crop(depths[i], decoded.camera, index.center_xyz[i], index.cube[i], config.img_size)

        def our_crops() -> None:
            for i in frames:
                made = crop_hand(
                    depths[i], decoded.camera, index.center_xyz[i], index.cube[i], config.img_size
                )
                normalize_depth(made.image, made.image.max(), made.center_xyz[2], made.cube[2])

        def samples(dataset: HandDataset) -> None:
            for i in frames:
                dataset[i]

        pairs = {
            "crop": [plain_crops, our_crops],
            "cached_sample": [lambda: samples(decoded), lambda: samples(cached)],
        }
        for name, ways in pairs.items():
            if wanted(name):
                seconds = time_in_turn(ways, config.repeats)
                yield duration_row(name, *(way / len(frames) for way in seconds))
            if wanted(f"memory_{name}"):
                yield from memory_rows(name, *ways)
        for name, dataset in {"loader_decoded": decoded, "loader_cached": cached}.items():
            if wanted(name):
                yield _loader_row(name, dataset, config.num_workers)


def sweep_workers(config: BenchmarkConfig) -> Iterator[Row]:
    """The loader with its cache, by 0 workers to one a core, beside bare decoding by as many."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _cached(config, Path(folder))
        for i in range(len(dataset)):
            dataset.fill_cache(i)
        for workers in range((os.cpu_count() or 1) + 1):
            yield _loader_row(f"sweep_workers_{workers}", dataset, workers)


def sweep_frames(config: BenchmarkConfig) -> Iterator[Row]:
    """Metrics, and an index from label files against np.loadtxt, of 1,000 frames and ever ten times more."""
    frames = 1000
    while frames <= config.most_frames:
        yield next(metrics_rows(frames, config.repeats))._replace(name=f"sweep_metrics_{frames}")
        yield from _index_rows(frames)
        frames *= 10


class BareFrames(Dataset):
    """Frames decoded, by OpenCV where they are PNG files, and nothing else."""

    def __init__(self, dataset: HandDataset):
        self.paths = [dataset.index.frame_path(i) for i in range(len(dataset))]
        self.read_depth = dataset.index.read_depth

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> int:
        if self.paths[i].suffix != ".png":
            return len(self.read_depth(self.paths[i]))
        return len(cv2.imread(str(self.paths[i]), cv2.IMREAD_UNCHANGED))


def _cached(config: BenchmarkConfig, folder: Path) -> HandDataset:
    """The samples with a cache of their own in a folder."""
    dataset = build_dataset(replace(config, cache=False), augment=True)
    kind = dataset.index.read_depth(dataset.index.frame_path(0)).dtype
    camera = DATASETS[config.dataset].camera
    dataset.cache = CropCache(folder / "crops.bin", len(dataset), config.img_size, camera, lambda: kind)
    return dataset


def _loader_row(name: str, dataset: HandDataset, workers: int) -> Row:
    """A pass through a loader beside bare decoding by as many workers."""
    loaders = [DataLoader(part, SAMPLES, num_workers=workers) for part in (BareFrames(dataset), dataset)]
    # As in training, a batch is let go before the next: all of them would fill the shared memory.
    seconds = time_in_turn([lambda loader=loader: deque(loader, maxlen=0) for loader in loaders], 3)
    return rate_row(name, *seconds, len(dataset), "frames/s")


def _index_rows(frames: int) -> Iterator[Row]:
    """Labels as text, read for the first time, and for any later one, which finds them parsed."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "Training_Annotation.txt")
        block = rng.uniform(100, 900, (1000, 63))
        lines = [f"image_D{i:08d}.png\t" + "\t".join(f"{x:.4f}" for x in row) for i, row in enumerate(block)]
        path.write_text(("\n".join(lines) + "\n") * (frames // 1000))

        def first() -> None:
            for cache in set(Path(folder).iterdir()) - {path}:
                cache.unlink()
            read_label_files([path], 21)

        ways = [
            lambda: np.loadtxt(path, usecols=range(1, 64)),
            first,
            lambda: read_label_files([path], 21),
        ]
        loadtxt, *ours = time_in_turn(ways, 1)
        for name, seconds in zip(("first", "again"), ours, strict=True):
            yield duration_row(f"sweep_index_{name}_{frames}", loadtxt, seconds)
