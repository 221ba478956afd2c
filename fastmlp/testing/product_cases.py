"""Calls of the slots that form products, sums of columns and batches, of dense and of sparse rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import Array
from fastmlp.testing import cases
from fastmlp.testing.cases import (
    Case,
    CaseMaker,
    Sizes,
    drawn,
    eps,
    few_ulp,
    labelled,
    scratch_of,
    unset,
    wide,
)


def _product(a: Array, b: Array) -> Array:
    """Return a @ b in float64; NaN of what is not finite is no mistake."""
    with np.errstate(invalid="ignore"):
        return np.asarray(wide(a) @ wide(b))


def _of_non_zeros(a: Array, b: Array) -> Array:
    """Return a @ b in float64 over what is not 0 in a, all that sparse rows hold."""
    return np.array([_product(row[None, row != 0], b[row != 0])[0] for row in a])


def _dot_bound(dtype: np.dtype[Any], a: Array, b: Array, product: Any = _product) -> Array:
    """Return a bound on a dot product's rounding, which grows as a random walk over n terms: 8 sigma.

    The worst case is n * eps: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), 3.1.
    """
    return np.asarray(8 * eps(dtype) * np.sqrt(a.shape[1]) * (product(np.abs(a), np.abs(b)) + 1))


def _affine(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b = drawn(rng, dtype, n_out)
    scratch = scratch_of(sizes, dtype)
    normal = drawn(rng, dtype, rows, n_in), drawn(rng, dtype, n_in, n_out)
    for label, x, w in cases.operands(rng, *normal):
        expected = _product(x, w) + wide(b)
        bound = _dot_bound(dtype, x, w) + few_ulp(dtype, b)
        arguments = (x, w, b, scratch, unset(dtype, rows, n_out, found=label))
        yield Case(label, arguments, {4: expected}, None, {4: bound}, 3, not label)


def _weight_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = drawn(rng, dtype, rows, n_in), drawn(rng, dtype, rows, n_out)
    scratch = scratch_of(sizes, dtype)
    for label, columns, delta in cases.operands(rng, normal[0].T, normal[1]):
        x, bound = np.ascontiguousarray(columns.T), _dot_bound(dtype, columns, delta)
        arguments = (x, delta, scratch, unset(dtype, n_in, n_out, found=label))
        yield Case(label, arguments, {3: _product(columns, delta)}, None, {3: bound}, 2, not label)


def _sparse(rng: np.random.Generator, dtype: np.dtype[Any], rows: int, columns: int) -> Array:
    """Return rows of which a third of the numbers is not 0, and the first has none."""
    dense = np.where(rng.random((rows, columns)) < 1 / 3, drawn(rng, dtype, rows, columns), 0)
    dense[0] = 0
    return dense


def _affine_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b, dense = drawn(rng, dtype, n_out), _sparse(rng, dtype, 3 * rows, n_in)
    normal = drawn(rng, dtype, n_in, n_out)
    orders = ("ordered", rng.integers(0, 3 * rows, rows)), ("straight", np.empty(0, np.int64))
    for found, samples, w in cases.operands(rng, dense, normal):
        for label, order in orders:
            x = samples[order if len(order) else slice(rows)]
            bound = _dot_bound(dtype, x, w, _of_non_zeros) + few_ulp(dtype, b)
            out = unset(dtype, rows, n_out, found=found)
            arguments = (*SparseRows.of(samples).arrays, order, w, b, out)
            expected = _of_non_zeros(x, w) + wide(b)
            yield Case(labelled(label, found), arguments, {6: expected}, None, {6: bound}, None, not found)


def _weight_gradient_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal, dense = drawn(rng, dtype, rows, n_out), _sparse(rng, dtype, n_in, rows)
    places = rng.permutation(n_in)
    lists = ("listed", places, np.argsort(places)), ("every", places[:0], slice(None))
    for found, columns, delta in cases.operands(rng, dense, normal):
        expected = _of_non_zeros(columns, delta)
        bound = _dot_bound(dtype, columns, delta, _of_non_zeros)
        for label, listed, at in lists:
            out = unset(dtype, n_in, n_out, found=found)
            arguments = (*SparseRows.of(columns).arrays, listed, delta, out)
            written, bounds = {5: expected[at]}, {5: bound[at]}
            yield Case(labelled(label, found), arguments, written, None, bounds, None, not found)


def _bias_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    ones = np.ones((1, sizes.rows))
    for label, delta in cases.values(rng, drawn(rng, dtype, sizes.rows, sizes.n_out)):
        expected, bound = _product(ones, delta)[0], _dot_bound(dtype, ones, delta)[0]
        out = unset(dtype, sizes.n_out, found=label)
        yield Case(label, (delta, out), {1: expected}, None, {1: bound}, None, not label)


def _input_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = drawn(rng, dtype, rows, n_out), drawn(rng, dtype, n_in, n_out)
    scratch = scratch_of(sizes, dtype)
    for label, delta, transposed in cases.operands(rng, normal[0], normal[1].T):
        w, bound = np.ascontiguousarray(transposed.T), _dot_bound(dtype, delta, transposed)
        arguments = (delta, w, scratch, unset(dtype, rows, n_in, found=label))
        yield Case(label, arguments, {3: _product(delta, transposed)}, None, {3: bound}, 2, not label)


def _gather(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    order = rng.integers(0, 3 * sizes.rows, sizes.rows)
    for label, source in cases.values(rng, drawn(rng, dtype, 3 * sizes.rows, sizes.n_in)):
        out = unset(dtype, sizes.rows, sizes.n_in, found=label)
        yield Case(label, (source, order, out), {2: wide(source[order])}, None, {2: 0.0}, None, not label)


PRODUCTS: dict[str, CaseMaker] = {
    "affine": _affine,
    "weight_gradient": _weight_gradient,
    "affine_sparse": _affine_sparse,
    "weight_gradient_sparse": _weight_gradient_sparse,
    "bias_gradient": _bias_gradient,
    "input_gradient": _input_gradient,
    "gather": _gather,
}
"""The slots of products, with what makes their cases."""
