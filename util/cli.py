"""The command line of every script: settings in, exit code out."""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Callable
from itertools import dropwhile, takewhile
from typing import Protocol, Self, TypeVar

import torch
import tyro

from config import Config

FAILED = 2


class Resolvable(Protocol):
    """A dataclass of settings that checks itself."""

    def resolved(self) -> Self: ...


Settings = TypeVar("Settings", bound=Resolvable)


def run(script: Callable[[Settings], None], description: str, kind: type[Settings] = Config) -> None:
    """Parse the settings, run, and turn what a user can mend into one sentence and exit code 2.

    Args:
        script: takes the resolved settings.
        description: shown by --help.
        kind: the settings: config.py's, or a command's own.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        script(parse_settings(sys.argv[1:], description, kind))
    except (ValueError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(FAILED)
    except torch.OutOfMemoryError:
        print("error: the GPU's memory is full: use smaller batches, bf16, or --device cpu.", file=sys.stderr)
        sys.exit(FAILED)
    except RuntimeError as error:
        # Its classes are in modules that take a second to import.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        print(
            f"error: torch.compile does not work here: {_first_line(error)}; do without it.", file=sys.stderr
        )
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    """SIGTERM, by which `timeout` and clusters end a process: clean up as after Ctrl-C, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it twice
    raise KeyboardInterrupt


def parse_settings(arguments: list[str], description: str, kind: type[Settings] = Config) -> Settings:
    """The settings of `kind` with those of the command line in their place.

    Raises:
        ValueError: in one sentence, for a flag or value that does not exist.
    """
    complaint = io.StringIO()
    module = sys.modules["__main__"].__spec__  # set for `python -m`
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                kind,
                prog=f"python -m {module.name.removesuffix('.__main__')}" if module else None,
                args=arguments,
                description=description,
                use_underscores=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise ValueError(_unboxed(complaint.getvalue())) from None
    return config.resolved()


def _unboxed(message: str) -> str:
    """tyro frames its complaint in a box and adds advice below a rule: keep the complaint.

    Where the terminal is not in UTF-8 there is no box, and a rule below the title too.
    """
    inside = [line.strip("│ ") for line in message.splitlines()[1:]]
    framed = takewhile(lambda line: not _is_rule(line), dropwhile(_is_rule, inside))
    complaint = re.sub(r"\[/?[a-z ]*(\]|$)", "", " ".join(framed))  # and its markup
    return complaint.rstrip(". ") + "; --help lists the settings."


def _is_rule(line: str) -> bool:
    return line != "" and set(line) <= set("─-")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _sentence(error: Exception) -> str:
    """The error's own words; one from a loader's worker carries the worker's trace before them."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
