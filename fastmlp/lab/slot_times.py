"""Times of slots: of each case alone, and of the slots in a training step.

Each variant first agrees with the reference. Kernels compute as within a training: in a single thread, on
arrays aligned to a cache line, and with subnormal numbers taken for 0 (16 us of a softmax instead of 10).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from fastmlp.backend.registry import variants
from fastmlp.kernels.codegen.machine import flushing_arithmetic, normal_arithmetic
from fastmlp.kernels.jit.bind import slot
from fastmlp.lab.measurements import Measurement, PhaseTime, Wrong, in_short
from fastmlp.lab.steps import StepRow
from fastmlp.lab.timing import Clock, once, timed
from fastmlp.model.operations import INPUTS
from fastmlp.testing.cases import Case, Sizes
from fastmlp.testing.slots import BENCHMARK_SIZES, SLOTS

PRODUCTS = ("affine", "weight_gradient", "input_gradient")
"""The slots with matrix products; memory, or functions of a number, bound other slots."""


class SlotRow(NamedTuple):
    """A case of a slot, for several variants; case : a label such as "relu"."""

    slot: str
    case: str
    sizes: Sizes
    dtype: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.slot, self.case, str(self.sizes), self.dtype]))

    @property
    def flops(self) -> float | None:
        """Multiply-adds counted as 2; None where the slot is no product."""
        rows, n_in, n_out = self.sizes
        return 2.0 * rows * n_in * n_out if self.slot in PRODUCTS else None

    def made(self) -> Case:
        """Return the `Case` with the row's label."""
        return next(case for case in self._cases() if case.label == self.case)

    def unusual(self) -> list[Case]:
        """Return the row's cases of NaN and infinities, without times."""
        first = f"{self.case}, " if self.case else ""
        return [case for case in self._cases() if not case.timed and case.label.startswith(first)]

    def _cases(self) -> Iterator[Case]:
        return SLOTS[self.slot].cases(np.random.default_rng(0), np.dtype(self.dtype), self.sizes)


def traffic(case: Case) -> int:
    """Return the least bytes read and written by a slot."""
    outputs = [case.arguments[i] for i in case.written]
    read_too = [a for a in outputs if np.isfinite(a).all()]  # an array that is only written begins as NaN
    return sum(a.nbytes for a in [*case.inputs().values(), *outputs, *read_too])


def slot_rows(slots: Sequence[str], dtypes: Sequence[str], sizes: Sequence[Sizes]) -> Iterator[SlotRow]:
    """Yield the rows of slots; without sizes those for benchmarks, two for slots with several cases."""
    for name, dtype in itertools.product(slots, dtypes):
        labels = labels_of(name)
        usual = BENCHMARK_SIZES if len(labels) == 1 else BENCHMARK_SIZES[0:3:2]
        for label, one in itertools.product(labels, sizes or usual):
            yield SlotRow(name, label, one, dtype)


@functools.cache
def labels_of(name: str) -> list[str]:
    """Return the labels of a slot's timed cases."""
    cases = SLOTS[name].cases(np.random.default_rng(0), np.dtype(np.float32), Sizes(2, 2, 2))
    return [case.label for case in cases if case.timed]


def kernel_of(variant: str, name: str) -> Any:
    """Return a variant's compiled slot."""
    return slot(variants()[variant], name)


def has_its_own(variant: str, name: str) -> bool:
    """Return True if a variant's slot differs from the base's."""
    base = variants()[variant].base
    return base is None or not _same(kernel_of(variant, name), kernel_of(base.name, name))


def _same(kernel: Any, other: Any) -> bool:
    """Return True if two kernels have the same source and call the same functions."""
    first, second = (getattr(k, "py_func", k) for k in (kernel, other))
    if not isinstance(first, FunctionType) or first.__code__ is not getattr(second, "__code__", None):
        return first is second
    code = first.__code__
    return all(first.__globals__.get(name) is second.__globals__.get(name) for name in code.co_names)


# --- times of one row -------------------------------------------------------------------------------


def _switch(emit: Callable[[Any], None]) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def switch(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(builder)
            return context.get_dummy_value()

        return types.none(), generate

    return njit(lambda: switch())


_flush, _restore = _switch(flushing_arithmetic), _switch(normal_arithmetic)


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take subnormal numbers for 0 in this thread, as a training's entry point does."""
    _flush()
    try:
        yield
    finally:
        _restore()


def measure(row: SlotRow, names: Sequence[str], budget: float, clock: str) -> Iterator[Measurement | Wrong]:
    """Yield the time of each variant, or the mistake; budget : seconds for each; clock : as of `timed`"""
    case, unusual = row.made(), row.unusual()
    named = row.slot, row.case, str(row.sizes), row.dtype
    calls = {}
    with subnormals_flushed():
        for name in names:
            kernel = kernel_of(name, row.slot)
            try:
                for one in (*unusual, case):
                    arguments = one.fresh()
                    one.check(arguments, kernel(*arguments))
            except Exception as error:  # a user's kernel may raise anything, Numba's errors among it
                yield Wrong(*named, name, in_short(error))
                continue
            calls[name] = functools.partial(_seconds, kernel, case, arguments)
        for name, time in timed(calls, budget, clock).items():
            yield Measurement(*named, name, 1, time, row.flops, traffic(case))


def _seconds(kernel: Any, case: Case, arguments: tuple[Any, ...], clock: Clock) -> float:
    for position in case.written:  # slots that work in place get their first input again
        arguments[position][...] = case.arguments[position]
    return once(lambda: kernel(*arguments), clock)


# --- the slots of a step ----------------------------------------------------------------------------

PHASES = ("gather", "forward", "loss", "back", "weights", "update")

DROPS, DROPS_IN_PLACE = "p=0.5", "p=0.1, in place"
"""Cases of dropout, forward and back; other probabilities take as long."""


def parts(row: StepRow) -> Iterator[tuple[str, int, SlotRow]]:
    """Yield the calls of slots in a step: an index of `PHASES`, the number of the operation, the slot's row.

    0 is the whole network. Norms, sums and the like are no slots; only the time of the whole step has them.
    """
    network, operations = row.network, row.network.operations
    last, numbered = operations[-1], list(enumerate(operations, 1))
    # A step calls an activation for hidden operations alone: the loss has the output's.
    bends = {layer for layer, one in numbered[:-1] if one.is_dense or one.kind.key == "activation"}

    def part(phase: str, layer: int, slot: str, case: str, n_in: int, n_out: int) -> tuple[str, int, SlotRow]:
        return phase, layer, SlotRow(slot, case, Sizes(row.batch, n_in, n_out), row.dtype)

    yield part("gather", 0, "gather", "ordered", network.n_in, operations[0].n_out)
    for layer, one in numbered:
        if one.is_dense:
            yield part("forward", layer, "affine", "", one.n_in, one.n_out)
        if layer in bends:
            yield part("forward", layer, "activate", str(one.activation), one.n_in, one.n_out)
        if one.dropout:
            yield part("forward", layer, "drop", DROPS, one.n_in, one.n_out)
    yield part("loss", 0, "output_loss", f"{network.output}-{network.loss}", last.n_in, last.n_out)
    for layer, one in reversed(numbered):
        if one.dropout:
            yield part("back", layer, "drop", DROPS_IN_PLACE, one.n_in, one.n_out)
        if layer in bends:
            yield part("back", layer, "activate_gradient", str(one.activation), row.batch, one.n_out)
        if one.is_dense:
            if one.sources[0] != INPUTS:
                yield part("back", layer, "input_gradient", "", one.n_in, one.n_out)
            yield part("weights", layer, "weight_gradient", "", one.n_in, one.n_out)
            yield part("weights", layer, "bias_gradient", "", one.n_in, one.n_out)
            yield part("update", layer, "apply_rule", row.case, one.n_in, one.n_out)


def phases(row: StepRow, variant: str, budget: float, clock: str) -> list[PhaseTime]:
    """Return the time of each phase of each layer, by the variant's slots called from Python."""
    found: dict[tuple[str, int], float] = {}
    for phase, layer, called in parts(row):
        for result in measure(called, [variant], budget, clock):
            if isinstance(result, Measurement):
                found[phase, layer] = found.get((phase, layer), 0.0) + result.time.median
    return [PhaseTime(row.shape, row.dtype, variant, *key, seconds) for key, seconds in found.items()]
