"""Products of few columns, and gradients whose sums are kept: they have the bits of all others."""

import numba
import numpy as np
import pytest
from support.selection import quick

from fastmlp.kernels.gemm import dispatch, transposed
from fastmlp.kernels.gemm.dispatch import CACHED_BYTES, rows_together
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.runtime.workspace import scratch_length
from fastmlp.lab.slot_times import kernel_of

NO_ORDER = np.empty(0, np.int64)


@numba.njit(error_model="numpy")
def affine(x, w, b, out, step, relu, panel):
    for start in range(0, len(out), step):
        dispatch.affine_rows(x, NO_ORDER, w, b, out, start, min(start + step, len(out)), relu, panel)


@numba.njit(error_model="numpy")
def weight_gradient(x, delta, out, step, apply, rate, l2, panel):
    for start in range(0, len(out), step):
        stop = min(start + step, len(out))
        dispatch.weight_gradient_in_place(
            x, NO_ORDER, delta, out, (0, start, stop), (apply, rate, l2), out, panel
        )


@numba.njit(error_model="numpy")
def pay(rows, lanes):
    return transposed.pays_backward(1, rows, lanes), transposed.pays_forward(1, rows, lanes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [130, 47])
def test_rows_together_or_a_few_at_a_time_have_the_same_bits(rows, dtype):
    itemsize = np.dtype(dtype).itemsize
    lanes = MACHINE.vector_bytes // itemsize
    few = lanes - 1  # too few rows for the transposed product, so that tiles compute them
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    panel = np.full(scratch_length(200, rows, itemsize), np.nan, dtype)
    backward, forward = pay(rows, lanes)
    assert backward
    assert lanes < 4 or forward
    for n_out in range(1, lanes):
        for n_in in (1, 30, 200):
            x, w, b, delta = normal(rows, n_in), normal(n_in, n_out), normal(n_out), normal(rows, n_out)
            for yes in (False, True):
                together, apart = np.empty((rows, n_out), dtype), np.empty((rows, n_out), dtype)
                affine(x, w, b, together, rows, yes, panel)
                affine(x, w, b, apart, few, yes, panel)
                np.testing.assert_array_equal(together, apart)
                together, apart = w.copy(), w.copy()
                weight_gradient(x, delta, together, n_in, yes, dtype(0.1), dtype(0.9), panel)
                weight_gradient(x, delta, apart, few, yes, dtype(0.1), dtype(0.9), panel)
                np.testing.assert_array_equal(together, apart)


# --- kept sums -------------------------------------------------------------------------------------

ROWS, INPUTS, UNITS, PART = 1100, 200, 40, 20
"""Rows of 240 float32 numbers outgrow L2, rows of 220 do not."""

RATE = np.float32(0.01)
L2 = np.float32(0.02)


@quick(2)
@pytest.mark.parametrize("applies", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_kept_sums_change_no_bit(ordered, applies):
    assert ROWS * (INPUTS + PART) * 4 <= CACHED_BYTES < ROWS * (INPUTS + UNITS) * 4
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, INPUTS), np.float32)
    order = rng.permutation(ROWS) if ordered else np.empty(0, np.int64)
    delta, weights = (rng.standard_normal((n, UNITS), np.float32) for n in (ROWS, INPUTS))
    halves = zip(np.split(delta, [PART], 1), np.split(weights, [PART], 1), strict=True)
    parts = np.hstack([gradient(x, order, *half, applies) for half in halves])
    np.testing.assert_array_equal(gradient(x, order, delta, weights, applies), parts)
    expected = x[order if ordered else slice(None)].T.astype(float) @ delta
    # Each of ROWS roundings is of a sum near sqrt(ROWS), as far as a random walk of as many steps comes.
    allowed = ROWS * np.sqrt(ROWS) * np.finfo(np.float32).eps
    np.testing.assert_allclose(
        parts, weights - RATE * (expected + L2 * weights) if applies else expected, rtol=0, atol=allowed
    )


def test_no_rows_have_a_gradient_of_0():
    nothing, weights = np.empty((0, INPUTS), np.float32), np.ones((INPUTS, UNITS), np.float32)
    found = gradient(nothing, np.empty(0, np.int64), nothing[:, :UNITS], weights, False)
    np.testing.assert_array_equal(found, np.zeros_like(weights))


MANY, FEW, FIRST = 1600, 3, 33
"""Rows that are copied where they are in an order and units are few; the units; a worker's first input."""


@quick(1)
@pytest.mark.parametrize("applies", [False, True])
@pytest.mark.parametrize("room", [1 << 17, (INPUTS + 32) * 64])
def test_few_units_of_many_ordered_rows_have_the_bits_that_they_have_beside_others(room, applies):
    assert MANY * (INPUTS - FIRST) * 4 > CACHED_BYTES
    rng = np.random.default_rng(0)
    x, order = rng.standard_normal((MANY + 9, INPUTS), np.float32), rng.permutation(MANY)
    delta, weights = (rng.standard_normal((n, UNITS), np.float32) for n in (MANY, INPUTS))
    wide = gradient(x, order, delta, weights, applies, FIRST)
    few = gradient(x, order, delta[:, :FEW], weights[:, :FEW], applies, FIRST, room)
    np.testing.assert_array_equal(few, wide[:, :FEW])


def gradient(x, order, delta, weights, applies, first=0, room=1 << 17):
    """Return the gradient of the weights from row `first` on, or these after a step of RATE along it."""
    out, scratch = np.array(weights[first:], order="C"), np.empty(room, np.float32)
    sums, delta = np.full_like(out, np.nan), np.ascontiguousarray(delta)
    kernel = kernel_of("fused", "weight_gradient_rows")
    kernel(x, order, delta, out, (first, first, len(weights)), (applies, RATE, L2), sums, scratch)
    return out


def test_rows_together():
    for rows, n_in, n_out, together in (
        (1024, 128, 128, 1024), (1024, 256, 256, 512), (8192, 64, 64, 1024), (4096, 784, 128, 4096),
        (0, 8, 8, 0),
    ):  # fmt: skip
        assert rows_together(rows, 4 * n_in, 4 * n_out) == together
