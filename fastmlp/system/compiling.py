"""The time of this process spent compiling, and the announcement on stderr.

The compiler and the loader count time here, and measurements of trainings subtract the time; neither side
knows the other.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastmlp.system import forks
from fastmlp.system.notices import notify, say

_lock = threading.RLock()  # a signal handler may fork while this thread holds it
forks.wait_for(_lock, 9)  # nothing else is taken while it is held


LONG_SECONDS = 1.0
"""Seconds of compiling before an unwatched process writes the announcement."""


class _Total:
    """Seconds with at least a single thread in `compiling`."""

    def __init__(self) -> None:
        self._depths: Counter[int] = Counter()
        """The depth of nested `compiling` blocks, by thread id."""
        self.counted: tuple[float, float | None] = (0.0, None)
        """The seconds until the last thread left, and the start of the present stretch: a single object, for
        atomic reads."""
        self.unsaid: tuple[str, float, float] | None = None
        """A line for a long compilation; the time, and the seconds spent, at the announcement."""

    def begin(self) -> None:
        """Enter by this thread."""
        with _lock:
            if not self._depths:
                self.counted = self.counted[0], time.perf_counter()
            self._depths[threading.get_ident()] += 1

    def end(self) -> None:
        """Leave by this thread."""
        with _lock:
            self._leave(threading.get_ident(), 1)
            due = self._due()
        if due is not None:
            say(due)

    def say_if_long(self, line: str) -> None:
        """Write a line after `LONG_SECONDS` more of compiling, unless another line is pending."""
        with _lock:
            due = self._due()
            self.unsaid = self.unsaid or (line, time.perf_counter(), self.seconds())
        if due is not None:
            say(due)

    def _due(self) -> str | None:
        """Return the pending line if due; forget the line after as long a time of other work."""
        if self.unsaid is None:
            return None
        line, began, before = self.unsaid
        spent = self.seconds() - before
        if max(spent, time.perf_counter() - began - spent) < LONG_SECONDS:
            return None
        self.unsaid = None
        return line if spent >= LONG_SECONDS else None

    def forget_others(self) -> None:
        """Remove all other threads, after a fork: the new process has only the forking thread."""
        with _lock:
            for thread in {*self._depths} - {threading.get_ident()}:
                self._leave(thread, self._depths[thread])

    def seconds(self) -> float:
        """Return the sum, up to now if a thread is inside."""
        closed, began = self.counted
        return closed if began is None else closed + time.perf_counter() - began

    def _leave(self, thread: int, times: int) -> None:
        self._depths[thread] -= times
        if not self._depths[thread]:
            del self._depths[thread]
            if not self._depths:
                self.counted = self.seconds(), None


total = _Total()


class _Thread(threading.local):
    """A thread's flag for compilations without a waiting user."""

    is_uncounted = False


_thread = _Thread()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=total.forget_others)


@contextlib.contextmanager
def compiling(
    what: str | None = None, about_seconds: float = 0.0, again: str = "", fault: bool = False
) -> Iterator[None]:
    """Count the time of a `with` block as compiling, and announce the start on stderr and in the log.

    In a thread of `uncounted` nothing is counted or announced.

    Parameters
    ----------
    what : the compiled object, in words; None writes no line
    about_seconds : the expected duration
    again : the next compilation of the same code, in words
    fault : True for a fault, always written; else the line is a notice
    """
    if _thread.is_uncounted:
        yield
        return
    if what is not None:
        line = f"fastmlp: compiling {what}, about {about_seconds:g} s; {again}"
        if fault:
            say(line)
        elif not notify(line):
            total.say_if_long(line)
    total.begin()
    try:
        yield
    finally:
        total.end()


def uncounted(compile_code: Callable[[], object]) -> Callable[[], None]:
    """Return a function for a compiling thread beside trainings, with uncounted time."""

    def run() -> None:
        _thread.is_uncounted = True
        compile_code()

    return run


def seconds_compiling() -> float:
    """Return the seconds spent compiling by this process so far.

    Nested compilations, and compilations of several threads at a time, count once, by wall time.
    """
    return total.seconds()


class Lap(NamedTuple):
    """A stretch of wall time, in seconds.

    working : without compiling; compiling : by any thread of the process
    """

    working: float
    compiling: float


class Stopwatch:
    """A stopwatch for laps; construction starts the first lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), total.seconds()

    def lap(self) -> Lap:
        """Return the time since the last lap, and start the next."""
        began, compiled_before = self._last
        now, compiled = self._last = time.perf_counter(), total.seconds()
        compiling = compiled - compiled_before
        return Lap(now - began - compiling, compiling)
