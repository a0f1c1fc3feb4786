"""What several test files share."""

import runpy
import sys
from typing import NamedTuple

import pytest
import torch

from tests.helpers.project import PROJECT


class Ran(NamedTuple):
    """How a script ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Sums in one order on every machine, and no fight over cores with the processes that tests start."""
    torch.set_num_threads(1)


@pytest.fixture
def run_script(monkeypatch, capfd):
    """Run a script (`test.py`) or module (`util.benchmark`) as its user would, without new imports."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capfd.readouterr()
        try:
            if script.endswith(".py"):
                runpy.run_path(str(PROJECT / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def succeeds(run_script):
    """Run a script that must end well: how it ended."""

    def run(*command):
        ran = run_script(*command)
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture
def fails(run_script):
    """Run a script that must end with exit code 2 and one sentence, which is returned; `beside` marks
    the lines that may stand before it: by default those of progress."""

    def run(*command, beside=("%|",)):
        ran = run_script(*command)
        assert ran.code == 2, ran
        *others, sentence = ran.err.strip().splitlines()
        assert all(any(mark in line for mark in beside) for line in others if line.strip()), ran.err
        assert sentence.startswith("error: ")
        assert sentence.endswith(".")
        return sentence

    return run
