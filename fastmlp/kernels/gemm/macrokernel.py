"""Matrix products of register tiles, of any size: C[m, n] = finish(start + sum_k A[m, k] * B[k, n]).

Separate from `fastmlp.kernels.gemm.microkernel`, where a tile has one shape. Here columns are cut into panels, as many
vectors across as a tile has, and rows into stacks of tiles, each called by its shape. It is written in LLVM's
language: as jitted loops in each of a layer's products it was a fifth of what a first training compiled.
"""

# mypy: ignore-errors

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import (
    BYTE,
    FLOATS,
    INT,
    ITEMSIZE,
    POINTER,
    ascending,
    byte_pointer,
    smaller,
)
from fastmlp.kernels.gemm.microkernel import ALL_TILES, KINDS, MACHINE, VECTORS, shapes, taken_by
from fastmlp.kernels.gemm.packing import PACK, TRANSPOSE
from fastmlp.kernels.gemm.packing import taken_by as copied
from fastmlp.kernels.jit.lazy import calling, emitted

IN_PLACE, PACKED, TRANSPOSED = range(3)
"""How tiles read B: where it lies; from a copy of each panel; or B lies transposed, and is copied so."""

NOTHING = ir.Constant(POINTER, None)


class Operands(NamedTuple):
    """What a product is given: LLVM values. Rows and steps are in bytes from one to the next.

    kind : a place in `tiles.KINDS`; a, order, known, a_row, a_step : as `tiles.emit_tile`
    b, b_row : B, or its transpose
    panel : scratch for a panel of B, as deep as B and as wide as a tile
    start, start_row : nothing for 0, or the chain of (m, n) starts there (a bias with start_row = 0, or c
        itself to resume); for GATE, the array that gates
    c, c_row : the result
    rows, columns, depth : of A, of B, and terms of each sum
    finish : STORE, RELU, GATE, or UPDATE, the only one that reads rate and l2
    packing : IN_PLACE, PACKED or TRANSPOSED
    across : the most vectors across a tile; beyond VECTORS only for tiles of one row
    rate, l2 : of the dtype
    """

    kind: ir.Value
    a: ir.Value
    b: ir.Value
    c: ir.Value
    rows: ir.Value
    columns: ir.Value
    depth: ir.Value
    a_row: ir.Value
    a_step: ir.Value
    b_row: ir.Value
    c_row: ir.Value
    rate: ir.Value
    l2: ir.Value
    order: ir.Value = NOTHING
    known: ir.Value = INT(0)
    panel: ir.Value = NOTHING
    start: ir.Value = NOTHING
    start_row: ir.Value = INT(0)
    finish: ir.Value = INT(0)
    packing: ir.Value = INT(IN_PLACE)
    across: ir.Value = INT(VECTORS)


def cuts(machine, kind):
    """How to cut `left` rows into tiles: table[vectors, left] is (rows of the next tile, tiles of as many).

    The cut of least cost by what a tile takes: its FMAs, its loads
    (two a cycle), and a constant worth about a tenth of its work. At left = 0 stands the tallest tile, which
    comes first where there are more rows than the table has.
    """
    most = 2 * max(max(heights) for heights in machine.shapes)
    table = np.zeros((machine.row + 1, most + 1, 2), np.int64)
    for j, heights in enumerate(shapes(machine, kind), 1):
        cost = [0.0]
        for left in range(1, most + 1):
            ports, latency = machine.fma_ports, machine.fma_latency
            round_of_k = {m: max(m * j / ports, (m + j) / 2, latency) for m in heights if m <= left}
            least, height = min((c * 1.1 + cost[left - m], -m) for m, c in round_of_k.items())
            cost.append(least)
            rows, tiles = table[j, left + height]
            table[j, left] = -height, 1 + tiles * (rows == -height)
        table[j, 0] = max(heights), 0
    return table


CUTS = np.stack([cuts(MACHINE, kind) for kind in KINDS])


def next_stack(build, kind, vectors, left):
    """Emit which tiles come next where `left` rows are to do; return how many, and the rows of each."""
    name = f"cuts_{MACHINE.vector_bytes}"
    if name not in build.module.globals:
        numbers = ir.Constant(ir.ArrayType(INT, CUTS.size), CUTS.ravel().tolist())
        cgutils.global_constant(build.module, name, numbers)
    read = lambda at: build.load(build.gep(build.module.globals[name], [INT(0), at]))
    _, across, width, _ = CUTS.shape
    row = build.mul(build.add(build.mul(kind, INT(across)), vectors), INT(2 * width))
    tallest, beyond = read(row), build.sub(left, INT(width - 1))
    tall = cgutils.alloca_once_value(build, INT(0))
    with build.if_then(build.icmp_signed(">", beyond, INT(0))):
        build.store(build.sdiv(build.add(beyond, build.sub(tallest, INT(1))), tallest), tall)
    tall = build.load(tall)
    place = build.add(row, build.mul(build.sub(left, build.mul(tall, tallest)), INT(2)))
    height, alike = read(place), read(build.add(place, INT(1)))
    short = build.icmp_signed("==", tall, INT(0))
    joined = build.or_(short, build.icmp_signed("==", height, tallest))
    return build.add(tall, build.select(joined, alike, INT(0))), build.select(short, height, tallest)


def taken_by_product(dtype):
    """The types of `Operands`."""
    pointers, scalars = ("a", "b", "c", "order", "panel", "start"), ("rate", "l2")
    kind = lambda name: types.voidptr if name in pointers else dtype if name in scalars else types.intp
    return tuple(map(kind, Operands._fields))


def shifted(build, pointer, offset):
    """The pointer moved by so many bytes."""
    return build.gep(pointer, [offset], source_etype=BYTE)


def call(build, name, codes, kinds, values):
    """Emit a call of a piece; pointers are given what Numba's void pointers have for a type."""
    pairs = zip(kinds, values, strict=True)
    values = [byte_pointer(build, value) if kind == types.voidptr else value for kind, value in pairs]
    calling(name, codes)(cpu_target.target_context, build, types.void(*kinds), values)


def next_vectors(left: int, across: int, lanes: int):
    """Vectors across the next panel: the most, or two where that would leave a sliver of one."""
    vectors = (left + lanes - 1) // lanes
    usual = where(vectors.equals(VECTORS + 1), 2, at_most(vectors, VECTORS))
    return where(across > VECTORS, at_most(vectors, across), usual)


def emit_product(build, arguments, kinds, code):
    """Write the function of a product."""
    o = Operands(*arguments)
    dtype = kinds[Operands._fields.index("rate")]
    itemsize, lanes = ITEMSIZE[dtype], MACHINE.vector_bytes // ITEMSIZE[dtype]
    equal = lambda value, number: build.icmp_signed("==", value, INT(number))
    started = build.icmp_unsigned("!=", o.start, NOTHING)
    start_row = build.select(started, o.start_row, INT(0))
    # How far apart the places are where A and the order are read for one row and the next.
    by_rows = equal(o.kind, KINDS.index("rows"))
    a_down, order_down = build.select(by_rows, INT(0), o.a_row), build.select(by_rows, INT(8), INT(0))

    with ascending(build, o.columns) as (left, to_the_right):
        rest, along = build.sub(o.columns, left), build.mul(left, INT(itemsize))
        vectors = next_vectors(Symbol(build, rest), Symbol(build, o.across), lanes).value
        width = build.mul(vectors, INT(lanes))
        columns = smaller(build, width, rest)
        panel_row = build.mul(vectors, INT(MACHINE.vector_bytes))
        for packing, copy, source, shape in (
            (PACKED, PACK, shifted(build, o.b, along), (columns, o.depth)),
            (TRANSPOSED, TRANSPOSE, shifted(build, o.b, build.mul(left, o.b_row)), (o.depth, columns)),
        ):
            with build.if_then(equal(o.packing, packing)):
                call(build, copy, 0, copied(dtype), [source, o.panel, *shape, o.b_row, panel_row, o.rate])
        in_place = equal(o.packing, IN_PLACE)
        b = build.select(in_place, shifted(build, o.b, along), o.panel)
        b_row = build.select(in_place, o.b_row, panel_row)
        start = build.select(started, shifted(build, o.start, along), NOTHING)
        c = shifted(build, o.c, along)
        known = build.select(equal(left, 0), o.known, INT(0))
        whole = build.zext(build.icmp_signed("==", width, columns), INT)

        with ascending(build, o.rows) as (done, down):
            below = lambda pointer, row: shifted(build, pointer, build.mul(row, done))
            count, height = next_stack(build, o.kind, vectors, build.sub(o.rows, done))
            values = [
                below(o.a, a_down), below(o.order, order_down), b, below(start, start_row), below(c, o.c_row),
                count, columns, o.depth, build.sub(known, done), o.a_row, o.a_step, b_row, start_row, o.c_row,
                o.finish, o.rate, o.l2,
            ]  # fmt: skip
            for number, tiles in enumerate(ALL_TILES.values()):
                with build.if_then(equal(o.kind, number)):
                    shape = build.add(build.mul(height, INT(tiles.axes[1])), vectors)
                    shape = build.add(build.mul(shape, INT(tiles.axes[2])), whole)
                    taken = types.intp, *taken_by(dtype)
                    call(build, tiles.name, math.prod(tiles.axes), taken, [shape, *values])
            down(build.mul(count, height))
        to_the_right(columns)


PRODUCT = emitted(f"product_{MACHINE.vector_bytes}", emit_product)


def multiply(builder, kind, dtype, **operands):
    """Emit the product with A of a kind. operands : `Operands`; rate and l2 are 0 unless given."""
    none = ir.Constant(FLOATS[dtype], 0.0)
    o = Operands(**{"kind": KINDS.index(kind), "rate": none, "l2": none, **operands})
    values = [INT(value) if isinstance(value, int) else getattr(value, "value", value) for value in o]
    call(builder, PRODUCT, 0, taken_by_product(dtype), values)
