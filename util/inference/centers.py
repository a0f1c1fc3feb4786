"""Hand centres: from labels, from the depth frame alone, or refined, as files and with their error.

python -m util.inference.centers --dataset nyu --split test --method refined --out FILE --json FILE
"""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import MAX_WORKERS, Config, check_numbers
from dataloader import DatasetInfo, dataset_info
from dataloader.dataset import init_worker
from dataloader.frames import FrameIndex
from dataloader.index import find_frames
from util import UserError
from util.camera import Camera
from util.checkpoint import shipped_weights
from util.cli import run
from util.files import atomic_write
from util.inference.find_hand import DEPTH_RANGE, center_from_depth, check_depth_range
from util.inference.hands import Candidate, Side
from util.inference.predictor import HandPosePredictor
from util.points import write_centers


class CenterErrors(NamedTuple):
    """Of `frames`, those without a centre (`invalid`); distance of the others from the mean of the true
    joints; the share of all `within_20mm`."""

    frames: int
    invalid: int
    mean_mm: float
    median_mm: float
    within_20mm: float


def center_errors(centers: np.ndarray, joint_xyz: np.ndarray) -> CenterErrors:
    """Compare (N, 3) centres, NaN where none was found, with (N, J, 3) joints; mm."""
    distance = np.linalg.norm(centers - joint_xyz.mean(axis=1, dtype=np.float64), axis=1)
    found = distance[~np.isnan(distance)]
    if not len(found):
        raise UserError("No frame has a centre: there is nothing to compare with the labels.")
    invalid, within = len(distance) - len(found), float((found <= 20).sum() / len(distance))
    return CenterErrors(len(distance), invalid, float(found.mean()), float(np.median(found)), within)


@dataclass
class DepthCenters(Dataset):
    """Item i: depth of frame i (H, W), None if it cannot be read; what is wrong; its centre (3,) mm, NaN."""

    frames: FrameIndex
    info: DatasetInfo
    depth_range: tuple[float, float]

    def __len__(self) -> int:
        return len(self.frames.joint_xyz)

    def __getitem__(self, i: int) -> tuple[np.ndarray | None, str, np.ndarray]:
        depth, center, camera = None, np.full(3, np.nan), self.frames.camera(self.info.camera).of(i)
        try:
            depth = seen = self.frames.read_frame(i, self.info.frame_size)
            if self.frames.boxes is not None:
                left, top, right, bottom = self.frames.boxes[i].clip(0).astype(int)
                seen = depth[top : bottom + 1, left : right + 1]
                camera = camera._replace(cx=camera.cx - left, cy=camera.cy - top)
            center = center_from_depth(seen, camera, self.depth_range)
        except (UserError, FileNotFoundError) as error:  # the others' centres are wanted all the same
            return depth, str(error), center
        return depth, "", center


def find_centers(
    frames: FrameIndex,
    info: DatasetInfo,
    depth_range: tuple[float, float],
    predictor: HandPosePredictor | None = None,
    num_workers: int = 1,
) -> np.ndarray:
    """Centre (N, 3) mm of every frame from its depth, refined if a predictor is given, by `num_workers`
    processes; NaN where no hand is found or the frame is missing or damaged, which is printed."""
    rough, centers, camera = DepthCenters(frames, info, depth_range), [], frames.camera(info.camera)
    processes = num_workers if num_workers > 1 else 0
    loader = DataLoader(rough, None, num_workers=processes, collate_fn=tuple, worker_init_fn=init_worker)
    for i, (depth, problem, center) in enumerate(tqdm(loader, desc="frames", unit="frame", leave=False)):
        if depth is None:
            tqdm.write(f"{problem} It gets no centre.")
        elif predictor and not problem:
            side = "left" if frames.is_left(i) else "right"
            center = refine_center(predictor, depth, camera.of(i), center, side)
        centers.append(center)
    return np.reshape(centers, (-1, 3))


def refine_center(
    predictor: HandPosePredictor, depth: np.ndarray, camera: Camera, center: np.ndarray, side: Side = "right"
) -> np.ndarray:
    """The mean (3,) mm of the joints of a hand of one side that a network finds in a frame (H, W) mm from a
    rough centre (3,) mm; the rough one where its confidence is low everywhere."""
    pose = predictor.refine([Candidate(depth, center, side)], camera)
    if predictor.decide(pose, camera):
        # An elbow or a head may have been more like a hand than the hand.
        pose = next(iter(predictor.search(depth, camera, 2, side).hands), None)
    return center if pose is None else pose.joints_xyz.mean(axis=0)


@dataclass
class CenterSettings:
    """Settings of this command."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test", "val_hard"] = "test"
    setup: Literal["s0", "s1", "s2", "s3"] = "s0"  # dexycb: how it is split
    test_subject: int = 0  # msra: the fold
    method: Literal["labels", "depth", "refined"] = "depth"  # labels: mean of the joints, an oracle
    load_model: str = ""  # refined: a pose network; empty: the weights in results/ for this data set
    device: str = "auto"  # refined: auto, cpu, cuda
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand, mm
    num_workers: int = os.cpu_count() or 1  # processes that read frames and find hands in them
    out: str = ""  # file of centres to write; empty: none
    json: str = ""  # file of errors to write; empty: none

    def resolved(self) -> "CenterSettings":
        check_numbers(self, {"num_workers": (1, MAX_WORKERS)})
        check_depth_range(self.depth_range)
        return self


def main(settings: CenterSettings) -> None:
    """Find the centre of every frame of a split, write them, and report their error."""
    names = ("dataset", "data_dir", "split", "setup", "test_subject")
    config = Config(**{name: vars(settings)[name] for name in names}).resolved()
    if settings.split == "train":
        config = replace(config, val_split="test")  # with what is held out: val reads the same file
    frames, info, oracle = find_frames(config), dataset_info(config.dataset), settings.method == "labels"
    labelled, predictor = not np.isnan(frames.joint_xyz[:1]).any(), None
    if oracle and not labelled:
        raise UserError(f"The labels of {config.dataset}, {config.split}, are withheld: use --method depth.")
    if settings.method == "refined":
        path = settings.load_model or shipped_weights(config)
        if not path:
            raise UserError(f"results/ has no weights for {config.dataset}: name some by --load_model.")
        # It sees frames as test.py does, not filtered.
        predictor = HandPosePredictor(path, settings.device, depth_range=settings.depth_range, denoise=False)
    with ExitStack() as stack:
        # A place that takes no file shows before the work, which may take hours.
        places = (settings.out, settings.json)
        out, file = (stack.enter_context(atomic_write(Path(name))) if name else None for name in places)
        if oracle:
            centers = frames.joint_xyz.mean(axis=1, dtype=np.float64)
        else:
            centers = find_centers(frames, info, settings.depth_range, predictor, settings.num_workers)
        report = {name: getattr(settings, name) for name in ("dataset", "split", "method")}
        report |= {"oracle": oracle, "frames": len(centers), "invalid": int(np.isnan(centers[:, 0]).sum())}
        error = "no labels to compare with."
        if labelled:
            errors = center_errors(centers, frames.joint_xyz)
            report |= errors._asdict()
            error = f"mean {errors.mean_mm:.2f} mm, median {errors.median_mm:.2f} mm from the mean of the "
            error += f"true joints, {errors.within_20mm:.2%} within 20 mm"
            error += " (an oracle: made from the labels)" * oracle
        print(f"{len(centers)} frames, {report['invalid']} without a centre; {error}")
        if out:
            write_centers(out, centers)
        if file:
            file.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run(main, __doc__, CenterSettings)
