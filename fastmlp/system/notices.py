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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(line: str) -> None:
    """Write a line to stderr, if it can be written."""
    Notices().write(line + "\n")
