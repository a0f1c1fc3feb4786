"""Frames from files, folders, stacks, videos and cameras, with the right intrinsics and unit."""

import os
import re
import struct
import sys
import zlib
from dataclasses import replace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from PIL import Image

from dataloader import dataset_info
from tests.helpers.layout_folders import write_video
from tests.helpers.nyu_folder import ball_hand, encode_depth, open_hand
from tests.helpers.refused import refused
from util.camera import CAMERAS, NYU_CAMERA, Camera, parse_camera, scale_camera
from util.demo.settings import DemoSettings
from util.demo.sources import open_source
from util.demo.stream import why_no_hand

RAW = np.random.default_rng(0).integers(0, 9999, (6, 48, 64)).astype(np.uint16)  # mm
CAMERA = Camera(50, 50, 32, 24)
GIVEN = DemoSettings(camera="50,50,32,24")
OBJECTS = np.array([{"a": 1}], object)


def open_file(path, options=GIVEN):
    return open_source(str(path), options)


def write_png(path, frame):
    assert cv2.imwrite(str(path), frame)


def write_msra(path, depth, left=3, top=5):
    height, width = depth.shape
    header = np.array([320, 240, left, top, left + width, top + height], "<i4")
    path.write_bytes(header.tobytes() + depth.astype("<f4").tobytes())


def write_piped_video(path):
    """A film that was piped does not know how long it is."""
    write_video(path, RAW)
    content = path.read_bytes()
    start = content.index(b"\x44\x89\x88")  # the element Duration, and its eight bytes
    path.write_bytes(content[:start] + b"\xec\x89" + bytes(9) + content[start + 11 :])
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) != 6


def write_8_bit_video(path):
    write_video(path, (RAW // 256).astype(np.uint8), "MJPG", cv2.CV_8U)


def write_pages(path, dtype=np.uint16):
    if path.suffix == ".png":
        first, *others = map(Image.fromarray, RAW)
        first.save(path, save_all=True, append_images=others)
    else:
        assert cv2.imwritemulti(str(path), [frame.astype(dtype) for frame in RAW])


def write_exr(path, **channels):
    OpenEXR = pytest.importorskip("OpenEXR")
    with OpenEXR.File({"type": OpenEXR.scanlineimage}, channels) as file:
        file.write(str(path))


def saved(*shape):
    """A writer of the first frames, or all, as an array of this shape."""

    def write(path):
        with path.open("wb") as file:
            np.save(file, RAW[: np.prod(shape) // RAW[0].size].reshape(shape))

    return write


ONE, Z = RAW[0], RAW[0].astype(np.float32)
# How frames of RAW are written: all where the name begins with six, else the first.
READABLE = {
    "one.png": lambda path: write_png(path, ONE),
    "GREY.PNG": lambda path: write_png(path, np.dstack([ONE] * 3)),
    "grey.tiff": lambda path: write_png(path, np.dstack([ONE] * 3)),
    "one.pgm": lambda path: write_png(path, ONE),
    "z.exr": lambda path: write_exr(path, A=0 * Z, Z=Z),
    "grey.exr": lambda path: write_exr(path, RGB=np.dstack([Z] * 3)),
    "one.npy": saved(48, 64),
    "one_last.npy": saved(48, 64, 1),
    "one_first.npy": saved(1, 48, 64),
    "six.npy": saved(6, 48, 64),
    "SIX_LAST.NPY": saved(6, 48, 64, 1),
    "six_middle.npy": saved(6, 1, 48, 64),
    "six_metres.npy": lambda path: np.save(path, (RAW / 1000).astype(np.float32)),
    "six.npz": lambda path: np.savez_compressed(path, RAW),
    "six_coloured.npz": lambda path: np.savez(path, depth=RAW, color=np.zeros(3)),
    "six_pages.png": write_pages,
    **{
        f"six_{kind.__name__}.tiff": lambda path, kind=kind: write_pages(path, kind)
        for kind in (np.uint16, np.int32, np.float32, np.float64)
    },
    "SIX.MKV": lambda path: write_video(path, RAW),
    "six_piped.mkv": write_piped_video,
}


@pytest.mark.parametrize("name", READABLE)
def test_every_frame_of_a_file_is_read_in_any_order(tmp_path, name):
    READABLE[name](tmp_path / name)
    source = open_file(tmp_path / name, replace(GIVEN, depth_scale=1000.0 if "metres" in name else None))
    assert (source.length, source.camera) == (6 if name.lower().startswith("six") else 1, CAMERA)
    # Pillow itself writes pages 1, 2 and 4 with a line of page 0.
    order = (5, 0, 3) if name == "six_pages.png" else (0, 1, 2, 5, 3, 0, 1, 4) if source.length == 6 else (0,)
    for i in order:
        np.testing.assert_array_equal(source.read(i), RAW[i])
    assert source.read(0).dtype == np.float32


def test_nyu_and_msra_files_bring_their_camera(tmp_path):
    depth = RAW[0] % 2000
    write_png(tmp_path / "nyu.png", encode_depth(np.pad(depth, ((0, 432), (0, 576)))))
    source = open_file(tmp_path / "nyu.png", DemoSettings())
    np.testing.assert_array_equal(source.read(0)[:48, :64], depth)
    assert source.camera == NYU_CAMERA
    write_msra(tmp_path / "000001_depth.bin", depth)
    source = open_file(tmp_path / "000001_depth.bin", DemoSettings())
    np.testing.assert_array_equal(source.read(0)[5:53, 3:67], depth)
    assert source.camera == dataset_info("msra").camera
    assert open_file(tmp_path / "000001_depth.bin", GIVEN).camera == CAMERA


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (2, 10, 1):
        write_png(tmp_path / f"frame_{number}.png", RAW[number % 6])
    write_msra(tmp_path / "frame_3.BIN", RAW[3])
    saved(48, 64)(tmp_path / "frame_4.NPY")
    for other in ("notes.txt", "._001.png", ".001.7.part.png", ".hidden.npy", "Thumbs.db", ".DS_Store"):
        (tmp_path / other).write_bytes(b"\0" * 163)
    source = open_file(tmp_path)
    assert source.labels == ("frame_1.png", "frame_2.png", "frame_3.BIN", "frame_4.NPY", "frame_10.png")
    np.testing.assert_array_equal(source.read(3), RAW[0])
    np.testing.assert_array_equal(source.read(4), RAW[4])


def test_the_table_scales_with_the_resolution_and_knows_the_unit(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((240, 320), np.uint16))
    source = open_file(tmp_path / "small.npy", DemoSettings(camera="sr305"))
    assert (source.scales, source.read(0).max()) == ((0.125, 0.125), 0.125)
    full = CAMERAS["sr305"].camera
    assert source.camera.fx == full.fx / 2
    source_in_mm = open_file(tmp_path / "small.npy", DemoSettings(camera="sr305", depth_scale=1.0))
    assert source_in_mm.read(0).max() == 1.0
    # The edges of the frame are the same rays.
    for u, v in ((-0.5, -0.5), (319.5, 239.5)):
        small = source.camera.uvd_to_xyz(np.array([u, v, 500.0]))
        large = full.uvd_to_xyz(np.array([2 * u + 0.5, 2 * v + 0.5, 500.0]))
        np.testing.assert_allclose(small, large, atol=1e-9)
    for known in CAMERAS.values():
        assert scale_camera(known, known.frame_size) == known.camera
        middle = (known.frame_size[1] / 2, known.frame_size[0] / 2)
        assert np.abs(np.subtract(known.camera[2:4], middle)).max() < 50


def test_a_camera_from_the_command_line():
    assert parse_camera("475.5,476,320,240.25") == Camera(475.5, 476, 320, 240.25)
    assert parse_camera("d435") is CAMERAS["d435"]
    with pytest.raises(ValueError, match="neither one of nyu"):
        parse_camera("1,2,3,x")


@pytest.fixture
def pipeline(monkeypatch):
    """The pipeline of a pyrealsense2 with a camera that shows RAW[0]."""
    rs = MagicMock()
    monkeypatch.setitem(sys.modules, "pyrealsense2", rs)
    pipeline = rs.pipeline()
    profile = pipeline.start()
    lens = profile.get_stream().as_video_stream_profile().get_intrinsics()
    lens.fx, lens.fy, lens.ppx, lens.ppy = 384.0, 385.0, 320.5, 240.5
    profile.get_device().first_depth_sensor().get_depth_scale.return_value = 0.000125
    pipeline.wait_for_frames().get_depth_frame().get_data.return_value = RAW[0]
    return pipeline


def test_a_realsense_brings_its_own_intrinsics(pipeline, monkeypatch):
    registered = []
    monkeypatch.setattr("atexit.register", registered.append)
    source = open_source("realsense", DemoSettings())
    assert source.camera == Camera(384.0, 385.0, 320.5, 240.5)
    np.testing.assert_array_equal(source.read(7), RAW[0] * np.float32(0.125))
    assert registered == [pipeline.stop]
    pipeline.wait_for_frames.side_effect = RuntimeError("Frame didn't arrive within 5000")
    with pytest.raises(ValueError, match="stopped sending frames: Frame didn't arrive"):
        source.read(8)
    pipeline.start.side_effect = RuntimeError("No device connected")
    with pytest.raises(ValueError, match="No RealSense camera can be used: No device connected"):
        open_source("realsense", DemoSettings())


def write_folder(*writers):
    """A folder of files 0.<ending>, 1.<ending>, …, each by its own (ending, writer)."""

    def write(path):
        path.mkdir()
        for i, (ending, writer) in enumerate(writers):
            writer(path / f"{i}.{ending}")

    return write


PAGES_OF_PGM = b"".join(b"P5\n64 48\n65535\n" + frame.astype(">u2").tobytes() for frame in RAW)


def write_large_png(path):
    """A PNG whose header announces 30,000 × 30,000 pixels."""
    write_png(path, ONE)
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 16, 0, 0, 0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def write_cut_exr(path):
    write_exr(path, Z=Z)
    os.truncate(path, 99)


BROKEN = {
    "absent.png": (lambda path: None, "is missing"),
    "empty": (lambda path: path.mkdir(), "holds no depth frames"),
    "text.txt": (lambda path: path.write_text("x"), "is of no known kind"),
    "colour.png": (lambda path: write_png(path, np.full((4, 4, 3), 9, np.uint8)), "has lost it"),
    "grey.png": (lambda path: write_png(path, np.full((4, 4), 9, np.uint8)), "has lost it"),
    "damaged.png": (lambda path: path.write_bytes(b"no picture"), "is damaged"),
    "large.png": (write_large_png, "is damaged"),
    "damaged.npy": (lambda path: path.write_bytes(b"no array"), "cannot be read as an array"),
    "damaged.npz": (lambda path: path.write_bytes(b"PK no archive"), "cannot be read as an array"),
    "pickle.npy": (lambda path: np.save(path, OBJECTS), "cannot be read as an array"),
    "pickle.npz": (lambda path: np.savez(path, OBJECTS), "cannot be read as an array"),
    "flat.npy": (lambda path: np.save(path, np.ones(4)), "has shape (4,)"),
    "none.npy": (lambda path: np.save(path, np.ones((0, 4, 4))), "has shape (0, 4, 4)"),
    "two.npz": (lambda path: np.savez(path, a=1, b=2), "holds the arrays a, b"),
    "damaged.bin": (lambda path: path.write_bytes(b"short"), "not in MSRA's format"),
    "damaged.mp4": (lambda path: path.write_bytes(b"no film"), "cannot be read as a video of 16-bit"),
    "bytes.avi": (write_8_bit_video, "if its second stream is depth, take it out: ffmpeg"),
    **{f"pipe.{ending}": (os.mkfifo, "is not a file") for ending in ("png", "npy", "bin")},
    **{
        f"{shape}.npy": (
            lambda path, shape=shape: np.save(path, np.ones(shape, np.uint8)),
            "expected (H, W), or (T, H, W)",
        )
        for shape in ((480, 640, 3), (480, 640, 30), (6, 48, 64, 2), (2, 3, 4, 5, 6))
    },
    "pages.pgm": (lambda path: path.write_bytes(PAGES_OF_PGM), "holds 6 frames"),
    "sizes.tiff": (lambda path: cv2.imwritemulti(str(path), [ONE, RAW[1, :40]]), "several sizes"),
    "colour.exr": (lambda path: write_exr(path, R=Z, G=Z, B=Z + 1), "expected depth in Z"),
    "cut.exr": (write_cut_exr, "is damaged"),
    "pages of png": (write_folder(("png", write_pages)), "holds 6 frames: expected one a file"),
    "pages of tiff": (write_folder(("tiff", write_pages)), "holds 6 frames: expected one a file"),
    "stacks": (
        write_folder(("npy", saved(48, 64)), ("npy", saved(3, 48, 64))),
        "1.npy holds 3 frames: expected",
    ),
    "shapes": (
        write_folder(*(("png", lambda path, rows=rows: write_png(path, ONE[:rows])) for rows in (48, 40))),
        "1.png has shape (40, 64), the first frame (48, 64)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sources_are_a_sentence(tmp_path, name, capfd):
    make, sentence = BROKEN[name]
    make(tmp_path / name)
    with refused(sentence):
        source = open_file(tmp_path / name)
        [source.read(i) for i in range(source.length)]
    assert capfd.readouterr().err.removeprefix("libpng error: Not enough image data\n") == ""


def test_frames_need_their_camera(tmp_path):
    write_png(tmp_path / "0.png", ONE)
    for camera, sentence in (
        ("", "does not say which camera took it: pass --camera, one of nyu"),
        ("azure", "64×48 pixels, the camera's intrinsics are for 640×576"),
    ):
        with pytest.raises(ValueError, match=sentence):
            open_file(tmp_path, DemoSettings(camera=camera))


def test_a_video_that_ends_early_has_the_frames_it_has(tmp_path):
    frames = np.repeat(RAW, 8, axis=0)
    write_video(tmp_path / "cut.mkv", frames)
    os.truncate(tmp_path / "cut.mkv", (tmp_path / "cut.mkv").stat().st_size * 3 // 4)
    source = open_file(tmp_path / "cut.mkv")
    assert 30 < source.length < 40
    for i in (*range(source.length), 3, source.length - 1):
        np.testing.assert_array_equal(source.read(i), frames[i])


@pytest.mark.parametrize("rate", [10, 29.97, 60])
def test_a_video_brings_its_rate(tmp_path, rate):
    write_video(tmp_path / "depth.mkv", RAW, rate=rate)
    source = open_file(tmp_path / "depth.mkv")
    assert source.rate == pytest.approx(rate, rel=1e-3)
    assert source.seconds(5) == pytest.approx(5 / rate, abs=1e-3)
    np.save(tmp_path / "stack.npy", RAW)
    for name in ("depth.mkv", "stack.npy"):
        given = open_file(tmp_path / name, replace(GIVEN, fps=15.0))
        assert (given.rate, given.seconds(3)) == (15.0, 0.2)


def test_a_video_whose_frames_are_not_evenly_spaced_brings_their_times(tmp_path, monkeypatch):
    class Uneven:
        def __init__(self, *opening):
            self.video, self.times = capture(*opening), iter((5.0, 5.1, 5.3, 5.6, 5.7, 6.0))

        def __getattr__(self, name):
            return getattr(self.video, name)

        def get(self, what):
            return 1000 * next(self.times) if what == cv2.CAP_PROP_POS_MSEC else self.video.get(what)

    capture = cv2.VideoCapture
    write_video(tmp_path / "depth.mkv", RAW)
    monkeypatch.setattr(cv2, "VideoCapture", Uneven)
    source = open_file(tmp_path / "depth.mkv")
    assert source.rate == pytest.approx(5.0)
    np.testing.assert_allclose([source.seconds(i) for i in range(6)], [0, 0.1, 0.3, 0.6, 0.7, 1.0])


@pytest.mark.parametrize("order", ["0hl", "0lh", "lh0", "lh0a", "0hla", "h0l"])
def test_16_bits_in_two_8_bit_channels_of_any_order(tmp_path, order):
    """Blue first; HO-3D is 0hl, RHD is 0lh, NYU is lh0."""
    depth = ball_hand(open_hand([0.0, 0, 600])).astype(np.uint16)
    of = {"0": 0 * depth, "h": depth >> 8, "l": depth & 255, "a": 0 * depth + 255}
    write_png(tmp_path / "a.png", np.dstack([of[letter].astype(np.uint8) for letter in order]))
    source = open_file(tmp_path / "a.png")
    np.testing.assert_array_equal(source.read(0), depth)
    if order.startswith("lh0"):
        assert open_file(tmp_path / "a.png", DemoSettings()).camera == NYU_CAMERA


ONE_KIND = ("230536_1{}.png 231615_2{}.png", "{}_depth16.png", "hand{}.png")  # two takes of one camera, too
SEVERAL = ("depth_1_{}.png depth_2_{}.png", "depth_1_{}.png rgb_1_{}.png", "{}_depth.png {}_color.png")
SEVERAL += ("a_{}.png a_{}.npy", "frame_{}_cam0.png frame_{}_cam1.png")


@pytest.mark.parametrize("names", ONE_KIND + SEVERAL)
def test_a_folder_of_several_kinds_names_the_patterns(tmp_path, names):
    for name in (name.format(f"000{i}") for name in names.split() for i in range(2)):
        np.save(tmp_path / name, RAW[0]) if name.endswith(".npy") else write_png(tmp_path / name, RAW[0])
    if names in ONE_KIND:
        assert open_file(tmp_path).length == 2 * len(names.split())
        return
    pattern = names.split()[0].format("*")
    letters = re.sub(r"\d+", "*", pattern)
    with pytest.raises(ValueError, match=f"'{tmp_path}/({re.escape(pattern)}|{re.escape(letters)})'"):
        open_file(tmp_path)
    assert open_file(tmp_path / pattern).length == 2


@pytest.mark.parametrize(
    ("reading", "scales", "advice"),
    [
        (600, (0.1, 0.1), "with --depth_scale 1 "),  # --camera d405, whose frames were converted
        (4800, (1.0, 0.125), "with --depth_scale 0.125 "),  # --camera sr305 and a wrong --depth_scale
        (600, (1000.0, 1.0), "with --depth_scale 1 "),
        (6000, (1.0, 1.0), "with --depth_scale 0.1 "),
        (60, (1.0, 1.0), "with --depth_scale 10 "),
        (0.6, (1.0, 1.0), "with --depth_scale 1000 "),  # a renderer's metres before its background
        (3000, (), "come nearer, or pass another --depth_range"),  # a RealSense before a wall
        (600, (1.0, 1.0), "hold the hand nearer than everything else"),
    ],
)
def test_the_unit_advised_fits_and_is_not_the_present_one(reading, scales, advice):
    depth = np.full((40, 40), 100.0 if reading < 1 else reading, np.float32)
    depth[:20] = reading
    assert advice in why_no_hand(depth, scales, (100, 1500))
