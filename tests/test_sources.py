"""Frames from files, folders, stacks, videos and cameras, with the right intrinsics and unit."""

import json
import os
import re
import struct
import sys
import zlib
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from PIL import Image

from dataloader import dataset_info
from dataloader.nyu import read_depth
from tests.helpers.blob_network import stand_in
from tests.helpers.nyu_folder import ball_hand, encode_depth, open_hand
from tests.helpers.project import PROJECT, need_synthetic_hand
from util.camera import CAMERAS, NYU_CAMERA, Camera, parse_camera, scale_camera
from util.demo.frame_files import read_frame
from util.demo.sources import SourceOptions, open_source
from util.demo.stream import why_no_hand

RAW = np.random.default_rng(0).integers(0, 9999, (6, 48, 64)).astype(np.uint16)  # mm
CAMERA = Camera(50, 50, 32, 24)
GIVEN = SourceOptions(CAMERA)


def write_png(path, frame):
    assert cv2.imwrite(str(path), frame)


def write_msra(path, depth, left=3, top=5):
    height, width = depth.shape
    header = np.array([320, 240, left, top, left + width, top + height], "<i4")
    path.write_bytes(header.tobytes() + depth.astype("<f4").tobytes())


def write_video(path, frames, code="FFV1", depth=cv2.CV_16U, rate=30):
    options = [cv2.VIDEOWRITER_PROP_DEPTH, depth, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, frames.shape[:0:-1], options
    )
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_a_16_bit_png(tmp_path):
    write_png(tmp_path / "one.png", RAW[0])
    source = open_source(str(tmp_path / "one.png"), GIVEN)
    np.testing.assert_array_equal(source.read(0), RAW[0])
    assert (source.length, source.camera, source.scales[0], source.labels) == (1, CAMERA, 1.0, ("one.png",))
    assert source.read(0).dtype == np.float32


def test_nyu_and_msra_files_bring_their_camera(tmp_path):
    depth = RAW[0] % 2000
    write_png(tmp_path / "nyu.png", encode_depth(np.pad(depth, ((0, 432), (0, 576)))))
    source = open_source(str(tmp_path / "nyu.png"), SourceOptions())
    np.testing.assert_array_equal(source.read(0)[:48, :64], depth)
    assert source.camera == NYU_CAMERA
    write_msra(tmp_path / "000001_depth.bin", depth)
    source = open_source(str(tmp_path / "000001_depth.bin"), SourceOptions())
    np.testing.assert_array_equal(source.read(0)[5:53, 3:67], depth)
    assert source.camera == dataset_info("msra").camera
    assert open_source(str(tmp_path / "000001_depth.bin"), GIVEN).camera == CAMERA


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (2, 10, 1):
        write_png(tmp_path / f"frame_{number}.png", RAW[number % 6])
    (tmp_path / "notes.txt").write_text("not a frame")
    source = open_source(str(tmp_path), GIVEN)
    assert source.labels == ("frame_1.png", "frame_2.png", "frame_10.png")
    np.testing.assert_array_equal(source.read(2), RAW[4])


def test_arrays(tmp_path):
    np.save(tmp_path / "one.npy", RAW[0])
    np.save(tmp_path / "stack.npy", RAW)
    np.savez_compressed(tmp_path / "stack.npz", RAW)
    np.savez(tmp_path / "several.npz", depth=RAW, color=np.zeros(3))
    np.save(tmp_path / "metres.npy", (RAW / 1000).astype(np.float32))
    for path in tmp_path.iterdir():
        scale, length = 1000.0 if path.stem == "metres" else None, 1 if path.stem == "one" else 6
        source = open_source(str(path), GIVEN._replace(depth_scale=scale))
        assert (source.length, source.labels) == (length, None)
        for i in (length - 1, 0):
            np.testing.assert_array_equal(source.read(i), RAW[i])


def test_a_video_of_16_bits_in_any_order(tmp_path):
    write_video(tmp_path / "depth.mkv", RAW)
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    assert source.length == 6
    for i in (0, 1, 2, 5, 3, 0, 1, 4):
        np.testing.assert_array_equal(source.read(i), RAW[i])


def test_the_table_scales_with_the_resolution_and_knows_the_unit(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((240, 320), np.uint16))
    source = open_source(str(tmp_path / "small.npy"), SourceOptions(CAMERAS["sr305"]))
    assert (source.scales, source.read(0).max()) == ((0.125, 0.125), 0.125)
    full = CAMERAS["sr305"].camera
    assert source.camera.fx == full.fx / 2
    assert open_source(str(tmp_path / "small.npy"), SourceOptions(CAMERAS["sr305"], 1.0)).read(0).max() == 1.0
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


@pytest.mark.slow
def test_the_synthetic_hand_comes_through_any_camera():
    need_synthetic_hand()
    source = open_source("synthetic", SourceOptions(CAMERAS["kinect2"], seed=3, body=True))
    assert source.read(0).shape == (424, 512)
    assert source.length is None
    assert source.camera == CAMERAS["kinect2"].camera
    assert (source.read(0) > 900).sum() > 5000  # the body
    assert not np.array_equal(source.read(0), source.read(30))


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
    source = open_source("realsense", SourceOptions())
    assert source.camera == Camera(384.0, 385.0, 320.5, 240.5)
    np.testing.assert_array_equal(source.read(7), RAW[0] * np.float32(0.125))
    assert registered == [pipeline.stop]
    pipeline.wait_for_frames.side_effect = RuntimeError("Frame didn't arrive within 5000")
    with pytest.raises(ValueError, match="stopped sending frames: Frame didn't arrive"):
        source.read(8)
    pipeline.start.side_effect = RuntimeError("No device connected")
    with pytest.raises(ValueError, match="No RealSense camera can be used: No device connected"):
        open_source("realsense", SourceOptions())


@pytest.mark.parametrize("source", ["realsense", "synthetic"])
def test_what_is_not_installed_is_said(monkeypatch, source):
    for module in ("pyrealsense2", "dataloader.synthetic.motion"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"pip install (pyrealsense2|-r requirements-synth.txt)\."):
        open_source(source, SourceOptions())


def write_8_bit_video(path):
    write_video(path, (RAW // 256).astype(np.uint8), "MJPG", cv2.CV_8U)


OBJECTS = np.array([{"a": 1}], object)
BROKEN = {
    "absent.png": (lambda path: None, "is missing"),
    "empty": (lambda path: path.mkdir(), "holds no depth frames"),
    "text.txt": (lambda path: path.write_text("x"), "is of no known kind"),
    "colour.png": (lambda path: write_png(path, np.full((4, 4, 3), 9, np.uint8)), "has lost it"),
    "grey.png": (lambda path: write_png(path, np.full((4, 4), 9, np.uint8)), "has lost it"),
    "damaged.png": (lambda path: path.write_bytes(b"no picture"), "is damaged"),
    "damaged.npy": (lambda path: path.write_bytes(b"no array"), "cannot be read as an array"),
    "damaged.npz": (lambda path: path.write_bytes(b"PK no archive"), "cannot be read as an array"),
    "pickle.npy": (lambda path: np.save(path, OBJECTS), "cannot be read as an array"),
    "pickle.npz": (lambda path: np.savez(path, OBJECTS), "cannot be read as an array"),
    "flat.npy": (lambda path: np.save(path, np.ones(4)), r"has shape \(4,\)"),
    "none.npy": (lambda path: np.save(path, np.ones((0, 4, 4))), r"has shape \(0, 4, 4\)"),
    "two.npz": (lambda path: np.savez(path, a=1, b=2), "holds the arrays a, b"),
    "damaged.bin": (lambda path: path.write_bytes(b"short"), "not in MSRA's format"),
    "damaged.mp4": (lambda path: path.write_bytes(b"no film"), "cannot be read as a video of 16-bit"),
    "bytes.avi": (write_8_bit_video, "if its second stream is depth, take it out: ffmpeg"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sources_are_a_sentence(tmp_path, name, capfd):
    make, sentence = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as raised:
        open_source(str(tmp_path / name), GIVEN)
    assert str(raised.value).endswith(".")
    assert capfd.readouterr().err == ""


def test_frames_without_a_camera_and_of_another_shape(tmp_path):
    write_png(tmp_path / "0.png", RAW[0])
    with pytest.raises(ValueError, match="does not say which camera took it: pass --camera, one of nyu"):
        open_source(str(tmp_path), SourceOptions())
    with pytest.raises(ValueError, match="64×48 pixels, the camera's intrinsics are for 640×576"):
        open_source(str(tmp_path), SourceOptions(CAMERAS["azure"]))
    write_png(tmp_path / "1.png", RAW[0, :40])
    source = open_source(str(tmp_path), GIVEN)
    with pytest.raises(ValueError, match=r"1.png has shape \(40, 64\), the first frame \(48, 64\)"):
        source.read(1)


def test_a_video_that_ends_early_has_the_frames_it_has(tmp_path):
    frames = np.repeat(RAW, 8, axis=0)
    write_video(tmp_path / "cut.mkv", frames)
    os.truncate(tmp_path / "cut.mkv", (tmp_path / "cut.mkv").stat().st_size * 3 // 4)
    source = open_source(str(tmp_path / "cut.mkv"), GIVEN)
    assert 30 < source.length < 40
    for i in (*range(source.length), 3, source.length - 1):
        np.testing.assert_array_equal(source.read(i), frames[i])


def test_the_length_of_a_video_is_counted(tmp_path):
    """A film that was piped does not know how long it is."""
    path = tmp_path / "depth.mkv"
    write_video(path, RAW)
    content = path.read_bytes()
    start = content.index(b"\x44\x89\x88")  # the element Duration, and its eight bytes
    path.write_bytes(content[:start] + b"\xec\x89" + bytes(9) + content[start + 11 :])
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) != 6
    source = open_source(str(path), GIVEN)
    np.testing.assert_array_equal([source.read(i) for i in range(source.length)], RAW)


@pytest.mark.parametrize("rate", [10, 29.97, 60])
def test_a_video_brings_its_rate(tmp_path, rate):
    write_video(tmp_path / "depth.mkv", RAW, rate=rate)
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    assert source.rate == pytest.approx(rate, rel=1e-3)
    assert source.seconds(5) == pytest.approx(5 / rate, abs=1e-3)
    given = open_source(str(tmp_path / "depth.mkv"), GIVEN._replace(fps=15.0))
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
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    assert source.rate == pytest.approx(5.0)
    np.testing.assert_allclose([source.seconds(i) for i in range(6)], [0, 0.1, 0.3, 0.6, 0.7, 1.0])


def test_the_rate_of_other_files_is_given(tmp_path):
    np.save(tmp_path / "stack.npy", RAW)
    source = open_source(str(tmp_path / "stack.npy"), GIVEN._replace(fps=5.0))
    assert (source.rate, source.seconds(2)) == (5.0, 0.4)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", np.uint16), *(("a.tiff", dtype) for dtype in (np.uint16, np.int32, np.float32, np.float64))],
)
def test_every_frame_of_a_picture_file_is_read(tmp_path, name, dtype):
    frames = [frame.astype(dtype) for frame in RAW]
    if name == "a.png":
        first, *others = map(Image.fromarray, frames)
        first.save(tmp_path / name, save_all=True, append_images=others)
    else:
        assert cv2.imwritemulti(str(tmp_path / name), frames)
    source = open_source(str(tmp_path / name), GIVEN)
    assert source.length == 6
    for i in (5, 0, 3):
        np.testing.assert_array_equal(source.read(i), RAW[i])
    with pytest.raises(ValueError, match="holds 6 frames: expected one a file"):
        open_source(str(tmp_path), GIVEN)


def test_what_holds_several_frames_and_cannot_be_split_is_said(tmp_path):
    raw = b"".join(b"P5\n64 48\n65535\n" + frame.astype(">u2").tobytes() for frame in RAW)
    (tmp_path / "a.pgm").write_bytes(raw)
    cv2.imwritemulti(str(tmp_path / "sizes.tiff"), [RAW[0], RAW[1, :40]])
    for name, said in (("a.pgm", "holds 6 frames"), ("sizes.tiff", "several sizes")):
        with pytest.raises(ValueError, match=said):
            open_source(str(tmp_path / name), GIVEN)


@pytest.mark.parametrize("order", ["0hl", "0lh", "lh0", "lh0a", "0hla", "h0l"])
def test_16_bits_in_two_8_bit_channels_of_any_order(tmp_path, order):
    """Blue first; HO-3D is 0hl, RHD is 0lh, NYU is lh0."""
    depth = ball_hand(open_hand([0.0, 0, 600])).astype(np.uint16)
    of = {"0": 0 * depth, "h": depth >> 8, "l": depth & 255, "a": 0 * depth + 255}
    write_png(tmp_path / "a.png", np.dstack([of[letter].astype(np.uint8) for letter in order]))
    source = open_source(str(tmp_path / "a.png"), GIVEN)
    np.testing.assert_array_equal(source.read(0), depth)
    if order.startswith("lh0"):
        assert open_source(str(tmp_path / "a.png"), SourceOptions()).camera == NYU_CAMERA


@pytest.mark.parametrize("shape", [(48, 64, 1), (1, 48, 64), (6, 48, 64, 1), (6, 1, 48, 64)])
def test_a_channel_axis_is_no_time(tmp_path, shape):
    length = 6 if len(shape) == 4 else 1
    np.save(tmp_path / "a.npy", RAW[:length].reshape(shape))
    source = open_source(str(tmp_path / "a.npy"), GIVEN)
    assert source.length == length
    np.testing.assert_array_equal(source.read(length - 1), RAW[length - 1])


@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640, 30), (6, 48, 64, 2), (2, 3, 4, 5, 6)])
def test_an_array_that_is_no_stack_is_said(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=r"has shape .*: expected \(H, W\), or \(T, H, W\)"):
        open_source(str(tmp_path / "a.npy"), GIVEN)


def test_an_array_in_a_folder_is_one_frame(tmp_path):
    np.save(tmp_path / "0.npy", RAW[0])
    np.save(tmp_path / "1.npy", RAW[:3])
    source = open_source(str(tmp_path), GIVEN)
    np.testing.assert_array_equal(source.read(0), RAW[0])
    with pytest.raises(ValueError, match=r"1\.npy holds 3 frames: expected one a file"):
        source.read(1)


def test_endings_in_capitals(tmp_path):
    write_video(tmp_path / "depth.mkv", RAW)
    (tmp_path / "depth.mkv").rename(tmp_path / "DEPTH.MKV")
    assert open_source(str(tmp_path / "DEPTH.MKV"), GIVEN).length == 6
    write_png(tmp_path / "A.PNG", RAW[0])
    write_msra(tmp_path / "B.BIN", RAW[1])
    np.save(tmp_path / "c.npy", RAW[2])
    (tmp_path / "c.npy").rename(tmp_path / "C.NPY")
    assert open_source(str(tmp_path), GIVEN).labels == ("A.PNG", "B.BIN", "C.NPY")
    np.testing.assert_array_equal(open_source(str(tmp_path / "C.NPY"), GIVEN).read(0), RAW[2])


def big_png(path):
    """A PNG whose header announces 30,000 × 30,000 pixels."""
    write_png(path, RAW[0])
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 16, 0, 0, 0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


@pytest.mark.parametrize("name", ["big.png", "pipe.png", "pipe.npy", "pipe.bin"])
def test_sizes_and_kinds_are_looked_at_before_reading(tmp_path, name):
    (big_png if name == "big.png" else os.mkfifo)(tmp_path / name)
    with pytest.raises(ValueError, match="is damaged" if name == "big.png" else "is not a file"):
        open_source(str(tmp_path / name), GIVEN)


@pytest.mark.parametrize("name", ["objects.npy", "objects.npz"])
def test_arrays_of_objects_are_refused(tmp_path, name):
    objects = np.array([{"a": 1}], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, objects)
    with pytest.raises(ValueError, match="cannot be read as an array of numbers"):
        open_source(str(tmp_path / name), GIVEN)


UNEVEN = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)


@pytest.fixture
def frames(tmp_path):
    """A folder of four bundled frames as 16-bit PNG."""
    (tmp_path / "frames").mkdir()
    for i in range(4):
        depth = read_depth(PROJECT / "data" / "synth" / "test" / f"depth_1_{i + 1:07d}.png")
        write_png(tmp_path / "frames" / f"{i:03d}.png", depth.round().astype(np.uint16))
    return tmp_path / "frames"


@pytest.fixture
def shows(run_script, monkeypatch, tmp_path):
    """Run the demo with a stand-in for its network: how it ended, and its lines of poses."""
    stand_in(monkeypatch)

    def run(source, *flags, code=0):
        given = ("--camera", ",".join(map(str, NYU_CAMERA[:4])), "--json", tmp_path / "a.jsonl")
        ran = run_script("demo.py", "--source", source, "--device", "cpu", *given, *flags)
        assert ran.code == code, ran.err
        return ran, [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()[1:]]

    return run


@pytest.mark.parametrize("name", ["深度".encode("gbk"), b"\xff\xfe", b"pos\xe9"])
def test_names_that_are_no_text_are_drawn_with_replacements(shows, frames, tmp_path, name):
    os.rename(frames / "000.png", os.path.join(os.fsencode(frames), name + b".png"))
    shows(frames, "--save", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 4


@pytest.mark.parametrize(
    ("number", "damage", "complaint"),
    [
        (2, lambda path: os.truncate(path, 900), "is damaged"),
        (0, lambda path: os.truncate(path, 900), "is damaged"),
        (1, lambda path: write_png(path, UNEVEN), "has lost it"),
        (3, lambda path: write_png(path, np.full((240, 320), 500, np.uint16)), "the first frame"),
    ],
)
def test_a_bad_frame_is_named_and_the_others_kept(shows, frames, tmp_path, number, damage, complaint):
    damage(frames / f"{number:03d}.png")
    ran, lines = shows(frames, "--save", tmp_path / "pictures", code=2)
    assert re.search(f"error: {frames}/{number:03d}.png.*{complaint}", ran.err)
    assert [("error" in line, line["pose"] is None) for line in lines].count((True, True)) == 1
    assert complaint in lines[number]["error"]
    assert (len(lines), len(list((tmp_path / "pictures").iterdir()))) == (4, 3)


def test_bad_frames_are_counted_and_strict_stops_at_the_first(shows, frames):
    for number in (1, 2):
        os.truncate(frames / f"{number:03d}.png", 900)
    assert "2 of 4 frames could not be used; the first:" in shows(frames, code=2)[0].err
    assert len(shows(frames, "--strict", code=2)[1]) == 2  # the one before it, and its error


@pytest.mark.parametrize("name", ["._001.png", ".001.7.part.png", ".hidden.npy", "Thumbs.db", ".DS_Store"])
def test_hidden_and_system_files_are_no_frames(frames, name):
    (frames / name).write_bytes(b"\0" * 163)
    assert open_source(str(frames), GIVEN).length == 4


ONE_KIND = ("230536_1{}.png 231615_2{}.png", "{}_depth16.png", "hand{}.png")  # two takes of one camera, too
SEVERAL = ("depth_1_{}.png depth_2_{}.png", "depth_1_{}.png rgb_1_{}.png", "{}_depth.png {}_color.png")
SEVERAL += ("a_{}.png a_{}.npy", "frame_{}_cam0.png frame_{}_cam1.png")


@pytest.mark.parametrize("names", ONE_KIND + SEVERAL)
def test_a_folder_of_several_kinds_names_the_patterns(tmp_path, names):
    for name in (name.format(f"000{i}") for name in names.split() for i in range(2)):
        np.save(tmp_path / name, RAW[0]) if name.endswith(".npy") else write_png(tmp_path / name, RAW[0])
    if names in ONE_KIND:
        assert open_source(str(tmp_path), GIVEN).length == 2 * len(names.split())
        return
    pattern = names.split()[0].format("*")
    letters = re.sub(r"\d+", "*", pattern)
    with pytest.raises(ValueError, match=f"'{tmp_path}/({re.escape(pattern)}|{re.escape(letters)})'"):
        open_source(str(tmp_path), GIVEN)
    assert open_source(str(tmp_path / pattern), GIVEN).length == 2


@pytest.mark.parametrize(
    ("scale", "dtype", "reason"),
    [
        (0.001, np.float32, "--depth_scale 1000"),
        (8, np.uint16, "--depth_scale 0.1"),
        (65535, np.uint16, "lost their unit"),
        (0, np.uint16, "No frame has a depth reading"),
        (-0.001, np.float32, "below 0, as OpenGL's z is: change their sign"),
        (-1, np.int16, "below 0, as OpenGL's z is: change their sign"),
    ],
)
def test_no_hand_comes_with_a_reason(shows, frames, tmp_path, scale, dtype, reason):
    depths = np.stack([cv2.imread(str(frames / f"{i:03d}.png"), -1) for i in range(2)]).astype(np.float64)
    np.save(tmp_path / "a.npy", (depths / (depths.max() if scale > 60 else 1) * scale).astype(dtype))
    assert reason in shows(tmp_path / "a.npy")[0].out.splitlines()[-1]


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


@pytest.mark.parametrize("name", ["a.png", "b.pgm", "c.tiff"])
def test_grey_in_three_equal_channels_keeps_its_depth(tmp_path, name):
    write_png(tmp_path / name, RAW[0] if name == "b.pgm" else np.dstack([RAW[0]] * 3))
    np.testing.assert_array_equal(open_source(str(tmp_path / name), GIVEN).read(0), RAW[0])


def test_exr_frames_are_read(tmp_path):
    OpenEXR, depth = pytest.importorskip("OpenEXR"), RAW[0].astype(np.float32)
    other = {"R": depth, "G": depth, "B": depth + 1}
    for name, channels in {"z": {"Z": depth}, "grey": {"RGB": np.dstack([depth] * 3)}, "no": other}.items():
        with OpenEXR.File({"type": OpenEXR.scanlineimage}, channels) as file:
            file.write(str(tmp_path / f"{name}.exr"))
    for name in ("z", "grey"):
        np.testing.assert_array_equal(read_frame(tmp_path / f"{name}.exr")[0], depth)
    (tmp_path / "cut.exr").write_bytes((tmp_path / "z.exr").read_bytes()[:99])
    for name, complaint in (("no", "expected depth in Z"), ("cut", "is damaged")):
        with pytest.raises(ValueError, match=complaint):
            open_source(str(tmp_path / f"{name}.exr"), GIVEN).read(0)
