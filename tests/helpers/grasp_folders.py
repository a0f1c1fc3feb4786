"""Write tiny folders in DexYCB's, HO-3D's and HANDS 2019's layouts, from their descriptions alone."""

import json
import pickle

import cv2
import numpy as np

from tests.helpers.balls import render_balls
from util.camera import Camera

SUBJECTS = {
    0: "20200709-subject-01",
    6: "20200928-subject-07",
    7: "20201002-subject-08",
    8: "20201015-subject-09",
}
SERIALS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
FINGERS, PARTS = ("thumb", "index", "middle", "ring", "pinky"), ("MCP", "PIP", "DIP", "tip")
DEXYCB = ("wrist", *(f"{finger} {part}" for finger in FINGERS for part in PARTS))
ROOTS = ("index", "middle", "pinky", "ring", "thumb")  # MANO's order
HO3D = (
    *("wrist", *(f"{finger} {part}" for finger in ROOTS for part in PARTS[:3])),
    *(f"{finger} tip" for finger in FINGERS),
)


def named_hand(center, left=False):
    """Joints by name, mm, y down: a spread right hand, or the left one that mirrors it."""
    hand = {"wrist": np.array([0.0, 50.0, 8.0])}
    for finger, name in enumerate(FINGERS):
        angle = np.deg2rad(18 * finger - 36)
        for step, part in enumerate(PARTS):
            reach = 20 + 15 * step - (8 if finger == 0 else 0)
            hand[f"{name} {part}"] = np.array(
                [reach * np.sin(angle), -reach * np.cos(angle), 2 * finger - 3 * step]
            )
    return {name: joint * (-1 if left else 1, 1, 1) + center for name, joint in hand.items()}


def in_order(hand, names):
    """A hand's joints (21, 3) in the order of some names."""
    return np.array([hand[name] for name in names])


def render(hand, intrinsics):
    """Depth (480, 640) mm: balls of 12 mm at the joints, 0 elsewhere; no hand: nothing."""
    return render_balls(list((hand or {}).values()), Camera(*intrinsics), (480, 640), 12.0).round()


def write_picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_dexycb(root, takes, intrinsics):
    """Write sequences: (subject, name, side, {camera: hands}); a hand of None is a frame without one.

    `intrinsics`: fx, fy, cx, cy by number of the camera.
    """
    folder = root / "calibration" / "intrinsics"
    folder.mkdir(parents=True)
    for camera, (fx, fy, cx, cy) in intrinsics.items():
        text = f"color:\n  fx: {fx}\n  fy: {fy}\n  ppx: {cx}\n  ppy: {cy}\ndepth:\n  fx: 1.0\n"
        (folder / f"{SERIALS[camera]}_640x480.yml").write_text(text)
    for subject, sequence, side, cameras in takes:
        folder = root / SUBJECTS[subject] / sequence
        for camera, hands in cameras.items():
            for i, hand in enumerate(hands):
                joints = np.full((21, 3), -1.0) if hand is None else in_order(hand, DEXYCB) / 1000
                place = folder / SERIALS[camera]
                depth = render(hand, intrinsics[camera]).astype(np.uint16)
                write_picture(place / f"aligned_depth_to_color_{i:06d}.png", depth)
                labels = {"joint_3d": joints[None].astype(np.float32), "seg": np.zeros((4, 4), np.uint8)}
                np.savez(place / f"labels_{i:06d}.npz", **labels)
        (folder / "meta.yml").write_text(f"mano_sides:\n- {side}\nnum_frames: {len(hands)}\nycb_ids:\n- 5\n")


def write_ho3d(root, train, test, rgb, answers=True):
    """Write {sequence: (intrinsics, hands)} for both splits; `rgb`: png as in version 2 or jpg as in 3;
    `answers`: whether evaluation_xyz.json is there. A training hand of None has no label."""
    xyz = []
    for split, sequences in (("train", train), ("evaluation", test)):
        frames = [
            (name, k, i, hand) for name, (k, hands) in sequences.items() for i, hand in enumerate(hands)
        ]
        (root / split).mkdir(parents=True)
        (root / f"{split}.txt").write_text("".join(f"{name}/{i:04d}\n" for name, _, i, _ in frames))
        for name, (fx, fy, cx, cy), i, hand in frames:
            depth, folder = render(hand, (fx, fy, cx, cy)), root / split / name
            units = np.rint(depth / 1000 / 0.00012498664727900177).astype(int)
            picture = np.stack([0 * units, units // 256, units % 256], axis=-1).astype(np.uint8)  # B, G, R
            write_picture(folder / "depth" / f"{i:04d}.png", picture)
            write_picture(folder / "rgb" / f"{i:04d}.{rgb}", picture)
            joints = None if hand is None else in_order(hand, HO3D) / 1000 * (1, -1, -1)
            meta = {"camMat": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), "handJoints3D": joints}
            if split == "evaluation":
                xyz.append(joints.tolist())
                v, u = np.nonzero(depth)
                meta |= {"handJoints3D": joints[0], "handBoundingBox": [u.min(), v.min(), u.max(), v.max()]}
            (folder / "meta").mkdir(exist_ok=True)
            (folder / "meta" / f"{i:04d}.pkl").write_bytes(pickle.dumps(meta, protocol=2))
    if answers:
        (root / "evaluation_xyz.json").write_text(json.dumps(xyz))


def write_hands19(root, hands, names, intrinsics):
    """Write the same hands as both splits, with a nearer thing beside each; `names`: order of the joints."""
    for split in ("training", "test"):
        labels, boxes = "", ""
        for i, hand in enumerate(hands, 1):
            depth, name = render(hand, intrinsics), f"image_D{i:08d}.png"
            v, u = np.nonzero(depth)
            boxes = f"{name}\t{u.min()}\t{v.min()}\t{u.max()}\t{v.max()}\n{boxes}"
            labels += "\t".join([name, *(f"{value:.4f}" for value in in_order(hand, names).ravel())]) + "\n"
            depth[:, :90] = 300
            write_picture(root / "Task 1" / f"{split}_images" / name, depth.astype(np.uint16))
        (root / "Task 1" / f"{split}_bbs.txt").write_text(boxes)
    (root / "Task 1" / "training_joint_annotation.txt").write_text(labels)


CAMERAS = {0: (610.0, 612.0, 315.0, 238.0), 3: (600.0, 601.0, 322.0, 247.0)}
HANDS17 = (475.065948, 475.065857, 315.944855, 245.287079)
HANDS = (
    *("wrist", *(f"{finger} MCP" for finger in FINGERS)),
    *(f"{finger} {part}" for finger in FINGERS for part in PARTS[1:]),
)
RIGHT, LEFT = ([named_hand([x, 20.0, 600.0 + x], left) for x in (-40, 15)] for left in (False, True))
TAKES = [  # of DexYCB's setup s1: subject 7 is tested on, 6 validated on
    (7, "20201002_110227", "right", {0: [RIGHT[0], None, RIGHT[1]], 3: [RIGHT[1], RIGHT[0], None]}),
    (7, "20201002_110425", "left", {0: LEFT, 3: LEFT}),
    (6, "20200928_143500", "left", {0: LEFT}),
    (0, "20200709_141754", "right", {0: RIGHT, 3: RIGHT}),
]


def write_all(root):
    """Every data set's folder, HO-3D's as version 3, and in `v2` as version 2 without answers."""
    write_dexycb(root / "dexycb", TAKES, CAMERAS)
    train = {"ABF10": (CAMERAS[0], [*RIGHT, None]), "MC1": (CAMERAS[3], RIGHT)}
    test = {"SM1": (CAMERAS[3], RIGHT), "AP11": (CAMERAS[0], RIGHT[:1])}
    write_ho3d(root / "v2", train, test, "png", answers=False)
    write_ho3d(root / "ho3d", train, test, "jpg")
    write_hands19(root / "hands19", RIGHT, HANDS, HANDS17)
