"""One budget of threads: how many cores there are for this process, and a BLAS that is held to its share.

A BLAS has one number of threads for the whole process. Trainings that run at once must therefore not
each put back what they found: the second found what the first had set.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastmlp.system import forks

_lock = threading.RLock()  # a signal handler that forks may come while this thread holds it
forks.wait_for(_lock)

_held: list[int] = []
"""The budgets of the trainings that run now; the least of them holds."""

_found: dict[str, tuple[Any, int]] = {}
"""The libraries that they hold, by file, and the number of threads that each had before."""


def cores() -> int:
    """Return how many cores the system lets this process use: its affinity, and its cgroups' quota.

    The numbers of joblib.cpu_count, which also hears its own variable. It is not asked: its import takes
    30 ms, a tenth of what a first training takes with a warm cache.
    """
    return math.ceil(min(_affinity(), quota()))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # 60 us, a fifth of the smallest training
def quota(mounted: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many cores' time the cgroups of this process grant it, say 0.5; infinity without a bound.

    A container sees its own group as the root. Under a service manager the group stands below the root, and
    every group on the way to it binds.

    Parameters
    ----------
    mounted : where the cgroups are, version 2 or the folder of version 1's controllers
    membership : the groups of the process, one line a hierarchy: "number:controllers:/group"
    """
    try:
        hierarchies = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # no Linux
        return math.inf
    least = math.inf
    for _, controllers, group in hierarchies:
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [name for name in group.split("/") if name not in ("", "..")]
        top = mounted / "cpu" if controllers else mounted
        for depth in range(len(names) + 1):
            least = min(least, _quota_of(top.joinpath(*names[:depth])))
    return least


def _quota_of(group: Path) -> float:
    """Return the quota that one group's files set, in cores."""
    try:
        if (group / "cpu.max").exists():
            granted, period = (group / "cpu.max").read_text().split()
        else:
            granted = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        # "max", or -1 in version 1: no bound
        return int(granted) / int(period) if granted != "max" and int(granted) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no such group here, or nothing that says a quota
        return math.inf


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> list[Any]:
    """Return the BLAS libraries that are loaded. To look for them takes 0.6 ms, twice the smallest training.

    modules : how many Python has loaded: a library comes with one
    """
    from threadpoolctl import ThreadpoolController

    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _hold() -> None:
    for library in _libraries(len(sys.modules)):
        _, found = _found.setdefault(library.filepath, (library, library.num_threads))
        library.set_num_threads(min(*_held, found))


@contextmanager
def blas_threads(threads: int | None) -> Iterator[None]:
    """Hold NumPy's and SciPy's BLAS to `threads`, for the backends that call it, and give it back.

    Somebody else's limit that is less stays. None holds it to a quota below the affinity, the one bound that
    a BLAS does not see by itself.
    """
    if threads is None:
        if cores() >= _affinity():
            yield
            return
        threads = cores()
    with _lock:
        _held.append(threads)
        _hold()
    try:
        yield
    finally:
        with _lock:
            _held.remove(threads)
            if _held:
                _hold()
            else:
                for library, found in _found.values():
                    library.set_num_threads(found)
                _found.clear()


def found_blas_threads(most: int | None) -> int | None:
    """Return how many threads the BLAS uses while it is held to `most`; None if it does not tell."""
    with blas_threads(most):
        return max((library.num_threads for library in _libraries(len(sys.modules))), default=None)
