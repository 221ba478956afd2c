"""Locks of files, between processes, and the lock for objects made once in a process.

The system releases the lock of a file at the holder's end.
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
except ImportError:  # not POSIX: there is no lock that goes with its holder, and nobody waits
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

making = threading.RLock()
"""Held while a thread makes an object of the whole process. No module takes the lock during an import."""

forks.wait_for(making, 2)

POLL = 0.01
"""Seconds between two tries to lock."""

_in_vain: set[Path] = set()
"""Locks with a stopped holder, after a wait in vain: never waited for again."""


def once(make: Callable[..., T]) -> Callable[..., T]:
    """Return a thread-safe `functools.cache` of a function: a thread calls the function while others wait."""
    # With `functools.cache` alone each thread makes a result, and the last is stored. Machine code of an
    # earlier result would be freed while its address is in use.
    kept = functools.cache(make)

    @functools.wraps(make)
    def found(*arguments: Any) -> T:
        with making:
            return kept(*arguments)

    found.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return found


@contextlib.contextmanager
def alone(directory: PrivateDirectory, name: str, patience: float) -> Iterator[None]:
    """Hold the lock of a file in a directory for the time of a `with` block.

    Without locks in the system, as in some file systems of clusters, or after `patience` seconds of another
    holder, the block runs without the lock.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                descriptor = directory.open(name, os.O_RDWR | os.O_CREAT)
                held.callback(os.close, descriptor)
                _lock(descriptor, directory.path / name, patience)
        yield


def _lock(descriptor: int, path: Path, patience: float) -> None:
    """Lock a file; give up after `patience` seconds of another process's lock."""
    latest = time.monotonic() + (0.0 if path in _in_vain else patience)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= latest:
                _in_vain.add(path)
                return
            time.sleep(POLL)
        else:
            _in_vain.discard(path)
            return
