"""The command line: help on any console, one sentence for errors, signals, and readers that leave."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from config import Config
from tests.helpers.project import PROJECT
from util import UserError
from util.cli import _sentence, parse_settings, run
from util.files import atomic_write


def python(*arguments, **environment):
    """Run Python in the project's folder; its output is text."""
    command, environment = [sys.executable, *map(str, arguments)], os.environ | environment
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)


COMMANDS = ("test.py", "train.py", "demo.py", "-m util.benchmark", "-m dataloader.synthetic")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "encoding"),
    [*((command, "ascii") for command in COMMANDS), ("test.py", "cp1251"), ("test.py", "cp437")],
)
def test_help_on_a_console_of_few_characters(command, encoding):
    ran = python(*command.split(), "--help", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert ran.returncode == 0, ran.stderr
    assert "usage" in ran.stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_mistyped_flag_comes_with_the_likely_one_on_any_console(encoding):
    ran = python("test.py", "--load_modle", "a", PYTHONIOENCODING=encoding)
    said = "Unrecognized options: --load_modle, a. Perhaps you meant --load_model; --help lists the settings."
    assert (ran.returncode, ran.stderr) == (2, f"error: {said}\n")


@pytest.mark.parametrize("reader", ["| head -1", "> /dev/full"])
def test_a_reader_that_leaves_ends_the_printing_and_not_the_work(reader, tmp_path):
    done = tmp_path / "done"
    code = "import pathlib; from config import Config; from util.cli import run; run(lambda _: "
    code += f"[print('line ' * 9) for _ in range(9999)] and pathlib.Path('{done}').touch(), 'a', Config)"
    shell = f'set -o pipefail; "{sys.executable}" -c "{code}" {reader}'
    ran = subprocess.run(["bash", "-c", shell], cwd=PROJECT, capture_output=True, text=True)
    if reader.startswith("|"):
        assert (ran.returncode, ran.stderr, done.exists()) == (0, "", True)
    else:
        assert (ran.returncode, ran.stderr) == (2, "error: [Errno 28] No space left on device\n")


WORKER = "Caught {0} in DataLoader worker process 0.\nTraceback …\n{1}: a.png is damaged."
NO_COMPILER = type("InductorError", (RuntimeError,), {"__module__": "torch._dynamo.exc"})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It …"), "--num_workers 0"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "--shm-size"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "--shm-size"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>"), "--num_workers 0"),
        (UserError(WORKER.format("UserError", "util.UserError")), "^a.png is damaged.$"),
        (NO_COMPILER("no g++ found.\nMore"), "^torch.compile does not work here: no g.. found;"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "use smaller batches"),
        (ValueError("Expected more than 1 value per channel when training, got …"), "larger --batch_size"),
        (MemoryError(), "^the memory, or the GPU's, is full: use smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), "memory.* is full"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "^a.txt: No such file or directory.$"),
        # Our own mistakes keep their trace.
        (RuntimeError(WORKER.format("RuntimeError", "RuntimeError")), None),
        (ValueError("zip() argument 2 is longer than argument 1"), None),
        (UnicodeDecodeError("utf-8", b"a", 0, 1, "no"), None),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error, sentence):
    said = _sentence(error)
    assert said is None if sentence is None else re.search(sentence, said)


def test_a_terminated_script_leaves_nothing_half_written(monkeypatch, capsys, tmp_path):
    def write(_: Config) -> None:
        with atomic_write(tmp_path / "metrics.json"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does, to the process and to its group

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sys.argv", ["test.py"])
    with pytest.raises(SystemExit) as stop:
        run(write, "Write.", Config)
    assert stop.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped.\n"
    assert list(tmp_path.iterdir()) == []


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


def test_help_keeps_example_lines(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help"], "Do.\n\npython a.py --one\npython a.py --two\n", Config)
    assert "\n  python a.py --one\n  python a.py --two\n" in capsys.readouterr().out
