"""Block sizes and thresholds of the kernels.

No value changes an order of operations (`fastmlp.kernels.program.arithmetic`): all values give the same bits.
Compiled code reads the values from one array while it runs, so that tests can force small values. No other
value that was measured saves 3 % of a step (docs/measured/redesign.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from llvmlite import ir

from fastmlp.kernels.codegen.machine import host

KIB, MIB = 1 << 10, 1 << 20

TABLE: dict[str, int] = {
    # Rows that a worker takes through all layers together: their activations stay in L2.
    "block_rows": 128,
    # Parameters beyond L2, which are read once for all of a worker's rows and not for every block.
    "streamed_bytes": 2 * MIB,
    # Rows from which on a tile's columns are copied into a panel, where rows lie badly for the caches.
    "pack_rows": 24,
    # Rows lie badly where their number times the power of two in their distance is as much: half of L2.
    "crowded_bytes": 1280 * KIB,
    # Rows from which on weights are copied into panels however they lie.
    "pack_always_rows": host().pack_rows,
    # Rows of weights from which on deltas are copied into panels, however they lie.
    "pack_delta_rows": host().pack_deltas,
    # Rows of weights whose gradient is formed before the optimiser is applied; each slice reads all deltas.
    "slice_rows": 256,
    # Weights from which on both operands of their gradient are packed: half of L2.
    "large_bytes": 1 * MIB,
    # Bytes of a batch's x and deltas from which on the same goes for small weights and long rows of x.
    "many_bytes": 2 * MIB,
    # Rows of W that all sums of sparse rows go through before the next rows: most of them lie in L1.
    "near_block_bytes": 64 * KIB,
    # The same of a W beyond L2, whose blocks lie in L2.
    "far_block_bytes": 1 * MIB,
    # Weights from which on rows of W are prefetched for sums of sparse rows.
    "far_bytes": 4 * MIB,
    # Rows that a prediction takes through all layers together.
    "predicted_rows": 256,
    # Microseconds of work that a thread must have to share a step.
    "thread_us": 20,
}
"""The thresholds, by name."""

# --- which weight gradients are formed from packed operands --------------------------------------------

ROW_BYTES, MANY_ROWS, SOME_ROWS, WIDE_BYTES = 2048, 1024, 128, 256
"""Rows of x longer than ROW_BYTES lie badly for the caches. Of shorter rows sums are kept, which is as fast
below MANY_ROWS: 512 x 512 weights of 512 rows took 1.26 times as long packed, of 1000 rows 0.93.
SOME_ROWS are needed for a copy, and WIDE_BYTES of deltas in a row: 784 x 32 weights of 2048 rows took 1.1
times as long, 784 x 128 of 1000 rows 0.85 of the time.
"""

CROWDED_ROWS = host().crowded_rows
"""The same as SOME_ROWS where the distance of rows of x is a multiple of ROW_BYTES."""

BLOCK_ROWS = 1024
"""Rows of a block: the result is read and written once for each; half as many took 1.05 times as long."""

BLOCK_BYTES = 1 << 19
"""Bytes of a block of x, which stays in L2 with panel and result; twice as much took 1.09 times as long."""


def is_blocked(rows: int, n_in: int, n_out: int, itemsize: int, large: int, many: int) -> bool:
    """Return whether a layer's weight gradient is formed by blocks; large, many : thresholds"""
    x_row, row = n_in * itemsize, n_out * itemsize
    is_crowded = (x_row & (0 - x_row)) >= ROW_BYTES
    enough = (rows >= SOME_ROWS) | (is_crowded & (rows >= CROWDED_ROWS))
    is_large, is_long = n_in * row >= large, x_row > ROW_BYTES
    short = is_large & (rows >= MANY_ROWS)
    long = is_long & enough & (is_large | ((rows * (x_row + row) >= many) & (row >= WIDE_BYTES)))
    return short | long


# --- the values in compiled code --------------------------------------------------------------------------

SYMBOL = "fastmlp:thresholds"
"""The symbol of the array of values in machine code; the loader defines the symbol."""

VALUES = np.array([*TABLE.values()], np.int64)
"""The current values, in the order of the table."""

INDICES = {name: index for index, name in enumerate(TABLE)}


def value(name: str) -> int:
    """Return the current value of a threshold."""
    return int(VALUES[INDICES[name]])


@contextlib.contextmanager
def forced(values: Mapping[str, int]) -> Iterator[None]:
    """Set thresholds within a `with` statement, to measure or to test, while no program runs."""
    before = VALUES.copy()
    for name, threshold in values.items():
        VALUES[INDICES[name]] = threshold
    try:
        yield
    finally:
        VALUES[:] = before


def threshold(name: str) -> Any:
    """Return an intrinsic without arguments that reads a threshold."""
    from numba import types
    from numba.extending import intrinsic

    index = INDICES[name]

    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            return emit_threshold(builder, index)

        return types.intp(), emit

    return read


def emit_threshold(builder: ir.IRBuilder, index: int) -> ir.Value:
    """Write the load of the threshold at an index."""
    module, number = builder.module, ir.IntType(64)
    if SYMBOL not in module.globals:
        ir.GlobalVariable(module, number, SYMBOL)  # the array's first element; the loader defines the symbol
    return builder.load(builder.gep(module.globals[SYMBOL], [number(index)], source_etype=number))
