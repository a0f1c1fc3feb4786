"""What several test files share."""

import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[1]


class Ran(NamedTuple):
    """How a script ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_script(monkeypatch, capfd):
    """Run a script of the project as its user would, sparing the import of PyTorch each time."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capfd.readouterr()
        try:
            runpy.run_path(str(PROJECT / script), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return Ran(code, *capfd.readouterr())

    return run
