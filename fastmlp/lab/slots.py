"""A slot's row, measured: every variant agrees with the reference before it is timed.

Kernels compute as within a training: in one thread, on arrays that begin at a cache line, and with subnormal
numbers taken for 0 (a saturated softmax of `baseline` took 16 us in place of 10 for them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastmlp.lab.flushing import subnormals_flushed
from fastmlp.lab.measurements import Measurement, Wrong, in_short
from fastmlp.lab.rows import SlotRow, kernel_of, traffic
from fastmlp.lab.timing import Clock, in_alternation, once
from fastmlp.model.layout import aligned
from fastmlp.testing.slots import Case


def placed(case: Case) -> tuple[Any, ...]:
    """Return the case's arguments, arrays at the beginning of a cache line; one given twice stays one."""
    arrays = {id(a): _at_a_cache_line(a) for a in case.arguments if isinstance(a, np.ndarray)}
    return tuple(arrays.get(id(a), a) for a in case.arguments)


def _at_a_cache_line(array: Any) -> Any:
    copy = aligned(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def measure(row: SlotRow, names: Sequence[str], budget: float, clock: Clock) -> Iterator[Measurement | Wrong]:
    """Yield the time of each variant, or what is wrong with it; budget : seconds for each."""
    case = row.made()
    calls = {}
    with subnormals_flushed():
        for name in names:
            kernel, arguments = kernel_of(name, row.slot), placed(case)
            try:
                case.check(arguments, kernel(*arguments))
            except Exception as error:  # a user's kernel may raise anything, Numba's errors among it
                yield Wrong(*_named(row), name, in_short(error))
                continue
            calls[name] = _call(kernel, case, arguments, clock)
        for name, time in in_alternation(calls, budget).items():
            yield Measurement(*_named(row), name, 1, time, row.flops, traffic(case))


def _call(kernel: Any, case: Case, arguments: tuple[Any, ...], clock: Clock) -> Callable[[], float]:
    """Return what times a call; slots that work in place get their first input again before."""

    def call() -> float:
        for position in case.written:
            arguments[position][...] = case.arguments[position]
        return once(lambda: kernel(*arguments), clock)

    return call


def _named(row: SlotRow) -> tuple[str, str, str, str]:
    return row.slot, row.case, str(row.sizes), row.dtype
