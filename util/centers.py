"""Find the hand: the centre that a crop is cut around, from labels or from the depth frame alone.

python -m util.centers --dataset nyu --split test --method depth --out FILE --json FILE
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from config import DATASETS, Config
from dataloader import find_frames
from dataloader.index import Frames
from util.camera import Camera
from util.cli import run
from util.files import write_centers, written_whole

# Sizes of a hand in mm and mm²; they hold for any camera and data set.
PALM_RADIUS = 80.0  # a ball around the palm that holds most of a hand
NECK_RADIUS = 130.0  # between that ball and this one a hand leaves only fingertips and a wrist
HAND_EDGE = 200.0  # cube whose centre of mass is the hand's; a larger one slides down the forearm
HALF_THICKNESS = 10.0  # the camera sees the skin, the joints lie behind it
PALM_AREA = 2500.0  # facing the camera; less is a speck or a finger
HAND_AREA = 7000.0  # of an open hand less its neck; more is no more like a hand
AREA_PER_MM = 25.0  # of likeness to a hand that one mm nearer to the camera is worth
DEPTH_RANGE = (100.0, 1500.0)  # where hands are looked for
NEAREST_RANGE = 450.0  # behind the nearest surface; HAND_AREA / AREA_PER_MM and a hand's own depth

SAMPLE_SPACING = 10.0  # mm between samples of the frame: fingers have one or two across
MAX_SAMPLES = 3000  # beyond, a wall behind the hand would take gigabytes and seconds
DEPTH_STEP = 25.0  # mm between neighbouring samples; more is another surface


class Samples(NamedTuple):
    """A depth frame thinned out: `xyz` (n, 3) mm, `area` (n,) mm² that each stands for, `surface` (n,)
    number of the connected surface that it lies on.
    """

    xyz: np.ndarray
    area: np.ndarray
    surface: np.ndarray

    def only(self, keep: np.ndarray) -> "Samples":
        """Those of a mask (n,)."""
        return Samples(*(array[keep] for array in self))


def centers_from_labels(joint_xyz: np.ndarray) -> np.ndarray:
    """Mean of the joints: (N, J, 3) mm -> (N, 3) mm. An oracle: it knows what is to be predicted."""
    return np.asarray(joint_xyz, np.float64).mean(axis=1)


def center_from_depth(
    depth: np.ndarray, camera: Camera, depth_range: tuple[float, float] = DEPTH_RANGE
) -> np.ndarray:
    """The hand's centre in a frame that shows an arm, or a whole person behind it: (3,) mm.

    The nearest thing of a hand's shape: a palm's area within a ball, and little of the same surface
    in the shell around it, which tells a hand from a torso or the middle of an arm. From there the
    centre of mass of a hand-sized cube on that surface is followed until it rests.

    Args:
        depth: (H, W) mm, any dtype; 0, NaN and what is out of range are no readings.
        camera: the camera that took it.
        depth_range: nearest and farthest depth of a hand, mm.

    Raises:
        ValueError: if nothing in range has a hand's size.
    """
    samples = nearest_surfaces(sample_frame(depth, camera, depth_range))
    start, own = pick_hand(samples)
    center = rest(samples.only(own), start)
    # Along the ray, so that the centre stays where it is in the image.
    return center * (1 + HALF_THICKNESS / center[2])


def sample_frame(depth: np.ndarray, camera: Camera, depth_range: tuple[float, float]) -> Samples:
    """Thin out the readings in range to about one every SAMPLE_SPACING mm.

    Raises:
        ValueError: if there is none.
    """
    near, far = depth_range
    in_range = (depth > near) & (depth < far)
    if not in_range.any():
        raise ValueError(f"no reading between {near:.0f} and {far:.0f} mm")
    readings = depth[in_range].astype(np.float64)
    total_area = float((readings**2).sum()) / (camera.fx * camera.fy)
    spacing = max(SAMPLE_SPACING, (total_area / MAX_SAMPLES) ** 0.5)
    stride = max(1, round(spacing * camera.fx / float(np.median(readings))))
    rows, columns = (slice(stride // 2, None, stride) for _ in range(2))
    thin = np.where(in_range[rows, columns], depth[rows, columns], 0).astype(np.float64)
    v, u = np.nonzero(thin)
    d = thin[v, u]
    xyz = camera.uvd_to_xyz(np.stack([u * stride + stride // 2, v * stride + stride // 2, d], axis=1))
    area = (stride * d) ** 2 / (camera.fx * camera.fy)
    return Samples(xyz, area, _surfaces(thin)[v, u])


def nearest_surfaces(samples: Samples) -> Samples:
    """Leave out specks, and what lies so far behind the nearest surface that it cannot be the hand.

    Raises:
        ValueError: if only specks are there.
    """
    surface_area = np.bincount(samples.surface, samples.area)
    samples = samples.only(surface_area[samples.surface] >= PALM_AREA)
    if not len(samples.xyz):
        raise ValueError("nothing in range is as large as a hand")
    order = np.argsort(samples.xyz[:, 2])
    first = np.searchsorted(np.cumsum(samples.area[order]), PALM_AREA)
    nearest = samples.xyz[order[min(first, len(order) - 1)], 2]
    return samples.only(samples.xyz[:, 2] < nearest + NEAREST_RANGE)


def pick_hand(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """The sample that is most like the middle of a near hand.

    Returns:
        Its place (3,) mm, and the mask (n,) of its surface.

    Raises:
        ValueError: if none has a palm's area around it.
    """
    palm, neck = np.zeros(len(samples.xyz)), np.zeros(len(samples.xyz))
    for surface in np.unique(samples.surface):
        own = samples.surface == surface
        palm[own], neck[own] = _area_around(samples.only(own))
    likeness = np.minimum(palm - neck, HAND_AREA) - AREA_PER_MM * samples.xyz[:, 2]
    likeness[palm < PALM_AREA] = -np.inf
    best = int(np.argmax(likeness))
    if palm[best] < PALM_AREA:
        raise ValueError("nothing in range is as large as a hand")
    return samples.xyz[best], samples.surface == samples.surface[best]


def rest(samples: Samples, start: np.ndarray, steps: int = 50) -> np.ndarray:
    """Mean shift: follow the centre of mass of the cube around it until it moves less than 0.5 mm."""
    center = start
    for _ in range(steps):
        inside = (np.abs(samples.xyz - center) <= HAND_EDGE / 2).all(axis=1)
        moved = np.average(samples.xyz[inside], axis=0, weights=samples.area[inside])
        if np.linalg.norm(moved - center) < 0.5:
            return moved
        center = moved
    return center


def _area_around(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Area in mm² within the ball of a palm, and in the shell around it, of each of (n,) samples."""
    xyz = (samples.xyz - samples.xyz.mean(axis=0)).astype(np.float32)  # float32 is a matter of speed
    area = samples.area.astype(np.float32)
    squared = (xyz**2).sum(axis=1)
    distance = squared[:, None] + squared - 2 * xyz @ xyz.T
    palm, both = ((distance < radius**2).astype(np.float32) @ area for radius in (PALM_RADIUS, NECK_RADIUS))
    return palm, both - palm


def _surfaces(depth: np.ndarray) -> np.ndarray:
    """Number of the connected surface of every pixel (H, W); neighbours differ by at most DEPTH_STEP."""
    number = np.arange(depth.size).reshape(depth.shape)
    pairs = []
    for one, other in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:], np.s_[:-1]),
    ):
        linked = (depth[one] > 0) & (depth[other] > 0) & (np.abs(depth[one] - depth[other]) < DEPTH_STEP)
        pairs.append((number[one][linked], number[other][linked]))
    i, j = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    links = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(depth.size, depth.size))
    return connected_components(links, directed=False)[1].reshape(depth.shape)


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


def find_centers(frames: Frames, camera: Camera, depth_range: tuple[float, float]) -> np.ndarray:
    """Centre of every frame from its depth: (N, 3) mm, NaN where no hand is found."""
    centers = np.full((len(frames.joint_xyz), 3), np.nan)
    for i in tqdm(range(len(centers)), desc="frames", unit="frame", leave=False):
        depth = frames.read_depth(frames.frame_path(i))
        try:
            centers[i] = center_from_depth(depth, camera, depth_range)
        except ValueError:
            continue  # counted and written as invalid
    return centers


@dataclass
class CenterSettings:
    """Settings of this command."""

    dataset: str = "synth"  # a row of config.DATASETS
    data_dir: str = "data"  # folder that holds the data sets, or the data set's own
    split: Literal["train", "val", "test"] = "test"
    test_subject: int = 0  # msra: the fold
    method: Literal["labels", "depth"] = "depth"  # labels: mean of the joints, an oracle
    depth_range: tuple[float, float] = DEPTH_RANGE  # nearest and farthest depth of a hand, mm
    out: str = ""  # file of centres to write; empty: none
    json: str = ""  # file of errors to write; empty: none

    def resolved(self) -> "CenterSettings":
        """Check the settings.

        Raises:
            ValueError: in one sentence, for one that cannot work.
        """
        if not 0 <= self.depth_range[0] < self.depth_range[1]:
            raise ValueError(f"depth_range is {self.depth_range}: the nearest depth comes first, in mm.")
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
        centers = find_centers(frames, DATASETS[config.dataset].camera, settings.depth_range)
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
