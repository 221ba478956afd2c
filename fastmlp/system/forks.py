"""What a fork waits for: locks and imports that other threads are at would stay locked in the new process.

Python locks a module while it is imported. A process forked by another thread meanwhile finds it locked for
ever, and half imported, and hangs at its first need of it.
"""

from __future__ import annotations

import importlib._bootstrap
import logging  # noqa: F401  # see register_at_fork below
import os
import threading
import time
from typing import Protocol

PACKAGES = {
    *("fastmlp", "llvmlite", "matplotlib", "numba", "numpy", "scipy", "sklearn", "threadpoolctl", "tqdm"),
}
"""fastmlp and what it imports. Importing these runs no program; importing a user's module may."""

MOST_SECONDS = 60.0
"""What a fork waits for imports at most: whoever imports may itself be waiting for the thread that forks."""

POLL = 0.002
"""Seconds between two looks at the imports under way."""


class Lock(Protocol):
    """A lock that its holder may take again: a signal's handler may fork while its thread holds it."""

    def acquire(self) -> object:
        """Take it, once no other thread has it."""

    def release(self) -> object:
        """Give it back."""


_locks: list[tuple[int, Lock]] = []
"""With their ranks, the lowest first."""


class _Taken(threading.local):
    """What this thread has taken for its fork."""

    def __init__(self) -> None:
        self.locks: list[Lock] = []


_taken = _Taken()


def wait_for(lock: Lock, rank: int = 0) -> None:
    """Have every fork hold the lock, so that no thread but the forking one has it in the new process.

    rank : higher than that of locks that a thread may hold when it takes this one; a fork takes them in this
    order
    """
    _locks.append((rank, lock))
    _locks.sort(key=lambda ranked: ranked[0])


def imported_elsewhere() -> list[str]:
    """Return the modules of PACKAGES that other threads are importing.

    By what Python keeps for itself, weak references to the locks of modules; Python 3.11 to 3.13 have it.
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
        # An import may need the compiler's lock to come to its end.
        _after()
        time.sleep(POLL)


def _after() -> None:
    while _taken.locks:
        _taken.locks.pop().release()


if hasattr(os, "register_at_fork"):
    # What is registered last runs first before a fork. logging's own hook takes its lock, which an import
    # that we wait for may need: so logging comes before us.
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
