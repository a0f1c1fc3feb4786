"""Hand centres: from labels, from the depth frame alone, or refined, as files and with their error.

python -m util.inference.centers --dataset nyu --split test --method refined --out FILE --json FILE
"""

import json
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import Config, check_numbers
from dataloader import dataset_info
from dataloader.dataset import init_worker
from dataloader.index import FrameIndex, find_frames
from util import UserError
from util.camera import Camera
from util.checkpoint import shipped_weights
from util.cli import run
from util.files import atomic_write
from util.inference.find_hand import DEPTH_RANGE, center_from_depth, check_depth_range
from util.inference.hands import is_hand
from util.inference.predictor import HandPosePredictor
from util.points import write_centers

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
    """Compare (N, 3) centres, NaN where none was found, with (N, J, 3) joints; mm."""
    distance = np.linalg.norm(centers - centers_from_labels(joint_xyz), axis=1)
    found = distance[~np.isnan(distance)]
    if not len(found):
        raise UserError("No frame has a centre: there is nothing to compare with the labels.")
    within = float(np.count_nonzero(found <= 20) / len(distance))
    invalid = len(distance) - len(found)
    return CenterErrors(len(distance), invalid, float(found.mean()), float(np.median(found)), within)


class DepthCenters(Dataset):
    """Item i: depth of frame i (H, W), None if it cannot be read; its centre (3,) mm, NaN where no hand is
    found; and what is wrong. Arguments as for `find_centers`.
    """

    def __init__(
        self,
        frames: FrameIndex,
        camera: Camera,
        frame_size: tuple[int, int],
        depth_range: tuple[float, float],
    ):
        self.frames, self.camera, self.frame_size, self.depth_range = frames, camera, frame_size, depth_range

    def __len__(self) -> int:
        return len(self.frames.joint_xyz)

    def __getitem__(self, i: int) -> tuple[np.ndarray | None, np.ndarray, str]:
        center = np.full(3, np.nan)
        try:
            depth = self.frames.read_frame(i, self.frame_size)
        except (UserError, FileNotFoundError) as error:  # the others' centres are wanted all the same
            return None, center, str(error)
        with suppress(UserError):  # counted and written as invalid
            center = center_from_depth(depth, self.camera, self.depth_range)
        return depth, center, ""


def find_centers(
    frames: FrameIndex,
    camera: Camera,
    frame_size: tuple[int, int],
    depth_range: tuple[float, float],
    predictor: HandPosePredictor | None = None,
    num_workers: int = 1,
) -> np.ndarray:
    """Centre of every frame from its depth, refined if a predictor is given, by `num_workers` processes.

    Returns:
        (N, 3) mm, NaN where no hand is found or the frame is missing or damaged, which is printed.
    """
    rough = DepthCenters(frames, camera, frame_size, depth_range)
    processes = num_workers if num_workers > 1 else 0
    loader = DataLoader(rough, BATCH_SIZE, num_workers=processes, collate_fn=list, worker_init_fn=init_worker)
    centers: list[np.ndarray] = []
    with tqdm(total=len(rough), desc="frames", unit="frame", leave=False) as bar:
        for batch in loader:
            depths, found, problems = zip(*batch, strict=True)
            centers += refine_centers(predictor, depths, camera, found) if predictor else found
            bar.update(len(batch))
            for problem in filter(None, problems):
                bar.write(f"{problem} It gets no centre.")
    return np.reshape(centers, (-1, 3))


def refine_centers(
    predictor: HandPosePredictor, depths: list[np.ndarray | None], camera: Camera, centers: list[np.ndarray]
) -> list[np.ndarray]:
    """The mean of the joints that a network finds from rough centres, in two passes.

    Args:
        predictor: of right hands, as data sets show them.
        depths: frames (H, W) mm, None for one that cannot be read.
        camera: that took them.
        centers: (3,) mm of each, NaN where none was found.

    Returns:
        Centres (3,) mm; where the network's confidence is low everywhere, the rough one.
    """
    there = [i for i, center in enumerate(centers) if np.isfinite(center).all()]
    frames, around = [depths[i] for i in there], [centers[i] for i in there]
    poses = predictor.answer_around(frames, camera, around, [True] * len(there), ("right",))
    refined = list(centers)
    for i, pose in zip(there, poses, strict=True):
        hands = [pose] if is_hand(pose, camera, predictor.min_confidence) else []
        # An elbow or a head may have been more like a hand than the hand.
        for hand in hands or predictor.search(depths[i], camera, 2, "right").hands[:1]:
            refined[i] = hand.joints_xyz.mean(axis=0)
    return refined


@dataclass
class CenterSettings:
    """Settings of this command."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test", "val_hard"] = "test"
    test_subject: int = 0  # msra: the fold
    method: Literal["labels", "depth", "refined"] = "depth"  # labels: mean of the joints, an oracle
    load_model: str = ""  # refined: a pose network; empty: the weights in results/ for this data set
    device: str = "auto"  # refined: auto, cpu, cuda
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand, mm
    num_workers: int = os.cpu_count() or 1  # processes that read frames and find hands in them
    out: str = ""  # file of centres to write; empty: none
    json: str = ""  # file of errors to write; empty: none

    def resolved(self) -> "CenterSettings":
        """Check the settings."""
        check_numbers(self, ("num_workers",), lambda value: value >= 1, "at least 1")
        check_depth_range(self.depth_range)
        return self


def main(settings: CenterSettings) -> None:
    """Find the centre of every frame of a split, write them, and report their error."""
    names = ("dataset", "data_dir", "split", "test_subject")
    config = Config(**{name: getattr(settings, name) for name in names}).resolved()
    frames = find_frames(config)
    labelled, oracle = not np.isnan(frames.joint_xyz[:1]).any(), settings.method == "labels"
    if oracle and not labelled:
        raise UserError(
            f"The labels of {config.dataset}, split {config.split}, are withheld: use --method depth."
        )
    predictor = load_predictor(settings, config) if settings.method == "refined" else None
    with ExitStack() as stack:
        # A place that takes no file shows before the work, which may take hours.
        places = [Path(name) if name else None for name in (settings.out, settings.json)]
        out, json_file = (place and stack.enter_context(atomic_write(place)) for place in places)
        if oracle:
            centers = centers_from_labels(frames.joint_xyz)
        else:
            camera, size = dataset_info(config.dataset).camera, dataset_info(config.dataset).frame_size
            centers = find_centers(
                frames, camera, size, settings.depth_range, predictor, settings.num_workers
            )
        about = {
            "dataset": config.dataset,
            "split": config.split,
            "method": settings.method,
            "oracle": oracle,
        }
        if labelled:
            errors = center_errors(centers, frames.joint_xyz)
            about |= errors._asdict()
            print(
                f"{errors.frames} frames, {errors.invalid} without a centre; from the mean of the true "
                f"joints: mean {errors.mean_mm:.2f} mm, median {errors.median_mm:.2f} mm, "
                f"{errors.within_20mm:.2%} within 20 mm"
                + (" (an oracle: made from the labels)" if oracle else "")
            )
        else:
            about |= {"frames": len(centers), "invalid": int(np.isnan(centers[:, 0]).sum())}
            print(f"{len(centers)} frames, {about['invalid']} without a centre; no labels to compare with.")
        if out:
            write_centers(out, centers)
        if json_file:
            json_file.write_text(json.dumps(about, indent=1) + "\n")


def load_predictor(settings: CenterSettings, config: Config) -> HandPosePredictor:
    """The pose network that refines centres; it sees frames as test.py does, not filtered."""
    path = settings.load_model or shipped_weights(config)
    if not path:
        raise UserError(f"There are no weights for {config.dataset} in results/: name some by --load_model.")
    return HandPosePredictor(path, settings.device, depth_range=settings.depth_range, denoise=False)


if __name__ == "__main__":
    run(main, __doc__, CenterSettings)
