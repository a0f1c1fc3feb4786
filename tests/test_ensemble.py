"""Several networks in one predictor: their mean in millimetres, and how far they spread."""

import numpy as np
import pytest

from dataloader.nyu import read_depth
from tests.helpers.project import PROJECT
from util.camera import NYU_CAMERA
from util.checkpoint import ModelSpec, save_checkpoint
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker

NETS = [PROJECT / "results" / f"{net}_synth.pth" for net in ("resnet_18", "hourglass_1")]
DEPTH = read_depth(PROJECT / "data" / "synth" / "test" / "depth_1_0000001.png")
CENTER = np.array([35.4, 81.7, 500.7])


def pose_of(*files, **arguments):
    """The right hand of one bundled frame by one or several networks."""
    return HandPosePredictor(files, "cpu").predict(DEPTH, NYU_CAMERA, CENTER, "right", **arguments)


def test_the_mean_of_two_networks_and_their_spread():
    both, *alone = pose_of(*NETS, weights=True), *map(pose_of, NETS)
    answers = np.stack([pose.joints_xyz for pose in alone])
    np.testing.assert_allclose(both.joints_xyz, answers.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(NYU_CAMERA.uvd_to_xyz(both.joints_uvd), both.joints_xyz, atol=1e-6)
    np.testing.assert_allclose(both.spread_mm, np.linalg.norm(answers[0] - answers[1], axis=1) / 2, atol=1e-3)
    np.testing.assert_allclose(both.confidence, np.mean([pose.confidence for pose in alone], 0), atol=1e-5)
    assert both.weights.shape == (14, 64, 64)  # the first network's
    assert alone[0].spread_mm is None
    assert len(both.to_dict()["spread_mm"]) == 14
    assert "spread_mm" not in alone[0].to_dict()
    twice = pose_of(NETS[1], NETS[1])  # changes nothing
    np.testing.assert_allclose(twice.joints_xyz, alone[1].joints_xyz, atol=1e-6)
    assert not twice.spread_mm.any()


def test_a_tracker_follows_by_both():
    tracker = HandTracker(HandPosePredictor(NETS, "cpu"), NYU_CAMERA, "right")
    poses = [tracker.update(DEPTH) for _ in range(2)]
    assert all(pose.spread_mm.shape == (14,) for pose in poses)


def test_networks_that_see_another_crop_are_refused(tmp_path):
    spec = ModelSpec("hourglass_1", 14, 2, 0.4, "synth", 64)
    save_checkpoint(tmp_path / "small.pth", spec.build(), spec)
    with pytest.raises(ValueError, match=r"small.pth cannot be averaged with .*resnet_18_synth.pth"):
        HandPosePredictor([NETS[0], tmp_path / "small.pth"], "cpu")
    with pytest.raises(ValueError, match="No checkpoint is named"):
        HandPosePredictor([])
