"""Large arrays copied by several threads, for the memory bandwidth of several cores.

The first write to a page decides on the page's NUMA node: copied by parts, the pages of a large vector are
spread over the nodes of the threads, and the bandwidth of a single node does not bound all workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from fastmlp.system.budget import share

PART_BYTES = 1 << 22
"""The least work of a thread: half a millisecond, ten times a thread's start."""

PAGE = 4096
"""Bytes: parts begin at pages."""


def copy(
    sources: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], threads: int | None = None
) -> None:
    """Copy vectors (n,) of equal length and dtype; threads : at most, None for this process's share."""
    # Threads would take longer than most copies.
    if targets[0].nbytes < 2 * PART_BYTES:  # what follows would take longer than most copies
        for source, target in zip(sources, targets, strict=True):
            target[...] = source
        return
    bounds = bounds_of_parts(targets[0].size, targets[0].itemsize, share() if threads is None else threads)

    def copy_part(part: slice) -> None:
        for source, target in zip(sources, targets, strict=True):
            target[part] = source[part]

    _each(copy_part, [slice(*pair) for pair in pairwise(bounds)])


def bounds_of_parts(length: int, itemsize: int, threads: int) -> list[int]:
    """Return the start of each part of a vector, and the end."""
    count = max(1, min(threads, length * itemsize // PART_BYTES))
    unit = PAGE // itemsize
    return [0, *(length * part // count // unit * unit for part in range(1, count)), length]


def _each(call: Callable[[slice], None], parts: list[slice]) -> None:
    """Call a function for each part, in threads."""
    if len(parts) > 1:
        from concurrent.futures import ThreadPoolExecutor

        try:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(call, parts))
            return
        except RuntimeError:  # "can't start new thread"
            pass
    for part in parts:
        call(part)
