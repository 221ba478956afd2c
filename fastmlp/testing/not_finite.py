"""Inputs with NaN, infinities, and zeros that meet infinities: what a kernel must not swallow or skip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NAN, ZERO_TIMES_INFINITY, NOT_FINITE = "NaN", "0 times inf", "NaN and inf"
"""The labels of the cases."""


def operands(rng: np.random.Generator, a: Array, b: Array) -> Iterator[tuple[str, Array, Array]]:
    """Yield labels and operands of a product, a (n, k) and b (k, m): as they are, and not finite.

    NaN is in one row of a and one column of b. A 0 of each meets an infinity of the other, which is NaN.
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
    """Yield a label and an array: as it is, and with a few of its numbers replaced by others."""
    yield "", array
    changed = array.copy()
    changed.reshape(-1)[rng.integers(array.size, size=len(some))] = some
    yield NAN if np.isnan(some).all() else NOT_FINITE, changed
