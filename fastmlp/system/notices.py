"""What is said beside the work: lines and bars on stderr, which never decide over a training.

Separate because stderr may be closed, full, or something that a program has put in its place.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

_forgiven = contextlib.suppress(Exception)
"""A stream that a program has put in stderr's place may raise anything, a file OSError or ValueError."""


class Notices:
    """What sys.stderr is now, to write to: where that fails, nothing happens."""

    def __init__(self) -> None:
        self._stream: Any = sys.stderr  # None if it was closed when Python started

    def write(self, text: str) -> None:
        """Write a text, at once."""
        with _forgiven:
            self._stream.write(text)
        self.flush()

    def flush(self) -> None:
        """Hand on what was written."""
        with _forgiven:
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        with _forgiven:
            return bool(self._stream.isatty())
        return False

    def __eq__(self, other: object) -> bool:
        # tqdm asks which bars stand where a line is to be written.
        return isinstance(other, Notices) and other._stream is self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(line: str) -> None:
    """Write a line to stderr, above a progress bar that stands there, if it can be written."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with _forgiven:
        if bars is None:
            Notices().write(f"{line}\n")
        else:
            bars.write(f"{line}\n", file=Notices(), end="")


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this process."""
    return "ipykernel" in sys.modules
