"""Lines and progress bars on stderr, which never make a training fail.

stderr may be closed or full, or a program may have put an object of its own in its place. Errors and warnings
go there in any case. Bars and notices say what goes on, and are for someone who looks on; notices are written
to the log, too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

logger = logging.getLogger("fastmlp")

silent = False
"""Whether this process shows no bars and notices; `silence` sets it."""

_forgiven = contextlib.suppress(Exception)
"""A file raises OSError or ValueError; what a program has put in stderr's place may raise anything."""


class Notices:
    """Writes to what sys.stderr is now, and ignores every failure."""

    def __init__(self) -> None:
        self._stream: Any = sys.stderr  # None if it was closed when Python started

    def write(self, text: str) -> None:
        """Write a text, and flush it."""
        with _forgiven:
            self._stream.write(text)
        self.flush()

    def flush(self) -> None:
        """Flush what was written."""
        with _forgiven:
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        with _forgiven:
            return bool(self._stream.isatty())
        return False

    def __eq__(self, other: object) -> bool:
        # tqdm looks which bars stand where a line is to be written.
        return isinstance(other, Notices) and other._stream is self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(quiet: bool) -> None:
    """Have this process show no bars and notices from now on, or have it show them again."""
    global silent
    silent = quiet


def is_watched() -> bool:
    """Return whether bars and notices are shown: on a terminal or in a notebook, unless they are silenced."""
    return not silent and (in_notebook() or Notices().isatty())


def notify(line: str) -> bool:
    """Write a line about the work to the log, and to stderr if bars and notices are shown.

    Returns whether nothing more need be said: somebody sees either, or wants no notices.
    """
    logged = False
    with _forgiven:  # a program's handlers and filters
        logger.info(line)
        logged = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
    if is_watched():
        say(line)
    return logged or silent or is_watched()


def say(line: str) -> None:
    """Write an error or a warning to stderr, above a progress bar that stands there, if it can be written."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with _forgiven:
        if bars is None:
            Notices().write(f"{line}\n")
        else:
            bars.write(f"{line}\n", file=Notices(), end="")


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this process."""
    return "ipykernel" in sys.modules
