"""Other people's files, consoles and machines: read, refused by name, or doubted aloud."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataloader import augment
from dataloader.nyu import read_depth
from tests.helpers.blob_network import stand_in
from tests.helpers.layout_folders import spread_hands, write_icvl_folder, write_msra_folder, write_png
from tests.helpers.nyu_folder import open_hand, write_nyu_folder
from tests.helpers.project import PROJECT
from util import UserError
from util.camera import NYU_CAMERA
from util.cli import _sentence
from util.demo.frame_files import read_frame
from util.demo.stream import why_no_hand
from util.files import read_table
from util.points import doubt_format, parse_format, read_centers, read_predictions

CAMERA = ",".join(map(str, NYU_CAMERA[:4]))
BUNDLED = PROJECT / "data" / "synth" / "test"
FRAMES = 4


@pytest.fixture(autouse=True)
def _quick_network(monkeypatch):
    """The demo's checkpoint is the stand-in network."""
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def depths():
    return [read_depth(BUNDLED / f"depth_1_{i + 1:07d}.png") for i in range(FRAMES)]


@pytest.fixture
def frames(tmp_path, depths):
    """A folder of 16-bit frames."""
    for i, depth in enumerate(depths):
        write_png(tmp_path / "frames" / f"{i:03d}.png", depth)
    return tmp_path / "frames"


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Labels and centres in NYU's layout, without frames."""
    root = tmp_path_factory.mktemp("data")
    centers = np.random.default_rng(1).uniform((-100, -80, 600), (100, 80, 900), (12, 3))
    joints = np.array([open_hand(center) for center in centers])
    write_nyu_folder(root / "nyu", "test", [], joints, centers)
    return root, joints


def demo(run_script, source, *flags):
    return run_script("demo.py", "--source", source, "--camera", CAMERA, "--device", "cpu", *flags)


# Foreign text.


@pytest.mark.parametrize("name", ["深度".encode("gbk"), b"\xff\xfe", b"pos\xe9"])
def test_names_that_are_no_text_are_drawn_with_replacements(run_script, frames, tmp_path, name):
    frame = os.path.join(os.fsencode(frames), name + b".png")
    os.rename(frames / "000.png", frame)
    for out in ("pictures", "poses.jsonl"):
        ran = demo(run_script, frames, "--save" if out == "pictures" else "--json", tmp_path / out)
        assert ran.code == 0, ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "pictures", "poses.jsonl"]


COMMANDS = ("test.py", "train.py", "demo.py", "-m util.benchmark", "-m dataloader.synthetic")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "encoding"),
    [*((command, "ascii") for command in COMMANDS), ("test.py", "cp1251"), ("test.py", "cp437")],
)
def test_help_on_a_console_of_few_characters(command, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    ran = subprocess.run(
        [sys.executable, *command.split(), "--help"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert b"usage" in ran.stdout


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_printing_and_not_the_work(hands, tmp_path):
    root, joints = hands
    np.savetxt(tmp_path / "true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(12, -1), fmt="%.3f")
    command = (
        f"'{sys.executable}' test.py --dataset nyu --data_dir '{root}' --predictions '{tmp_path}/true.txt'"
    )
    piped = f"set -o pipefail; {command} --output_dir '{tmp_path}/out' | head -1"
    ran = subprocess.run(["bash", "-c", piped], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "success.png").is_file()
    assert "Error" not in ran.stderr


# One damaged frame among many.


def cut(path):
    os.truncate(path, 900)


def colour(path):
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8))


def smaller(path):
    write_png(path, np.full((240, 320), 500.0))


@pytest.mark.parametrize(
    ("damage", "number", "complaint"),
    [
        (cut, 2, "is damaged"),
        (colour, 1, "has lost it"),
        (smaller, 3, "the first frame"),
        (cut, 0, "is damaged"),
    ],
)
def test_a_bad_frame_is_named_and_the_others_kept(run_script, frames, tmp_path, damage, number, complaint):
    damage(frames / f"{number:03d}.png")
    ran = demo(run_script, frames, "--json", tmp_path / "a.jsonl", "--save", tmp_path / "pictures")
    assert ran.code == 2
    assert f"error: {frames}/{number:03d}.png" in ran.err
    assert complaint in ran.err
    _, *lines = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert [("error" in line, line["pose"] is None) for line in lines].count((True, True)) == 1
    assert complaint in lines[number]["error"]
    assert len(lines) == FRAMES
    assert len(list((tmp_path / "pictures").iterdir())) == FRAMES - 1


def test_strict_stops_at_the_first_bad_frame_and_keeps_those_before(run_script, frames, tmp_path):
    cut(frames / "002.png")
    ran = demo(run_script, frames, "--json", tmp_path / "a.jsonl", "--strict")
    assert ran.code == 2
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1 + 2 + 1


def test_several_bad_frames_are_counted(run_script, frames, tmp_path):
    for number in (1, 2):
        cut(frames / f"{number:03d}.png")
    ran = demo(run_script, frames, "--json", tmp_path / "a.jsonl")
    assert ran.code == 2
    assert "2 of 4 frames could not be used; the first:" in ran.err


@pytest.mark.skipif(not os.path.isdir("/proc/sys"), reason="there is no folder that takes no files")
def test_places_to_write_are_tried_before_the_work(run_script, hands, monkeypatch):
    root, _ = hands
    monkeypatch.setattr("dataloader.dataset.build_dataset", lambda *_: pytest.fail("the work began"))
    ran = run_script("test.py", "--dataset", "nyu", "--data_dir", root, "--output_dir", "/proc/sys/out")
    assert ran.code == 2
    assert "error: /proc/sys/out: " in ran.err


# Other conventions.


def test_predictions_as_xyz_are_doubted_and_read(run_script, hands, tmp_path):
    root, joints = hands
    np.savetxt(tmp_path / "a.txt", joints.reshape(12, -1), fmt="%.3f")
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--output_dir", tmp_path / "out")
    common += ("--predictions", tmp_path / "a.txt")
    ran = run_script(*common)
    assert ran.code == 0, ran.err
    assert "pass --predictions_format xyz, or" in ran.err
    ran = run_script(*common, "--predictions_format", "xyz")
    assert ran.code == 0, ran.err
    assert "warning" not in ran.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["mpe_mm"] < 0.01


@pytest.mark.parametrize("name", ["xyz", "x-yz", "xyz_m", "vud", "uvd_m", "xyz_cm", "yxz", "xy-z"])
def test_every_usual_format_is_recognised_and_read(hands, tmp_path, capsys, name):
    _, joints = hands
    points, given = parse_format(name), parse_format("uvd")
    written = NYU_CAMERA.xyz_to_uvd(joints) if points.is_pixels else joints.copy()
    written = written / ((1, 1, points.unit_mm) if points.is_pixels else points.unit_mm) * points.signs
    np.savetxt(tmp_path / "a.txt", written[..., np.argsort(points.columns)].reshape(12, -1), fmt="%.6f")
    numbers, uvd = read_predictions(tmp_path / "a.txt", 12, 14, NYU_CAMERA, points)
    np.testing.assert_allclose(NYU_CAMERA.uvd_to_xyz(uvd), joints, atol=0.01)
    doubt_format(tmp_path / "a.txt", numbers, joints, NYU_CAMERA, points, "--flag")
    assert not capsys.readouterr().err
    doubt_format(tmp_path / "a.txt", numbers, joints, NYU_CAMERA, given, "--flag")
    assert f"pass --flag {name}, or" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "name"), [((1, -1, 1), "x-yz"), ((0.001,) * 3, "xyz_m"), ((0.1,) * 3, "xyz_cm")]
)
def test_centres_of_another_convention_are_doubted_and_read(hands, change, name, capsys, tmp_path):
    from config import Config
    from dataloader.index import build_index

    root, _ = hands
    shutil.copytree(root / "nyu", tmp_path / "nyu")
    for i in range(12):
        write_png(tmp_path / "nyu" / "test" / f"depth_1_{i + 1:07d}.png", np.ones((4, 4)))
    path = tmp_path / "centers.txt"
    np.savetxt(path, np.loadtxt(root / "nyu" / "center_test_refined.txt") * change, fmt="%.6f")
    config = Config(dataset="nyu", data_dir=str(tmp_path), centers=str(path)).resolved()
    build_index(config)
    assert f"pass --centers_format {name}, or" in capsys.readouterr().err
    index = build_index(Config(**{**vars(config), "centers_format": name}))
    assert not capsys.readouterr().err
    np.testing.assert_allclose(
        index.center_xyz, build_index(Config(**{**vars(config), "centers": ""})).center_xyz
    )


@pytest.mark.parametrize("text", ["uvz", "xy", "xyzz", "xyz_km", "-uvd", "xxz", "xvd", "x-vd", ""])
def test_a_format_that_cannot_be(text):
    with pytest.raises(ValueError, match="no format of points"):
        parse_format(text)


@pytest.mark.parametrize("separator", [",", "\t", ";", ", "])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_of_other_programs_are_read(tmp_path, separator, mark):
    path, numbers = tmp_path / "a.csv", np.arange(12.0).reshape(4, 3)
    np.savetxt(path, numbers, fmt="%.3f", delimiter=separator)
    path.write_bytes(mark + path.read_bytes())
    np.testing.assert_array_equal(read_table(path, 3), numbers)
    np.testing.assert_array_equal(read_centers(path), numbers)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_called_so(run_script, hands, tmp_path, encoding):
    root, _ = hands
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "a.txt").write_bytes(mark + "1 2 3\n".encode(encoding))
    arguments = ("--predictions", tmp_path / "a.txt", "--output_dir", tmp_path / "out")
    ran = run_script("test.py", "--dataset", "nyu", "--data_dir", root, *arguments)
    assert (ran.code, ran.err.strip()) == (2, f"error: {tmp_path}/a.txt is UTF-16 text: save it as UTF-8.")


# The environment.


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that workers …",
        "DataLoader worker (pid(s) 7) exited unexpectedly",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: Success (0)",
    ],
)
def test_a_lost_worker_is_a_sentence_with_the_remedy(text):
    sentence = _sentence(RuntimeError(text))
    assert "--shm-size" in sentence
    assert "--num_workers 0" in sentence


def test_a_workers_error_has_its_sentence_alone_and_its_bug_a_trace():
    trace = "Caught {0} in DataLoader worker process 0.\nTraceback …\n{1}: a.png is damaged."
    assert _sentence(UserError(trace.format("UserError", "util.UserError"))) == "a.png is damaged."
    assert _sentence(RuntimeError(trace.format("RuntimeError", "RuntimeError"))) is None


def test_our_own_errors_keep_their_trace():
    assert _sentence(ValueError("zip() argument 2 is longer than argument 1")) is None
    assert _sentence(RuntimeError("shape mismatch")) is None
    assert _sentence(UnicodeDecodeError("utf-8", b"a", 0, 1, "no")) is None


@pytest.mark.slow
def test_a_killed_worker_ends_in_one_sentence(tmp_path):
    command = [sys.executable, "test.py", "--output_dir", str(tmp_path), "--num_workers", "1"]
    process = subprocess.Popen(
        command, cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    # Not a short-lived helper that an import starts: a child of the same command line that stays.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    seen: set[str] = set()
    while process.poll() is None:
        time.sleep(0.5)
        now = set(children.read_text().split())
        stayed = [child for child in seen & now if b"test.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if stayed:
            os.kill(int(stayed[0]), signal.SIGKILL)
            break
        seen = now
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--num_workers 0" in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


# What lies in a folder.


@pytest.mark.parametrize("name", ["._001.png", ".001.7.part.png", ".hidden.npy", "Thumbs.db", ".DS_Store"])
def test_hidden_and_system_files_are_no_frames(run_script, frames, tmp_path, name):
    (frames / name).write_bytes(b"\0" * 163)
    ran = demo(run_script, frames, "--json", tmp_path / "a.jsonl")
    assert ran.code == 0, ran.err
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1 + FRAMES


@pytest.mark.parametrize("junk", ["._{}", ".{}.swp", "copy_of_{}", "{}~"])
@pytest.mark.parametrize("dataset", ["icvl", "msra"])
def test_other_files_in_a_data_set_are_not_counted(tmp_path, dataset, junk):
    from config import Config
    from dataloader.index import build_index

    if dataset == "icvl":
        write_icvl_folder(tmp_path / "icvl", spread_hands("icvl", 2, 0), spread_hands("icvl", 4, 1))
    else:
        write_msra_folder(tmp_path / "msra", {s: {"1": spread_hands("msra", 2, s)} for s in (0, 1)})
        (tmp_path / "msra" / "P0" / ".ipynb_checkpoints").mkdir()
    for frame in [*tmp_path.rglob("*.bin"), *tmp_path.rglob("image_*.png")]:
        frame.with_name(junk.format(frame.name)).write_bytes(b"\0" * 163)
    index = build_index(Config(dataset=dataset, data_dir=str(tmp_path)).resolved())
    assert len(index.joint_xyz) == (4 if dataset == "icvl" else 2)


VIEWS = [
    (("depth_1_{}.png", "depth_2_{}.png"), True),
    (("depth_1_{}.png", "rgb_1_{}.png"), True),
    (("{}_depth.png", "{}_color.png"), True),
    (("a_{}.png", "a_{}.npy"), True),
    (("frame_{}_cam0.png", "frame_{}_cam1.png"), True),
    (("230536_1{}.png", "231615_2{}.png"), False),  # two takes of one camera
    (("{}_depth16.png",), False),
    (("hand{}.png",), False),
]


@pytest.mark.parametrize(("names", "several"), VIEWS)
def test_a_folder_of_several_kinds_names_the_patterns(run_script, tmp_path, depths, names, several):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in names:
        for i in range(2):
            if name.endswith(".npy"):
                np.save(folder / name.format(f"000{i}"), depths[i])
            else:
                write_png(folder / name.format(f"000{i}"), depths[i])
    ran = demo(run_script, folder, "--json", tmp_path / "a.jsonl")
    assert ran.code == (2 if several else 0), ran.err
    if several:
        pattern = names[0].format("*")
        letters = re.sub(r"\d+", "*", pattern)
        assert f"'{folder}/{pattern}'" in ran.err or f"'{folder}/{letters}'" in ran.err
        assert demo(run_script, folder / pattern, "--json", tmp_path / "a.jsonl").code == 0
        assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1 + 2


def test_counts_come_with_a_name(tmp_path):
    from config import Config
    from dataloader.index import build_index

    hands = {0: {"1": spread_hands("msra", 3, 0)}, 1: {"1": spread_hands("msra", 2, 1)}}
    write_msra_folder(tmp_path / "msra", hands)
    config = Config(dataset="msra", data_dir=str(tmp_path)).resolved()
    gesture = tmp_path / "msra" / "P0" / "1"
    (gesture / "000001_depth.bin").rename(gesture / "000009_depth.bin")
    (gesture / "000002_depth.bin").unlink()
    with pytest.raises(ValueError, match=r"label without a frame is .*P0/1/000001_depth\.bin") as raised:
        build_index(config)
    assert "the first frame without a label is" in str(raised.value)
    assert "000009_depth.bin" in str(raised.value)


@pytest.mark.parametrize("gone", ["test_seq_1", "test_seq_2"])
def test_one_of_icvls_test_sequences_is_scored_and_called_so(run_script, tmp_path, gone):
    joints = spread_hands("icvl", 5, 1)
    write_icvl_folder(tmp_path / "icvl", spread_hands("icvl", 2, 0), joints)
    (tmp_path / "icvl" / "Testing" / f"{gone}.txt").unlink()
    flags = (
        "--dataset",
        "icvl",
        "--data_dir",
        tmp_path,
        "--output_dir",
        tmp_path / "out",
        "--img_size",
        "32",
        *("--load_model", "random"),
    )
    ran = run_script("test.py", *flags, "--num_workers", "0")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == f"Only a part of the split was scored: {gone} missing."
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (record["missing"], record["frames"]) == ([gone], 3 if gone == "test_seq_1" else 2)


# Why nothing?


@pytest.mark.parametrize(
    ("scale", "dtype", "reason"),
    [
        (0.001, np.float32, "--depth_scale 1000"),
        (0.1, np.float32, "--depth_scale 10 "),
        (8, np.uint16, "--depth_scale 0.1"),
        (65535 / 1000, np.uint16, "lost their unit"),
        (0, np.uint16, "No frame has a depth reading"),
    ],
)
def test_no_hand_comes_with_a_reason(run_script, tmp_path, depths, scale, dtype, reason):
    frames = np.stack(depths[:2]).astype(np.float64)
    frames = frames / frames.max() * 1000 if scale > 60 else frames
    np.save(tmp_path / "a.npy", (frames * scale).astype(dtype))
    ran = demo(run_script, tmp_path / "a.npy", "--json", tmp_path / "a.jsonl")
    assert ran.code == 0, ran.err
    assert "A hand in 0 of 2 frames" in ran.out
    assert reason in ran.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("reading", "scales", "advice"),
    [
        (600, (0.1, 0.1), "with --depth_scale 1 "),  # --camera d405, whose frames were converted
        (4800, (1.0, 0.125), "with --depth_scale 0.125 "),  # --camera sr305 and a wrong --depth_scale
        (600, (1000.0, 1.0), "with --depth_scale 1 "),
        (6000, (1.0, 1.0), "with --depth_scale 0.1 "),
        (0.6, (1.0, 1.0), "with --depth_scale 1000 "),  # a renderer's metres before its background
        (3000, (), "come nearer, or pass another --depth_range"),  # a RealSense before a wall
        (600, (1.0, 1.0), "hold the hand nearer than everything else"),
    ],
)
def test_the_unit_advised_fits_and_is_not_the_present_one(reading, scales, advice):
    depth = np.full((40, 40), 100.0 if reading < 1 else reading, np.float32)
    depth[:20] = reading
    assert advice in why_no_hand(depth, scales, (100, 1500))


# Kinds of files.


def test_grey_in_three_equal_channels_keeps_its_depth(run_script, tmp_path, depths):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([depths[0]] * 3))
    cv2.imwrite(str(tmp_path / "b.pgm"), depths[0])
    cv2.imwrite(str(tmp_path / "c.tiff"), np.dstack([depths[0]] * 3))
    for name in ("a.png", "b.pgm", "c.tiff"):
        ran = demo(run_script, tmp_path / name, "--json", tmp_path / "a.jsonl")
        assert ran.code == 0, ran.err
        assert "A hand in 1 of 1 frames" in ran.out


def test_exr_frames_are_read(run_script, tmp_path, depths):
    OpenEXR = pytest.importorskip("OpenEXR")
    kind, depth = {"type": OpenEXR.scanlineimage}, depths[0].astype(np.float32)
    other = {"R": depth, "G": depth, "B": depth + 1}
    for name, channels in {"z": {"Z": depth}, "grey": {"RGB": np.dstack([depth] * 3)}, "no": other}.items():
        with OpenEXR.File(kind, channels) as file:
            file.write(str(tmp_path / f"{name}.exr"))
    for name in ("z", "grey"):
        np.testing.assert_array_equal(read_frame(tmp_path / f"{name}.exr")[0], depth)
    (tmp_path / "cut.exr").write_bytes((tmp_path / "z.exr").read_bytes()[:99])
    for name, complaint in (("no", "expected depth in Z"), ("cut", "is damaged")):
        ran = demo(run_script, tmp_path / f"{name}.exr", "--json", tmp_path / "a.jsonl")
        assert ran.code == 2
        assert complaint in ran.err


def test_an_older_opencv_is_said(monkeypatch, capsys):
    monkeypatch.setattr(cv2, "__version__", "4.11.0")
    importlib.reload(augment)
    assert "warning: OpenCV 4.11.0 rounds warps" in capsys.readouterr().err


def test_raw_floats_are_told_how_to_become_readable(run_script, tmp_path):
    np.full((192, 256), 0.5, np.float32).tofile(tmp_path / "a.bin")
    ran = demo(run_script, tmp_path / "a.bin", "--json", tmp_path / "a.jsonl")
    assert ran.code == 2
    assert "np.fromfile" in ran.err


def test_a_missing_comparison_is_missing(run_script, hands, tmp_path):
    root, joints = hands
    np.savetxt(tmp_path / "true.txt", NYU_CAMERA.xyz_to_uvd(joints).reshape(12, -1), fmt="%.3f")
    common = ("test.py", "--dataset", "nyu", "--data_dir", root, "--predictions", tmp_path / "true.txt")
    common += ("--output_dir", tmp_path / "out")
    ran = run_script(*common, "--compare", f"a={tmp_path}/out/predictions.txt")
    assert ran.code == 2
    assert "is missing" in ran.err
    assert run_script(*common).code == 0
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["predictions"] == str(tmp_path / "true.txt")
    assert len(record["sha256"]) == 64
