"""Frames from files, folders, stacks, videos and cameras, with the right intrinsics and unit."""

import os
import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from dataloader import dataset_info
from tests.helpers.nyu_folder import ball_hand, encode_depth, open_hand
from tests.helpers.project import need_synthetic_hand
from util.camera import CAMERAS, NYU_CAMERA, Camera, parse_camera, scale_camera, to_millimetres
from util.demo.sources import SourceOptions, open_source

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
    assert (source.length, source.camera, source.scales[0], source.sequence) == (1, CAMERA, 1.0, None)
    assert source.read(0).dtype == np.float32
    assert source.label(0) == "one.png"


def test_nyu_and_msra_files_bring_their_camera(tmp_path):
    depth = RAW[0] % 2000
    write_png(tmp_path / "nyu.png", encode_depth(np.pad(depth, ((0, 432), (0, 576)))))
    source = open_source(str(tmp_path / "nyu.png"), SourceOptions())
    np.testing.assert_array_equal(source.read(0)[:48, :64], depth)
    assert source.camera == NYU_CAMERA

    write_msra(tmp_path / "000001_depth.bin", depth)
    source = open_source(str(tmp_path / "000001_depth.bin"), SourceOptions())
    assert source.read(0).shape == (240, 320)
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


@pytest.mark.parametrize("name", ["one.npy", "stack.npy", "stack.npz", "several.npz", "metres.npy"])
def test_arrays(tmp_path, name):
    path = tmp_path / name
    metres = name == "metres.npy"
    frames = {"one.npy": RAW[0], "metres.npy": (RAW / 1000).astype(np.float32)}.get(name, RAW)
    if name == "several.npz":
        np.savez(path, depth=frames, color=np.zeros(3))
    elif path.suffix == ".npz":
        np.savez_compressed(path, frames)
    else:
        np.save(path, frames)
    source = open_source(str(path), GIVEN._replace(depth_scale=1000.0 if metres else None))
    expected = RAW if frames.ndim == 3 else RAW[:1]
    assert source.length == len(expected)
    for i in (len(expected) - 1, 0):
        np.testing.assert_array_equal(source.read(i), expected[i])
    assert source.sequence


def test_a_video_of_16_bits_in_any_order(tmp_path):
    write_video(tmp_path / "depth.mkv", RAW)
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    assert source.length == 6
    for i in (0, 1, 2, 5, 3, 0, 1, 4):
        np.testing.assert_array_equal(source.read(i), RAW[i])
    source.close()


def test_the_table_scales_with_the_resolution_and_knows_the_unit(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((240, 320), np.uint16))
    source = open_source(str(tmp_path / "small.npy"), SourceOptions(CAMERAS["sr305"]))
    assert source.scales == (0.125, 0.125)
    assert source.read(0).max() == 0.125
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
    for text in ("d999", "1,2,3", "1,2,3,x", ","):
        with pytest.raises(ValueError, match="neither one of nyu"):
            parse_camera(text)


@pytest.mark.slow
def test_the_synthetic_hand_comes_through_any_camera():
    need_synthetic_hand()
    source = open_source("synthetic", SourceOptions(CAMERAS["kinect2"], seed=3, body=True))
    assert source.read(0).shape == (424, 512)
    assert source.length is None
    assert source.camera == CAMERAS["kinect2"].camera
    assert (source.read(0) > 900).sum() > 5000  # the body
    assert not np.array_equal(source.read(0), source.read(30))


def fake_realsense(fail=False):
    """The part of pyrealsense2 that is used, with a camera that shows RAW[0]."""

    class Pipeline:
        stopped = False

        def start(self, config):
            if fail:
                raise RuntimeError("No device connected")
            lens = types.SimpleNamespace(fx=384.0, fy=385.0, ppx=320.5, ppy=240.5)
            profile = types.SimpleNamespace(get_intrinsics=lambda: lens)
            sensor = types.SimpleNamespace(get_depth_scale=lambda: 0.000125)
            return types.SimpleNamespace(
                get_stream=lambda kind: types.SimpleNamespace(as_video_stream_profile=lambda: profile),
                get_device=lambda: types.SimpleNamespace(first_depth_sensor=lambda: sensor),
            )

        def wait_for_frames(self):
            if self.stopped:
                raise RuntimeError("Frame didn't arrive within 5000")
            frame = types.SimpleNamespace(get_data=lambda: RAW[0])
            return types.SimpleNamespace(get_depth_frame=lambda: frame)

        def stop(self):
            self.stopped = True

    return types.SimpleNamespace(
        pipeline=Pipeline,
        config=lambda: types.SimpleNamespace(enable_stream=lambda *_: None),
        stream=types.SimpleNamespace(depth="depth"),
        format=types.SimpleNamespace(z16="z16"),
    )


def test_realsense_reads_its_own_intrinsics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", fake_realsense())
    source = open_source("realsense", SourceOptions())
    assert source.camera == Camera(384.0, 385.0, 320.5, 240.5)
    np.testing.assert_array_equal(source.read(7), RAW[0] * np.float32(0.125))
    source.close()
    with pytest.raises(ValueError, match="stopped sending frames"):
        source.read(8)


def test_realsense_missing_or_unplugged(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ValueError, match="pip install pyrealsense2"):
        open_source("realsense", SourceOptions())
    monkeypatch.setitem(sys.modules, "pyrealsense2", fake_realsense(fail=True))
    with pytest.raises(ValueError, match="No RealSense camera can be used: No device connected"):
        open_source("realsense", SourceOptions())


def test_a_missing_renderer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dataloader.synthetic.motion", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-synth.txt"):
        open_source("synthetic", SourceOptions())


def save_pickle(path):
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def write_8_bit_video(path):
    write_video(path, (RAW // 256).astype(np.uint8), "MJPG", cv2.CV_8U)


BROKEN = {
    "absent.png": (lambda path: None, "is missing"),
    "empty": (lambda path: path.mkdir(), "holds no depth frames"),
    "text.txt": (lambda path: path.write_text("x"), "is of no known kind"),
    "colour.png": (lambda path: write_png(path, np.full((4, 4, 3), 9, np.uint8)), "has lost it"),
    "grey.png": (lambda path: write_png(path, np.full((4, 4), 9, np.uint8)), "has lost it"),
    "damaged.png": (lambda path: path.write_bytes(b"no picture"), "is damaged"),
    "damaged.npy": (lambda path: path.write_bytes(b"no array"), "cannot be read as an array"),
    "damaged.npz": (lambda path: path.write_bytes(b"PK no archive"), "cannot be read as an array"),
    "pickle.npy": (save_pickle, "cannot be read as an array"),
    "flat.npy": (lambda path: np.save(path, np.ones(4)), r"has shape \(4,\)"),
    "none.npy": (lambda path: np.save(path, np.ones((0, 4, 4))), r"has shape \(0, 4, 4\)"),
    "two.npz": (lambda path: np.savez(path, a=1, b=2), "holds the arrays a, b"),
    "damaged.bin": (lambda path: path.write_bytes(b"short"), "not in MSRA's format"),
    "damaged.mp4": (lambda path: path.write_bytes(b"no film"), "cannot be read as a video of 16-bit"),
    "bytes.avi": (write_8_bit_video, "cannot be read as a video of 16-bit"),
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
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 3 // 4])
    source = open_source(str(tmp_path / "cut.mkv"), GIVEN)
    assert 30 < source.length < 40
    for i in (*range(source.length), 3, source.length - 1):
        np.testing.assert_array_equal(source.read(i), frames[i])
    # Once it is open, what is missing has been lost since.
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"is damaged: frame 29 of {source.length} cannot be decoded"):
        source.read(29)


def without_duration(element):
    return b"\xec\x89" + bytes(9)  # Matroska's Void


def twice_the_duration(element):
    return element[:3] + (2 * np.frombuffer(element[3:], ">f8")).tobytes()


@pytest.mark.parametrize("changed", [without_duration, twice_the_duration])
def test_the_length_of_a_video_is_counted(tmp_path, changed):
    """A film that was piped does not know how long it is; one with a sound track seems longer."""
    write_video(tmp_path / "depth.mkv", RAW)
    content = (tmp_path / "depth.mkv").read_bytes()
    start = content.index(b"\x44\x89\x88")  # the element Duration, and its eight bytes
    end = start + 11
    duration = changed(content[start:end])
    assert len(duration) == 11
    (tmp_path / "depth.mkv").write_bytes(content[:start] + duration + content[end:])
    assert cv2.VideoCapture(str(tmp_path / "depth.mkv")).get(cv2.CAP_PROP_FRAME_COUNT) != 6
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    assert source.length == 6
    for i in (0, 1, 2, 5, 3, 0, 1, 4):
        np.testing.assert_array_equal(source.read(i), RAW[i])
    source.close()


def test_a_video_that_goes_back_to_another_frame_starts_over(tmp_path, monkeypatch):
    """Where the frame rate varies, FFmpeg's way back may end at another frame."""

    class Astray:
        def __init__(self, *opening):
            self.video = capture(*opening)

        def __getattr__(self, name):
            return getattr(self.video, name)

        def set(self, what, value):
            assert what == cv2.CAP_PROP_POS_FRAMES
            return self.video.set(what, value - 1)

    capture = cv2.VideoCapture
    write_video(tmp_path / "depth.mkv", RAW)
    monkeypatch.setattr(cv2, "VideoCapture", Astray)
    source = open_source(str(tmp_path / "depth.mkv"), GIVEN)
    for i in (5, 3, 4, 1, 2):
        np.testing.assert_array_equal(source.read(i), RAW[i])
    source.close()


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
    assert open_source(str(tmp_path / "stack.npy"), GIVEN).rate == 30.0
    source = open_source(str(tmp_path / "stack.npy"), GIVEN._replace(fps=5.0))
    assert (source.rate, source.seconds(2)) == (5.0, 0.4)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.tiff", np.uint16), ("a.tif", np.float32), ("a.tiff", np.float64), ("a.png", np.uint16)],
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
    with (tmp_path / "twice.npy").open("wb") as file:
        np.save(file, RAW[0])
        np.save(file, RAW[1])
    cv2.imwritemulti(str(tmp_path / "sizes.tiff"), [RAW[0], RAW[1, :40]])
    for name, said in (
        ("a.pgm", "several frames"),
        ("twice.npy", "more than one array"),
        ("sizes.tiff", "several sizes"),
    ):
        with pytest.raises(ValueError, match=said):
            open_source(str(tmp_path / name), GIVEN)
    (tmp_path / "a.pgm").write_bytes(raw[: len(raw) // 6])
    np.testing.assert_array_equal(open_source(str(tmp_path / "a.pgm"), GIVEN).read(0), RAW[0])


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


@pytest.mark.parametrize(
    ("shape", "length"), [((48, 64, 1), 1), ((1, 48, 64), 1), ((6, 48, 64, 1), 6), ((6, 1, 48, 64), 6)]
)
def test_a_channel_axis_is_no_time(tmp_path, shape, length):
    np.save(tmp_path / "a.npy", RAW[:length].reshape(shape))
    source = open_source(str(tmp_path / "a.npy"), GIVEN)
    assert source.length == length
    np.testing.assert_array_equal(source.read(length - 1), RAW[length - 1])


@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640, 30), (6, 48, 64, 2), (2, 3, 4, 5, 6)])
def test_an_array_that_is_no_stack_is_said(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=r"has shape .*: expected \(H, W\), or \(T, H, W\)"):
        open_source(str(tmp_path / "a.npy"), GIVEN)


def test_masked_readings_are_none():
    masked = np.ma.masked_array(RAW[0], mask=RAW[0] > 5000)
    np.testing.assert_array_equal(to_millimetres(masked), np.where(RAW[0] > 5000, 0, RAW[0]))


def test_a_video_of_colour_says_how_to_take_out_its_second_stream(tmp_path):
    write_8_bit_video(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="if its second stream is depth, take it out: ffmpeg"):
        open_source(str(tmp_path / "a.avi"), GIVEN)


def test_a_raw_dump_that_starts_with_zeros_is_told_how_to_become_readable(tmp_path):
    np.zeros((192, 256), np.float32).tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"not in MSRA's format.*np\.fromfile"):
        open_source(str(tmp_path / "a.bin"), GIVEN)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.int32])
def test_a_tiff_of_any_depth(tmp_path, dtype):
    frame = (RAW[0] // 4).astype(dtype)
    write_png(tmp_path / "one.tiff", frame)
    source = open_source(str(tmp_path / "one.tiff"), GIVEN)
    np.testing.assert_array_equal(source.read(0), frame)
    assert source.raw(0).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [((4,), "has shape"), ((3, 48, 64), "holds 3 frames: expected one a file"), ((0, 64), "has shape")],
)
def test_an_array_in_a_folder_is_one_frame(tmp_path, shape, complaint):
    np.save(tmp_path / "0.npy", RAW[0])
    np.save(tmp_path / "1.npy", np.ones(shape))
    source = open_source(str(tmp_path), GIVEN)
    np.testing.assert_array_equal(source.read(0), RAW[0])
    with pytest.raises(ValueError, match=f"1.npy {complaint}"):
        source.read(1)
    (tmp_path / "0.npy").unlink()
    with pytest.raises(ValueError, match=f"1.npy {complaint}"):
        open_source(str(tmp_path), GIVEN)


def test_endings_in_capitals(tmp_path):
    write_video(tmp_path / "depth.mkv", RAW)
    (tmp_path / "depth.mkv").rename(tmp_path / "DEPTH.MKV")
    assert open_source(str(tmp_path / "DEPTH.MKV"), GIVEN).length == 6
    np.save(tmp_path / "one.npy", RAW)
    (tmp_path / "one.npy").rename(tmp_path / "ONE.NPY")
    assert open_source(str(tmp_path / "ONE.NPY"), GIVEN).length == 6
    folder = tmp_path / "folder"
    folder.mkdir()
    write_png(folder / "A.PNG", RAW[0])
    write_msra(folder / "B.BIN", RAW[1])
    np.save(folder / "c.npy", RAW[2])
    (folder / "c.npy").rename(folder / "C.NPY")
    source = open_source(str(folder), GIVEN)
    assert source.labels == ("A.PNG", "B.BIN", "C.NPY")
    np.testing.assert_array_equal(source.read(0), RAW[0])
    np.testing.assert_array_equal(open_source(str(folder / "B.BIN"), GIVEN).read(0)[5:53, 3:67], RAW[1])
    np.testing.assert_array_equal(open_source(str(folder / "C.NPY"), GIVEN).read(0), RAW[2])


def big_png(path):
    """A PNG of 30,000 × 30,000 grey pixels of 16 bits, all 0, in a small file."""
    import struct
    import zlib

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 30000, 30000, 16, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))


def big_npz(path):
    """An archive whose one entry announces 12 GB."""
    import zipfile

    np.savez(path, depth=np.zeros((2, 3), np.uint16))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].file_size < 1000
    content[entry + 24 : entry + 28] = (4_200_000_000).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("big.png", big_png, "announces"),
        ("big.npz", big_npz, "unpacks to 4.2 GB"),
        ("pipe.png", lambda path: os.mkfifo(path), "is not a file"),
        ("pipe.npy", lambda path: os.mkfifo(path), "is not a file"),
        ("pipe.bin", lambda path: os.mkfifo(path), "is not a file"),
    ],
)
def test_sizes_and_kinds_are_looked_at_before_reading(tmp_path, name, write, sentence):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=sentence):
        open_source(str(tmp_path / name), GIVEN)


@pytest.mark.parametrize("name", ["objects.npy", "objects.npz"])
def test_arrays_of_objects_are_refused(tmp_path, name):
    objects = np.array([{"a": 1}], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, objects)
    with pytest.raises(ValueError, match="cannot be read as an array of numbers"):
        open_source(str(tmp_path / name), GIVEN)
