"""Lines and progress bars on stderr, which never make a training fail.

stderr may be closed or full, or an object of the program may have taken the place. Errors and warnings are
always written. Bars and notices are for a watching user; notices go to the log, too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm


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


SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
"""The format of a bar counting seconds."""

CLOCK = "{desc}: {elapsed}"
"""The format of a bar without a total."""

BEAT = 0.5
"""Seconds between two drawings of a bar's clock, so that the clock moves during a long step."""


class Bar:
    """A bar on stderr, or none; a context manager closes the bar.

    total : the whole work, in `unit`; None if only the time is known
    shown : None shows the bar on a terminal and in a notebook
    """

    def __init__(self, total: float | None, unit: str, what: str, shown: bool | None = None) -> None:
        self._bar: tqdm[Any] | None = None
        if is_watched() if shown is None else shown:
            from tqdm import tqdm

            looks: dict[str, Any] = {"unit": unit, "unit_scale": True}
            if total is None or unit == "s":
                looks = {"bar_format": CLOCK if total is None else SECONDS}
            self._bar = tqdm(
                total=total, desc=what, file=Notices(), dynamic_ncols=True, leave=False, **looks
            )  # fmt: skip
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._beat, name="fastmlp bar", daemon=True)
            self._thread.start()

    def move(self, done: float, what: str | None = None, **shown: str) -> None:
        """Set the whole work done so far, the present work, and values for display."""
        if self._bar is not None:
            if shown:
                self._bar.set_postfix(shown, refresh=False)
            self._bar.update(min(done, self._bar.total) - self._bar.n)
            if what is not None:
                self._bar.set_description(what)

    def _beat(self) -> None:
        assert self._bar is not None
        while not self._ended.wait(BEAT):
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._ended.set()
            self._thread.join()
            self._bar.close()
