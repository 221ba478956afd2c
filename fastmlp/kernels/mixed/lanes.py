"""The sums of a block by `vdpbf16ps` of AVX512_BF16: one instruction adds two terms to each of 16 sums.

See Intel's Architecture Instruction Set Extensions Reference. It does as many multiply-adds in a cycle as Intel's two
ports for float32, and twice as many as Zen 4's one.
"""

# mypy: ignore-errors

from __future__ import annotations

from functools import partial

from llvmlite import ir

from fastmlp.kernels.codegen.types import INT32, declare
from fastmlp.kernels.codegen.vectors import broadcast, carried
from fastmlp.kernels.mixed.packing import VECTOR_BYTES, BFloat
from fastmlp.kernels.mixed.room import ROOM_ROW, SIDE, TERMS

HEIGHT = 8
"""Rows of a register tile. It has two vectors of sums a row, two vectors of B, and one word of A in all lanes."""


def begin(build):
    """Nothing: only AMX must be configured, see `tiles.begin`."""


end = begin


def sums(v, blocks, a_at, b_at, room):
    """`tiles.sums` by vectors."""
    build = v.builder
    words, numbers = ir.VectorType(INT32, SIDE), ir.VectorType(BFloat(), TERMS)
    dot = declare(build.module, "llvm.x86.avx512bf16.dpbf16ps.512", v.type, [v.type, numbers, numbers])

    def terms(half, top, block, values):
        """Return the sums of HEIGHT rows of a half, from row `top` on, after one more block of terms."""
        values, of_b = [*values], [b_at(side, block) for side in range(2)]
        of_a = v.shift(a_at(half, block), top * VECTOR_BYTES)
        for pair in range(TERMS // 2):
            places = [v.shift(tile, pair * VECTOR_BYTES) for tile in of_b]
            b = [build.bitcast(build.load(place, typ=words, align=4), numbers) for place in places]
            for m in range(HEIGHT):
                word = build.load(v.shift(of_a, m * VECTOR_BYTES + pair * 4), typ=INT32, align=4)
                a = build.bitcast(broadcast(build, word, SIDE), numbers)
                for side in range(2):
                    values[2 * m + side] = build.call(dot, [values[2 * m + side], a, b[side]])
        return values

    for half in range(2):
        for top in range(0, SIDE, HEIGHT):
            found = carried(build, 0, blocks, [v.zero] * (2 * HEIGHT), partial(terms, half, top))
            for number, value in enumerate(found):
                row = half * SIDE + top + number // 2
                v.store(value, v.shift(room, row * ROOM_ROW + number % 2 * VECTOR_BYTES))
