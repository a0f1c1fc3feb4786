"""Fill the cache of a split's crops ahead of training; a stopped run goes on.

python -m dataloader.cache --dataset nyu --split train --num_workers 4
"""

import os
from dataclasses import dataclass
from typing import Literal

from torch.utils.data import DataLoader
from tqdm import tqdm

from config import Config, DataSettings
from dataloader.dataset import build_dataset, init_worker
from util import UserError
from util.cli import run

CHUNK = 32  # frames that a process takes at a time


@dataclass
class CacheSettings(DataSettings):
    """Settings of this command; they must be training's."""

    split: Literal["train", "val", "test", "val_hard"] = "train"
    val_split: Literal["val", "test"] = "val"  # test: of nyu, no training frame is held out
    num_workers: int = os.cpu_count() or 1  # processes that read frames; 0: this one

    def resolved(self) -> Config:
        """The settings of training, checked."""
        return Config(**vars(self), cache=True).resolved()


def main(config: Config) -> None:
    """Cache every frame of the split that is not cached yet."""
    dataset = build_dataset(config)
    frames, workers = range(len(dataset)), config.num_workers
    how = {"num_workers": workers, "collate_fn": dataset.fill_cache, "worker_init_fn": init_worker}
    read = sum(tqdm(DataLoader(frames, CHUNK, **how), desc="frames", unit=" frames", unit_scale=CHUNK))
    if read and not os.access(dataset.cache.path, os.W_OK):
        raise UserError(f"{dataset.cache.path} can only be read, and lacks {read} frames.")
    print(f"{len(dataset)} frames, of which {read} were read now, in {dataset.cache.path}")


if __name__ == "__main__":
    run(main, __doc__, CacheSettings)
