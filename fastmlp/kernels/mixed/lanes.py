"""The sums of a block by `vdpbf16ps` of AVX512_BF16: one adds what two terms give to 16 sums.

Intel's Architecture Instruction Set Extensions Reference. As many multiply-adds a cycle as two ports for float32
have on Intel's processors, and twice as many as Zen 4 has.
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
"""Rows of a register tile: two vectors of sums for each, two of B, and a word of A in all lanes."""


def begin(build):
    """Nothing has to be described."""


end = begin


def sums(v, blocks, a_at, b_at, room):
    """As `tiles.sums`."""
    build = v.builder
    words, numbers = ir.VectorType(INT32, SIDE), ir.VectorType(BFloat(), TERMS)
    dot = declare(build.module, "llvm.x86.avx512bf16.dpbf16ps.512", v.type, [v.type, numbers, numbers])

    def terms(half, top, block, values):
        """The sums of rows top, .. of a half after a block of terms."""
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
