"""Locks of files, which processes hold, and the lock under which a process makes what it has once.

The system releases the lock of a file when its holder ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastmlp.system import forks
from fastmlp.system.private_directory import PrivateDirectory

try:
    import fcntl
except ImportError:  # not POSIX: there is no lock that goes with its holder
    fcntl = None  # type: ignore[assignment]

EXIST = fcntl is not None
"""Whether the system has such locks; without them nobody waits, and nobody is alone."""

T = TypeVar("T")

making = threading.RLock()
"""Held while a thread makes what its process has once. No module takes it while it is imported."""

forks.wait_for(making, 2)

POLL = 0.01
"""Seconds between two tries to lock."""

_in_vain: set[Path] = set()
"""Locks that were waited for in vain, as their holder is stopped: nobody waits for them again."""


def once(make: Callable[..., T]) -> Callable[..., T]:
    """Return `functools.cache` of a function for threads: one of them calls it, and others wait.

    With `functools.cache` alone each thread makes a result, and the one that was made last is kept. Machine
    code of the others would be freed while its address is in use.
    """
    kept = functools.cache(make)

    @functools.wraps(make)
    def found(*arguments: Any) -> T:
        with making:
            return kept(*arguments)

    found.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return found


@contextlib.contextmanager
def alone(directory: PrivateDirectory, name: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file in a directory; give whether no other process holds it.

    Go on without it where the system has no such locks, or after `patience` seconds; then give False.
    """
    held, free = None, True
    with contextlib.suppress(OSError):
        if EXIST:
            held = _locked(directory, name, patience)
            free = held is not None
    try:
        yield free
    finally:
        if held is not None:
            os.close(held)


def _locked(directory: PrivateDirectory, name: str, patience: float) -> int | None:
    """Return a descriptor that holds the lock of a file, None if it cannot be had in so many seconds.

    OSError where the system has no such locks, as some file systems of clusters have not.
    """
    descriptor, path = directory.open(name, os.O_RDWR | os.O_CREAT), directory.path / name
    latest = time.monotonic() + (0.0 if path in _in_vain else patience)
    held = False
    try:
        while not (held := _took(descriptor)) and time.monotonic() < latest:
            time.sleep(POLL)
    finally:
        if not held:
            os.close(descriptor)
    if held:
        _in_vain.discard(path)
        return descriptor
    if patience:
        _in_vain.add(path)
    return None


def _took(descriptor: int) -> bool:
    """Lock a file, unless another process holds its lock; return whether it is locked now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
