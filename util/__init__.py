"""Small files that everyone may use, and a room for each thing that a person does: training, inference,
deployment, demo, benchmark, experiments. Rooms import downwards only; `demo` imports inference, inference
deployment, experiments training and inference, benchmark any, and no other room another.

Any call in this project may raise a UserError: one sentence for the user. So "Raises:" in a docstring names
only other exceptions, and what a caller handles.
"""

import importlib
from types import ModuleType


class UserError(ValueError):
    """What a user can mend, in one sentence: what is wrong, where, and what to do.

    Scripts print it and end with exit code 2. Any other ValueError is a bug of ours and keeps its trace.
    """


def pip_install(extra: str) -> str:
    """The command that installs requirements-<extra>.txt, which setup.py's package `awr` has as an extra."""
    source = f"awr[{extra}]" if __name__.startswith("awr.") else f"-r requirements-{extra}.txt"
    return f"pip install {source}"


def require(name: str, extra: str) -> ModuleType:
    """Import an optional package, or say what installs it: requirements-<extra>.txt."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: {pip_install(extra)}.") from error
