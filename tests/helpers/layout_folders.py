"""Write folders in ICVL's, MSRA15's and HANDS 2017's layouts (docs/spec.md §1), for tests."""

from pathlib import Path

import cv2
import numpy as np

from dataloader import dataset_info
from tests.helpers.balls import along_bones, render_balls


def spread_hand(dataset, center_xyz, scale=1.0):
    """Joints (J, 3) mm of a hand with fingers apart, moved so that their mean is the centre.

    No two joints share a depth: an order or sign mistaken anywhere shows.
    """
    info = dataset_info(dataset)
    joints = np.zeros((len(info.joint_names), 3))
    for finger, chain in enumerate(info.chains[:5]):
        angle = np.deg2rad(20 * (finger - 2))
        for step, joint in enumerate(chain[1:]):
            reach = 60 + 25 * step - (20 if finger == 4 else 0)
            joints[joint] = reach * np.sin(angle), reach * np.cos(angle), 2.0 * joint - 3.0 * step
    joints *= scale
    return joints - joints.mean(axis=0) + center_xyz


def spread_hands(dataset, count, seed, scale=1.0):
    """(N, J, 3) mm: hands at different places in front of the data set's camera."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform((-60, -40, 350), (60, 40, 500), (count, 3))
    return np.array([spread_hand(dataset, center, scale) for center in centers])


def render_hand(dataset, joint_xyz):
    """A depth frame (H, W) float32 mm with balls at the joints and along the fingers, 0 behind them."""
    info = dataset_info(dataset)
    return render_balls(along_bones(joint_xyz, info.chains), info.camera, info.frame_size, 11.0).astype(
        np.float32
    )


def write_icvl_folder(root, train, test):
    """Training of (N, 16, 3) joints in mm, each also as a copy turned by 22.5°, and a test sequence each
    for the two halves of (M, 16, 3).
    """
    (root / "Testing").mkdir(parents=True)
    half = len(test) // 2
    names = [f"201403121135/image_{i:04d}.png" for i in range(len(train))]
    folder = root / "Training"
    lines = _write_icvl_frames(folder / "Depth", names, train)
    turned = [f"22-5/{line}" for line in lines]  # its frames are never looked for
    mixed = [line for pair in zip(turned, lines, strict=True) for line in pair]
    (folder / "labels.txt").write_text("\n".join(mixed) + "\n")
    for sequence, joints in (("test_seq_1", test[:half]), ("test_seq_2", test[half:])):
        names = [f"{sequence}/image_{i:04d}.png" for i in range(len(joints))]
        lines = _write_icvl_frames(root / "Testing" / "Depth", names, joints)
        # The published files end in blank lines, and their lines in a space.
        (root / "Testing" / f"{sequence}.txt").write_text(" \n".join(lines) + " \n\n")
    write_center_file(root / "center_train_refined.txt", train.mean(axis=1))
    write_center_file(root / "center_test_refined.txt", test.mean(axis=1))


def _write_icvl_frames(folder, names, joint_xyz):
    """Write frames and give their label lines."""
    lines = []
    for name, joints in zip(names, joint_xyz, strict=True):
        write_png(folder / name, render_hand("icvl", joints))
        uvd = dataset_info("icvl").camera.xyz_to_uvd(joints)
        lines.append(" ".join([name, *(f"{value:.4f}" for value in uvd.ravel())]))
    return lines


def write_msra_folder(root, hands):
    """Hands by subject and gesture: {0: {"1": (n, 21, 3) mm, "IP": …}, …}, and every fold's centres."""
    for subject, gestures in hands.items():
        for gesture, joint_xyz in gestures.items():
            folder = root / f"P{subject}" / gesture
            folder.mkdir(parents=True)
            lines = [str(len(joint_xyz))]
            for i, joints in enumerate(joint_xyz):
                write_bin(folder / f"{i:06d}_depth.bin", render_hand("msra", joints))
                lines.append(" ".join(f"{value:.4f}" for value in (joints * (1, 1, -1)).ravel()))
            (folder / "joint.txt").write_text("\n".join(lines) + "\n")
    for left_out in hands:
        for split in ("train", "test"):
            centers = [
                joints.mean(axis=0)
                for subject, gestures in hands.items()
                if (subject == left_out) == (split == "test")
                for gesture in sorted(gestures)
                for joints in gestures[gesture]
            ]
            if centers:
                write_center_file(root / f"center_{split}_{left_out}_refined.txt", np.array(centers))


def write_bin(path, depth):
    """MSRA's file: the window that holds readings, as float32 after six int32."""
    v, u = np.nonzero(depth)
    left, top, right, bottom = u.min(), v.min(), u.max() + 1, v.max() + 1
    header = np.array([depth.shape[1], depth.shape[0], left, top, right, bottom], np.int32)
    path.write_bytes(header.tobytes() + depth[top:bottom, left:right].astype(np.float32).tobytes())


def write_hands17_folder(root, train, test):
    """Training of (N, 21, 3) joints in mm, and test frames of (M, 21, 3) without labels."""
    lines = []
    for folder, joint_xyz in ((root / "training", train), (root / "frame", test)):
        for i, joints in enumerate(joint_xyz):
            name = f"image_D{i + 1:08d}.png"
            write_png(folder / "images" / name, render_hand("hands17", joints))
            if folder.name == "training":
                lines.append("\t".join([name, *(f"{value:.4f}" for value in joints.ravel())]))
    (root / "training" / "Training_Annotation.txt").write_text("\n".join(lines) + "\n")
    write_center_file(root / "center_train_refined.txt", train.mean(axis=1))
    write_center_file(root / "center_test_refined.txt", test.mean(axis=1))


def write_png(path, depth):
    """A frame in mm as 16-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), depth.round().astype(np.uint16))


def write_center_file(path, center_xyz):
    """(N, 3) mm, a line a frame."""
    np.savetxt(Path(path), center_xyz, fmt="%.3f")


def write_video(path, frames, code="FFV1", depth=cv2.CV_16U, rate=30):
    """Frames (N, H, W), losslessly in 16 bits by default."""
    options = [cv2.VIDEOWRITER_PROP_DEPTH, depth, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, frames.shape[:0:-1], options
    )
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
