"""Forks: each waits until other threads hold no lock of ours and import nothing that we need. The collector.

A lock that another thread holds at a fork stays locked in the new process for ever. Python locks a module
while it is imported: a new process that needs the module would find it locked and half imported, and hang.
"""

from __future__ import annotations

import gc
import importlib._bootstrap
import logging  # noqa: F401  # see register_at_fork below
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PACKAGES = {
    *("fastmlp", "llvmlite", "matplotlib", "numba", "numpy", "platformdirs", "scipy", "sklearn"),
    *("threadpoolctl", "tqdm"),
}
"""fastmlp and what it imports. A user's modules are not among them: importing one may run a whole program."""

MOST_SECONDS = 60.0
"""How long a fork waits for imports: the thread that imports may itself wait for the thread that forks."""

POLL = 0.002
"""Seconds between two checks of the imports under way."""


class Lock(Protocol):
    """A reentrant lock: a signal handler may fork while its thread holds it."""

    def acquire(self) -> object:
        """Wait until no other thread holds it, and take it."""

    def release(self) -> object:
        """Release it."""


_locks: list[tuple[int, Lock]] = []
"""All such locks with their ranks, the lowest first."""


class _Taken(threading.local):
    """The locks that this thread has taken for its fork."""

    def __init__(self) -> None:
        self.locks: list[Lock] = []


_taken = _Taken()


def wait_for(lock: Lock, rank: int = 0) -> None:
    """Make every fork take the lock first, so that no other thread holds it in the new process.

    rank : a fork takes locks in the order of their ranks. It is higher than the rank of every lock that a
        thread may hold when it takes this one
    """
    _locks.append((rank, lock))
    _locks.sort(key=lambda ranked: ranked[0])


def imported_elsewhere() -> list[str]:
    """Return the modules of PACKAGES that other threads are importing.

    It reads a private table of Python's, weak references to the locks of modules; tried on 3.11 to 3.13.
    """
    kept = getattr(importlib._bootstrap, "_module_locks", {})
    locks = {name: reference() for name, reference in list(kept.items()) if name.split(".")[0] in PACKAGES}
    here = threading.get_ident()
    return [name for name, lock in locks.items() if lock is not None and lock.owner not in (None, here)]


def _before() -> None:
    latest = time.monotonic() + MOST_SECONDS
    while True:
        for _, lock in _locks:
            lock.acquire()
            _taken.locks.append(lock)
        if not imported_elsewhere() or time.monotonic() > latest:
            return
        # An import may need one of the locks, the compiler's, before it can end.
        _after()
        time.sleep(POLL)


def _after() -> None:
    while _taken.locks:
        _taken.locks.pop().release()


_without_collector: set[int] = set()
"""The thread that has switched the garbage collector off, if one has."""


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch the garbage collector off: imports and compilations make objects that live until the end.

    The collector would look through all objects of the process again and again. With those of scikit-learn
    that took a third of the time to an estimator's first fit, and a tenth of the time of a compilation.
    """
    if not gc.isenabled():  # by the user, or by a call around this one
        yield
        return
    here = threading.get_ident()
    _without_collector.add(here)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _without_collector.discard(here)


def _collect_again() -> None:
    """Switch the collector on in a new process that lacks the thread which has switched it off."""
    if _without_collector - {threading.get_ident()}:
        _without_collector.clear()
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collect_again)
    # The hook that is registered last runs first before a fork. logging's hook takes a lock that an import
    # may need, and ours waits for imports. So ours must run first, and logging is imported above.
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
