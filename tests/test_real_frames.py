"""Real frames of three cameras: the hand is found in them, and its joints lie on it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataloader.nyu import read_depth
from tests.helpers.project import SHARED, need_shared
from util.camera import NYU_CAMERA, Camera
from util.checkpoint import RESULTS
from util.inference.centers import refine_center
from util.inference.find_hand import center_from_depth
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker

SR305 = Camera(fx=476.007, fy=476.007, cx=313.683, cy=242.755)
KINECT2 = Camera(fx=363.9, fy=363.9, cx=255.4, cy=206.3)
# u, v on the palm, at the fingers' roots; looked at in every frame. The Kinect shows left hands.
PALMS = json.loads((Path(__file__).parent / "fixtures" / "palms.json").read_text())
KINECT2_EMPTY = (353, 361, 371)
KINECT2_TURNING_AWAY = "342"


def sr305_frame(name):
    """Raw depth (H, W), 1/8 mm."""
    return cv2.imread(str(SHARED / "sr305" / f"20210326-{name}.png"), cv2.IMREAD_UNCHANGED)


def kinect2_frame(number):
    """Depth (H, W) mm."""
    return cv2.imread(str(SHARED / "kinect2" / f"{int(number):08d}.png"), cv2.IMREAD_UNCHANGED)


def off_palm(camera, uvd, palm):
    """How far a place lies from a palm's u, v, in mm at its depth."""
    return np.hypot(uvd[0] - palm[0], uvd[1] - palm[1]) * uvd[2] / camera.fx


@pytest.fixture(scope="module", params=["resnet_18", "hourglass_1"])
def predictor(request):
    return HandPosePredictor(RESULTS / f"{request.param}_synth.pth", "cpu")


@pytest.fixture(scope="module")
def nyu():
    """Depth (480, 640), the released centre and the joints (14, 3) of a frame, mm."""
    uvd = np.load(SHARED / "nyu" / "test_labels_uvd.npz")["joint_uvd"][0].astype(float)
    released = np.loadtxt(SHARED / "nyu" / "center_test_refined.txt", max_rows=1)
    return read_depth(SHARED / "nyu" / "depth_1_0000001.png"), released, NYU_CAMERA.uvd_to_xyz(uvd)


@need_shared("sr305")
@pytest.mark.parametrize("name", PALMS["sr305"])
def test_the_centre_lies_on_a_hand_before_a_body(name):
    raw = sr305_frame(name)
    u, v, d = uvd = SR305.xyz_to_uvd(center_from_depth(raw * 0.125, SR305))
    assert off_palm(SR305, uvd, PALMS["sr305"][name]) < 30
    # On the hand's own surface, not on the body 100 to 400 mm behind it.
    around = raw[int(v) - 5 : int(v) + 6, int(u) - 5 : int(u) + 6] * 0.125
    assert abs(np.median(around[around > 0]) - d) < 30


@need_shared("kinect2")
def test_the_centre_lies_on_a_hand_before_a_person_that_the_range_cuts():
    off = {}
    for number, palm in PALMS["kinect2"].items():
        center = center_from_depth(kinect2_frame(number), KINECT2)
        off[number] = off_palm(KINECT2, KINECT2.xyz_to_uvd(center), palm)
    assert max(off.values()) < 60, off


@need_shared("nyu")
def test_the_centre_of_nyus_frame_is_near_the_released_one_and_refined_the_true_one(nyu):
    depth, released, truth = nyu
    rough = center_from_depth(depth, NYU_CAMERA)
    assert np.linalg.norm(rough - released) < 20
    network = HandPosePredictor(RESULTS / "resnet_18_synth.pth", "cpu", denoise=False)
    refined = refine_center(network, depth, NYU_CAMERA, rough)
    distance = [np.linalg.norm(center - truth.mean(0)) for center in (rough, refined)]
    assert distance[1] < 10


@need_shared("nyu")
def test_nyus_frame_needs_no_released_centre(predictor, nyu):
    depth, released, truth = nyu
    errors = [
        np.linalg.norm(predictor.predict(depth, NYU_CAMERA, center).joints_xyz - truth, axis=1).mean()
        for center in (released, None)
    ]
    assert errors[1] < errors[0] + 3


@need_shared("sr305")
@pytest.mark.slow
def test_joints_lie_on_a_hand_before_a_body(predictor):
    """No joints are known; the palm's, which is easy to see, was marked by hand."""
    away = []
    for name, palm in PALMS["sr305"].items():
        pose = predictor.predict(sr305_frame(name), SR305, depth_scale=0.125)
        assert pose is not None, name
        away.append(off_palm(SR305, pose.joints_uvd[predictor.info.joint_names.index("palm")], palm))
    assert max(away) < 80  # the palm's joint lies below the fingers' roots, by 20 to 50 mm


@need_shared("kinect2")
@pytest.mark.slow
def test_a_hand_before_a_whole_person_and_its_side(predictor):
    wrong_side, off = [], []
    for number, palm in PALMS["kinect2"].items():
        pose = predictor.predict(kinect2_frame(number), KINECT2, handedness="auto")
        assert pose is not None, number
        off.append(off_palm(KINECT2, KINECT2.xyz_to_uvd(pose.joints_xyz.mean(axis=0)), palm))
        if pose.handedness != "left":
            wrong_side.append(number)
    for number in KINECT2_EMPTY:
        assert predictor.predict(kinect2_frame(number), KINECT2, handedness="auto") is None, number
    assert max(off) < 40
    if predictor.spec.net == "hourglass_1":
        assert set(wrong_side) <= {KINECT2_TURNING_AWAY}


@need_shared("kinect2")
@pytest.mark.slow
def test_no_tracked_crop_cuts_a_hand(predictor):
    """A crop's border may show the forearm, nothing near a joint. Between two frames, seconds passed."""
    tracker = HandTracker(predictor, KINECT2)
    for number in PALMS["kinect2"]:
        pose = tracker.update(kinect2_frame(number))
        joints = pose.joints_uvd[:, :2] * pose.crop.M[0, 0] + pose.crop.M[:2, 2]
        border = pose.crop.image > 0
        border[1:-1, 1:-1] = False
        near = np.linalg.norm(np.argwhere(border)[:, None, ::-1] - joints, axis=2) < 15  # pixels, 35 mm
        assert not near.any(), number
