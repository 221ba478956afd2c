"""Arguments that the commands share: names to choose from, and the errors for mistakes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastmlp import checks
from fastmlp.backend.registry import backends, mixed_backend
from fastmlp.model.precision import BFLOAT16, DTYPES

TRAINED_IN = (*DTYPES, BFLOAT16)
"""What `fit(dtype=)` takes."""


class Mistake(Exception):
    """A mistake in a command's arguments, which its message names."""

    code = 2
    """The exit code."""


class BadFile(Mistake):
    """A file that the user named cannot be used: the table or the model in it, or the file itself."""

    code = 3


def refuse_unwritable(option: str, path: str, *inputs: str) -> None:
    """Raise Mistake if no file can be written at a path, or if it is one that is read: before any work."""
    target = Path(path).resolve()
    if target.is_dir():
        raise Mistake(f"{option} {path}: it is a directory")
    if not target.parent.is_dir():
        raise Mistake(f"{option} {path}: there is no such directory")
    if target.exists() and any(Path(one).exists() and target.samefile(one) for one in inputs):
        raise Mistake(f"{option} {path}: it is a file that is read; choose another name")
    if target.is_file() or not target.exists():
        try:
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        except OSError as error:
            raise Mistake(f"{option} {path}: {error.strerror or error}") from None


def check_precision(dtype: str, backend: str) -> None:
    """Raise ValueError unless there is such a dtype, and such a backend that has it on this machine."""
    checks.choice("dtype", dtype, TRAINED_IN)
    if dtype == BFLOAT16:
        mixed_backend(backend)
    else:
        checks.choice("backend", backend, ("auto", *backends()))


def widths(text: str) -> list[int]:
    """Return the units of hidden layers, from text like 128,64 or none; ValueError if it is not like that."""
    if text == "none":
        return []
    try:
        found = [int(width) for width in text.split(",")]
    except ValueError:
        raise ValueError(f"hidden must be widths like 128,64 or none, got {text!r}") from None
    for width in found:
        checks.whole("every width of hidden", width, 1)
    return found
