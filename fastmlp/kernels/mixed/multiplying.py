"""Matrix products of packed operands (`packing`), with sums in float32, for either instruction.

Every sum takes its terms in ascending order, however rows are cut into slices, so the number of threads changes no
bit. The two instructions round differently, so each has a backend of its own.
"""

# mypy: ignore-errors

from __future__ import annotations

from functools import partial

from numba import types

from fastmlp.formulas.numbers import at_least
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import Vectors, counted, smaller
from fastmlp.kernels.jit.lazy import emitted
from fastmlp.kernels.mixed import lanes, tiles
from fastmlp.kernels.mixed.packing import VECTOR_BYTES
from fastmlp.kernels.mixed.room import BLOCK, ROOM_ROW, SIDE, TILE_BYTES, whole
from fastmlp.kernels.program.arithmetic import sgd_step, with_decay

ENDS = "plain", "biased", "rectified", "gated", "updated"
"""What is done to sums before they are stored, as in `gemm.microkernel`; `gated` reads the gate at `start`."""

CACHED_TILES = 1 << 10
"""The most tiles of A in a block of rows, half of L2: they stay there while all of B is read. Without such blocks,
1024 x 2048 x 2048 took 1.5 times as long."""


def multiplying(name, by):
    """Return the piece that writes C[m, n] = finish(start + sum_k A[m, k] * B[k, n]) of packed operands.

    Its code is a place in ENDS. Its arguments are the tiles of A and B, C, start or nothing, a buffer for BLOCK x BLOCK
    sums; then rows and columns of C, the number of blocks of terms, bytes from row to row of C and of start; then rate
    and l2.

    by : the module that forms the sums of a block, `tiles` or `lanes`
    """

    def emit(build, arguments, kinds, code):
        a, b, c, start, room, *numbers = arguments
        rows, columns, blocks, c_row, start_row = (Symbol(build, size) for size in numbers[:5])
        rate, l2 = (Symbol(build, value) for value in numbers[5:])
        v = Vectors(build, types.float32, VECTOR_BYTES)

        def place_of(packed, first, side, block):
            return v.shift(packed, ((first // SIDE + side) * blocks + block) * TILE_BYTES)

        by.begin(build)
        together = whole(at_least(blocks.number(CACHED_TILES) // blocks, 1), 2) * SIDE
        with (
            counted(build, rows, together) as top,
            counted(build, columns, BLOCK) as right,
            counted(build, smaller(rows - top, together), BLOCK) as below,
        ):
            down = top + below
            by.sums(v, blocks, partial(place_of, a, down), partial(place_of, b, right), room)
            with counted(build, smaller(rows - down, BLOCK)) as m:
                for side in range(2):
                    column = right + side * SIDE
                    mask, along = v.first(columns - column), column * v.itemsize
                    total = Symbol(build, v.load(v.shift(room, m * ROOM_ROW + side * VECTOR_BYTES)))
                    at, old_at = (
                        v.shift(v.shift(place, (down + m) * row), along)
                        for place, row in ((c, c_row), (start, start_row))
                    )
                    read = lambda place, mask=mask: Symbol(build, v.load(place, mask))
                    end = finished(ENDS[code], total, partial(read, old_at), partial(read, at), rate, l2)
                    v.store(end.value, at, mask)
        by.end(build)

    return emitted(name, emit)


def finished(end, total, start, old, rate, l2):
    """Return the vector to store for a vector of sums. start() and old() read `start` and C at its place."""
    zero = total.number(0.0)
    match end:
        case "plain":
            return total
        case "biased":
            return total + start()
        case "rectified":
            biased = total + start()
            return biased.choose(biased < 0.0, zero, biased)  # NaN stays
        case "gated":
            return total.choose(start() > 0.0, total, zero)
        case "updated":
            rate, l2 = total.number(rate), total.number(l2)
            return sgd_step(old(), rate, with_decay(total, l2, old()))
    raise AssertionError(end)


BY_TILES, BY_LANES = multiplying("multiply_tiles", tiles), multiplying("multiply_lanes", lanes)
