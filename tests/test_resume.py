"""Runs that are killed, stopped, or run out of disk, and go on as if nothing had happened."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.full_disk import file_limit
from tests.helpers.processes import read_log, start_training, wait_for_step
from tests.helpers.sphere_hands import write_sphere_hands

STEPS = 12


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """6 steps an epoch, 2 epochs, all that has a state switched on; checkpoints in between."""
    data_dir = tmp_path_factory.mktemp("data")
    write_sphere_hands(data_dir / "synth", "train", 13, seed=0)
    write_sphere_hands(data_dir / "synth", "val", 5, seed=1)
    return [
        *("--data_dir", str(data_dir), "--net", "hourglass_1", "--img_size", "32", "--batch_size", "2"),
        *("--num_workers", "1", "--max_epoch", "2", "--scheduler", "cosine", "--warmup_epochs", "0.5"),
        *("--ema", "0.9", "--bn_batches", "2", "--clip_grad", "0.1", "--dense_epochs", "1"),
        *("--save_minutes", "0.012", "--log_every", "1", "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end([*settings, "--output_dir", str(folder)], folder)
    return folder


def assert_same_run(folder: Path, expected: Path) -> None:
    """Same lines in the log but for the time they took; same weights, exactly, in both checkpoints."""
    logs = [[line | {"images_per_s": 0} for line in read_log(run)] for run in (folder, expected)]
    assert logs[0] == logs[1]
    for name in ("last.pth", "best.pth"):
        ours, theirs = (torch.load(run / name, weights_only=True) for run in (folder, expected))
        for network in ("model", "training_model"):
            assert all(torch.equal(ours[network][key], value) for key, value in theirs[network].items())
        for entry in ("epoch", "frames", "step", "best_mpe_mm", "averaged_steps"):
            assert ours[entry] == theirs[entry], entry
        states = (content["optimizer"]["state"] for content in (ours, theirs))
        for held, expected_state in zip(*(state.values() for state in states), strict=True):
            assert all(torch.equal(held[name], value) for name, value in expected_state.items())


def run_to_the_end(arguments: list[str], folder: Path) -> None:
    """Run train.py in a process of its own; what it prints goes to <folder>/output.txt."""
    process = start_training(arguments, folder / "output.txt")
    process.join()
    assert process.exitcode == 0, (folder / "output.txt").read_text()


def resumed_from(output: Path) -> int:
    """The step that a run said it started from: one that began anew would end with the same weights too."""
    return int(re.search(r"from step (\d+)", output.read_text())[1])


@pytest.mark.slow
def test_killed_five_times_and_resumed(settings, undisturbed, tmp_path):
    rng = np.random.default_rng(4)
    arguments = [*settings, "--resume", "--output_dir", str(tmp_path)]
    # The last one comes after the first epoch's checkpoint, and before the run is over.
    for step in [*np.sort(rng.choice(np.arange(1, STEPS - 3), size=4, replace=False)), STEPS - 3]:
        before = read_log(tmp_path)
        process = start_training(arguments, tmp_path / "output.txt")
        wait_for_step(process, tmp_path, step, before)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    run_to_the_end(arguments, tmp_path)
    assert_same_run(tmp_path, undisturbed)
    assert resumed_from(tmp_path / "output.txt") >= STEPS / 2
    assert {file.name for file in tmp_path.glob(".*")} <= {".lock"}  # nothing half-written is left behind


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_saves_and_leaves_when_asked(settings, undisturbed, tmp_path, number):
    arguments = [*settings, "--save_minutes", "9", "--resume", "--output_dir", str(tmp_path)]
    process = start_training(arguments, tmp_path / "output.txt")
    wait_for_step(process, tmp_path, 3)
    os.killpg(process.pid, number)  # as the terminal and `timeout` do
    process.join()
    assert process.exitcode == 130, (tmp_path / "output.txt").read_text()
    step = read_log(tmp_path)[-1]["step"]
    assert torch.load(tmp_path / "last.pth", weights_only=True)["step"] == step < STEPS / 2
    assert resumed_from(tmp_path / "output.txt") == 0
    if number == signal.SIGTERM:
        run_to_the_end(arguments, tmp_path)
        assert_same_run(tmp_path, undisturbed)
        assert resumed_from(tmp_path / "output.txt") == step


@pytest.fixture
def copied(undisturbed, tmp_path) -> Path:
    shutil.copy(undisturbed / "last.pth", tmp_path)
    return tmp_path


def test_disk_that_fills_while_writing(settings, copied, fails):
    before = (copied / "last.pth").read_bytes()
    with file_limit(len(before) // 2):
        complaint = fails("train.py", *settings, "--resume", "--max_epoch", "3", "--output_dir", copied)
    assert "last.pth: File too large" in complaint
    assert (copied / "last.pth").read_bytes() == before
    assert [file.name for file in copied.glob(".*")] == [".lock"]


def test_full_disk_for_the_log(settings, tmp_path, fails):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    assert (
        fails("train.py", *settings, "--output_dir", tmp_path)
        == f"error: {tmp_path}: No space left on device."
    )


def test_diverged_loss_names_the_frames(settings, copied, fails):
    before = (copied / "last.pth").read_bytes()
    diverging = ("--lr", "1e30", "--clip_grad", "0", "--save_minutes", "9")
    complaint = fails(
        "train.py", *settings, "--resume", "--max_epoch", "3", "--output_dir", copied, *diverging
    )
    assert "not finite for a batch of frames in" in complaint
    assert "a lower lr (here 2.5e+29)" in complaint
    assert complaint.count("depth_1_") == 2  # the batch's frames
    assert (copied / "last.pth").read_bytes() == before


def test_a_run_of_another_device_goes_on(settings, copied, succeeds):
    content = torch.load(copied / "last.pth", weights_only=True)
    content["config"] |= {"device": "cuda:1", "precision": "bf16"}
    content["random"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)]
    torch.save(content, copied / "last.pth")
    printed = succeeds("train.py", *settings, "--resume", "--output_dir", copied).out
    assert "was trained with device cuda:1, from here on cpu" in printed
    assert f"from step {STEPS}" in printed


def test_what_was_logged_after_the_checkpoint_is_cut_off(settings, undisturbed, copied, succeeds):
    log = (undisturbed / "log.jsonl").read_text()
    (copied / "log.jsonl").write_text(log + log.splitlines()[-2] + "\n")
    succeeds("train.py", *settings, "--resume", "--output_dir", copied)
    assert (copied / "log.jsonl").read_text() == log


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_frames_of_the_same_names_are_said(settings, copied, succeeds, split):
    root = copied / "data"
    shutil.copytree(settings[1], root)  # with their times
    arguments = ["train.py", *settings, "--resume", "--output_dir", copied, "--data_dir", root]
    assert "warning" not in succeeds(*arguments).err
    frames = sorted((root / "synth" / split).glob("*.png"))
    shutil.copyfile(frames[0], frames[-1])
    (warning,) = succeeds(*arguments).err.strip().splitlines()
    assert f"was trained with other frames of the split {split} (" in warning
    assert warning.endswith(".")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [(Path.unlink, "is missing"), (lambda path: os.truncate(path, 900), "cannot be decoded")],
)
def test_a_frame_lost_while_training_is_named_and_the_run_kept(settings, tmp_path, change, complaint):
    shutil.copytree(settings[1], tmp_path / "data")
    folder, output = tmp_path / "run", tmp_path / "output.txt"
    arguments = [*settings, "--max_epoch", "50", "--output_dir", str(folder)]
    arguments[1] = str(tmp_path / "data")
    process = start_training(arguments, output)
    wait_for_step(process, folder, 7)
    frame = tmp_path / "data" / "synth" / "train" / "depth_1_0000005.png"
    change(frame)
    process.join()
    assert process.exitcode == 2
    assert f"error: {frame} " in output.read_text()
    assert complaint in output.read_text()
    assert torch.load(folder / "last.pth", weights_only=True)["step"] >= 6


REFUSED = {
    (): "--resume",
    ("--resume", "--net", "hourglass_2"): "net hourglass_1, not hourglass_2",
    ("--resume", "--freeze", "pre", "outs_1"): "freeze nothing, not outs_1 pre: a run goes on with the same",
    ("--resume", "--load_model", "any.pth", "--img_size", "96"): "has img_size 32, not 96; "
    "load_model nothing, not any.pth: a run goes on with the same",
    ("--output_dir", "new", "--freeze", "pre"): "say with --load_model which",
    ("--centers", "any.txt"): "any.txt is missing: the hand centre of every frame",
    ("--data_dir", "empty"): "python -m dataloader.synthetic --out empty/synth --split train --frames 20000",
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_cannot_be_resumed_or_started(settings, copied, fails, monkeypatch, flags):
    monkeypatch.chdir(copied)
    assert REFUSED[flags] in fails("train.py", *settings, "--output_dir", copied, *flags)


@pytest.mark.slow
def test_machines_that_share_no_disk_cannot_resume(settings, copied, fails, monkeypatch):
    monkeypatch.setattr("util.training.distributed.Processes.gather", lambda _, value: [value, (0, 0, 0)])
    complaint = fails("train.py", *settings, "--resume", "--max_epoch", "3", "--output_dir", copied)
    assert "not the same for all processes" in complaint


@pytest.mark.slow
def test_fine_tuning_takes_the_loaded_network_and_resumes(settings, undisturbed, tmp_path):
    arguments = [*settings, "--load_model", str(undisturbed / "best.pth"), "--net", "resnet_18"]
    arguments += ["--max_epoch", "1", "--dense_epochs", "0", "--output_dir", str(tmp_path)]
    for more in ([], ["--resume"]):
        run_to_the_end([*arguments, *more], tmp_path)
    assert torch.load(tmp_path / "last.pth", weights_only=True)["spec"]["net"] == "hourglass_1"


def test_checkpoint_is_plain_and_whole(undisturbed):
    content = torch.load(undisturbed / "last.pth", weights_only=True)
    assert set(content) == {
        *("model", "training_model", "averaged_steps", "optimizer", "scaler", "epoch", "frames", "step"),
        *("best_mpe_mm", "waited", "cuts", "running", "log_size", "random", "config", "data", "revision"),
        *("spec", "versions"),
    }
    assert content["config"]["seed"] == 0
    assert {path.name for path in undisturbed.iterdir()} >= {"best.pth", "curves.png", "tensorboard"}
    spec = torch.load(undisturbed / "best.pth", weights_only=True)["spec"]
    assert (spec["net"], spec["kernel_size"], spec["dataset"]) == ("hourglass_1", 0.4, "synth")


@pytest.mark.slow
def test_a_folder_that_a_run_writes_into_is_refused(settings, tmp_path, fails):
    arguments = [*settings, "--output_dir", str(tmp_path)]
    process = start_training([*arguments, "--max_epoch", "50"], tmp_path / "output.txt")
    try:
        wait_for_step(process, tmp_path, 1)
        for resume in ([], ["--resume"]):
            assert f"Another run writes into {tmp_path}" in fails("train.py", *arguments, *resume)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    (tmp_path / "last.pth").unlink(missing_ok=True)
    run_to_the_end([*arguments, "--max_epoch", "1", "--dense_epochs", "0"], tmp_path)  # the lock went with it
