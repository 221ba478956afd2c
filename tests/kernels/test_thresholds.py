"""Thresholds: compiled code reads them while it runs. Equal bits with all values: test_arithmetic.py."""

import numba
import numpy as np

from fastmlp.kernels.runtime.workspace import SLICE_BYTES, slice_length
from fastmlp.kernels.thresholds import CROWDED_ROWS, SOME_ROWS, TABLE, VALUES, forced, threshold, value


def test_compiled_code_reads_the_thresholds_while_it_runs():
    first, last = (threshold(name) for name in (min(TABLE), max(TABLE)))

    @numba.njit
    def read():
        return first(), last()

    before = VALUES.copy()
    for number in (3, 7):
        with forced({min(TABLE): number, max(TABLE): 2 * number}):
            assert read() == (number, 2 * number)
    assert len(read.signatures) == 1
    assert np.array_equal(VALUES, before)


def test_a_slice_of_gradient_has_many_rows_of_any_layer_and_no_more_than_a_worker_has():
    """For each slice a batch's deltas are read anew: with 8 rows of 2048 units Adam took twice the time."""
    large = [(1024, 2048), (2048, 10)]
    assert slice_length(large, 128, 1, 4) == value("slice_rows") * 2048
    assert slice_length(large, 128, 16, 4) == 1024 // 16 * 2048
    assert slice_length([(40, 64), (64, 10)], 128, 1, 4) == SLICE_BYTES // 4
    with forced({"slice_rows": 64}):
        assert slice_length(large, 128, 1, 8) == 64 * 2048
    # Slices of small batches lie in L1, and have the rows that workers share.
    small = min(SOME_ROWS, CROWDED_ROWS) - 1
    assert slice_length([(1024, 512), (512, 10)], small, 1, 4) == SLICE_BYTES // 4
    assert slice_length([(1024, 9000), (9000, 10)], small, 1, 4) == 8 * 9000
