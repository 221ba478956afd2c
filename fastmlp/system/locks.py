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
except ImportError:  # not POSIX: there is no lock that goes with its holder, and nobody waits
    fcntl = None  # type: ignore[assignment]

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
def alone(directory: PrivateDirectory, name: str, patience: float) -> Iterator[None]:
    """Hold the lock of a file in a directory for the time of a `with` block.

    Go on without the lock where the system has none, as some file systems of clusters have not, and where
    another process holds it for `patience` seconds.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                descriptor = directory.open(name, os.O_RDWR | os.O_CREAT)
                held.callback(os.close, descriptor)
                _lock(descriptor, directory.path / name, patience)
        yield


def _lock(descriptor: int, path: Path, patience: float) -> None:
    """Lock a file; give up if another process holds the lock for `patience` seconds."""
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
