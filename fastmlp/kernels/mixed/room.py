"""The sizes of packed operands. Separate because buffers are allocated without loading a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastmlp.model.state import takes_bfloat16

SIDE, TERMS, TILE_BYTES = 16, 32, 1024
"""Rows of a tile, and columns of a tile of sums; terms of the product of two tiles; bytes of a tile."""

BLOCK = 2 * SIDE
"""Rows and columns of a block of sums, two tiles by two: with two tiles of each operand these are AMX's eight."""

ROOM_ROW = 4 * BLOCK
"""Bytes of a row of a block."""

SLICE_ROWS = 256
"""Rows of a slice of the gradient: many, because all deltas of the batch are packed again for each slice."""


def whole(count: Any, unit: int) -> Any:
    """Return a count rounded up to a multiple of a unit."""
    return (count + (unit - 1)) // unit * unit


def buffers(products: Sequence[tuple[int, int]], rows: int) -> dict[str, int]:
    """Return the lengths of buffers, in numbers of float32, that the products of a network need; see `Variant`.

    scratch : the sums of a block, and both operands of the largest product, with two numbers in each float32
    """
    scratch = slices = 0
    for n_in, n_out in products:
        if takes_bfloat16(n_in, n_out):
            shapes = (rows, n_in), (n_in, n_out), (rows, n_out)
            operands = sorted(whole(a, BLOCK) * whole(b, BLOCK) // 2 for a, b in shapes)
            scratch = max(scratch, sum(operands[1:]) + BLOCK * BLOCK)
            slices = max(slices, SLICE_ROWS * n_out)
    return {"scratch": scratch, "slices": slices}
