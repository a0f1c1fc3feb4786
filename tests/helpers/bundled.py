"""A part of the bundled test split, where all 400 frames would take minutes."""

import shutil

import numpy as np
from scipy.io import loadmat, savemat

from tests.helpers.project import PROJECT


def write_bundled(root, count):
    """Write the first `count` frames of the bundled split, and all that belongs to them."""
    source = PROJECT / "data" / "synth"
    (root / "test").mkdir(parents=True)
    for i in range(count):
        name = f"depth_1_{i + 1:07d}.png"
        shutil.copy(source / "test" / name, root / "test")
    shutil.copy(source / "test" / "generator.json", root / "test")
    labels = loadmat(source / "test" / "joint_data.mat")
    savemat(
        root / "test" / "joint_data.mat",
        {name: labels[name][:, :count] for name in ("joint_uvd", "joint_xyz")},
    )
    np.savez(root / "test" / "joints21.npz", xyz=np.load(source / "test" / "joints21.npz")["xyz"][:count])
    centers = (source / "center_test_refined.txt").read_text().splitlines()[:count]
    (root / "center_test_refined.txt").write_text("\n".join(centers) + "\n")
