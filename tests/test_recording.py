"""Files that appear whole or not at all, also where the disk is full or the place takes none."""

import contextlib
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from util.demo import recording
from util.files import atomic_write

NOISE = np.random.default_rng(0).integers(0, 256, (20, 240, 321, 3)).astype(np.uint8)
RATE = 30.0
SYSTEM = Path("/sys")  # takes no files, root's neither


@contextmanager
def file_limit(size):
    """No file grows beyond so many bytes: what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Writer:
    """OpenCV's writer of films, which counts its pictures and may lose one."""

    opencv = cv2.VideoWriter
    loses = 0

    def __init__(self, *opening):
        self.writer, self.asked = self.opencv(*opening), 0

    def __getattr__(self, name):
        return getattr(self.writer, name)

    def write(self, picture):
        self.asked += 1
        if self.asked != self.loses:
            self.writer.write(picture)


def save(path):
    with recording.record(path, RATE) as add:
        for i, picture in enumerate(NOISE):
            add(picture, i / RATE, f"{i}")


def test_a_film_has_every_picture(tmp_path):
    save(tmp_path / "film.mp4")
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    frames = [film.read()[1] for _ in NOISE]
    assert not film.read()[0]
    assert all(frame.shape == (240, 320, 3) for frame in frames)


def test_a_film_keeps_the_picture_that_ctrl_c_met(tmp_path, monkeypatch):
    """Python raises when the encoder has returned: the picture is in the film and was not counted."""

    class Interrupted(Writer):
        def write(self, picture):
            super().write(picture)
            if self.asked == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "VideoWriter", Interrupted)
    with recording.record(tmp_path / "film.mp4", RATE) as add, contextlib.suppress(KeyboardInterrupt):
        for i, picture in enumerate(NOISE):
            add(picture, i / RATE, "")
    assert cv2.VideoCapture(str(tmp_path / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_of_a_camera_keeps_its_time(tmp_path, name):
    with recording.record(tmp_path / name, RATE) as add:
        for i, picture in enumerate(NOISE):  # from 20 s on, 12 a second, then 60
            add(picture, 20 + (i / 12 if i < 10 else 9 / 12 + (i - 9) / 60), "")
    if name == "film.gif":
        with Image.open(tmp_path / name) as film:
            # Pictures alike are one that stands longer.
            milliseconds = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
        assert sum(milliseconds) == pytest.approx(11 / 12 * 1000, abs=100)
    else:
        frames = cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FRAME_COUNT)
        assert frames == 1 + round(11 / 12 * RATE)


@pytest.mark.parametrize("rate", [10.0, 12.5, 60.0])
@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_of_a_recording_lasts_as_long(tmp_path, name, rate):
    with recording.record(tmp_path / name, rate) as add:
        for i, picture in enumerate(NOISE):
            add(picture, i / rate, "")
    if name == "film.gif":
        with Image.open(tmp_path / name) as film:
            seconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) / 1000
    else:
        film = cv2.VideoCapture(str(tmp_path / name))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == len(NOISE)
        seconds = len(NOISE) / film.get(cv2.CAP_PROP_FPS)
    # A GIF has at most 15 pictures a second, and counts hundredths.
    thinned = name == "film.gif" and rate > recording.GIF_RATE
    assert seconds == pytest.approx(len(NOISE) / rate, abs=0.07 if thinned else 0.011)


@pytest.mark.parametrize("size", [0, 40, 100_000])
def test_a_full_disk_ends_a_film(tmp_path, size, capfd):
    with pytest.raises(OSError, match=r"/film\.mp4") as raised, file_limit(size):
        save(tmp_path / "film.mp4")
    assert "OpenCV" not in str(raised.value)
    assert "WARN" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_lost_a_picture_is_none(tmp_path, monkeypatch):
    class Forgetful(Writer):
        loses = 7

    monkeypatch.setattr(cv2, "VideoWriter", Forgetful)
    path = tmp_path / "film.mp4"
    with pytest.raises(OSError, match="the film could not be written; is the disk full") as raised:
        save(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "one.png", "poses.jsonl"])
def test_a_folder_in_the_way_is_named_before_the_work(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as raised, atomic_write(tmp_path / name):
        pytest.fail("the work began")
    assert raised.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="there is no /sys")
@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "one.png", "folder"])
def test_a_place_that_takes_no_files_is_named_before_the_work(name):
    with pytest.raises(OSError) as raised, recording.record(SYSTEM / name, RATE):  # noqa: PT011 - by its name below
        pytest.fail("the work began")
    assert raised.value.filename == str(SYSTEM / name)
    assert raised.value.strerror


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "disk" / "best.txt", tmp_path / "best.txt"
    target.parent.mkdir()
    target.write_text("before")
    link.symlink_to(target)
    with atomic_write(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "poses.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as place:
        place.write_text("a pose")
    assert os.read(reader, 100) == b"a pose"
    os.close(reader)
    assert list(tmp_path.iterdir()) == [pipe]
    assert not pipe.is_file()


def test_what_was_there_stays_until_the_block_succeeded(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write_half():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        write_half()
    assert path.read_text() == "before"
    with atomic_write(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]
