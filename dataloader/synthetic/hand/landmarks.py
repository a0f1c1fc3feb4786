"""Where the labelled joints lie in the hand: NYU's 36 slots and the 21-joint skeleton.

The places follow NYU's convention as its public test labels show it (bone lengths over the hand's length):
finger tips a few mm inside the finger, the thumb's "IP" a little beyond the joint, wrist points at the two
sides of the wrist joint, the palm's centre at 35 % of the way from wrist to middle finger tip.
"""

import numpy as np

from dataloader.nyu import LABELLED_JOINTS
from dataloader.synthetic.hand.skeleton import HandShape, unit

_TIP_INSET = np.array([7.5, 6.0, 6.0, 6.0, 5.5])  # mm, thumb to pinky: a label sits inside the finger
_THUMB_IP_SHIFT = 0.12
_PIP_DEPTH = 0.5  # anny's joints turn near the back of the finger: half a radius to its middle
# In hand lengths, hand frame: the two wrist points lie at +-x.
_WRIST_SIDE = np.array([0.079, 0.0, 0.025])
_PALM_CENTER = np.array([0.02, 0.354, 0.01])


def label_joints(
    shape: HandShape, rotations: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of one posed hand, in the hand frame.

    Args:
        rotations, joints: (5, 4, 3, 3) and (5, 5, 3) of `pose_joints`.

    Returns:
        joints36: (36, 3), NaN but for the 14 evaluated slots.
        joints21: (21, 3) wrist, then thumb, index, middle, ring, pinky, each from CMC (thumb) or MCP to tip;
            the skeleton's own joints, so that bones keep their length in every pose.
    """
    last = joints[:, 4] - joints[:, 3]
    tips = joints[:, 4] - last * (_TIP_INSET / np.linalg.norm(last, axis=1))[:, None]
    joints21 = np.concatenate(
        [np.zeros((1, 3)), np.concatenate([joints[:, 1:4], tips[:, None]], 1).reshape(20, 3)]
    )

    joints36 = np.full((LABELLED_JOINTS, 3), np.nan)
    for slot, finger in zip((0, 6, 12, 18), (4, 3, 2, 1), strict=True):
        joints36[slot] = tips[finger]
        joints36[slot + 3] = joints[finger, 2] + _to_finger_axis(shape, rotations[finger], finger)
    joints36[24] = tips[0]
    joints36[25] = joints[0, 3] + _THUMB_IP_SHIFT * (tips[0] - joints[0, 3])
    joints36[27] = joints[0, 2]
    joints36[30] = shape.length * _WRIST_SIDE * [-1, 1, 1]
    joints36[31] = shape.length * _WRIST_SIDE
    joints36[32] = shape.length * _PALM_CENTER
    return joints36, joints21


def _to_finger_axis(shape: HandShape, rotations: np.ndarray, finger: int) -> np.ndarray:
    """From a finger's PIP hinge to the middle of the finger there (3,)."""
    along = unit(shape.joints[finger, 3] - shape.joints[finger, 2])
    palmar = np.cross(shape.hinges[finger], along)
    return _PIP_DEPTH * shape.radii[finger, 1] * unit(rotations[1] @ palmar + rotations[2] @ palmar)
