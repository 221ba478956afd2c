"""Which weight gradients are formed from packed operands, and how much is packed at a time.

Separate because "auto" and the lengths of buffers go by it, too, and load no kernel.
"""

from fastmlp.kernels.codegen.machine import host

ROW_BYTES, MANY_ROWS, SOME_ROWS, WIDE_BYTES = 2048, 1024, 128, 256
"""Rows of x longer than ROW_BYTES lie badly for the caches. Of shorter ones sums are kept, which is as fast
below MANY_ROWS: 512 x 512 weights of 512 rows took 1.26 times as long packed, of 1000 rows 0.93 of the time.
SOME_ROWS are needed for a copy, and WIDE_BYTES of deltas in a row: 784 x 32 weights of 2048 rows took 1.1
times as long, 784 x 128 of 1000 rows 0.85 of the time, 2048 x 64 half.
"""

CROWDED_ROWS = host().crowded_rows
"""The same as SOME_ROWS where the distance of rows of x is a multiple of ROW_BYTES."""

BLOCK_ROWS = 1024
"""Rows of a block. The result, which is not in the caches, is read and written once a block: with 512 rows,
the gradient of 1024 x 2048 x 2048 took 1.05 times as long on an Intel processor."""

BLOCK_BYTES = 1 << 19
"""Bytes of a block of x, which stays in L2 with the panel and the result: with twice as much the product took
1.09 times as long on an L2 of 2 MB. On other processors, threads may share L2."""


def is_blocked(rows: int, n_in: int, n_out: int, itemsize: int, large: int, many: int) -> bool:
    """Return whether `packed` forms a layer's weight gradient by blocks of packed operands.

    large, many : the constants `large_bytes` and `many_bytes`
    """
    x_row, row = n_in * itemsize, n_out * itemsize
    is_crowded = (x_row & (0 - x_row)) >= ROW_BYTES
    enough = (rows >= SOME_ROWS) | (is_crowded & (rows >= CROWDED_ROWS))
    is_large, is_long = n_in * row >= large, x_row > ROW_BYTES
    short = is_large & (rows >= MANY_ROWS)
    long = is_long & enough & (is_large | ((rows * (x_row + row) >= many) & (row >= WIDE_BYTES)))
    return short | long
