"""Fill the cache of a split's crops ahead of training, by several processes; a stopped run goes on.

python -m dataloader.cache --dataset nyu --split train --workers 4
"""

import os
from dataclasses import dataclass
from typing import Literal

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import Config, check_numbers
from dataloader import build_dataset
from dataloader.base import HandDataset, init_worker
from util import UserError
from util.cli import run

CHUNK = 32  # frames that a process takes at a time


@dataclass
class CacheSettings:
    """Settings of this command; those that it shares with config.py must be training's."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test", "val_hard"] = "train"
    test_subject: int = 0  # msra: the fold
    img_size: int = 128  # edge of the crop, pixels
    cube: tuple[float, float, float] | None = None  # mm; None: the data set's
    workers: int = os.cpu_count() or 1  # processes

    def resolved(self) -> "CacheSettings":
        """Check the settings.

        Raises:
            UserError: in one sentence, for one that cannot work.
        """
        check_numbers(self, ("workers",), lambda value: value >= 1, "at least 1")
        return self


class Filling(Dataset):
    """Item i makes sure that frame i is cached, and says whether it had to be read."""

    def __init__(self, dataset: HandDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> bool:
        return self.dataset.fill_cache(i)


def main(settings: CacheSettings) -> None:
    """Cache every frame of the split that is not cached yet.

    Raises:
        UserError: if there are such frames and the cache cannot be written.
    """
    values = {name: value for name, value in vars(settings).items() if name != "workers"}
    dataset = build_dataset(Config(**values, cache=True).resolved())
    workers = settings.workers if settings.workers > 1 else 0
    loader = DataLoader(Filling(dataset), CHUNK, num_workers=workers, worker_init_fn=init_worker)
    read = 0
    with tqdm(total=len(dataset), desc="frames", unit="frame") as bar:
        for chunk in loader:
            read += int(chunk.sum())
            bar.update(len(chunk))
    if read and not dataset.cache.writable:
        raise UserError(f"{dataset.cache.path} can only be read, and {read} of its frames are stale.")
    print(f"{len(dataset)} frames, of which {read} were read now, in {dataset.cache.path}")


if __name__ == "__main__":
    run(main, __doc__, CacheSettings)
