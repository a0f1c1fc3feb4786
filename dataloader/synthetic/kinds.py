"""Kinds of frames that real hands make beside plain gestures, each with a share of a split's frames."""

import numpy as np

# Of each group at most one; their shares of the frames.
GROUPS: tuple[dict[str, float], ...] = (
    {
        "touching": 0.12,  # fingers side by side, or crossed
        "signs": 0.14,  # finger alphabet and numbers
        "objects": 0.14,  # a box, cylinder, ball or stick in the hand
    },
    {
        "hands": 0.1,  # another hand near or crossing
        "surface": 0.08,  # the hand lies on a table or leans on a wall
        "person": 0.1,  # torso or face close behind
    },
    {"sleeves": 0.15},  # thick sleeves, cuffs, a watch
    {"wrist": 0.12},  # bent far
    {"range": 0.15},  # 250 to 400 mm, or 1,000 to 1,500 mm
    {"sensors": 0.25},  # 320×240 or 256×192 pixels, or time of flight
    {"leaning": 0.5},  # the four fingers lean to one side together
    {"sizes": 0.5},  # hands of 0.85 to 1.25 times the size
    {"reaching": 0.5},  # the index finger is not folded
)
KINDS = tuple(kind for group in GROUPS for kind in group)
# Of frames that get no kind but those of the last two groups; with those drawn so, they are 2 in 5.
PLAIN_SHARE = 0.33
KINDS_VERSION = 2  # raise it when the same seed gives other frames of some kind
PLAIN = "plain"  # a frame of no kind


def draw_kinds(rng: np.random.Generator, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of one frame; those not allowed are left out, and change nothing else."""
    drawn = []
    for group in GROUPS:
        names, shares = list(group), np.cumsum(list(group.values()))
        i = int(np.searchsorted(shares, rng.random(), side="right"))
        drawn += names[i : i + 1]
    if rng.random() < PLAIN_SHARE:
        drawn = [kind for kind in drawn if kind in ("sizes", "reaching")]
    return tuple(kind for kind in drawn if kind in allowed)
