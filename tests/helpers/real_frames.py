"""What is known of the real frames beside the project: their cameras and where the hands are."""

import cv2
import numpy as np

from util.camera import Camera

SR305 = Camera(fx=476.007, fy=476.007, cx=313.683, cy=242.755)

# u, v on the palm, at the fingers' roots; looked at in every frame.
PALMS = {
    "230536_110": (300, 233),
    "230536_130": (279, 226),
    "230536_150": (306, 248),
    "230536_170": (264, 250),
    "230536_30": (279, 319),
    "230536_50": (274, 282),
    "230536_70": (291, 252),
    "230536_90": (318, 212),
    "231615_0": (270, 275),
    "231615_100": (326, 287),
    "231615_140": (315, 267),
    "231615_160": (331, 282),
    "231615_180": (335, 268),
    "231615_20": (335, 285),
    "231615_200": (336, 264),
    "231615_220": (348, 275),
    "231615_40": (312, 294),
    "231615_60": (318, 283),
    "231615_80": (322, 289),
}

KINECT2 = Camera(fx=363.9, fy=363.9, cx=255.4, cy=206.3)

# The same for the Kinect 2 frames with a hand, all of a left hand as the picture shows it.
KINECT2_PALMS = {
    6: (307, 142),
    44: (282, 188),
    62: (272, 146),
    126: (278, 146),
    127: (278, 146),
    129: (278, 146),
    130: (280, 140),
    132: (282, 138),
    157: (288, 142),
    159: (286, 136),
    161: (284, 136),
    164: (286, 136),
    167: (286, 142),
    171: (272, 123),
    223: (309, 178),
    249: (288, 130),
    332: (276, 155),
    333: (286, 159),
    334: (295, 161),
    342: (443, 280),
}
KINECT2_EMPTY = (353, 361, 371)
KINECT2_TURNING_AWAY = 342


def kinect2_frame(folder, number):
    """Depth (H, W) mm."""
    return cv2.imread(str(folder / "kinect2" / f"{number:08d}.png"), cv2.IMREAD_UNCHANGED)


def off_palm(camera, xyz, palm):
    """How far a place (3,) mm projects from a palm's u, v, in mm at its depth."""
    u, v, d = camera.xyz_to_uvd(xyz)
    return np.hypot(u - palm[0], v - palm[1]) * d / camera.fx
