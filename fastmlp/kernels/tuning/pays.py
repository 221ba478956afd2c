"""Which weight gradients are formed from packed operands.

Separate because "auto" and the lengths of buffers go by it, too, and load no kernel.
"""

ROW_BYTES, MANY_ROWS, SOME_ROWS, WIDE_BYTES = 2048, 1024, 128, 256
"""Rows of x longer than ROW_BYTES lie badly for the caches. Of shorter ones sums are kept, which is as fast
below MANY_ROWS: 512 x 512 weights of 512 rows took 1.26 times as long packed, of 1000 rows 0.93 of the time.
SOME_ROWS are needed for a copy of anything, and WIDE_BYTES of deltas in a row: 784 x 32 weights of 2048 rows
took 1.1 times as long, 784 x 128 of 1000 rows 0.85 of the time, 2048 x 64 half.
"""


def is_blocked(rows: int, n_in: int, n_out: int, itemsize: int, large: int, many: int) -> bool:
    """Return whether `packed` forms a layer's weight gradient by blocks of packed operands.

    large, many : the constants `large_bytes` and `many_bytes`
    """
    x_row, row = n_in * itemsize, n_out * itemsize
    is_large, is_long = n_in * row >= large, x_row > ROW_BYTES
    short = is_large & (rows >= MANY_ROWS)
    long = is_long & (rows >= SOME_ROWS) & (is_large | ((rows * (x_row + row) >= many) & (row >= WIDE_BYTES)))
    return short | long
