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
from dataclasses import field, make_dataclass
from itertools import dropwhile, takewhile
from typing import Any, Protocol, Self, TextIO, TypeVar

import tyro

from util import UserError

FAILED = 2
# PyTorch's words where a loader's worker was killed, or found /dev/shm full.
_LOST_WORKER = re.compile(
    r"DataLoader worker \(pid|allocate shared memory|unable to (write to|mmap|resize) file </torch_"
)
INTERRUPTED = 130  # as a shell reports a process that Ctrl-C ended


class Resolvable(Protocol):
    """A dataclass of settings that checks itself."""

    def resolved(self) -> Self: ...


Settings = TypeVar("Settings", bound=Resolvable)


def run(
    script: Callable[[Settings], None], description: str, kind: type[Settings], groups: tuple[type, ...] = ()
) -> None:
    """Parse the settings, run the script, and report a user's error on one line with exit code 2.

    Args:
        script: takes the resolved settings.
        description: shown by --help.
        kind: the settings' dataclass.
        groups: dataclasses that `kind` inherits and that this command reads, a heading of --help each;
            none: all of `kind`, without headings.
    """
    # For scripts that import PyTorch after this: its idle threads sleep instead of spinning. On two cores a
    # frame took 317 instead of 310 ms; beside two busy processes 538 instead of 1,810 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.formatwarning = lambda text, *_: f"warning: {text}\n"  # on one line, as an error is
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with _patient_output():
            _run(script, description, kind, groups)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(
    script: Callable[[Settings], None], description: str, kind: type[Settings], groups: tuple[type, ...]
) -> None:
    try:
        script(parse_settings(sys.argv[1:], description, kind, groups))
    except KeyboardInterrupt as stop:
        print("stopped.", *stop.args, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:  # a bug of ours: its trace is wanted
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(FAILED)


class _PatientStream:
    """A text stream that goes nowhere once its reader has closed it, as `| head` does: the work goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._patiently(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._patiently(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _patiently(self, call: Callable[..., object], *arguments: str) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            self.silence()

    def silence(self) -> None:
        """Write to nowhere from now on."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _patient_output() -> Iterator[None]:
    """Print `?` for what the console's encoding lacks, and nothing to a reader that has gone."""
    streams = sys.stdout, sys.stderr
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # stderr never fails
    patient = sys.stdout, sys.stderr = tuple(map(_PatientStream, streams))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in patient:
            try:
                stream.flush()
            except OSError as error:  # a full disk: what Python does at its end must not fail again
                stream.silence()
                print(f"error: what is printed cannot be written: {error.strerror}.", file=sys.stderr)
                sys.exit(FAILED)


def _stop(*_: object) -> None:
    """SIGTERM, by which `timeout` and clusters end a process: clean up as after Ctrl-C, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it twice
    raise KeyboardInterrupt


def parse_settings(
    arguments: list[str], description: str, kind: type[Settings], groups: tuple[type, ...] = ()
) -> Settings:
    """The settings of the command line, checked; arguments as for `run`.

    Raises:
        UserError: in one sentence, for a flag or value that does not exist.
    """
    parsed = vars(_parse(arguments, description, _grouped(groups) if groups else kind))
    if groups:
        parsed = {name: value for group in parsed.values() for name, value in vars(group).items()}
    return kind(**parsed).resolved()


def _grouped(groups: tuple[type, ...]) -> type:
    """A dataclass with one field a group: DataSettings is called `data`."""
    names = [group.__name__.removesuffix("Settings").lower() for group in groups]
    fields = [(name, group, field(default_factory=group)) for name, group in zip(names, groups, strict=True)]
    return tyro.conf.OmitArgPrefixes[make_dataclass("Settings", fields)]


def _parse(arguments: list[str], description: str, kind: type) -> Any:
    complaint = io.StringIO()
    module = sys.modules["__main__"].__spec__  # set for `python -m`
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"python -m {module.name.removesuffix('.__main__')}" if module else None,
                args=arguments,
                description=description,
                use_underscores=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise UserError(_unboxed(complaint.getvalue())) from None


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


def _sentence(error: Exception) -> str | None:
    """What a user can do about an error, None where nothing can be done."""
    module, name = type(error).__module__, type(error).__name__
    if name == "OutOfMemoryError" and module.startswith("torch"):
        return "the GPU's memory is full: use smaller batches, bf16, or --device cpu."
    if isinstance(error, MemoryError) or (name == "RuntimeError" and "allocate memory" in str(error)):
        return "the memory is full: use smaller batches (--batch_size), or smaller frames."
    if module.startswith(("torch._dynamo", "torch._inductor")):
        first_line = str(error).strip().partition("\n")[0].rstrip(".")
        return f"torch.compile does not work here: {first_line}; do without it."
    if name == "RuntimeError" and _LOST_WORKER.search(str(error)):
        return (
            "a process that prepares frames was ended from outside: it lacked shared memory (in a container: "
            "--shm-size=2g) or memory; use fewer processes, --num_workers 0 (--workers 1)."
        )
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, UserError | OSError):
        # An error from a loader's worker carries the worker's trace before its words.
        lines = str(error).strip().splitlines() or [name]
        return re.sub(rf"^([\w.]+\.)?{name}: ", "", lines[-1])
    return None
