"""Products of few columns: which way they are computed changes no bit."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from fastmlp.kernels.gemm import dispatch, transposed
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.runtime.workspace import scratch_length

NO_ORDER = np.empty(0, np.int64)


@numba.njit(error_model="numpy")
def affine(x, w, b, out, step, relu, panel):
    for start in range(0, len(out), step):
        dispatch.affine(x, NO_ORDER, w, b, out, start, min(start + step, len(out)), relu, panel)


@numba.njit(error_model="numpy")
def weight_gradient(x, delta, out, step, apply, rate, l2, panel):
    for start in range(0, len(out), step):
        stop = min(start + step, len(out))
        dispatch.weight_gradient(x, NO_ORDER, delta, out, 0, start, stop, apply, rate, l2, out, panel)


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
