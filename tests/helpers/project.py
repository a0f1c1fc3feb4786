"""Where the project lies, and what may be missing on a machine."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHARED = PROJECT.parent / "shared"  # real frames and published predictions, which are not ours to ship


def need_synthetic_hand() -> None:
    """Skip the test, or the module, where what renders hands is not installed."""
    pytest.importorskip("embreex", reason="the synthetic hand needs requirements-synth.txt")
