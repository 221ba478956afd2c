"""Weight gradients whose sums are kept while L2 takes other rows: the bits of others, which are not."""

import numpy as np
import pytest

from fastmlp.kernels.gemm.dispatch import CACHED_BYTES, rows_together
from fastmlp.lab.slot_times import kernel_of

ROWS, INPUTS, UNITS, PART = 1100, 200, 40, 20
"""Rows of 240 float32 numbers outgrow L2, rows of 220 do not."""

RATE = np.float32(0.01)
L2 = np.float32(0.02)


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
    kernel(x, order, delta, out, first, first, len(weights), applies, RATE, L2, sums, scratch)
    return out


def test_rows_together():
    for rows, n_in, n_out, together in (
        (1024, 128, 128, 1024), (1024, 256, 256, 512), (8192, 64, 64, 1024), (4096, 784, 128, 4096),
        (0, 8, 8, 0),
    ):  # fmt: skip
        assert rows_together(rows, 4 * n_in, 4 * n_out) == together
