"""A slot's row, measured: every variant agrees with the reference before it is timed.

Kernels compute as within a training: in one thread, on arrays that begin at a cache line, and with subnormal
numbers taken for 0 (a saturated softmax of `baseline` took 16 us in place of 10 for them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastmlp.lab.flushing import subnormals_flushed
from fastmlp.lab.measurements import Measurement, Wrong, in_short
from fastmlp.lab.rows import SlotRow, kernel_of, traffic
from fastmlp.lab.timing import Clock, once, timed
from fastmlp.testing.cases import Case


def measure(row: SlotRow, names: Sequence[str], budget: float, clock: str) -> Iterator[Measurement | Wrong]:
    """Yield the time of each variant, or what is wrong with it.

    budget : seconds for each; clock : as `fastmlp.lab.timing.timed` takes it
    """
    case, unusual = row.made(), row.unusual()
    calls = {}
    with subnormals_flushed():
        for name in names:
            kernel = kernel_of(name, row.slot)
            try:
                for one in (*unusual, case):
                    arguments = one.fresh()
                    one.check(arguments, kernel(*arguments))
            except Exception as error:  # a user's kernel may raise anything, Numba's errors among it
                yield Wrong(*_named(row), name, in_short(error))
                continue
            calls[name] = _call(kernel, case, arguments)
        for name, time in timed(calls, budget, clock).items():
            yield Measurement(*_named(row), name, 1, time, row.flops, traffic(case))


def _call(kernel: Any, case: Case, arguments: tuple[Any, ...]) -> Callable[[Clock], float]:
    """Return what times a call; slots that work in place get their first input again before."""

    def call(clock: Clock) -> float:
        for position in case.written:
            arguments[position][...] = case.arguments[position]
        return once(lambda: kernel(*arguments), clock)

    return call


def _named(row: SlotRow) -> tuple[str, str, str, str]:
    return row.slot, row.case, str(row.sizes), row.dtype
