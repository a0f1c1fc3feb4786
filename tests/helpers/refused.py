"""A fault that a user can mend ends in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """What runs inside must end in one sentence, which holds all these words."""
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        yield
    said = str(raised.value)
    for word in words:
        assert word in said
    assert said.endswith(".")
    assert "\n" not in said
