"""One budget of threads: the BLAS is held to it while trainings run, and given back after the last.

A BLAS has one number of threads for the whole process. Trainings that run at once must therefore not
each put back what they found: the second found what the first had set.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastmlp import forks

_lock = threading.RLock()  # a signal handler that forks may come while this thread holds it
forks.wait_for(_lock)

_held: list[int] = []
"""The budgets of the trainings that run now; the least of them holds."""

_found: list[Any] = []
"""What gives back the limits that the first of them found."""


@contextmanager
def blas_threads(threads: int | None) -> Iterator[None]:
    """Hold NumPy's and SciPy's BLAS to `threads`, for the backends that call it, and give it back."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with _lock:
        _held.append(threads)
        limits = threadpool_limits(limits=min(_held), user_api="blas")
        if not _found:
            _found.append(limits)
    try:
        yield
    finally:
        with _lock:
            _held.remove(threads)
            if _held:
                threadpool_limits(limits=min(_held), user_api="blas")
            else:
                _found.pop().restore_original_limits()


def found_blas_threads() -> int | None:
    """Return how many threads the BLAS uses now; None if it does not tell."""
    from threadpoolctl import threadpool_info

    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=None)
