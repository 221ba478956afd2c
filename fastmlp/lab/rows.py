"""What the lab measures: rows of slots, each for all variants that have the slot's code of their own."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.registry import variants
from fastmlp.kernels.jit.bind import slot
from fastmlp.testing.cases import Case, Sizes
from fastmlp.testing.slots import BENCHMARK_SIZES, SLOTS

PRODUCTS = ("affine", "weight_gradient", "input_gradient")
"""The slots that are matrix products; the others are bounded by memory, or by functions of one number."""


class SlotRow(NamedTuple):
    """One case of a slot, which several variants compute.

    case : the label of the case, e.g. "relu"
    """

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
        """Return the case itself."""
        return next(case for case in self._cases() if case.label == self.case)

    def unusual(self) -> list[Case]:
        """Return the row's cases of NaN and infinities, which are not timed."""
        first = f"{self.case}, " if self.case else ""
        return [case for case in self._cases() if not case.timed and case.label.startswith(first)]

    def _cases(self) -> Iterator[Case]:
        return SLOTS[self.slot].cases(np.random.default_rng(0), np.dtype(self.dtype), self.sizes)


def traffic(case: Case) -> int:
    """Return the bytes that a slot must read and write at least: inputs, and outputs once or twice."""
    outputs = [case.arguments[i] for i in case.written]
    read_too = [a for a in outputs if np.isfinite(a).all()]  # what is only written begins as NaN
    return sum(a.nbytes for a in [*case.inputs().values(), *outputs, *read_too])


def slot_rows(slots: Sequence[str], dtypes: Sequence[str], sizes: Sequence[Sizes]) -> Iterator[SlotRow]:
    """Yield the rows of slots; sizes, if none are given, as the table of slots has them for benchmarks.

    Slots of several cases work element by element: two sizes, one within L1 and one beyond, show what four
    would.
    """
    for name, dtype in itertools.product(slots, dtypes):
        labels = labels_of(name)
        usual = BENCHMARK_SIZES if len(labels) == 1 else BENCHMARK_SIZES[0:3:2]
        for label, one in itertools.product(labels, sizes or usual):
            yield SlotRow(name, label, one, dtype)


@functools.cache
def labels_of(name: str) -> list[str]:
    """Return the labels of a slot's cases that are timed."""
    cases = SLOTS[name].cases(np.random.default_rng(0), np.dtype(np.float32), Sizes(2, 2, 2))
    return [case.label for case in cases if case.timed]


def kernel_of(variant: str, name: str) -> Any:
    """Return a variant's slot, as compiled by itself."""
    return slot(variants()[variant], name)


def has_its_own(variant: str, name: str) -> bool:
    """Return whether a variant's slot is not its base's: what it takes over unchanged is that row already."""
    base = variants()[variant].base
    return base is None or not _same(kernel_of(variant, name), kernel_of(base.name, name))


def _same(kernel: Any, other: Any) -> bool:
    """Return whether two kernels are of the same source and call the same compiled functions."""
    first, second = (getattr(k, "py_func", k) for k in (kernel, other))
    if not isinstance(first, types.FunctionType) or first.__code__ is not getattr(second, "__code__", None):
        return first is second
    code = first.__code__
    return all(first.__globals__.get(name) is second.__globals__.get(name) for name in code.co_names)
