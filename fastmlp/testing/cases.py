"""A call of a slot: arguments, the reference's results, and the largest error allowed.

Arrays have guards around them: a write beyond an array changes a guard, and a read beyond an array gives NaN,
or -1. Inputs have NaN, infinities, and zeros times infinities, for kernels to pass on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.registry import get_variant
from fastmlp.kernels.runtime.workspace import scratch_length
from fastmlp.model.layout import ALIGNMENT
from fastmlp.model.state import Array

NAN, ZERO_TIMES_INFINITY, NOT_FINITE = "NaN", "0 times inf", "NaN and inf"
"""Labels of cases with NaN or infinities."""


def operands(rng: np.random.Generator, a: Array, b: Array) -> Iterator[tuple[str, Array, Array]]:
    """Yield labels and operands of a product, a (n, k) and b (k, m): as given, and not finite.

    NaN is in a row of a and a column of b. A 0 of each meets an infinity of the other: NaN.
    """
    yield "", a, b
    (n, k), m = a.shape, b.shape[1]
    first, second = a.copy(), b.copy()
    first[rng.integers(n), rng.integers(k)] = np.nan
    second[rng.integers(k), rng.integers(m)] = np.nan
    yield NAN, first, second
    first, second = a.copy(), b.copy()
    for zero, infinite in ((first, second.T), (second.T, first)):
        term = rng.integers(k)
        zero[rng.integers(len(zero)), term] = 0
        infinite[rng.integers(len(infinite)), term] = np.inf
    yield ZERO_TIMES_INFINITY, first, second


def values(
    rng: np.random.Generator, array: Array, some: tuple[float, ...] = (np.nan, np.inf, -np.inf, -0.0)
) -> Iterator[tuple[str, Array]]:
    """Yield a label and an array: as given, and with `some` numbers in random locations."""
    yield "", array
    changed = array.copy()
    changed.reshape(-1)[rng.integers(array.size, size=len(some))] = some
    yield NAN if np.isnan(some).all() else NOT_FINITE, changed


LEAST = 256
"""The least bytes of a guard: four of the widest vectors."""

GUARD = 0xFF
"""Each byte of a guard."""


class _GuardedBytes(np.ndarray[Any, Any]):
    """The bytes of a guarded array, its base. between : slice of the bytes between the guards"""

    between: slice


def guarded(array: Array) -> Array:
    """Return a copy at a cache line, with guards of a row, or `LEAST` bytes, before and after."""
    row = array.nbytes // max(1, len(array)) if array.ndim > 1 else 0
    guard = -(-max(row, LEAST) // ALIGNMENT) * ALIGNMENT
    memory = _GuardedBytes(guard + array.nbytes + guard + ALIGNMENT, np.uint8)
    memory[:] = GUARD
    first = guard + -memory.ctypes.data % ALIGNMENT
    memory.between = slice(first, first + array.nbytes)
    inside: Array = np.ndarray(array.shape, array.dtype, memory, first)
    inside[...] = array
    return inside


def overrun(array: Array) -> str | None:
    """Return the location of an array's changed guard, in words; None without any change or guard."""
    memory = array.base
    if not isinstance(memory, _GuardedBytes):
        return None
    before, after = memory[: memory.between.start] != GUARD, memory[memory.between.stop :] != GUARD
    if after.any():
        return f"element {int(after.argmax()) // array.itemsize + 1} after its end"
    if before.any():
        return f"element {int(before[::-1].argmax()) // array.itemsize + 1} before its beginning"
    return None


def wide(array: Array) -> Array:
    """Return the array in float64."""
    return array.astype(np.float64)


class Sizes(NamedTuple):
    """A batch and a layer: rows of n_in inputs to n_out units."""

    rows: int
    n_in: int
    n_out: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.n_in}x{self.n_out}"


def drawn(rng: np.random.Generator, dtype: np.dtype[Any], *shape: int) -> Array:
    """Return an array of normally distributed numbers."""
    return rng.standard_normal(shape).astype(dtype)


def eps(dtype: np.dtype[Any]) -> float:
    """Return the distance from 1 to the next number of a dtype."""
    return float(np.finfo(dtype).eps)


def labelled(label: str, found: str) -> str:
    """Return a case's label, with the label of numbers beyond the finite."""
    return f"{label}, {found}" if found else label


def few_ulp(dtype: np.dtype[Any], expected: Array, ulp: float = 8) -> Array:
    """Return `ulp` units in the last place, relative above 1 in magnitude, absolute below."""
    return np.asarray(ulp * eps(dtype) * np.fmax(np.abs(expected), 1))  # of NaN as of 1


def unset(dtype: np.dtype[Any], *shape: int, found: str = "") -> Array:
    """Return an array of NaN, which shows reads of the array, and missing writes.

    found : the label of numbers beyond the finite; then a result may be NaN, and the array holds 1e9
    """
    return np.full(shape, 1e9 if found else np.nan, dtype)


def scratch_of(sizes: Sizes, dtype: np.dtype[Any]) -> Array:
    """Return the scratch of a slot, with any last state."""
    length = scratch_length(max(sizes.n_in, sizes.n_out), sizes.rows, dtype.itemsize, sizes.n_out)
    return guarded(unset(dtype, length))


def compared(got: Any, expected: Array, bound: Any) -> tuple[Array, Array]:
    """Return errors, and where results are right: within the bound, equal infinities, or both NaN."""
    with np.errstate(invalid="ignore"):
        error = np.abs(got - expected)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return error, np.where(np.isfinite(expected), error <= bound, same)


class Case(NamedTuple):
    """A call of a slot.

    arguments : those in `written` are outputs, some also inputs
    written : {position of an output: expected array}, float64; returned : expected value, or None
    bound : {position: largest absolute error allowed}, -1 for the returned value
    scratch : position of the array for any state, or None
    """

    label: str
    arguments: tuple[Any, ...]
    written: dict[int, Array]
    returned: float | None
    bound: dict[int, Any]
    scratch: int | None = None
    slot: str = ""

    @property
    def timed(self) -> bool:
        """True for a row of benchmarks: all numbers are finite."""
        return not self.label.endswith((NAN, ZERO_TIMES_INFINITY, NOT_FINITE))

    def fresh(self) -> tuple[Any, ...]:
        """Return the arguments with guarded copies of arrays; an array given twice stays a single array."""
        scratch = () if self.scratch is None else (self.scratch,)
        arrays = {
            id(a): guarded(a)
            for i, a in enumerate(self.arguments)
            if isinstance(a, np.ndarray) and i not in scratch
        }
        return tuple(arrays.get(id(a), a) for a in self.arguments)

    def inputs(self) -> dict[int, Array]:
        """Return by position the arrays to be left unchanged."""
        written = [self.arguments[i] for i in self.written]
        return {
            i: a
            for i, a in enumerate(self.arguments)
            if isinstance(a, np.ndarray) and i != self.scratch and not any(a is out for out in written)
        }

    def check(self, arguments: tuple[Any, ...], returned: Any) -> None:
        """Raise AssertionError, in a line, unless a call of `fresh` arguments agrees with the reference.

        A slot must also leave the inputs unchanged, since later slots read the inputs, and write nothing
        around arrays. NumPy's NaN and infinities must be the slot's, too.
        """
        for position, array in enumerate(arguments):
            if isinstance(array, np.ndarray) and (where := overrun(array)):
                raise AssertionError(f"{self._array(position, array)}: {where} was written")
        for position, given in self.inputs().items():
            array = arguments[position]
            if array.tobytes() != given.tobytes():
                bits = np.dtype(f"u{array.itemsize}")
                index = tuple(np.argwhere(array.view(bits) != given.view(bits))[0])
                raise AssertionError(
                    f"{self._element(position, array, index)} is an input, which a slot must not change: "
                    f"it was {given[index]} and is {array[index]}"
                )
        for position, expected in self.written.items():
            array = arguments[position]
            bound = np.broadcast_to(self.bound[position], expected.shape)
            error, right = compared(wide(array), expected, bound)
            wrong = ~right
            if wrong.any():
                with np.errstate(invalid="ignore"):
                    off = np.where(wrong, np.nan_to_num(error - bound, nan=np.inf), -np.inf)
                index = np.unravel_index(np.argmax(off), error.shape)
                raise AssertionError(
                    f"{self._element(position, array, index)} is {array[index]} and should be "
                    f"{expected[index]:.9g}: off by {error[index]:.3g}, allowed are {bound[index]:.3g}; "
                    f"{np.count_nonzero(wrong)} of {wrong.size} elements are off"
                )
        if self.returned is not None:
            # A sum in float64 of positive and negative terms has the error of its terms.
            allowed = self.bound[-1]
            if returned is None or not compared(returned, np.asarray(self.returned), allowed)[1]:
                raise AssertionError(
                    f"{self._named()} returns {returned} and should return {self.returned:.9g}, "
                    f"within {allowed:.3g}"
                )

    def _named(self) -> str:
        return f"{self.slot}, {self.label}," if self.label else self.slot

    def _element(self, position: int, array: Array, index: tuple[Any, ...]) -> str:
        return self._array(position, array, f"[{', '.join(map(str, index))}]")

    def _array(self, position: int, array: Array, location: str = "") -> str:
        """Return the name of an array, or of an element, by the slot's signature."""
        parameters = list(inspect.signature(get_variant("baseline").slots[self.slot]).parameters)
        return (
            f"{self._named()} argument {position}: {parameters[position]}{location} "
            f"(shape {array.shape}, {array.dtype})"
        )


CaseMaker = Callable[[np.random.Generator, "np.dtype[Any]", Sizes], Iterator[Case]]
"""Yields calls of a slot on a batch and a layer of these sizes, with the reference's results."""
