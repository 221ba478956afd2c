"""Lines and progress bars on stderr, without failures of a training.

stderr may be closed or full, or an object of the program may have taken the place. Errors and warnings are
always written. Bars and notices are for a watching user; notices go to the log, too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

logger = logging.getLogger("fastmlp")

silent = False
"""True if this process shows no bars and notices; see `silence`."""

_forgiven = contextlib.suppress(Exception)
"""A file raises OSError or ValueError; an object in stderr's place may raise anything."""


class Notices:
    """Writes to the present sys.stderr, and ignores every failure."""

    def __init__(self) -> None:
        self._stream: Any = sys.stderr  # None if it was closed when Python started

    def write(self, text: str) -> None:
        """Write a text, and flush it."""
        with _forgiven:
            self._stream.write(text)
        self.flush()

    def flush(self) -> None:
        """Flush the text."""
        with _forgiven:
            self._stream.flush()

    def isatty(self) -> bool:
        """Return True for a terminal."""
        with _forgiven:
            return bool(self._stream.isatty())
        return False

    def __eq__(self, other: object) -> bool:
        # tqdm looks which bars stand where a line is to be written.
        return isinstance(other, Notices) and other._stream is self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(quiet: bool) -> None:
    """Hide, or show again, all bars and notices of this process."""
    global silent
    silent = quiet


def is_watched() -> bool:
    """Return True if bars and notices are shown: on a terminal or in a notebook, unless silenced."""
    return not silent and (in_notebook() or Notices().isatty())


def notify(line: str) -> bool:
    """Write a line about the work to the log, and to stderr if bars and notices are shown.

    Returns True if nothing more need be said: a user sees the log or stderr, or wants no notices.
    """
    logged = False
    with _forgiven:  # a program's handlers and filters
        logger.info(line)
        logged = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
    if is_watched():
        say(line)
    return logged or silent or is_watched()


def say(line: str) -> None:
    """Write an error or a warning to stderr, above a progress bar, if possible."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with _forgiven:
        if bars is None:
            Notices().write(f"{line}\n")
        else:
            bars.write(f"{line}\n", file=Notices(), end="")


def in_notebook() -> bool:
    """Return True in a Jupyter kernel."""
    return "ipykernel" in sys.modules
