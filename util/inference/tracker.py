"""Hands through a stream of frames: the last pose says where to look next, and for which side."""

import copy
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from util.camera import Camera
from util.inference.frames import check_max_hands
from util.inference.hands import (
    SAME_HAND,
    SIDES,
    Candidate,
    Handedness,
    HandPose,
    Side,
    joint_distance,
    most_confident,
    next_center,
    shown_area,
    sides_of,
)
from util.inference.one_euro import OneEuro
from util.inference.predictor import HandPosePredictor
from util.inference.separate import near_joints, without_others

MEMORY = 60  # frames that a hand may be away and keep its identity
# Frames between searches for one more hand, while one is followed; and where one was lost lately.
SEARCH_EVERY, SEARCH_LOST = 10, 4
# Both sides are tried until one leads by LEAD, the sum of their confidences' difference, but in at most
# DECIDE frames; then in one of RECHECK. An older vote counts FADE less.
LEAD, DECIDE, RECHECK, FADE = 0.12, 10, 30, 0.9
# mm from where a hand was last seen, for it to be the same: if it was lost, and if it is still followed.
FARTHEST, STEP = 800.0, 350.0
# A crop that shows so many times as much as the last one holds another hand too; mm from a hand's joints that
# are left of it then.
GREW, REACH = 1.3, 45.0
OTHER_SIDE = 300.0  # mm that count for it where the side is another


class HandTracker:
    """Poses of the hands in a stream's frames. It belongs to one thread; several may share the predictor.

    A hand keeps its identity from frame to frame, also when it is away for up to MEMORY frames or crosses
    another hand.

    Args:
        predictor: of single frames.
        camera: that takes the frames.
        handedness: of the hands; auto: both sides are tried in a hand's first frames, then the more confident
            one is kept until the hand is lost, and checked every RECHECK frames.
        depth_scale: as for `HandPosePredictor.predict`.
        smoothing: of the joints over time; None: every frame's own joints.
        weights: also give the adaptive weight maps.
        max_hands: how many hands are followed at most.
    """

    def __init__(
        self,
        predictor: HandPosePredictor,
        camera: Camera,
        handedness: Handedness = "auto",
        depth_scale: float = 1.0,
        smoothing: OneEuro | None = None,
        weights: bool = False,
        max_hands: int = 1,
    ):
        self.predictor, self.camera, self.smoothing = predictor, camera, smoothing
        self.handedness, self.depth_scale, self.weights = handedness, depth_scale, weights
        check_max_hands(max_hands)
        self.max_hands, self._sides = max_hands, sides_of(handedness)
        self.reset()

    def reset(self) -> None:
        """Forget all hands: they are looked for in the whole of the next frame."""
        self._tracks: list[_Track] = []
        self._frames = 0
        self.reason = ""  # why the last frame has no hand, if it has none

    def update(self, depth: np.ndarray, seconds: float = 1 / 30) -> HandPose | None:
        """The hand in the next frame with most confidence, None where there is none; see `update_hands`."""
        return max(self.update_hands(depth, seconds), key=lambda pose: pose.mean_confidence, default=None)

    def update_hands(self, depth: np.ndarray, seconds: float = 1 / 30) -> list[HandPose]:
        """The hands in the next frame, in the order of their identities.

        Args:
            depth: (H, W), as for `HandPosePredictor.predict`.
            seconds: since the last frame, for the smoothing.
        """
        frame = self.predictor.enter(depth, self.camera, self.depth_scale)
        self._frames, self.reason = self._frames + 1, ""
        followed = [track for track in self._tracks if not track.missing]
        poses, weak = self._follow(frame, followed)
        self._drop_doubles(poses)
        # A crop may have slid down the forearm, or off a fast hand: searching the frame may find better.
        weak += [track for track in followed if track not in poses]
        every = SEARCH_LOST if len(followed) < len(self._tracks) else SEARCH_EVERY
        room = len(followed) < self.max_hands and self._frames % every == 0
        if weak or room or not followed:
            self._search(frame, poses, weak)
        for track in self._tracks:
            track.take(poses.get(track))
        self._tracks = [track for track in self._tracks if track.missing <= MEMORY]
        return [self._smoothed(track, seconds) for track in self._tracks if not track.missing]

    def _follow(
        self, frame: np.ndarray, tracks: list["_Track"]
    ) -> tuple[dict["_Track", HandPose], list["_Track"]]:
        """What is where the hands were, each without the others in its crop; and whose confidence is low."""
        joints = [track.pose.joints_xyz for track in tracks]
        frames = without_others(frame, self.camera, joints, self.predictor.cube, strangers=True)
        poses, weak = {}, []
        for track, pose in self._answers(tracks, frames).items():
            poses[track] = pose
            if shown_area(pose, self.camera) > GREW * shown_area(track.pose, self.camera):
                # Another hand touches it: its crop without what is not near where it was.
                own = near_joints(frames[tracks.index(track)], self.camera, track.pose.joints_xyz, REACH)
                alone = self._answers([track], [own]).get(track)
                poses[track] = most_confident([pose, alone])
            if poses[track].mean_confidence < self.predictor.reacquire_below:
                weak.append(track)
        return poses, weak

    def _answers(self, tracks: list["_Track"], frames: list[np.ndarray]) -> dict["_Track", HandPose]:
        """The hand of each track in a frame of its own, of the side to believe; none if it is not there."""
        sides = [track.sides(self._sides) for track in tracks]
        places = zip(tracks, frames, sides, strict=True)
        candidates = [
            Candidate(own, next_center(track.pose), side) for track, own, both in places for side in both
        ]
        answers = iter(self.predictor.follow(candidates, self.camera, self.weights))
        voted = {
            track: track.vote([next(answers) for _ in both])
            for track, both in zip(tracks, sides, strict=True)
        }
        return {track: pose for track, pose in voted.items() if pose is not None}

    def _drop_doubles(self, poses: dict["_Track", HandPose]) -> None:
        """Where two tracks came upon one hand, the one that went further to it has lost its own."""
        for one, other in combinations(list(poses), 2):
            if one in poses and other in poses and joint_distance(poses[one], poses[other]) < SAME_HAND:
                del poses[max((one, other), key=lambda track: joint_distance(track.pose, poses[track]))]

    def _search(self, frame: np.ndarray, poses: dict["_Track", HandPose], weak: list["_Track"]) -> None:
        """Look in the whole frame for hands that are not followed with confidence."""
        known = [pose for track, pose in poses.items() if track not in weak]
        # A hand that was here a frame ago has not changed its side.
        same = self.max_hands == 1 and weak and weak[0].decided
        handedness = weak[0].pose.handedness if same else self.handedness
        found = self.predictor.search(frame, self.camera, self.max_hands, handedness, self.weights, known)
        self.reason = found.reason
        free = [track for track in self._tracks if track.missing or track in weak]
        owners = self._owners(free, found.hands, poses)
        # Hands that are known come first: they need no room.
        for pose, track in sorted(zip(found.hands, owners, strict=True), key=lambda pair: pair[1] is None):
            if track not in poses and len(poses) >= self.max_hands:
                continue
            track = track or self._new_track(pose)
            if _confidence(poses.get(track)) < pose.mean_confidence:
                poses[track] = pose
        self._drop_doubles(poses)

    def _owners(
        self, free: list["_Track"], hands: list[HandPose], poses: dict["_Track", HandPose]
    ) -> list["_Track | None"]:
        """For every hand that was found the track that it goes on; None: it is new."""
        cost = np.array([[track.distance_to(hand) for track in free] for hand in hands])
        cost = cost.reshape(len(hands), len(free))
        owners: list[_Track | None] = [None] * len(hands)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            # What is followed, if not with confidence, is not far from where it was.
            farthest = STEP if free[j] in poses else FARTHEST
            if self.max_hands == 1 or cost[i, j] <= farthest:
                owners[i] = free[j]
        return owners

    def _new_track(self, pose: HandPose) -> "_Track":
        used = {track.identity for track in self._tracks}
        identity = next(i for i in range(len(used) + 1) if i not in used)
        self._tracks.append(_Track(identity, pose, self.smoothing))
        return self._tracks[-1]

    def _smoothed(self, track: "_Track", seconds: float) -> HandPose:
        pose = track.pose._replace(identity=track.identity)
        if track.smoothing is None:
            return pose
        joints_xyz = track.smoothing(pose.joints_xyz, seconds)
        return pose._replace(joints_xyz=joints_xyz, joints_uvd=self.camera.xyz_to_uvd(joints_xyz))


class _Track:
    """One hand over time: `pose` where it was seen last, `missing` frames ago."""

    def __init__(self, identity: int, pose: HandPose, smoothing: OneEuro | None):
        self.identity, self.pose, self.missing = identity, pose, 0
        self.smoothing = copy.deepcopy(smoothing)
        self._forget()

    def _forget(self) -> None:
        self._votes, self._age = dict.fromkeys(SIDES, 0.0), 0
        if self.smoothing is not None:
            self.smoothing.reset()

    def sides(self, allowed: tuple[Side, ...]) -> tuple[Side, ...]:
        """Those to try in the next frame."""
        unsettled = not self.decided or self._age % RECHECK == 0
        return allowed if unsettled or len(allowed) == 1 else (self.pose.handedness,)

    @property
    def decided(self) -> bool:
        """Whether the votes say which side it is."""
        return self._age >= DECIDE or abs(self._votes["right"] - self._votes["left"]) >= LEAD

    def vote(self, answers: list[HandPose | None]) -> HandPose | None:
        """Of the answers, one a side, that of the side with more confidence so far."""
        self._age += 1
        if len(answers) == 1:
            return answers[0]
        for side, pose in zip(SIDES, answers, strict=True):
            self._votes[side] = FADE * self._votes[side] + (0.0 if pose is None else pose.mean_confidence)
        return answers[max((0, 1), key=lambda i: self._votes[SIDES[i]])] or most_confident(answers)

    def take(self, pose: HandPose | None) -> None:
        """Go on with what was found in a frame."""
        if pose is None:
            self.missing += 1
            return
        if self.missing or pose.handedness != self.pose.handedness:
            self._forget()
        self.pose, self.missing = pose, 0

    def distance_to(self, pose: HandPose) -> float:
        """How far a pose is from what is known of this hand, mm; another side counts as a distance."""
        apart = float(np.linalg.norm(next_center(self.pose) - next_center(pose)))
        return apart + OTHER_SIDE * (pose.handedness != self.pose.handedness)


def _confidence(pose: HandPose | None) -> float:
    return 0.0 if pose is None else pose.mean_confidence
