"""DexYCB's layout on disk: ten people grasp objects before eight cameras, with the right hand or the left.

<root>/calibration/intrinsics/<camera>_640x480.yml        `color`: fx, fy, ppx, ppy, of the depth frames too
<root>/<subject>/<sequence>/meta.yml                      num_frames, and mano_sides: right or left
<root>/<subject>/<sequence>/<camera>/aligned_depth_to_color_%06d.png   depth frames, 16 bit, mm
<root>/<subject>/<sequence>/<camera>/labels_%06d.npz      joint_3d (1, 21, 3), metres; all -1: no hand
<root>/center_{train,val,test}_<setup>_refined.txt        hand centres, `x y z` in mm, a line a frame
"""

import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dataloader import DatasetInfo
from dataloader.frames import FrameIndex, leave_out_handless, new_index
from dataloader.joint_orders import info_of_order
from dataloader.labels import read_frame_labels
from util import UserError
from util.files import atomic_write, read_depth_png, require_file

INFO = info_of_order(
    *("dexycb", "dexycb", 250, dict.fromkeys(("train", "val", "test"), "calibration")),
    source="DexYCB is at https://dex-ycb.github.io",
    official_scores=("absolute", "root-relative", "procrustes"),
)
INFOS = {"dexycb": INFO}

SERIALS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
SUBJECTS, SEQUENCES = 10, 100  # people, and sequences of one
# By setup: the split of a sequence before a camera, from the numbers of subject, camera and sequence.
SPLIT_OF: dict[str, Callable[[int, int, int], str]] = {
    "s0": lambda subject, _, i: "train" if i % 5 != 4 else "val" if subject < 2 else "test",
    "s1": lambda subject, *_: {6: "val", 7: "test", 8: "test"}.get(subject, "train"),
    "s2": lambda _, camera, __: {6: "val", 7: "test"}.get(camera, "train"),
    "s3": lambda *of: {3: "val", 19: "val", 7: "test", 11: "test", 15: "test"}.get(of[2] // 5, "train"),
}
IMAGE = re.compile(r"aligned_depth_to_color_\d{6}\.png")
# Of files: what is wanted, in words; what is taken.
META = (
    "num_frames, and mano_sides: [right] or [left]",
    lambda known: (int(known["num_frames"]), bool(("right", "left").index(known["mano_sides"][0]))),
)
CALIBRATION = (
    "color: {fx, fy, ppx, ppy}",
    lambda known: [float(known["color"][name]) for name in ("fx", "fy", "ppx", "ppy")],
)
ROW = np.dtype([("joint", np.float32, (21, 3))])


def find_frames(root: Path, split: str, info: DatasetInfo, setup: str) -> FrameIndex:
    """Find the frames of a split that show a hand, and their labels; no frame is read.

    They have the order of official result files, for which `labels_used` has a place for every frame.
    """
    each = list(_find_files(root, split, setup))
    if not each:
        raise FileNotFoundError(f"{root} has no sequence of {setup}, split {split}: data/README.md draws it.")
    files, serials, left = zip(*each, strict=True)
    labels = [root / f"{file.format('labels')}.npz" for file in files]
    known = read_frame_labels(root / f".labels_{setup}_{split}.npy", labels, ROW, read_joints)
    calibration = {serial: root / f"calibration/intrinsics/{serial}_640x480.yml" for serial in set(serials)}
    cameras = {serial: _read_yaml(path, *CALIBRATION) for serial, path in calibration.items()}
    there = {file.rpartition("/")[0] for file in files}
    numbers = product(range(SUBJECTS), range(len(SERIALS)), range(SEQUENCES))
    absent = sum(SPLIT_OF[setup](*own) == split for own in numbers) - len(there)
    names = [f"{file.format('aligned_depth_to_color')}.png" for file in files]
    index = new_index(info, root, names, known["joint"], read_depth_png, IMAGE, split)
    return leave_out_handless(
        index._replace(
            missing=[f"a part, {absent} sequences before a camera,"] if absent else (),
            intrinsics=np.array([cameras[serial] for serial in serials]),
            left=np.array(left),
        )
    )


def _find_files(root: Path, split: str, setup: str) -> Iterator[tuple[str, str, bool]]:
    """Of every frame of a split that is there, in order: its files' names below the root, with {} for their
    kind; the camera's serial number; whether the hand is a left one."""
    for subject in range(SUBJECTS):
        folders = sorted(path for path in root.glob(f"*-subject-{subject + 1:02d}/[!.]*") if path.is_dir())
        if len(folders) not in (0, SEQUENCES) and setup in ("s0", "s3"):
            why = f"{setup} goes by a sequence's number among all: get the others, or use --setup s1 or s2"
            raise UserError(f"{folders[0].parent} has {len(folders)} of {SEQUENCES} sequences, and {why}.")
        for number, folder in enumerate(folders):
            own = [serial for i, serial in enumerate(SERIALS) if SPLIT_OF[setup](subject, i, number) == split]
            there = [folder / serial for serial in own if (folder / serial).is_dir()]
            frames, left = _read_yaml(folder / "meta.yml", *META) if there else (0, False)
            for take, i in product(there, range(frames)):
                yield f"{take.relative_to(root).as_posix()}/{{}}_{i:06d}", take.name, left


def _read_yaml(path: Path, wanted: str, pick: Callable[[Any], Any]) -> Any:
    """What `pick` takes out of a file; `wanted`: that in words."""
    require_file(path, wanted)
    try:
        return pick(yaml.safe_load(path.read_bytes()))
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: expected {wanted}.") from error


def read_joints(path: Path) -> tuple[np.ndarray]:
    """The labelled joints of a frame (21, 3), mm; NaN where it shows no hand."""
    try:
        with np.load(path) as archive:
            joints = archive["joint_3d"].reshape(21, 3) * 1000.0
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is damaged: expected joint_3d (1, 21, 3), metres.") from error
    return (np.where((joints == -1000).all(), np.nan, joints),)


def write_submission(folder: Path, index: FrameIndex, joint_xyz: np.ndarray) -> None:
    """Write the test frames' predicted joints (N, 21, 3), mm, as the official script reads them: a frame's
    place among all of the split, with a hand or without, and 63 numbers."""
    with atomic_write(folder / "dexycb_results.txt") as temporary, temporary.open("w") as file:
        for place, joints in zip(np.flatnonzero(index.labels_used), joint_xyz, strict=True):
            file.write(f"{place},{','.join(f'{value:.4f}' for value in joints.ravel())}\n")
