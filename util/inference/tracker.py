"""Hands through a stream of frames: the last pose says where to crop next, and for which side."""

import copy
from dataclasses import dataclass
from itertools import combinations, count

import numpy as np
from scipy.optimize import linear_sum_assignment

from util import UserError
from util.camera import Camera
from util.inference.hands import SIDES, Candidate, Handedness, HandPose, Side, most_confident, sides_of
from util.inference.predictor import HandPosePredictor
from util.inference.separate import without_others

MEMORY = 60  # frames that a hand may be away and keep its identity
# Frames between searches for one more hand: where one was lost lately, while there is room for one, and for
# one beside the wanted hands, which is not answered but taken out of their crops.
SEARCH_LOST, SEARCH_EVERY, SEARCH_SPARE = 4, 10, 30
# Both sides are tried until one leads by LEAD, the sum of their confidences' difference, but in at most
# DECIDE frames; then in one of RECHECK. An older vote counts FADE less.
LEAD, DECIDE, RECHECK, FADE = 0.12, 10, 30, 0.9
# mm from where a hand was last, for it to be the same: if it was lost, if it is still followed, and if it was
# lost because it touched another.
FARTHEST, STEP, SAME_PLACE = 800.0, 350.0, 150.0
OTHER_SIDE = 300.0  # mm that count for it where the side is another
# Joints that may lie on two hands which touch: so many mm² are shown within so many mm of them, more than a
# hand and its arm have, and their confidence is not so far above what the network's `reacquire_below` says.
MIXED_AREA, MIXED_REACH, MIXED_CONFIDENCE = 20_000.0, 100.0, 0.3
SPEED_CUTOFF = 1.0  # Hz, of the speed in the One-Euro filter


@dataclass
class OneEuro:
    """The One-Euro filter (Casiez et al., CHI 2012): still when the hand rests, quick when it moves."""

    min_cutoff: float = 1.5  # Hz, of what passes when nothing moves; lower is smoother and later
    beta: float = 0.02  # Hz a mm/s, by how much speed raises it

    def __post_init__(self):
        if not (self.min_cutoff > 0 and self.beta >= 0):
            raise UserError(f"One-Euro: {self}: min_cutoff must be above 0, beta at least 0.")
        self._value = None

    def __call__(self, value: np.ndarray, seconds: float) -> np.ndarray:
        """Filter an array of any shape, `seconds` after the last one."""
        if not 0 <= seconds < np.inf:
            raise UserError(f"seconds is {seconds}: the time since the last frame is 0 or more.")
        if self._value is None:
            self._value, self._speed = value, np.zeros_like(value)
        elif seconds:
            speed = (value - self._value) / seconds
            turn = 2 * np.pi * seconds  # a low pass of f Hz lets 1 / (1 + 1 / (turn f)) of a step through
            self._speed = self._speed + (speed - self._speed) / (1 + 1 / (turn * SPEED_CUTOFF))
            cutoff = self.min_cutoff + self.beta * np.abs(self._speed)
            self._value = self._value + (value - self._value) / (1 + 1 / (turn * cutoff))
        return self._value


class HandTracker:
    """Poses of the hands in a stream's frames. It belongs to one thread; several may share the predictor.

    A hand keeps its identity from frame to frame, also when it is away for up to MEMORY frames or crosses
    another hand. Of several, one that touches a hand so that the joints may be of both counts as lost.

    Args:
        predictor, camera, depth_scale, weights: as for `HandPosePredictor.predict`.
        handedness: auto: both sides are tried in a hand's first frames, then the more confident one is kept
            until the hand is lost, and checked every RECHECK frames.
        smoothing: of the joints over time; None: every frame's own joints.
        max_hands: how many hands are answered at most.
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
        self.max_hands, self._sides = max_hands, sides_of(handedness, max_hands)
        self._room = max_hands + (max_hands > 1)  # hands that are followed at most
        self.reset()

    def reset(self) -> None:
        """Forget all hands: they are looked for in the whole of the next frame."""
        self._tracks: list[_Track] = []
        self._frames = 0
        self.reason = ""  # why the last frame has no hand, if it has none

    def update(self, depth: np.ndarray, seconds: float = 1 / 30) -> HandPose | None:
        """The hand in the next frame with most confidence, None where there is none; see `update_hands`."""
        return most_confident(self.update_hands(depth, seconds))

    def update_hands(self, depth: np.ndarray, seconds: float = 1 / 30) -> list[HandPose]:
        """The hands in the next frame (H, W), `seconds` after the last one, in the order they were found."""
        frame = self.predictor.enter(depth, self.camera, self.depth_scale)
        self._frames, self.reason = self._frames + 1, ""
        followed = [track for track in self._tracks if not track.missing]
        poses = self._follow(frame, followed)
        self._drop_doubles(poses)
        # A crop may have slid down the forearm, or off a fast hand: searching the frame may find better.
        weak = [track for track in followed if _confidence(poses.get(track)) < self.predictor.reacquire_below]
        every = SEARCH_LOST if len(followed) < len(self._tracks) else SEARCH_EVERY
        every = every if len(followed) < self.max_hands else SEARCH_SPARE
        room = len(followed) < self._room and self._frames % every == 0
        if weak or room or not followed:
            self._search(frame, poses, weak)
        for track in self._tracks:
            track.take(poses.get(track))
        self._tracks = [track for track in self._tracks if track.missing <= MEMORY]
        there = [track for track in self._tracks if not track.missing]
        return [track.answer(self.camera, seconds) for track in there[: self.max_hands]]

    def _follow(self, frame: np.ndarray, tracks: list["_Track"]) -> dict["_Track", HandPose]:
        """What is where the hands were, each without the others in its crop, and of the side to believe."""
        joints = [track.pose.joints_xyz for track in tracks]
        frames = without_others(frame, self.camera, joints, self.predictor.cube)
        tries = [
            (track, Candidate(own, track.pose.middle, side))
            for track, own in zip(tracks, frames, strict=True)
            for side in track.sides(self._sides)
        ]
        answers = self.predictor.follow([tried for _, tried in tries], self.camera, self.weights)
        pairs = list(zip(tries, answers, strict=True))
        poses = {track: track.vote([pose for (own, _), pose in pairs if own is track]) for track in tracks}
        for track, pose in poses.items():
            track.mixed = pose is not None and self._is_mixed(pose)
        return {track: pose for track, pose in poses.items() if pose and not track.mixed}

    def _is_mixed(self, pose: HandPose) -> bool:
        """Whether the joints may lie on two hands that touch."""
        least = self.predictor.reacquire_below
        confident = pose.mean_confidence > least + MIXED_CONFIDENCE * (1 - least)
        around = pose.shown_area(self.camera, MIXED_REACH)
        return self.max_hands > 1 and not confident and around > MIXED_AREA

    def _drop_doubles(self, poses: dict["_Track", HandPose]) -> None:
        """Where two tracks came upon one hand, the one that went further to it has lost its own."""
        for one, other in combinations(list(poses), 2):
            if one in poses and other in poses and poses[one].is_same(poses[other]):
                del poses[max((one, other), key=lambda track: track.pose.distance(poses[track]))]

    def _search(self, frame: np.ndarray, poses: dict["_Track", HandPose], weak: list["_Track"]) -> None:
        """Look in the whole frame for hands that are not followed with confidence."""
        known = [pose for track, pose in poses.items() if track not in weak]
        room = self._room - len(known)
        # A hand that was here a frame ago has not changed its side.
        same = room == 1 and weak and weak[0].decided
        handedness = weak[0].pose.handedness if same else self.handedness
        found = self.predictor.search(frame, self.camera, room, handedness, self.weights, known)
        hands = [hand for hand in found.hands if not self._is_mixed(hand)]
        self.reason = found.reason or ("" if hands else "two hands touch")
        free = [track for track in self._tracks if track.missing or track in weak]
        cost = np.array([[track.distance_to(hand) for track in free] for hand in hands])
        pairs = zip(*linear_sum_assignment(cost.reshape(len(hands), len(free))), strict=True)
        # What is followed, if not with confidence, is not far from where it was; nor what touches another.
        farthest = [STEP if track in poses else SAME_PLACE if track.mixed else FARTHEST for track in free]
        owners = {i: free[j] for i, j in pairs if self.max_hands == 1 or cost[i, j] <= farthest[j]}
        # Hands that are known come first: they need no room.
        for i in sorted(range(len(hands)), key=lambda i: i not in owners):
            pose, track = hands[i], owners.get(i)
            double = track is None and any(pose.is_same(other) for other in poses.values())
            if double or (track not in poses and len(poses) >= self._room):
                continue
            if track is None:
                used = {track.identity for track in self._tracks}
                track = _Track(next(k for k in count() if k not in used), pose, self.smoothing)
                self._tracks.append(track)
            if _confidence(poses.get(track)) < pose.mean_confidence:
                poses[track] = pose
        self._drop_doubles(poses)


class _Track:
    """One hand over time: `pose` where it was last, `missing` frames ago; `mixed`: as it touched another."""

    def __init__(self, identity: int, pose: HandPose, smoothing: OneEuro | None):
        self.identity, self.pose, self.missing, self.mixed = identity, pose, 0, False
        self.smoothing = smoothing
        self._forget()

    def _forget(self) -> None:
        self._votes, self._age = dict.fromkeys(SIDES, 0.0), 0
        self._smooth = copy.deepcopy(self.smoothing)

    def sides(self, allowed: tuple[Side, ...]) -> tuple[Side, ...]:
        """Those to try in the next frame."""
        both = not self.decided or self._age % RECHECK == 0
        return allowed if both or len(allowed) == 1 else (self.pose.handedness,)

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
            self._votes[side] = FADE * self._votes[side] + _confidence(pose)
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
        """How far a pose is from this hand, mm; another side counts as a distance."""
        apart = float(np.linalg.norm(self.pose.middle - pose.middle))
        # Where it touched another, its side may have been mistaken.
        return apart + OTHER_SIDE * (not self.mixed and pose.handedness != self.pose.handedness)

    def answer(self, camera: Camera, seconds: float) -> HandPose:
        """The pose with the hand's identity, smoothed."""
        pose = self.pose._replace(identity=self.identity)
        if self._smooth is None:
            return pose
        joints_xyz = self._smooth(pose.joints_xyz, seconds)
        return pose._replace(joints_xyz=joints_xyz, joints_uvd=camera.xyz_to_uvd(joints_xyz))


def _confidence(pose: HandPose | None) -> float:
    return 0.0 if pose is None else pose.mean_confidence
