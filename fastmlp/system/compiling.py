"""The time that this process spends compiling, and the line that announces it.

Whoever compiles, or loads what was compiled, counts it here. Whoever measures a training subtracts it. The
two know nothing of one another.
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
"""Where nobody looks on, the line that announces a compilation is written once so long was spent on it."""


class _Total:
    """Seconds during which at least one thread was within `compiling`."""

    def __init__(self) -> None:
        self._depths: Counter[int] = Counter()
        """How many times each thread is within it, by the thread's id."""
        self.counted: tuple[float, float | None] = (0.0, None)
        """The seconds until the last thread left, and since when one is within: one object, for readers."""
        self.unsaid: tuple[str, float, float] | None = None
        """A line that is written if it takes long; the time, and the seconds spent, when it was announced."""

    def begin(self) -> None:
        """Have this thread enter."""
        with _lock:
            if not self._depths:
                self.counted = self.counted[0], time.perf_counter()
            self._depths[threading.get_ident()] += 1

    def end(self) -> None:
        """Have this thread leave."""
        with _lock:
            self._leave(threading.get_ident(), 1)
            due = self._due()
        if due is not None:
            say(due)

    def say_if_long(self, line: str) -> None:
        """Have a line written once `LONG_SECONDS` more were spent, unless another line waits for that."""
        with _lock:
            due = self._due()
            self.unsaid = self.unsaid or (line, time.perf_counter(), self.seconds())
        if due is not None:
            say(due)

    def _due(self) -> str | None:
        """Return the line that is to be written now; forget it after so long a time of other work."""
        if self.unsaid is None:
            return None
        line, began, before = self.unsaid
        spent = self.seconds() - before
        if max(spent, time.perf_counter() - began - spent) < LONG_SECONDS:
            return None
        self.unsaid = None
        return line if spent >= LONG_SECONDS else None

    def forget_others(self) -> None:
        """Have all other threads leave: a new process has only the one that forked."""
        with _lock:
            for thread in {*self._depths} - {threading.get_ident()}:
                self._leave(thread, self._depths[thread])

    def seconds(self) -> float:
        """Return the sum, up to now if a thread is within."""
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
    """Whether nobody waits for the compilations of a thread."""

    is_uncounted = False


_thread = _Thread()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=total.forget_others)


@contextlib.contextmanager
def compiling(
    what: str | None = None, about_seconds: float = 0.0, again: str = "", fault: bool = False
) -> Iterator[None]:
    """Count the time of a `with` block as spent compiling, and say on stderr and in the log that this begins.

    In a thread of `uncounted` it does neither.

    Parameters
    ----------
    what : what is compiled, in words; None writes no line
    about_seconds : how long it takes, about
    again : when the same will be compiled again, in words
    fault : whether that is a fault, which is said in any case; the line is a notice otherwise
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
    """Return a function for a thread that compiles while others train: its time counts for nobody."""

    def run() -> None:
        _thread.is_uncounted = True
        compile_code()

    return run


def seconds_compiling() -> float:
    """Return how many seconds this process has spent compiling so far.

    Compilations within one another, and those of several threads at a time, count once, by wall time.
    """
    return total.seconds()


class Lap(NamedTuple):
    """A stretch of wall time, in seconds.

    working : without compiling; compiling : spent compiling by any thread of the process
    """

    working: float
    compiling: float


class Stopwatch:
    """Measures one lap after another; the first begins when it is made."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), total.seconds()

    def lap(self) -> Lap:
        """Return the time since the last lap ended, and begin the next."""
        began, compiled_before = self._last
        now, compiled = self._last = time.perf_counter(), total.seconds()
        compiling = compiled - compiled_before
        return Lap(now - began - compiling, compiling)
