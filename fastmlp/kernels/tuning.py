"""The constants that are measured on each machine, with the trials of each.

No constant decides an order of operations (`fastmlp.kernels.program.arithmetic`): all values give the same
bits. Compiled code reads the constants from one array while it runs, so a new value needs no compilation.
The store keeps measured values with the machine code (`fastmlp.kernels.jit.engine`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from fastmlp.kernels.codegen.machine import NEVER, host


class Trial(NamedTuple):
    """A training or prediction whose time decides among values.

    sizes, rows : of a network of relu and softmax, and of a batch
    use : "train" or "predict"; terms : non-zeros of a row, where inputs are sparse
    """

    sizes: tuple[int, ...]
    rows: int
    optimizer: str = "sgd"
    backend: str = "fused"
    threads: int = 1
    use: str = "train"
    terms: int = 0


class Tunable(NamedTuple):
    """A constant: its meaning in words, its value without measurements, and others; `trials` decide."""

    what: str
    usual: int
    others: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """All possible values, the usual value first."""
        return (self.usual, *self.others)


KIB, MIB = 1 << 10, 1 << 20

TABLE: dict[str, Tunable] = {
    "block_rows": Tunable(
        "rows that a worker takes through all layers together: their activations stay in L2",
        128, (32, 64, 256),
        (Trial((64, 128, 10), 512), Trial((784, 128, 10), 512), Trial((28, 256, 256, 2), 512)),
    ),
    "streamed_bytes": Tunable(
        "parameters beyond L2, which are read once for all of a worker's rows and not for every block",
        2 * MIB, (1 * MIB, 4 * MIB, 8 * MIB),
        (Trial((256, 512, 512, 256), 256), Trial((256, 768, 512, 10), 256)),
    ),
    "pack_rows": Tunable(
        "rows from which on a tile's columns are copied into a panel, where rows lie badly for the caches",
        24, (16, 32, 64),
        (Trial((784, 1024, 10), 24, use="predict"), Trial((1024, 512, 10), 32, use="predict")),
    ),
    "crowded_bytes": Tunable(
        "rows lie badly where their number times the power of two in their distance is as much: half of L2",
        1280 * KIB, (320 * KIB, 640 * KIB, 2560 * KIB),
        (
            Trial((784, 512, 10), 64, use="predict"), Trial((512, 512, 10), 64, use="predict"),
            Trial((1024, 512, 10), 64, use="predict"),
        ),
    ),
    "pack_always_rows": Tunable(
        "rows from which on weights are copied into panels however they lie",
        host().pack_rows, tuple({32, 128, NEVER} - {host().pack_rows}),
        (Trial((784, 128, 10), 128), Trial((100, 100, 10), 128)),
    ),
    "pack_delta_rows": Tunable(
        "rows of weights from which on deltas are copied into panels, however they lie",
        host().pack_deltas, tuple({128, 256, 512, NEVER} - {host().pack_deltas}),
        (Trial((128, 128, 10), 128), Trial((256, 256, 10), 256), Trial((784, 128, 10), 128)),
    ),
    "slice_rows": Tunable(
        "rows of weights whose gradient is formed before the optimiser is applied; for each such slice all "
        "deltas are read",
        256, (64, 128, 512),
        (
            Trial((512, 512, 10), 128, "adam"), Trial((256, 1024, 10), 128, "adam"),
            Trial((784, 128, 10), 64, "adam"),
        ),
    ),
    "large_bytes": Tunable(
        "weights from which on both operands of their gradient are packed: half of L2",
        1 * MIB, (512 * KIB, 2 * MIB, 4 * MIB),
        (
            Trial((784, 256, 10), 256), Trial((1024, 384, 10), 256),
            Trial((768, 704, 10), 128),
        ),
    ),
    "many_bytes": Tunable(
        "bytes of a batch's x and deltas from which on the same goes for small weights and long rows of x",
        2 * MIB, (1 * MIB, 4 * MIB),
        (Trial((784, 128, 10), 800), Trial((600, 100, 10), 512)),
    ),
    "near_block_bytes": Tunable(
        "rows of W that all sums of sparse rows go through before the next ones: most of them lie in L1",
        64 * KIB, (32 * KIB, 128 * KIB),
        (Trial((784, 128, 10), 128, terms=150), Trial((1000, 256, 10), 128, terms=200)),
    ),
    "far_block_bytes": Tunable(
        "the same of a W beyond L2, whose blocks lie in L2",
        1 * MIB, (256 * KIB, 512 * KIB, 2 * MIB),
        (Trial((20000, 100, 2), 200, terms=126), Trial((10000, 200, 2), 200, terms=100)),
    ),
    "far_bytes": Tunable(
        "weights from which on rows of W are prefetched for sums of sparse rows",
        4 * MIB, (1 * MIB, 2 * MIB, 16 * MIB),
        (Trial((5000, 100, 2), 200, terms=50), Trial((20000, 100, 2), 200, terms=40)),
    ),
    "predicted_rows": Tunable(
        "rows that a prediction takes through all layers together",
        256, (64, 128, 512),
        (Trial((64, 128, 10), 1024, use="predict"), Trial((784, 128, 10), 1024, use="predict")),
    ),
    "thread_us": Tunable(
        "microseconds of work that a thread must have to share a step",
        20, (5, 10, 40, 80),
        (
            Trial((32, 64, 10), 64, threads=2), Trial((64, 64, 10), 128, threads=2),
            Trial((64, 128, 10), 128, threads=2),
        ),
    ),
}  # fmt: skip
"""The constants, by name."""

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
    """Return whether a layer's weight gradient is formed by blocks; large, many : tuned constants"""
    x_row, row = n_in * itemsize, n_out * itemsize
    is_crowded = (x_row & (0 - x_row)) >= ROW_BYTES
    enough = (rows >= SOME_ROWS) | (is_crowded & (rows >= CROWDED_ROWS))
    is_large, is_long = n_in * row >= large, x_row > ROW_BYTES
    short = is_large & (rows >= MANY_ROWS)
    long = is_long & enough & (is_large | ((rows * (x_row + row) >= many) & (row >= WIDE_BYTES)))
    return short | long


# --- the values that hold now ------------------------------------------------------------------------------

SYMBOL = "fastmlp:tuned"
"""The symbol of the array of values in machine code; the loader defines the symbol."""

VALUES = np.array([constant.usual for constant in TABLE.values()], np.int64)
"""The current values, in the order of the table."""

INDICES = {name: index for index, name in enumerate(TABLE)}


def value(name: str) -> int:
    """Return the current value of a constant."""
    return int(VALUES[INDICES[name]])


def take(values: Mapping[str, int]) -> None:
    """Set constants by name, while no program runs; unknown names and values are ignored."""
    # Programs read the array without any order: threads of later programs start after this, or take Python's
    # lock.
    for name, value in values.items():
        if name in TABLE and value in TABLE[name].values:
            VALUES[INDICES[name]] = value


@contextlib.contextmanager
def forced(values: Mapping[str, int]) -> Iterator[None]:
    """Set constants within a `with` statement, to measure or to test."""
    before = VALUES.copy()
    take(values)
    try:
        yield
    finally:
        VALUES[:] = before


# --- loads in compiled code --------------------------------------------------------------------------------


def tuned(name: str) -> Any:
    """Return an intrinsic without arguments that reads a constant of the table."""
    from numba import types
    from numba.extending import intrinsic

    index = INDICES[name]

    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            return emit_tuned(builder, index)

        return types.intp(), emit

    return read


def emit_tuned(builder: ir.IRBuilder, index: int) -> ir.Value:
    """Write the load of the constant at an index."""
    module, number = builder.module, ir.IntType(64)
    if SYMBOL not in module.globals:
        ir.GlobalVariable(module, number, SYMBOL)  # the array's first element; the loader defines the symbol
    return builder.load(builder.gep(module.globals[SYMBOL], [number(index)], source_etype=number))
