"""Safe forks: a fork waits for locks and imports of other threads. Also pauses of the garbage collector.

A lock held by another thread at a fork stays locked in the new process for ever. Python locks a module during
the import: a new process would find the module locked and half imported, and hang.
"""

from __future__ import annotations

import functools
import gc
import importlib._bootstrap
import logging  # noqa: F401  # see register_at_fork below
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

PACKAGES = {
    *("fastmlp", "llvmlite", "matplotlib", "numba", "numpy", "platformdirs", "scipy", "sklearn"),
    *("threadpoolctl", "tqdm"),
}
"""fastmlp and imported packages, without a user's modules: the import of a user's module may run a whole
program."""

MOST_SECONDS = 60.0
"""The longest wait of a fork for imports: the importing thread may wait for the forking thread."""

POLL = 0.002
"""Seconds between two checks of running imports."""


class Lock(Protocol):
    """A reentrant lock: a signal handler may fork while the handler's thread holds the lock."""

    def acquire(self) -> object:
        """Wait until no other thread holds the lock, and take the lock."""

    def release(self) -> object:
        """Release the lock."""


_locks: list[tuple[int, Lock]] = []
"""All registered locks with ranks, the lowest rank first."""


class _Taken(threading.local):
    """The locks taken by this thread for a fork."""

    def __init__(self) -> None:
        self.locks: list[Lock] = []


_taken = _Taken()


def wait_for(lock: Lock, rank: int = 0) -> None:
    """Make every fork take the lock first, so that no other thread holds the lock in the new process.

    rank : forks take locks in the order of ranks. A lock's rank is above the rank of every lock held by a
        thread when taking this lock
    """
    _locks.append((rank, lock))
    _locks.sort(key=lambda ranked: ranked[0])


making = threading.RLock()
"""Held while a thread makes an object of the whole process. No module takes the lock during an import."""

wait_for(making, 2)


def once(make: Callable[..., T]) -> Callable[..., T]:
    """Return a thread-safe `functools.cache` of a function: a thread calls the function while others wait."""
    # With `functools.cache` alone each thread makes a result, and the last is stored. Machine code of an
    # earlier result would be freed while its address is in use.
    cached = functools.cache(make)

    @functools.wraps(make)
    def found(*arguments: Any) -> T:
        with making:
            return cached(*arguments)

    found.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return found


def imported_elsewhere() -> list[str]:
    """Return the modules of PACKAGES under import by other threads."""
    # A private table of Python's, with weak references to the locks of modules; tried on 3.11 to 3.13.
    held = getattr(importlib._bootstrap, "_module_locks", {})
    locks = {name: reference() for name, reference in list(held.items()) if name.split(".")[0] in PACKAGES}
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
"""The thread with a switched-off garbage collector, if any."""


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch the garbage collector off in a `with` block of imports or compilations.

    Imports and compilations make objects for the process's whole life. The collector would look through all
    objects again and again: with scikit-learn a third of the time to an estimator's first fit, and a tenth of
    a compilation.
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
    """Switch the collector on in a new process without the thread of the pause."""
    if _without_collector - {threading.get_ident()}:
        _without_collector.clear()
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collect_again)
    # The hook that is registered last runs first before a fork. logging's hook takes a lock that an import
    # may need, and ours waits for imports. So ours must run first, and logging is imported above.
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
