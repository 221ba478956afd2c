"""Matrix products of register tiles, of any size: C[m, n] = finish(start + sum_k A[m, k] * B[k, n]).

Columns are cut into panels, as wide as a tile, and rows into stacks of tiles. The text is LLVM instructions: jitted
loops in each of a layer's products took a fifth of the compilation of a first training.

`emit_product` serves all sizes: a table has the cheapest tiles, which are called by shape, and edges are masked.
`write_product` writes the tiles into the program of one small network, where calls would be too slow: 5-20-10-2 has
eight products in a step of 0.7 us.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.machine import MOST_HEIGHT
from fastmlp.kernels.codegen.symbols import FLOATS, INT, ITEMSIZE, Symbol
from fastmlp.kernels.codegen.vectors import NOTHING, ascending, counted, shifted, smaller
from fastmlp.kernels.gemm.microkernel import (
    ALL_TILES,
    MACHINE,
    PANEL_LAYOUTS,
    STORE,
    VECTORS,
    Stack,
    emit_tiles,
    shapes,
    stored,
    taken_by,
)
from fastmlp.kernels.gemm.packing import PACK, TRANSPOSE, call
from fastmlp.kernels.gemm.packing import taken_by as copied
from fastmlp.kernels.jit.lazy import emitted

IN_PLACE, PACKED, TRANSPOSED = range(3)
"""How tiles read B: in place; from a copy of each panel; or B is given as its transpose, and copied transposed."""

MOST_ACROSS = 4
"""Vectors across the tiles of `write_product`."""


class Operands(NamedTuple):
    """The operands of a product: addresses in memory, and numbers (LLVM values, `Symbol`s or integers). Rows are in bytes.

    a, a_row, a_step, order, known : as `microkernel.Stack`; kind : an index in `microkernel.PANEL_LAYOUTS`
    b : B, or its transpose; panel : scratch for a panel of B, as deep as B and as wide as a tile
    start, start_row : nothing for 0, or where the chain of (m, n) starts (a bias, or c to resume); for GATE what gates
    rows, columns, depth : the rows of A, the columns of B, the terms of each sum
    finish : STORE, RELU, GATE, or UPDATE, which alone reads rate and l2; packing : IN_PLACE, PACKED or TRANSPOSED
    across : the most vectors across a tile; beyond VECTORS only for tiles of a single row
    """

    a: Any
    b: Any
    c: Any
    rows: Any
    columns: Any
    depth: Any
    a_row: Any
    a_step: Any
    b_row: Any
    c_row: Any
    kind: Any = 0
    rate: Any = 0.0
    l2: Any = 0.0
    order: Any = NOTHING
    known: Any = 0
    panel: Any = NOTHING
    start: Any = NOTHING
    start_row: Any = 0
    finish: Any = STORE
    packing: Any = IN_PLACE
    across: Any = VECTORS


def cuts(machine, kind):
    """How to cut `left` rows into tiles: table[vectors, left] is (rows of the next tile, how many such tiles).

    The cut has the least cost: of a tile the time for one k, of FMAs or loads (two a cycle), and half a cycle for begin and
    end. At left = 0 stands the tallest tile, which comes first where there are more rows than the table has.
    """
    most = 2 * max(max(heights) for heights in machine.shapes)
    table = np.zeros((machine.row + 1, most + 1, 2), np.int64)
    for j, heights in enumerate(shapes(machine, kind), 1):
        cost = [0.0]
        for left in range(1, most + 1):
            ports, latency = machine.fma_ports, machine.fma_latency
            round_of_k = {m: max(m * j / ports, (m + j) / 2, latency) for m in heights if m <= left}
            least, height = min((c + 0.5 + cost[left - m], -m) for m, c in round_of_k.items())
            cost.append(least)
            rows, tiles = table[j, left + height]
            table[j, left] = -height, 1 + tiles * (rows == -height)
        table[j, 0] = max(heights), 0
    return table


CUTS = np.stack([cuts(MACHINE, kind) for kind in PANEL_LAYOUTS])


def next_stack(build, kind, vectors, left):
    """Write the choice of the next tiles for `left` rows: their number, the rows of each, whether they are the tallest."""
    name = f"cuts_{MACHINE.vector_bytes}"
    if name not in build.module.globals:
        numbers = ir.Constant(ir.ArrayType(INT, CUTS.size), CUTS.ravel().tolist())
        cgutils.global_constant(build.module, name, numbers)
    table = build.module.globals[name]
    read = lambda at: Symbol(build, build.load(build.gep(table, [INT(0), at.value])))
    _, across, width, _ = CUTS.shape
    row = (kind * across + vectors) * (2 * width)
    tallest, beyond = read(row), left - (width - 1)
    tall = cgutils.alloca_once_value(build, INT(0))
    with build.if_then((beyond > 0).value):
        build.store(((beyond + tallest - 1) // tallest).value, tall)
    tall = Symbol(build, build.load(tall))
    index = row + (left - tall * tallest) * 2
    height, joined = read(index), read(index + 1)
    joins = tall.equals(0) | height.equals(tallest)
    count, rows = tall + where(joins, joined, 0), where(tall.equals(0), height, tallest)
    return count, rows, rows.equals(tallest)


def taken_by_product(dtype):
    """The types of `Operands`."""
    pointers, scalars = ("a", "b", "c", "order", "panel", "start"), ("rate", "l2")
    kind = lambda name: types.voidptr if name in pointers else dtype if name in scalars else types.intp
    return tuple(map(kind, Operands._fields))


def next_vectors(left: int, across: int, lanes: int):
    """Return the vectors across the next panel: the most, or two where a panel of a single vector would remain."""
    vectors = (left + lanes - 1) // lanes
    usual = where(vectors.equals(VECTORS + 1), 2, at_most(vectors, VECTORS))
    return where(across > VECTORS, at_most(vectors, across), usual)


def emit_product(build, arguments, kinds, code):
    """Write the function of a product."""
    o = Operands(*arguments)
    dtype = kinds[Operands._fields.index("rate")]
    itemsize, lanes = ITEMSIZE[dtype], MACHINE.vector_bytes // ITEMSIZE[dtype]
    has_start = Symbol(build, build.icmp_unsigned("!=", o.start, NOTHING))
    start_row = where(has_start, o.start_row, 0)
    # The distances between two rows in A and in the order.
    by_rows = o.kind.equals(PANEL_LAYOUTS.index("rows"))
    # By an order the next tile's rows are the order's next numbers; the pointer to A stays.
    a_down, order_down = where(by_rows, 0, o.a_row), where(by_rows, o.a_row.number(8), 0)
    address = lambda pointer, offset: shifted(build, pointer, offset.value)

    with ascending(build, o.columns) as (left, to_the_right):
        rest, along = o.columns - left, left * itemsize
        vectors = next_vectors(rest, o.across, lanes)
        columns, panel_row = smaller(vectors * lanes, rest), vectors * MACHINE.vector_bytes
        for packing, copy, source, shape in (
            (PACKED, PACK, address(o.b, along), (columns, o.depth)),
            (TRANSPOSED, TRANSPOSE, address(o.b, left * o.b_row), (o.depth, columns)),
        ):
            with build.if_then(o.packing.equals(packing).value):
                call(build, copy, 0, copied(dtype), [source, o.panel, *shape, o.b_row, panel_row, o.rate])
        in_place = o.packing.equals(IN_PLACE)
        b = build.select(in_place.value, address(o.b, along), o.panel)
        start = build.select(has_start.value, address(o.start, along), NOTHING)
        # Only the first panel prefetches rows of A: the next panels find them in the cache.
        c, known = address(o.c, along), where(left.equals(0), o.known, 0)
        whole = columns.equals(vectors * lanes)

        with ascending(build, o.rows) as (done, down):
            count, height, tallest = next_stack(build, o.kind, vectors, o.rows - done)
            unmasked = build.zext((whole & tallest if MACHINE.masks else whole).value, INT)
            stack = Stack(
                address(o.a, a_down * done), address(o.order, order_down * done), b, address(start, start_row * done),
                address(c, o.c_row * done), count, columns, o.depth, known - done, o.a_row, o.a_step,
                where(in_place, o.b_row, panel_row), start_row, o.c_row, o.finish, o.rate, o.l2,
            )  # fmt: skip
            for number, tiles in enumerate(ALL_TILES.values()):
                with build.if_then(o.kind.equals(number).value):
                    shape = (height * tiles.axes[1] + vectors) * tiles.axes[2] + Symbol(build, unmasked)
                    taken = types.intp, *taken_by(dtype)
                    call(build, tiles.name, math.prod(tiles.axes), taken, [shape, *stack])
            down(count * height)
        to_the_right(columns)


PRODUCT = emitted(f"product_{MACHINE.vector_bytes}", emit_product)


def multiply(builder, kind, dtype, **operands):
    """Write a call of the product with A of a kind. operands : `Operands`; rate and l2 are 0 unless given."""
    kinds = {float: FLOATS[dtype], int: INT}
    o = Operands(**{"kind": PANEL_LAYOUTS.index(kind), **operands})
    values = [ir.Constant(kinds[type(value)], value) if type(value) in kinds else value for value in o]
    call(builder, PRODUCT, 0, taken_by_product(dtype), values)


def splits(total, most):
    """Return nearly equal parts of `total`, each at most `most`: 7 vectors are 4 + 3, not 4 + 2 + 1."""
    parts = -(-total // most)
    return [total // parts + (p < total % parts) for p in range(parts)]


def write_product(v, o, end=stored, a_sums=None, spreads=False):
    """Write a product into the program of a small network. Rows or columns, or both, are integers.

    A `Symbol` is rounded up to whole tiles, for which the memory must have room; TRANSPOSED copies nothing here.
    """

    def panel(left, vectors, mask=None, a_sums=None):
        along = left * v.itemsize
        turned = o.packing == TRANSPOSED
        b, c = v.shift(o.b, left * o.b_row if turned else along), v.shift(o.c, along)
        start = o.start if spreads else v.shift(o.start, along)
        most = min(MOST_HEIGHT, MACHINE.accumulators // (vectors + (a_sums is not None)))

        def stack(first, count, height):
            operands = Stack(
                v.shift(o.a, o.a_row * first), NOTHING, b, v.shift(start, o.start_row * first),
                v.shift(c, o.c_row * first), count, 0, o.depth, 0, o.a_row, o.a_step, o.b_row, o.start_row,
                o.c_row, STORE, 0, 0,
            )  # fmt: skip
            emit_tiles(
                v, "strided", height, vectors, operands, o.start is not NOTHING, {STORE: end}, mask, fetches=False,
                a_sums=a_sums and v.shift(a_sums, first * v.itemsize), spreads=spreads, turned=turned,
                keeps_order=False,
            )  # fmt: skip

        if not isinstance(o.rows, int):
            stack(0, (o.rows + (most - 1)) // most, most)
            return
        height = splits(o.rows, most)[0]
        rest = o.rows % height
        stack(0, o.rows // height, height)
        if rest:
            stack(o.rows - rest, 1, rest)

    if not isinstance(o.columns, int):
        wide, many = o.across * v.lanes, 0
        if o.across > 1:
            # The last loop has one vector at most.
            many = (o.columns + (wide - v.lanes - 1)) // wide * wide
            with counted(v.builder, many, wide) as left:
                panel(left, o.across)
        with counted(v.builder, o.columns - many, v.lanes) as left:
            panel(left + many, 1)
        return
    left = 0
    for vectors in splits(-(-o.columns // v.lanes), MOST_ACROSS):
        right = left + vectors * v.lanes
        mask = v.first(o.columns - right + v.lanes) if right > o.columns else None
        panel(left, vectors, mask, a_sums if left == 0 else None)
        left = right
