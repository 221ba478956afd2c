"""The sizes of packed operands: known to what allocates buffers, which loads no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fastmlp.model.precision import takes_bfloat16

SIDE, TERMS, TILE_BYTES = 16, 32, 1024
"""Rows of a tile, and columns of a tile of sums; terms of a product of two; bytes."""

BLOCK = 2 * SIDE
"""Rows and columns of the sums that are held at once: two tiles by two, and two of either operand, are eight."""

ROOM_ROW = 4 * BLOCK
"""Bytes of a row of these."""

SLICE_ROWS = 256
"""Rows of a gradient that are formed together: all deltas of the batch are packed for each slice."""


def whole(count: Any, unit: int) -> Any:
    """Return the least multiple of a unit that is not below a count."""
    return (count + (unit - 1)) // unit * unit


def buffers(sizes: Sequence[int], rows: int) -> dict[str, int]:
    """Return the numbers of float32 that the products of a network need; see `variant.Choice`.

    scratch : the sums of a block, and both operands of the largest product, two numbers to a float32
    """
    scratch = slices = 0
    for n_in, n_out in pairwise(sizes):
        if takes_bfloat16(n_in, n_out):
            shapes = (rows, n_in), (n_in, n_out), (rows, n_out)
            operands = sorted(whole(a, BLOCK) * whole(b, BLOCK) // 2 for a, b in shapes)
            scratch = max(scratch, sum(operands[1:]) + BLOCK * BLOCK)
            slices = max(slices, SLICE_ROWS * n_out)
    return {"scratch": scratch, "slices": slices}
