"""The command line of every script: settings in, exit code out.

Imports neither PyTorch nor anything that does, so that --help answers at once.
"""

import contextlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, make_dataclass
from functools import partial
from typing import Any, TextIO, TypeVar

import tyro

from config import Config
from util import UserError

FAILED = 2
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended
# PyTorch's words where a loader's worker was killed, or found /dev/shm full.
LOST_WORKER = re.compile(r"DataLoader worker \(pid|shared memory|(write to|mmap|resize) file </torch_")
# Functions that read settings to copy, to fill or to check them, and make no use of them.
NO_USE = re.compile(r"^dataclasses\.|\bresolved\b|\bcheck_numbers\b")

Settings = TypeVar("Settings")  # a dataclass whose resolved() gives it checked


def run(
    script: Callable[[Settings], None], description: str, kind: type[Settings], groups: tuple[type, ...] = ()
) -> None:
    """Parse the settings, run the script, and report a user's error on one line with exit code 2.

    `description`: shown by --help. `kind`: the settings' dataclass. `groups`: the dataclasses that `kind`
    inherits and that this command reads, a heading of --help each; none: all of `kind`, without headings.
    """
    # For scripts that import PyTorch after this: its idle threads sleep instead of spinning. On two cores a
    # frame took 317 instead of 310 ms; beside two busy processes 538 instead of 1,810 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.formatwarning = lambda text, *_: f"warning: {text}\n"  # on one line, as an error is
    before, streams = signal.signal(signal.SIGTERM, _stop), (sys.stdout, sys.stderr)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # `?` for what the console's encoding lacks
    sys.stdout, sys.stderr = map(_PatientStream, streams)
    try:
        try:
            settings = parse_settings(sys.argv[1:], description, kind, groups)
            with unread_settings_named(settings, sys.argv[1:]):
                script(settings.resolved())
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print("stopped.", *stop.args, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:  # a bug of ours: its trace is wanted
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(FAILED)
    finally:
        sys.stdout, sys.stderr = streams
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    """SIGTERM, by which `timeout` and clusters end a process: clean up as after Ctrl-C, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it twice
    raise KeyboardInterrupt


class _PatientStream:
    """A text stream that goes nowhere once its reader has closed it, as `| head` does: the work goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stream, name)
        return partial(self._patiently, found) if name in ("write", "flush") else found

    def _patiently(self, call: Callable[..., object], *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            with open(os.devnull, "w") as nowhere:  # its buffer would fail once more at Python's end
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise


def parse_settings(
    arguments: list[str], description: str, kind: type[Settings], groups: tuple[type, ...] = ()
) -> Settings:
    """The settings of the command line, not yet `resolved`; arguments as for `run`."""
    names = [group.__name__.removesuffix("Settings").lower() for group in groups]  # DataSettings: data
    fields = [(name, group, field(default_factory=group)) for name, group in zip(names, groups, strict=True)]
    module, complaint = sys.modules["__main__"].__spec__, io.StringIO()  # a spec where run by `python -m`
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                tyro.conf.OmitArgPrefixes[make_dataclass("Settings", fields)] if groups else kind,
                prog=f"python -m {module.name.removesuffix('.__main__')}" if module else None,
                args=arguments,
                description=description.replace("\npython", "\n  python"),  # indented: an example's own line
                use_underscores=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        # tyro's complaint without its frame and title, and the flags that it suggests below a rule.
        below_title = re.sub(r"[│╰╯]|\[/?[a-z ]+\]", "", complaint.getvalue().partition("\n")[2])
        sentence, *advice = (part for part in re.split("[─-]{4,}", below_title) if part.strip())
        flags = re.findall(r"^ {5,7}(--\w+)", "\n".join(advice), re.MULTILINE)
        perhaps = f". Perhaps you meant {' or '.join(flags)}" if flags and "nrecognized" in sentence else ""
        sentence = " ".join(sentence.split()).rstrip(". ")
        raise UserError(f"{sentence}{perhaps}; --help lists the settings.") from None
    parts = vars(parsed).values() if groups else (parsed,)
    return kind(**{name: value for part in parts for name, value in vars(part).items()})


@contextmanager
def unread_settings_named(settings: object, arguments: list[str]) -> Iterator[None]:
    """Once the block is done, say on stderr which settings of the command line had no effect in it.

    One had an effect if anything but NO_USE read the value that was passed, from `settings`, or from a Config
    that was made of them: a setting has the same name in both.
    """
    flags = (argument[2:].replace("-", "_") for argument in arguments if argument.startswith("--"))
    passed = {re.split(r"[=.]", flag)[0].removeprefix("no_") for flag in flags}
    unread = {name: value for name, value in vars(settings).items() if name in passed and value is not None}

    def read(holder: object, name: str) -> Any:
        value = object.__getattribute__(holder, name)
        if name in unread and value == unread[name]:
            reader = sys._getframe(1)
            if not NO_USE.search(f"{reader.f_globals['__name__']}.{reader.f_code.co_qualname}"):
                unread.pop(name, None)
        return value

    kinds = {type(settings), Config}
    for kind in kinds:
        kind.__getattribute__ = read
    try:
        yield
    finally:
        for kind in kinds:
            del kind.__getattribute__
    for name in unread if os.environ.get("LOCAL_RANK", "0") == "0" else ():
        print(f"warning: --{name} has no effect here.", file=sys.stderr)


def _sentence(error: Exception) -> str | None:
    """What a user can do about an error, None where nothing can be done."""
    name, words = type(error).__name__, str(error).strip()
    if name in ("OutOfMemoryError", "MemoryError") or (name == "RuntimeError" and "allocate memory" in words):
        return "the memory, or the GPU's, is full: use smaller batches (--batch_size), or --precision bf16."
    if name == "ValueError" and words.startswith("Expected more than 1 value per channel"):
        return "a step of one frame that shrinks to one pixel has no variance: use a larger --batch_size."
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        first = words.partition("\n")[0].rstrip(".")
        return f"torch.compile does not work here: {first}; do without it."
    if name == "RuntimeError" and LOST_WORKER.search(words):
        lacked = "memory, or shared memory (in a container: --shm-size=2g)"
        return f"a process that prepares frames was ended, as it lacked {lacked}: use --num_workers 0."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, UserError | OSError):
        # An error from a loader's worker carries the worker's trace before its words.
        return re.sub(rf"^([\w.]+\.)?{name}: ", "", (words or name).splitlines()[-1])
    return None
