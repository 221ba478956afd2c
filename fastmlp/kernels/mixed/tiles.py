"""The sums of a block by `tdpbf16ps` on AMX's tiles: one instruction adds 32 terms to each of 16 x 16 sums.

See Intel's Architecture Instruction Set Extensions Reference, "Intel AMX Instruction Set Architecture". There are eight
tiles: four of sums, and two of each operand. LLVM's functions for these instructions take the numbers of tiles from
the caller.
"""

# mypy: ignore-errors

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from fastmlp.kernels.codegen.types import INT, POINTER, declare
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.mixed.packing import VECTOR_BYTES
from fastmlp.kernels.mixed.room import ROOM_ROW, SIDE

TILE = ir.IntType(8)


def call(build, name, *values):
    """Write an instruction."""
    kinds = [value.type for value in values]
    build.call(declare(build.module, f"llvm.x86.{name}", ir.VoidType(), kinds), values)


def begin(build):
    """Describe eight whole tiles: palette 1, 64 bytes to a row, 16 rows."""
    content = bytes([1]) + bytes(15) + bytes([VECTOR_BYTES, 0] * 8) + bytes(16) + bytes([SIDE] * 8) + bytes(8)
    place = cgutils.global_constant(build.module, "tiles", cgutils.make_bytearray(content))
    call(build, "ldtilecfg", build.bitcast(place, POINTER))


def end(build):
    """Release the tiles: while they are in use, the system saves 8 KiB more at every switch of threads."""
    call(build, "tilerelease")


def sums(v, blocks, a_at, b_at, room):
    """Write the BLOCK x BLOCK sums of a product to room.

    a_at, b_at : a_at(side, block) is the place of an operand's tile, for side 0 and 1 of the block; blocks : of terms
    """
    build, row = v.builder, INT(VECTOR_BYTES)
    for number in range(4):
        call(build, "tilezero", TILE(number))
    with counted(build, blocks) as block:
        for side in range(2):
            call(build, "tileloadd64", TILE(4 + side), a_at(side, block), row)
            call(build, "tileloadd64", TILE(6 + side), b_at(side, block), row)
        for number in range(4):
            call(build, "tdpbf16ps", TILE(number), TILE(4 + number // 2), TILE(6 + number % 2))
    for number in range(4):
        place = v.shift(room, number // 2 * SIDE * ROOM_ROW + number % 2 * VECTOR_BYTES)
        call(build, "tilestored64", TILE(number), place, INT(ROOM_ROW))
