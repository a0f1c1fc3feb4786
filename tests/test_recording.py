"""Files that appear whole or not at all, also where the disk is full or the place takes none; and locks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.helpers.full_disk import file_limit
from tests.helpers.project import PROJECT
from util import UserError
from util.demo import recording
from util.files import atomic_write, locked_folder

NOISE = np.random.default_rng(0).integers(0, 256, (20, 240, 321, 3)).astype(np.uint8)
RATE = 30.0
SYSTEM = Path("/sys")  # takes no files, root's neither


def save(path, rate=RATE, seconds=None):
    with recording.record(path, rate) as add:
        for i, picture in enumerate(NOISE):
            add(picture, i / rate if seconds is None else seconds[i], f"{i}")


def frames_and_seconds(path):
    """The pictures (H, W, 3) of a film, and how long it plays."""
    if path.suffix == ".gif":
        with Image.open(path) as film:
            frames = [(np.array(frame), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
        return [frame for frame, _ in frames], sum(duration for _, duration in frames) / 1000
    film = cv2.VideoCapture(str(path))
    frames = []
    while (frame := film.read()[1]) is not None:
        frames.append(frame)
    return frames, len(frames) / film.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_of_a_camera_keeps_its_time(tmp_path, name):
    # From 20 s on, 12 a second, then 60.
    save(tmp_path / name, seconds=[20 + (i / 12 if i < 10 else 9 / 12 + (i - 9) / 60) for i in range(20)])
    exact = name == "film.mp4"
    expected = (1 + round(11 / 12 * RATE)) / RATE if exact else 11 / 12
    assert frames_and_seconds(tmp_path / name)[1] == pytest.approx(expected, abs=1e-6 if exact else 0.1)


@pytest.mark.parametrize("rate", [10.0, 12.5, 60.0])
@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_of_a_recording_is_whole_and_lasts_as_long(tmp_path, name, rate):
    save(tmp_path / name, rate)
    # A GIF has fewer pictures, and counts hundredths.
    thinned = name == "film.gif" and rate > 100 / recording.GIF_STEP
    frames, seconds = frames_and_seconds(tmp_path / name)
    assert seconds == pytest.approx(len(NOISE) / rate, abs=0.07 if thinned else 0.011)
    if name == "film.mp4":  # it has every picture, and an even number of columns
        assert [frame.shape for frame in frames] == [(240, 320, 3)] * len(NOISE)


@pytest.mark.parametrize("size", [0, 40, 100_000])
def test_a_full_disk_ends_a_film(tmp_path, size, capfd):
    with pytest.raises(OSError, match=r"film\.mp4: the film could not be written"), file_limit(size):
        save(tmp_path / "film.mp4")
    assert "WARN" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "one.png", "poses.jsonl"])
def test_a_folder_in_the_way_is_named_before_the_work(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as raised, atomic_write(tmp_path / name):
        pytest.fail("the work began")
    assert raised.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="there is no /sys")
@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "one.png", "folder"])
def test_a_place_that_takes_no_files_is_named_before_the_work(name):
    with pytest.raises(OSError) as raised, recording.record(SYSTEM / name, RATE):  # noqa: PT011 - by its name below
        pytest.fail("the work began")
    assert raised.value.filename == str(SYSTEM / name)


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


def test_what_was_there_stays_until_the_block_succeeded_and_a_link_one(tmp_path):
    target, link = tmp_path / "disk" / "best.txt", tmp_path / "best.txt"
    target.parent.mkdir()
    target.write_text("before")
    link.symlink_to(target)

    def write(text, error=None):
        with atomic_write(link) as temporary:
            temporary.write_text(text)
            assert target.read_text() == "before"
            if error:
                raise error

    with pytest.raises(ValueError, match="enough"):
        write("half", ValueError("enough"))
    assert target.read_text() == "before"
    write("after")
    assert target.read_text() == "after"
    assert link.is_symlink()
    assert sorted(tmp_path.rglob("*")) == [link, target.parent, target]


LOCKING = """
import os, sys, time
from pathlib import Path
from util.files import locked_folder
with locked_folder(Path(sys.argv[1])):
    if os.fork() == 0:
        print("locked", flush=True)
    time.sleep(30)
"""


def test_a_lock_ends_with_its_process_although_a_worker_lives(tmp_path):
    command = [sys.executable, "-c", LOCKING, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            with pytest.raises(UserError, match="Another run writes into"), locked_folder(tmp_path):
                pass
            process.kill()
            process.wait()
            with locked_folder(tmp_path):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)
