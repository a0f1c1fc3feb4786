"""The command line of every script: settings in, exit code out."""

import contextlib
import io
import sys
from collections.abc import Callable

import tyro

from config import Config

FAILED = 2


def run(script: Callable[[Config], None], description: str) -> None:
    """Parse the settings, run, and turn what a user can mend into one sentence and exit code 2.

    Args:
        script: takes the resolved settings.
        description: shown by --help.
    """
    try:
        script(parse_settings(sys.argv[1:], description))
    except (ValueError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)


def parse_settings(arguments: list[str], description: str) -> Config:
    """config.py's settings with those of the command line in their place.

    Raises:
        ValueError: in one sentence, for a flag or value that does not exist.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                Config,
                args=arguments,
                description=description,
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise ValueError(_unboxed(complaint.getvalue())) from None
    return config.resolved()


def _unboxed(message: str) -> str:
    """tyro frames its complaint in a box and adds advice below a rule: keep the complaint."""
    inside = [line.strip("│ ") for line in message.splitlines()[1:]]
    rule = next(i for i, line in enumerate(inside) if set(line) == {"─"})
    return " ".join(inside[:rule]).rstrip(".") + "; --help lists the settings."


def _sentence(error: Exception) -> str:
    """The error's own words; one from a loader's worker carries the worker's trace before them."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
