"""Operands rounded to bfloat16 and packed into tiles, in the layout of AMX, which serves vectors as well.

A tile is 1 KiB: 16 rows of 16 words. A word has two numbers that follow one another in k. In a tile of A[m, k], row m
has the words of 32 terms; in a tile of B[k, n], row k / 2 has the words of 16 columns.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.symbols import INT, INT32, Symbol, declare
from fastmlp.kernels.codegen.vectors import Vectors, counted, exchanged, shuffle, smaller
from fastmlp.kernels.jit.lazy import emitted
from fastmlp.kernels.mixed.room import SIDE, TERMS, TILE_BYTES

VECTOR_BYTES = 64

BY_ROWS, BY_PAIRS, TURNED, ORDERED, WAYS = 0, 1, 2, 4, 8
"""How operands are packed: BY_ROWS pairs two neighbours of a row, BY_PAIRS two numbers of a column; TURNED transposes
each tile afterwards; ORDERED reads rows by an order. A code is a sum of these, below WAYS."""


class BFloat(ir.types.Type):
    """LLVM's type of a bfloat16 number, which llvmlite lacks."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


def words_of(build, first, second, interleaved):
    """Two vectors of float32 as one vector of words.

    A word has two neighbours of `first`, then of `second`; where `interleaved`, it has a number of each.
    `vcvtne2ps2bf16` rounds to nearest, ties to even, and takes subnormal numbers for 0, as `tdpbf16ps` does.
    """
    numbers, single = ir.VectorType(BFloat(), TERMS), first.type
    convert = declare(build.module, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", numbers, [single, single])
    halves = build.bitcast(build.call(convert, [second, first]), ir.VectorType(ir.IntType(16), TERMS))
    if interleaved:
        halves = shuffle(build, halves, halves, [lane + side for lane in range(SIDE) for side in (0, SIDE)])
    return build.bitcast(halves, ir.VectorType(INT32, SIDE))


def emit_pack(build, arguments, kinds, code):
    """Write the packing of a matrix (rows, columns) into tiles[outer, k / TERMS]; elements beyond its edges are 0.

    BY_ROWS, `outer` counts blocks of 16 rows and k columns; BY_PAIRS, `outer` counts blocks of 16 columns and k rows.

    arguments : the matrix, the order of its rows, the tiles, rows, columns, bytes from row to row, outer blocks
    """
    source, order, target, *sizes = arguments
    rows, columns, row_bytes, outer = (Symbol(build, size) for size in sizes)
    v = Vectors(build, types.float32, VECTOR_BYTES)
    depth, across = (rows, columns) if code & BY_PAIRS else (columns, rows)
    blocks = (depth + (TERMS - 1)) // TERMS

    def row_at(i):
        """The place of row i, where i is below `rows`."""
        if code & ORDERED:
            i = Symbol(build, build.load(build.gep(order, [i.value], source_etype=INT), typ=INT))
        return v.shift(source, i * row_bytes)

    def within(i, column):
        """16 numbers of row i from `column` on, all within the matrix."""
        return v.load(v.shift(row_at(i), column * v.itemsize))

    def beyond(i, column):
        """The same at the edges: 0 for numbers beyond the matrix."""
        there = Symbol(build, build.select((i < rows).value, (columns - column).value, INT(0)))
        return v.load(v.shift(row_at(smaller(i, rows - 1)), column * v.itemsize), v.first(there))

    def write(o, block, numbers):
        words = []
        for m in range(SIDE):
            if code & BY_PAIRS:
                column, k = o * SIDE, block * TERMS + 2 * m
                words.append(words_of(build, numbers(k, column), numbers(k + 1, column), True))
            else:
                i, column = o * SIDE + m, block * TERMS
                words.append(words_of(build, numbers(i, column), numbers(i, column + SIDE), False))
        if code & TURNED:
            words = exchanged(build, words, 4, SIDE // 2)
        tile = v.shift(target, (o * blocks + block) * TILE_BYTES)
        for m, word in enumerate(words):
            build.store(word, v.shift(tile, m * VECTOR_BYTES), align=4)

    def write_at(o, block):
        inside = (o < across // SIDE) & (block < depth // TERMS)
        with build.if_else(inside.value) as (is_whole, is_edge):
            with is_whole:
                write(o, block, within)
            with is_edge:
                write(o, block, beyond)

    # The inner loop runs along the rows of the matrix, which the hardware prefetches.
    if code & BY_PAIRS:
        with counted(build, blocks) as block, counted(build, outer) as o:
            write_at(o, block)
    else:
        with counted(build, outer) as o, counted(build, blocks) as block:
            write_at(o, block)


PACK = emitted("pack_tiles", emit_pack)
