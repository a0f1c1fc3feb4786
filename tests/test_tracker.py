"""A hand through a stream of frames: followed, lost, found again, smoothed."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dataloader.crop import Crop
from tests.helpers.blob_network import CAMERA, blob_predictor
from tests.helpers.project import need_synthetic_hand
from tests.helpers.refused import refused
from util.camera import NYU_CAMERA
from util.checkpoint import RESULTS
from util.inference.hands import Found, HandPose, distinct
from util.inference.predictor import DEFAULT_CHECKPOINT, HandPosePredictor
from util.inference.tracker import DECIDE, MEMORY, RECHECK, SEARCH_EVERY, SEARCH_LOST, HandTracker, OneEuro

FRAMES = 300
EVERY = 6  # of the clip, predicted on its own beside the tracked pose


def rendered(kind, seed, *settings, **more):
    """A MovingHand or TwoMovingHands of the bundled bank."""
    need_synthetic_hand()
    from dataloader.synthetic import motion
    from dataloader.synthetic.hand.bank import HandBank

    return getattr(motion, kind)(HandBank(), seed, *settings, **more)


@pytest.fixture(scope="module")
def moving_hand():
    return rendered("MovingHand", 0, CAMERA, (240, 320), leaves=True)


@pytest.fixture(scope="module")
def clip(moving_hand):
    """300 frames of a hand that leaves twice and returns; its own joints and whether it is visible."""
    return [moving_hand.frame(i) for i in range(FRAMES)]


def test_the_clip_is_what_it_says(moving_hand, clip):
    visible = np.array([frame.visible for frame in clip])
    assert 200 < visible.sum() < 260
    assert np.count_nonzero(np.diff(visible.astype(int)) == 1) == 2  # it returns twice
    away = np.array([not frame.depth.any() for frame in clip])
    assert away.sum() > 40
    assert not (away & visible).any()
    # Any frame alone is the frame of the clip, and the labels lie on what is rendered.
    np.testing.assert_array_equal(moving_hand.frame(217).depth, clip[217].depth)
    u, v, d = np.rint(CAMERA.xyz_to_uvd(clip[0].joint_xyz)).astype(int).T
    assert np.median(np.abs(clip[0].depth[v, u] - d)) < 25
    # It moves, and without jumps.
    steps = [np.linalg.norm(b.joint_xyz - a.joint_xyz, axis=1).max() for a, b in pairwise(clip[:90])]
    assert 1 < np.mean(steps) < 30
    assert max(steps) < 60
    up = rendered("MovingHand", 0, CAMERA._replace(flip=-1), (240, 320), leaves=True).frame(3)
    np.testing.assert_array_equal(up.depth, clip[3].depth)
    np.testing.assert_allclose(up.joint_xyz * (1, -1, 1), clip[3].joint_xyz)


def follow(predictor, clip):
    """The poses that a tracker finds: none where nothing is to be seen, and no joint that is no number."""
    tracker = HandTracker(predictor, CAMERA, "right")
    poses = [tracker.update(frame.depth) for frame in clip]
    for frame, pose in zip(clip, poses, strict=True):
        assert pose is None or (frame.depth.any() and np.isfinite(pose.joints_xyz).all())
    return poses


def returns(clip):
    """Slices of the five frames from which on the whole hand is back."""
    back = [i for i in range(1, len(clip)) if clip[i].visible and not clip[i - 1].visible]
    return [slice(i, i + 5) for i in back]


def test_a_hand_that_leaves_is_lost_and_found_again(clip, tmp_path):
    poses = follow(blob_predictor(tmp_path), clip)
    for back in returns(clip):
        assert any(pose is not None for pose in poses[back])
    followed = [p is not None for p, f in zip(poses, clip, strict=True) if f.visible]
    assert np.mean(followed) > 0.9


@pytest.mark.slow
def test_tracking_is_as_near_as_frame_by_frame(clip):
    predictor = HandPosePredictor(DEFAULT_CHECKPOINT, "cpu")
    poses = follow(predictor, clip)

    def error(pose, frame):
        return np.linalg.norm(pose.joints_xyz - frame.joint_xyz, axis=1).mean()

    for back in returns(clip):
        near = zip(poses[back], clip[back], strict=True)
        assert any(pose is not None and error(pose, frame) < 40 for pose, frame in near)
    tracked, alone = [], []
    for pose, frame in zip(poses[::EVERY], clip[::EVERY], strict=True):
        single = predictor.predict(frame.depth, CAMERA, handedness="right") if frame.visible else None
        if single is not None and pose is not None:
            tracked.append(error(pose, frame))
            alone.append(error(single, frame))
    followed = [pose is not None for pose, frame in zip(poses, clip, strict=True) if frame.visible]
    assert np.mean(followed) > 0.95
    assert np.mean(tracked) < 1.1 * np.mean(alone)


class ScriptedPredictor:
    """Answers from a list; remembers each call's centre, None where it had to search the frame, and side."""

    reacquire_below = 0.6
    cube = np.array([300.0, 300, 300])

    def __init__(self, *answers):
        self.answers, self.centers, self.sides = list(answers), [], []

    def enter(self, depth, camera, depth_scale):
        return depth.astype(np.float32)

    def next(self, center, side):
        self.centers.append(center)
        self.sides.append(side)
        return self.answers.pop(0)

    def follow(self, candidates, camera, weights):
        return [self.next(candidate.center, candidate.side) for candidate in candidates]

    def search(self, frame, camera, max_hands, handedness, weights, known):
        pose = self.next(None, handedness)
        return Found([], "nothing there") if pose is None else Found([pose])


def pose_at(x, confidence=0.9, side="right"):
    joints = np.tile([float(x), 0, 500], (14, 1))
    joints[0] += (20, 0, 0)
    confidence = np.full(14, confidence, np.float32)
    uvd, center = NYU_CAMERA.xyz_to_uvd(joints), joints.mean(0)
    crop = Crop(np.full((8, 8), 500, np.float32), center, np.full(3, 300.0), np.eye(3))
    return HandPose(joints, uvd, center, confidence, crop, handedness=side)


def track(predictor, frames, handedness="right", **arguments):
    tracker = HandTracker(predictor, NYU_CAMERA, handedness, **arguments)
    return [tracker.update(np.zeros((4, 4))) for _ in range(frames)]


def test_the_last_pose_gives_the_next_centre():
    predictor = ScriptedPredictor(*(pose_at(x, side="left") for x in (0, 5, 10)))
    track(predictor, 3, handedness="left")
    assert predictor.centers[0] is None
    np.testing.assert_allclose(predictor.centers[1:], [(10, 0, 500), (15, 0, 500)])
    assert set(predictor.sides) == {"left"}


def test_a_lost_hand_is_looked_for_in_the_same_frame():
    predictor = ScriptedPredictor(pose_at(0), None, pose_at(100), None, None, None, pose_at(7))
    poses = track(predictor, 5)
    assert [center is None for center in predictor.centers] == [True, False, True, False, True, True, True]
    assert [pose is None for pose in poses] == [False, False, True, True, False]


@pytest.mark.parametrize(("found", "expected"), [(0.8, 100), (0.1, 0), (None, 0)])
def test_an_unsure_pose_is_compared_with_one_found_anew(found, expected):
    anew = None if found is None else pose_at(100, found)
    predictor = ScriptedPredictor(pose_at(0), pose_at(0, ScriptedPredictor.reacquire_below - 0.1), anew)
    poses = track(predictor, 2)
    assert poses[1].joints_xyz[1, 0] == expected


def test_a_weak_track_does_not_step_onto_a_hand_far_away():
    predictor = ScriptedPredictor(pose_at(0), pose_at(0, 0.5), pose_at(500))
    tracker = HandTracker(predictor, NYU_CAMERA, "right", max_hands=2)
    tracker.update(np.zeros((4, 4)))
    hands = tracker.update_hands(np.zeros((4, 4)))
    assert [(hand.identity, hand.joints_xyz[1, 0]) for hand in hands] == [(0, 0), (1, 500)]


def mixed(x, side="right"):
    """A pose of little confidence whose crop shows the surface of two hands."""
    pose = pose_at(x, 0.7, side)
    image, M = np.full((190, 190), 500, np.float32), np.eye(3)
    M[:2, 2] = 95 - NYU_CAMERA.xyz_to_uvd(pose.center_xyz)[:2]
    return pose._replace(crop=pose.crop._replace(image=image, M=M))


@pytest.mark.parametrize(("max_hands", "found"), [(1, [0, 0, 0, 0]), (2, [0, None, None, None])])
def test_of_several_hands_one_that_touches_another_is_lost_and_not_found_elsewhere(max_hands, found):
    predictor = TwoHandsPredictor()
    tracker = HandTracker(predictor, NYU_CAMERA, "right", max_hands=max_hands)
    for hands, identity in zip([[pose_at(0)]] + [[mixed(0)]] * 3, found, strict=True):
        predictor.hands = hands
        pose = tracker.update(np.zeros((4, 4)))
        assert (pose and pose.identity) == identity
    assert tracker.reason == ("two hands touch" if max_hands > 1 else "")
    predictor.hands = [pose_at(400)]  # another hand, nearer than one that left may come back
    while max_hands > 1 and pose is None:
        pose = tracker.update(np.zeros((4, 4)))
    assert pose.identity == max_hands - 1


def test_a_hand_beside_the_wanted_ones_is_followed_but_not_answered():
    predictor = TwoHandsPredictor()
    tracker = HandTracker(predictor, NYU_CAMERA, "right", max_hands=2)
    predictor.hands = [pose_at(-300), pose_at(0), pose_at(300)]
    assert [hand.identity for hand in tracker.update_hands(np.zeros((4, 4)))] == [0, 1]
    predictor.hands.pop(0)
    assert [hand.identity for hand in tracker.update_hands(np.zeros((4, 4)))] == [1, 2]


def test_the_side_is_decided_in_the_first_frames_and_kept():
    def both(right, left):
        return pose_at(0, right), pose_at(0, left, "left")

    predictor = ScriptedPredictor(
        pose_at(0, 0.8, "left"),  # found
        *both(0.75, 0.8),
        *both(0.75, 0.9),  # together a lead of more than LEAD
        pose_at(0, 0.8, "left"),
        *(None, None),  # not where it was, nor elsewhere as a left hand
        pose_at(0, 0.8),  # found anew, as a right hand
        *both(0.8, 0.7),
    )
    poses = track(predictor, 7, handedness="auto")
    assert [pose and pose.handedness for pose in poses] == ["left"] * 4 + [None] + ["right"] * 2
    assert " ".join(predictor.sides) == "auto right left right left left left left auto right left"


def test_a_wrong_side_is_noticed_later():
    answers = [pose_at(0)]
    for _ in range(DECIDE):  # no side leads, the right one by little
        answers += [pose_at(0, 0.8), pose_at(0, 0.79, "left")]
    answers += [pose_at(0, 0.7)] * (RECHECK - DECIDE) + [pose_at(0, 0.7), pose_at(0, 0.9, "left")]
    poses = track(ScriptedPredictor(*answers), RECHECK + 2, handedness="auto")
    assert [pose.handedness for pose in poses] == ["right"] * (RECHECK + 1) + ["left"]


class TwoHandsPredictor(ScriptedPredictor):
    """Finds whatever hands `hands` has now; a candidate is the nearest of them."""

    hands = ()

    def follow(self, candidates, camera, weights):
        def nearest(center):
            near = [hand for hand in self.hands if abs(hand.middle[0] - center[0]) < 150]
            return min(near, key=lambda hand: abs(hand.middle[0] - center[0]), default=None)

        return [nearest(candidate.center) for candidate in candidates]

    def search(self, frame, camera, max_hands, handedness, weights, known):
        return Found(distinct(self.hands, known)[:max_hands])


def test_hands_keep_their_identity_when_one_is_away_or_covered():
    predictor = TwoHandsPredictor()
    tracker = HandTracker(predictor, NYU_CAMERA, "right", max_hands=2)

    def see(*hands):
        predictor.hands = list(hands)
        seen = tracker.update_hands(np.zeros((4, 4)))
        return {hand.identity: round(float(hand.middle[0])) for hand in seen}

    right, left = pose_at(-200), pose_at(200, 0.8, "left")
    assert see(right, left) == {0: -190, 1: 210}
    assert see(right) == {0: -190}
    for _ in range(SEARCH_LOST):
        back = see(right, left)
    assert back == {0: -190, 1: 210}
    # They cross: while the left one is covered, both looks find the right one.
    for x in range(-200, 201, 40):
        middle = see(pose_at(x), *([pose_at(-x, 0.8, "left")] if abs(x) > 60 else []))
    for _ in range(SEARCH_LOST):
        after = see(pose_at(200), pose_at(-200, 0.8, "left"))
    assert after == {0: 210, 1: -190}, middle
    for _ in range(MEMORY + 2):
        see(pose_at(200))
    for _ in range(SEARCH_EVERY):
        new = see(pose_at(200), pose_at(-200, 0.8, "left"))
    assert new == {0: 210, 1: -190}


@pytest.mark.slow
def test_two_rendered_hands_that_cross_and_leave():
    hands = rendered("TwoMovingHands", 0, CAMERA, (240, 320), leaves=True)
    tracker = HandTracker(HandPosePredictor(DEFAULT_CHECKPOINT, "cpu"), CAMERA, "auto", max_hands=2)
    owner, switches, misses, visible, errors, wrong_side = {}, 0, 0, 0, [], 0
    for i in range(40, 190):  # a crossing, and each of them away once
        frame = hands.frame(i)
        poses = tracker.update_hands(frame.depth)
        for k, truth in enumerate(frame.joint_xyz):
            apart = [np.linalg.norm(pose.joints_xyz - truth, axis=1).mean() for pose in poses]
            j = int(np.argmin(apart)) if apart else -1
            visible += frame.visible[k]
            if j < 0 or apart[j] > 60:
                misses += frame.visible[k]
                continue
            switches += owner.get(k, poses[j].identity) != poses[j].identity
            owner[k] = poses[j].identity
            if frame.visible[k]:
                errors.append(apart[j])
                wrong_side += poses[j].handedness != ("right", "left")[k]
    assert switches == 0
    assert misses < 0.1 * visible
    assert wrong_side < 0.05 * visible
    assert np.mean(errors) < 8


def test_smoothing_takes_out_jitter_and_follows_movement():
    rng = np.random.default_rng(0)
    steady = [pose_at(x) for x in rng.normal(0, 2, 200)]
    smoothed = track(ScriptedPredictor(*steady), 200, smoothing=OneEuro())
    jitter = [np.std([pose.joints_xyz[1, 0] for pose in poses[20:]]) for poses in (steady, smoothed)]
    assert jitter[1] < 0.5 * jitter[0]
    for pose in smoothed[:3]:
        np.testing.assert_allclose(pose.joints_uvd, NYU_CAMERA.xyz_to_uvd(pose.joints_xyz))
    # At 300 mm/s it lags by little, and less than a filter that ignores speed.
    moving = [pose_at(10.0 * i) for i in range(60)]
    last = [
        track(ScriptedPredictor(*moving), 60, smoothing=euro)[-1].joints_xyz[1, 0]
        for euro in (OneEuro(), OneEuro(beta=0))
    ]
    assert last[1] < 590 - 15 < last[0] < 590


def test_smoothing_starts_anew_when_the_hand_was_lost():
    answers = [pose_at(0), None, None, pose_at(300)]
    assert track(ScriptedPredictor(*answers), 3, smoothing=OneEuro())[2].joints_xyz[1, 0] == 300
    euro = OneEuro()
    assert euro(np.array([1.0]), 0.1) == euro(np.array([5.0]), 0.0) == 1  # no time passed


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_refused(seconds):
    euro = OneEuro()
    euro(np.array([1.0]), 0.1)
    with pytest.raises(ValueError, match="seconds is"):
        euro(np.array([2.0]), seconds)
    assert np.isfinite(euro(np.array([2.0]), 0.1))


@pytest.mark.parametrize(("seed", "third_seed"), [(5, 11), (3, 4)])  # beside the two hands; touching one
@pytest.mark.slow
def test_a_third_hand_draws_no_track_onto_it(seed, third_seed):
    shift = 170
    two, third = rendered("TwoMovingHands", seed, NYU_CAMERA), rendered("MovingHand", third_seed, NYU_CAMERA)
    predictor, homes = HandPosePredictor(RESULTS / "hourglass_1_synth.pth", "cpu"), {}  # of each identity
    tracker = HandTracker(predictor, NYU_CAMERA, max_hands=2)
    for i in range(60, 84):
        frame, other = two.frame(i), third.frame(i)
        moved = np.pad(other.depth[:, shift:], ((0, 0), (0, shift)))
        depth = np.where((moved > 0) & ((frame.depth == 0) | (moved < frame.depth)), moved, frame.depth)
        uvd = NYU_CAMERA.xyz_to_uvd(other.joint_xyz) - (shift, 0, 0)
        truth = np.array([*frame.joint_xyz, NYU_CAMERA.uvd_to_xyz(uvd)])
        for hand in tracker.update_hands(depth):
            errors = np.linalg.norm(hand.joints_xyz - truth, axis=-1).mean(axis=1)
            assert np.argmin(errors) == homes.setdefault(hand.identity, np.argmin(errors)), i
            assert errors.min() < 40, i


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"smoothing": {"min_cutoff": 0}}, "One-Euro"),
        ({"smoothing": {"beta": -1}}, "One-Euro"),
        ({"smoothing": {"min_cutoff": float("nan")}}, "One-Euro"),
        ({"max_hands": 0}, "max_hands is 0"),
        ({"max_hands": 2.5}, "max_hands is 2.5"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_sentence(arguments, sentence):
    with refused(sentence):
        smoothing = OneEuro(**arguments.get("smoothing", {}))
        HandTracker(
            TwoHandsPredictor(), NYU_CAMERA, max_hands=arguments.get("max_hands", 1), smoothing=smoothing
        )


def resident_mb():
    """Memory that this process has in use now."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("needs Linux's /proc")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_frames(tmp_path):
    small = CAMERA._replace(fx=70.0, fy=70.0, cx=40.0, cy=30.0)
    tracker = HandTracker(blob_predictor(tmp_path), small, "right")
    rows, columns = np.mgrid[:60, :80]

    def follow(frames):
        for i in frames:  # a hand of 600 mm depth that moves, and is away for a fifth of the time
            hand = np.hypot(columns - 40 - 15 * np.sin(i / 20), rows - 30) < 8
            tracker.update(np.where(hand & (i % 100 < 80), 600, 1500).astype(np.uint16))

    follow(range(200))
    before = resident_mb()
    follow(range(200, 1500))
    assert resident_mb() - before < 8
