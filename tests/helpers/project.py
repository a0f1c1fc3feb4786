"""Where the project lies, and what may be missing on a machine."""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHARED = PROJECT.parent / "shared"  # real frames and published predictions, which are not ours to ship


def output_of(*command: object, **where: object) -> str:
    """What a command prints that must succeed; `where`: cwd, env."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **where)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout


def need_shared(folder: str) -> pytest.MarkDecorator:
    """Mark of a test that is skipped where this folder of `SHARED` is not on the machine."""
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"shared/{folder} is not here")


def need_synthetic_hand() -> None:
    """Skip the test, or the module, where what renders hands is not installed."""
    pytest.importorskip("embreex", reason="the synthetic hand needs requirements-synth.txt")
