"""Products of bfloat16 numbers in packed tiles, with sums in float32.

A tile is 1 KiB, in the layout of AMX, which serves vectors as well: 16 rows of 16 words. A word has two numbers that
follow one another in k. In a tile of A[m, k], row m has the words of 32 terms; in a tile of B[k, n], row k / 2 has the
words of 16 columns. Each call packs both operands as a whole: at 128 x 784 x 128 packing takes as long as the product,
and both together take a third of the time of the product in float32.

Every sum takes its terms in ascending order, however rows are cut into slices, so the number of threads changes no bit.
The two instructions round differently, so each has another backend.
"""

# mypy: ignore-errors

from functools import partial

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.formulas.numbers import at_least
from fastmlp.kernels.codegen.symbols import INT, INT32, POINTER, Symbol, declare, jittable
from fastmlp.kernels.codegen.vectors import (
    NOTHING,
    Vectors,
    broadcast,
    carried,
    counted,
    exchanged,
    of_arrays,
    shifted,
    shuffle,
    smaller,
)
from fastmlp.kernels.gemm import dispatch
from fastmlp.kernels.gemm.microkernel import DECAY, GATE, RELU, STORE, ends_of
from fastmlp.kernels.gemm.packing import call
from fastmlp.kernels.jit.lazy import emitted
from fastmlp.kernels.mixed.tiles import BLOCK, ROOM_ROW, SIDE, TERMS, TILE_BYTES, whole
from fastmlp.model.state import takes_bfloat16

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
    """Two vectors of float32 as one vector of words, of two neighbours, or where `interleaved` of a number of each.

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
    """
    source, order, target, rows, columns, row_bytes, outer = arguments
    v = Vectors(build, types.float32, VECTOR_BYTES)
    depth, across = (rows, columns) if code & BY_PAIRS else (columns, rows)
    blocks = (depth + (TERMS - 1)) // TERMS

    def row_at(i):
        """The address of row i, where i is below `rows`."""
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


ENDS = {"plain": STORE, "biased": STORE, "rectified": RELU, "gated": GATE, "updated": DECAY}
"""The ends of sums before a store, with those of `gemm.microkernel`; `gated` reads the gate at `start`."""

CACHED_TILES = 1 << 10
"""The most tiles of A in a block of rows, half of L2, which holds them while all of B is read. Without such blocks,
1024 x 2048 x 2048 took 1.5 times as long."""


def multiplying(name, sums_of_block, begin=lambda build: None, done=lambda build: None):
    """Return the lazy function of C[m, n] = finish(start + sum_k A[m, k] * B[k, n]) of packed operands; its code is a number in ENDS.

    sums_of_block : writes the sums of a block; begin, done : write code before and after all blocks
    """

    def emit(build, arguments, kinds, code):
        a, b, c, start, room, rows, columns, blocks, c_row, start_row, rate, l2 = arguments
        v = Vectors(build, types.float32, VECTOR_BYTES)
        name, finish = [*ENDS.items()][code]
        end = ends_of(v, "strided", rate, l2)[finish]

        def address_of(packed, first, side, block):
            return v.shift(packed, ((first // SIDE + side) * blocks + block) * TILE_BYTES)

        begin(build)
        together = whole(at_least(blocks.number(CACHED_TILES) // blocks, 1), 2) * SIDE
        with (
            counted(build, rows, together) as top,
            counted(build, columns, BLOCK) as right,
            counted(build, smaller(rows - top, together), BLOCK) as below,
        ):
            down = top + below
            sums_of_block(v, blocks, partial(address_of, a, down), partial(address_of, b, right), room)
            with counted(build, smaller(rows - down, BLOCK)) as m:
                for side in range(2):
                    column = right + side * SIDE
                    mask, along = v.first(columns - column), column * v.itemsize
                    total = v.load(v.shift(room, m * ROOM_ROW + side * VECTOR_BYTES))
                    at, old_at = (
                        v.shift(v.shift(address, (down + m) * row), along)
                        for address, row in ((c, c_row), (start, start_row))
                    )
                    if name in ("biased", "rectified"):
                        total = build.fadd(total, v.load(old_at, mask))
                    v.store(end(total, at, old_at, mask), at, mask)
        done(build)

    return emitted(name, emit)


# --- by `tdpbf16ps` on AMX's tiles: one instruction adds 32 terms to each of 16 x 16 sums ------------------

# See Intel's Architecture Instruction Set Extensions Reference, "Intel AMX Instruction Set Architecture". There are
# eight tiles: four of sums, and two of each operand. LLVM's functions for these instructions take the numbers of tiles
# from the caller.

TILE = ir.IntType(8)


def tile_call(build, name, *values):
    """Write a call of the x86 instruction `name`, as LLVM names it."""
    kinds = [value.type for value in values]
    build.call(declare(build.module, f"llvm.x86.{name}", ir.VoidType(), kinds), values)


def begin_tiles(build):
    """Describe eight whole tiles: palette 1, 64 bytes to a row, 16 rows."""
    content = bytes([1]) + bytes(15) + bytes([VECTOR_BYTES, 0] * 8) + bytes(16) + bytes([SIDE] * 8) + bytes(8)
    address = cgutils.global_constant(build.module, "tiles", cgutils.make_bytearray(content))
    tile_call(build, "ldtilecfg", build.bitcast(address, POINTER))


def end_tiles(build):
    """Release the tiles: while they are in use, the system saves 8 KiB more at every switch of threads."""
    tile_call(build, "tilerelease")


def sums_of_tiles(v, blocks, a_at, b_at, room):
    """Write the BLOCK x BLOCK sums of a product to room; a_at(side, block), b_at : addresses of an operand's tiles"""
    build, row = v.builder, INT(VECTOR_BYTES)
    for number in range(4):
        tile_call(build, "tilezero", TILE(number))
    with counted(build, blocks) as block:
        for side in range(2):
            tile_call(build, "tileloadd64", TILE(4 + side), a_at(side, block), row)
            tile_call(build, "tileloadd64", TILE(6 + side), b_at(side, block), row)
        for number in range(4):
            tile_call(build, "tdpbf16ps", TILE(number), TILE(4 + number // 2), TILE(6 + number % 2))
    for number in range(4):
        address = v.shift(room, number // 2 * SIDE * ROOM_ROW + number % 2 * VECTOR_BYTES)
        tile_call(build, "tilestored64", TILE(number), address, INT(ROOM_ROW))


# --- by `vdpbf16ps` of AVX512_BF16: one instruction adds two terms to each of 16 sums ----------------------

# See the same reference. It does as many multiply-adds in a cycle as Intel's two ports for float32, and twice as many as
# Zen 4's one.

HEIGHT = 8
"""Rows of a register tile with two vectors of sums a row, two vectors of B, and a word of A in all lanes."""


def sums_of_vectors(v, blocks, a_at, b_at, room):
    """`sums_of_tiles` by vectors."""
    build = v.builder
    words, numbers = ir.VectorType(INT32, SIDE), ir.VectorType(BFloat(), TERMS)
    dot = declare(build.module, "llvm.x86.avx512bf16.dpbf16ps.512", v.type, [v.type, numbers, numbers])

    def terms(half, top, block, values):
        """Return the sums of HEIGHT rows of a half, from row `top` on, after another block of terms."""
        values, of_b = [*values], [b_at(side, block) for side in range(2)]
        of_a = v.shift(a_at(half, block), top * VECTOR_BYTES)
        for pair in range(TERMS // 2):
            addresses = [v.shift(tile, pair * VECTOR_BYTES) for tile in of_b]
            b = [build.bitcast(build.load(address, typ=words, align=4), numbers) for address in addresses]
            for m in range(HEIGHT):
                word = build.load(v.shift(of_a, m * VECTOR_BYTES + pair * 4), typ=INT32, align=4)
                a = build.bitcast(broadcast(build, word, SIDE), numbers)
                for side in range(2):
                    values[2 * m + side] = build.call(dot, [values[2 * m + side], a, b[side]])
        return values

    for half in range(2):
        for top in range(0, SIDE, HEIGHT):
            sums = carried(build, 0, blocks, [v.zero] * (2 * HEIGHT), partial(terms, half, top))
            for number, value in enumerate(sums):
                row = half * SIDE + top + number // 2
                v.store(value, v.shift(room, row * ROOM_ROW + number % 2 * VECTOR_BYTES))


BY_TILES = multiplying("multiply_tiles", sums_of_tiles, begin_tiles, end_tiles)
BY_LANES = multiplying("multiply_lanes", sums_of_vectors)


# --- the three products of a layer: of bfloat16 operands where the layer is large enough, else as `fused`

takes = jittable(takes_bfloat16)


def taken(pointers, numbers, singles=0):
    """The types of a lazy function's arguments: its code, pointers, whole numbers, and numbers of float32."""
    return types.intp, *(types.voidptr,) * pointers, *(types.intp,) * numbers, *(types.float32,) * singles


NO_ROWS, NO_STEP = INT(0), ir.Constant(ir.FloatType(), 0.0)


def multiply(
    by, build, a, b, c, scratch, rows, columns, depth, end, *,
    start=NOTHING, start_row=NO_ROWS, rate=NO_STEP, l2=NO_STEP,
):  # fmt: skip
    """Write a product C (rows, columns): pack A and B, then multiply by a lazy function of `multiplying`.

    a, b : tuples of the packing's code, the address, the order of rows, rows, columns, and the bytes between rows
    c : the address, and the bytes between rows; end : a number in ENDS
    """
    blocks, addresses = (depth + (TERMS - 1)) // TERMS, []
    address = shifted(build, scratch.data, INT(BLOCK * ROOM_ROW))
    for (how, source, order, *sizes), count in ((a, rows), (b, columns)):
        outer = whole(count, BLOCK) // SIDE
        call(build, PACK, WAYS, taken(3, 4), [how, source, order, address, *sizes, outer])
        addresses.append(address)
        address = shifted(build, address, (outer * blocks * TILE_BYTES).value)
    numbers = rows, columns, blocks, c[1], start_row, rate, l2
    call(build, by, len(ENDS), taken(5, 5, 2), [end, *addresses, c[0], start, scratch.data, *numbers])


def ordered(x, order, first):
    """The first three of `multiply`'s `a` for the rows of x[order] from `first` on; of x where the order is empty."""
    build = x.builder
    there = (order.columns > 0).value
    address = build.select(there, x.data, x.at(first))
    return way(build, BY_ROWS, order), address, order.at(0, first)


def way(build, how, order):
    """The code of a packing: `how`, and ORDERED unless the order is empty."""
    return build.select((order.columns > 0).value, INT(how | ORDERED), INT(how))


def chosen(build, condition, a, b):
    """Return the number in ENDS of a or b, by a condition."""
    return build.select(condition.value, *(INT([*ENDS].index(name)) for name in (a, b)))


def slots_of(by):
    """Return the slots of a variant that multiplies by `by`, a lazy function of `multiplying`."""

    @of_arrays
    def affine(x, order, w, b, out, first, rows, relu, scratch):
        build = x.builder
        multiply(
            by, build,
            (*ordered(x, order, first), rows, w.rows, x.row),
            (INT(BY_PAIRS), w.data, NOTHING, w.rows, w.columns, w.row),
            (out.at(first), out.row), scratch, rows, w.columns, w.rows,
            chosen(build, relu, "rectified", "biased"), start=b.data,
        )  # fmt: skip

    @of_arrays
    def input_gradient(delta, w, gate, out, first, rows, gated, scratch):
        build = delta.builder
        multiply(
            by, build,
            (INT(BY_ROWS), delta.at(first), NOTHING, rows, delta.columns, delta.row),
            (INT(BY_ROWS | TURNED), w.data, NOTHING, w.rows, w.columns, w.row),
            (out.at(first), out.row), scratch, rows, w.rows, w.columns,
            chosen(build, gated, "gated", "plain"), start=gate.at(first), start_row=gate.row,
        )  # fmt: skip

    @of_arrays
    def weight_gradient(x, order, delta, out, part, update, scratch):
        (first, start, stop), (apply, rate, l2) = part, update
        build, rows = x.builder, stop - start
        multiply(
            by, build,
            (way(build, BY_PAIRS | TURNED, order), x.at(0, start), order.data, delta.rows, rows, x.row),
            (INT(BY_PAIRS), delta.data, NOTHING, delta.rows, delta.columns, delta.row),
            (out.at(start - first), out.row), scratch, rows, delta.columns, delta.rows,
            chosen(build, apply, "updated", "plain"), rate=rate.value, l2=l2.value,
        )  # fmt: skip

    def affine_rows(x, order, w, b, out, start, stop, relu, scratch):
        """`dispatch.affine_rows` with rounded operands."""
        if takes(w.shape[0], w.shape[1]):
            affine(x, order, w, b, out, start, stop - start, relu, scratch)
        else:
            dispatch.affine_rows(x, order, w, b, out, start, stop, relu, scratch)

    def input_gradient_rows(delta, w, hidden, out, start, stop, relu, scratch):
        """`dispatch.input_gradient_rows` with rounded operands."""
        if takes(w.shape[0], w.shape[1]):
            input_gradient(delta, w, hidden, out, start, stop - start, relu, scratch)
        else:
            dispatch.input_gradient_rows(delta, w, hidden, out, start, stop, relu, scratch)

    def weight_gradient_rows(x, order, delta, out, part, update, sums, scratch):
        """`dispatch.weight_gradient_in_place` with rounded operands."""
        if takes(x.shape[1], delta.shape[1]):
            weight_gradient(x, order, delta, out, part, update, scratch)
        else:
            dispatch.weight_gradient_in_place(x, order, delta, out, part, update, sums, scratch)

    return {
        function.__name__: function for function in (affine_rows, input_gradient_rows, weight_gradient_rows)
    }
