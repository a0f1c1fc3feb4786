"""Hand centres: from labels, from the depth frame alone, or refined, as files and with their error.

python -m util.centers --dataset nyu --split test --method refined --out FILE --json FILE
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from config import DATASETS, Config
from dataloader import find_frames
from dataloader.index import Frames
from util.camera import Camera
from util.cli import run
from util.device import pick_device
from util.files import write_centers, written_whole
from util.find_hand import DEPTH_RANGE, center_from_depth, check_depth_range
from util.refine import CENTER_CHECKPOINT, CenterNetwork, load_center_network, refine_centers

BATCH_SIZE = 32  # frames that a process takes at a time, and the network sees together


def centers_from_labels(joint_xyz: np.ndarray) -> np.ndarray:
    """Mean of the joints: (N, J, 3) mm -> (N, 3) mm. An oracle: it knows what is to be predicted."""
    return np.asarray(joint_xyz, np.float64).mean(axis=1)


class CenterErrors(NamedTuple):
    """Distance of found centres from the mean of the true joints.

    `frames`, and of them `invalid`: without a centre. Over those found: `mean_mm`, `median_mm`; over
    all: `within_20mm`, a share.
    """

    frames: int
    invalid: int
    mean_mm: float
    median_mm: float
    within_20mm: float


def center_errors(centers: np.ndarray, joint_xyz: np.ndarray) -> CenterErrors:
    """Compare (N, 3) centres, NaN where none was found, with (N, J, 3) joints; mm.

    Raises:
        ValueError: if there is no centre at all.
    """
    distance = np.linalg.norm(centers - centers_from_labels(joint_xyz), axis=1)
    found = distance[~np.isnan(distance)]
    if not len(found):
        raise ValueError("No frame has a centre: there is nothing to compare with the labels.")
    return CenterErrors(
        frames=len(distance),
        invalid=len(distance) - len(found),
        mean_mm=float(found.mean()),
        median_mm=float(np.median(found)),
        within_20mm=float(np.count_nonzero(found <= 20) / len(distance)),
    )


def find_centers(
    frames: Frames,
    camera: Camera,
    depth_range: tuple[float, float],
    center_network: CenterNetwork | None = None,
) -> np.ndarray:
    """Centre of every frame from its depth, refined if a network is given.

    Returns:
        (N, 3) mm, NaN where no hand is found.
    """
    centers = np.full((len(frames.joint_xyz), 3), np.nan)
    starts = range(0, len(centers), BATCH_SIZE if center_network else 1)
    for start in tqdm(starts, desc="frames", unit="batch" if center_network else "frame", leave=False):
        batch = range(start, min(start + starts.step, len(centers)))
        depths = [frames.read_depth(frames.frame_path(i)) for i in batch]
        for i, depth in zip(batch, depths, strict=True):
            try:
                centers[i] = center_from_depth(depth, camera, depth_range)
            except ValueError:
                continue  # counted and written as invalid
        if center_network:
            centers[batch] = refine_centers(center_network, depths, camera, centers[batch])
    return centers


@dataclass
class CenterSettings:
    """Settings of this command."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test"] = "test"
    test_subject: int = 0  # msra: the fold
    method: Literal["labels", "depth", "refined"] = "depth"  # labels: mean of the joints, an oracle
    load_model: str = str(CENTER_CHECKPOINT)  # refined: what `train.py --target center` trained
    device: str = "auto"  # refined: auto, cpu, cuda
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand, mm
    out: str = ""  # file of centres to write; empty: none
    json: str = ""  # file of errors to write; empty: none

    def resolved(self) -> "CenterSettings":
        """Check the settings.

        Raises:
            ValueError: in one sentence, for one that cannot work.
        """
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}: it must be at least 1.")
        check_depth_range(self.depth_range)
        return self


def main(settings: CenterSettings) -> None:
    """Find the centre of every frame of a split, write them, and report their error."""
    names = ("dataset", "data_dir", "split", "test_subject")
    config = Config(**{name: getattr(settings, name) for name in names}).resolved()
    frames = find_frames(config)
    labelled = not np.isnan(frames.joint_xyz[:1]).any()
    if settings.method == "labels":
        if not labelled:
            raise ValueError(
                f"The labels of {config.dataset}, split {config.split}, are withheld: use --method depth."
            )
        centers = centers_from_labels(frames.joint_xyz)
    else:
        center_network = None
        if settings.method == "refined":
            center_network = load_center_network(Path(settings.load_model), pick_device(settings.device))
        centers = find_centers(frames, DATASETS[config.dataset].camera, settings.depth_range, center_network)
    oracle = settings.method == "labels"
    report = {"dataset": config.dataset, "split": config.split, "method": settings.method, "oracle": oracle}
    if labelled:
        errors = center_errors(centers, frames.joint_xyz)
        report |= errors._asdict()
        print(
            f"{errors.frames} frames, {errors.invalid} without a centre; from the mean of the true joints: "
            f"mean {errors.mean_mm:.2f} mm, median {errors.median_mm:.2f} mm, "
            f"{errors.within_20mm:.2%} within 20 mm"
            + (" (an oracle: made from the labels)" if oracle else "")
        )
    else:
        report |= {"frames": len(centers), "invalid": int(np.isnan(centers[:, 0]).sum())}
        print(f"{report['frames']} frames, {report['invalid']} without a centre; no labels to compare with.")
    if settings.out:
        write_centers(Path(settings.out), centers)
    if settings.json:
        with written_whole(Path(settings.json)) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run(main, __doc__, CenterSettings)
