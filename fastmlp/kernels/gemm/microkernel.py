"""Register tiles of a matrix product, C[m, n] = finish(start + sum_k A[m, k] * B[k, n]).

A tile holds `rows` x `vectors` accumulators in registers. For each k it loads `vectors` vectors of B, broadcasts `rows`
numbers of A, and does rows * vectors FMAs. A is read number by number, so its strides are free: X @ W has the strides
(ld, 1), X.T @ D (1, ld). A call computes a stack of tiles: with a call for each, 8x3 tiles over 128 terms lost a tenth.

Every element is a chain of FMAs over ascending k, so its bits do not depend on how rows and columns are cut into tiles.

Tiles of run-time values are lazy functions, one for each shape; tiles of integers are written into one network's program.
"""

from collections import namedtuple
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.np.numpy_support import from_dtype

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import INT, POINTER, Symbol
from fastmlp.kernels.codegen.vectors import (
    LINE_BYTES,
    Vectors,
    broadcast,
    carried,
    counted,
    fetch_line,
    joined,
    smaller,
    transposed,
)
from fastmlp.kernels.jit.lazy import compile_all, emitted
from fastmlp.kernels.program.arithmetic import sgd_step, with_decay

# How a tile ends, for an accumulator acc: C = acc; C = max(acc, 0), with NaN for NaN;
# C = sgd_step(C, rate, with_decay(acc, l2, C)) of `fastmlp.kernels.program.arithmetic`; C = acc where start > 0, else
# 0.
STORE, RELU, UPDATE, GATE = range(4)

DECAY = 4
"""UPDATE where l2 is not 0. Most trainings have l2 = 0, and the decay would be a hundredth of a step of 32 rows."""

# Where the elements of A lie: at strides; or A is X, whose rows are read in place by an order, with
# order[m] for m in "rows" (X @ W), and order[k] bytes for k * a_step in "depth" (X.T @ D). There a multiplication in
# every round of k would take one of the two ports that Intel's processors with AVX2 have for multiply-adds: by
# llvm-mca for `haswell` 4x3 tiles took 8.5 cycles, now 6.0, for `alderlake` 7.3, now 6.0.
PANEL_LAYOUTS = "strided", "rows", "depth"

ENDS = {"strided": (STORE, RELU, UPDATE, DECAY, GATE), "rows": (STORE, RELU), "depth": (STORE, UPDATE, DECAY)}
"""The ends that each kind needs; others would be compiled and never used."""

MACHINE = host()


ROW_POINTERS = 8
"""Rows in an order with a pointer each in integer registers; more are a load for every k. By 12x2 tiles in place of 8x2
100 x 784 x 100 took 0.95 of its time, but a tile of one vector has no time for loads.
"""


def shapes(machine, kind):
    """The machine's shapes; rows in an order have fewer, X @ W of a single row has some with more vectors across."""
    fits = lambda m, vectors: kind != "rows" or m <= ROW_POINTERS * vectors
    several = [[m for m in heights if fits(m, j)] for j, heights in enumerate(machine.shapes, 1)]
    return several + [[1]] * (machine.row - machine.vectors if kind == "strided" else 0)


def multiples(build, stride, count):
    """[0, stride, 2 * stride, ...]; of a `Symbol`, in a form that LLVM keeps in registers.

    Otherwise LLVM computes the address of each row of A from the row before, a chain that halved the speed of an 8x1 tile.
    Empty assembly hides how odd multiples were computed; even ones are odd ones times 2, 4 or 8, as an address can contain.
    """
    if isinstance(stride, int):
        return [stride * m for m in range(count)]
    hide = ir.FunctionType(INT, [INT])
    distances = [0]
    for m in range(1, count):
        power = m & -m
        if power == 1:
            distances.append(Symbol(build, build.asm(hide, "", "=r,0", [(stride * m).value], False)))
        else:
            distances.append(distances[m // power] * power)
    return distances


Stack = namedtuple(
    "Stack", "a order b start c count columns depth known a_row a_step b_row start_row c_row finish rate l2"
)
"""The operands of a stack of tiles of one shape: addresses in memory, then integers or `Symbol`s. Rows are in bytes.

a, a_row, a_step : A[m, k] is at a + m * a_row + k * a_step; with an order, order[m] stands for m, or order[k] for
    k * a_step; known : how many entries of the order may be read
start, start_row : where the chain of (m, n) starts, or, for GATE, what gates it
count : of tiles; columns : of the result in a tile whose last vector is masked; depth : terms of each chain
finish : STORE, RELU, UPDATE, which reads rate and l2, or GATE
"""


def taken_by(dtype):
    """The types of a `Stack`."""
    return (types.voidptr,) * 5 + (types.intp,) * 10 + (dtype,) * 2


def emit_tiles(
    v, kind, rows, vectors, o, started, ends, mask=None, *, fetches=True, a_sums=None, spreads=False,
    turned=False, keeps_order=True,
):  # fmt: skip
    """Write a stack of tiles of one shape.

    started : whether chains begin with the numbers at `start`, a bool or a `Symbol`; spreads : of one for each row
    ends : by code: end(sum, target, guide, mask) gives the vector to store at the address `target`; `guide` is at `start`
    mask : of the last vector; fetches : whether to prefetch the cache lines of the result
    turned : whether b is the transpose of B, which is read in square blocks; depth must be an integer
    keeps_order : of loads, see `Machine.load_order`; unrolled loops are slower by it
    a_sums : None, or an address (rows,) that gets the sums of A's rows, added to the numbers there if `started`
    """
    build = v.builder
    masks = [None] * (vectors - 1) + [mask]
    index = lambda at: Symbol(build, build.load(build.gep(o.order, [at.value], source_etype=INT), typ=INT))
    within = lambda address, row, m, j: v.shift(v.shift(address, row * m), j * v.bytes)
    grid = list(product(range(rows), range(vectors)))
    if kind == "strided":
        # Outside of the loop over tiles: the distances are the same for all.
        distances = multiples(build, o.a_row, rows)

    with counted(build, o.count) as t:
        down = t * rows
        start_here, c_here = v.shift(o.start, o.start_row * down), v.shift(o.c, o.c_row * down)
        column = None
        if kind == "strided":
            a_here = v.shift(o.a, o.a_row * down)
        elif kind == "rows":
            offsets = [o.a_row * index(down + m) for m in range(rows)]
            a_here, distances = v.shift(o.a, offsets[0]), [offset - offsets[0] for offset in offsets]
        else:
            a_here, distances = v.shift(o.a, down * v.itemsize), [m * v.itemsize for m in range(rows)]
            column = lambda k: v.shift(a_here, index(k))

        guide = lambda m, j: within(start_here, o.start_row, m, 0 if spreads else j)
        results = [(within(c_here, o.c_row, m, j), guide(m, j), masks[j]) for m, j in grid]
        if fetches:
            for target, _, _ in results:
                fetch_line(build, target)
        if a_sums is not None:
            address, lane = v.shift(a_sums, down * v.itemsize), v.first(1)
            for m in reversed(range(rows)):
                result = v.shift(address, m * v.itemsize)
                results.insert((m + 1) * vectors, (result, result, lane))
        starts = starts_of(v, started, results, spreads)

        def rows_of_b(b, terms):
            """`terms` rows of B, each a list of vectors."""
            if not turned:
                return [[v.load(v.shift(b, j * v.bytes), masks[j]) for j in range(vectors)]]
            addresses = [v.shift(b, o.b_row * n) for n in range(vectors * v.lanes)]
            blocks = [transposed(v, addresses[n : n + v.lanes]) for n in range(0, len(addresses), v.lanes)]
            return [list(row) for row in zip(*blocks)][:terms]

        def add(a, b, sums, k, terms=1):
            """The addresses of A and B after `terms` more terms, and the chains."""
            address = column(k) if column else a
            for i, row in enumerate(rows_of_b(b, terms)):
                if a_sums is not None:
                    # A vector of ones as one more column of B: the product with it is the sum of A's row.
                    row.append(v.constant(1.0))
                after = []
                for m, distance in enumerate(distances):
                    scalar = v.broadcast(v.shift(address, distance + o.a_step * i))
                    totals = sums[m * len(row) : (m + 1) * len(row)]
                    products = [v.fma(scalar, x, total) for x, total in zip(row, totals)]
                    after += map(v.before_loads, products) if keeps_order and m + 1 < rows else products
                sums = after
            b_step = terms * v.itemsize if turned else o.b_row
            return [v.shift(a, o.a_step * terms), v.shift(b, b_step), *sums]

        def walk(first, depth, values):
            """The values after terms [first, depth); values : addresses of A and B for term `first`, and the chains."""
            together = v.lanes if turned else 1
            rest = depth % together if turned else 0
            step = lambda k, values: add(*values[:2], values[2:], k, together)
            values = carried(build, first, depth - rest, values, step, together)
            return add(*values[:2], values[2:], depth, rest) if rest else values

        values = [a_here, o.b, *starts]
        if kind == "rows":
            # The loop over k stops at every cache line of its rows to prefetch the same line of the next tile's rows,
            # if there is a next tile. A test in every round instead of this outer loop cost a tenth of the tile's
            # speed, and stops without anything to prefetch cost a twentieth.
            following = down + rows
            more = following + rows <= o.known
            line = where(more, o.depth.number(LINE_BYTES // v.itemsize), o.depth)

            def halt(k, values):
                with build.if_then(more.value):
                    for m in range(rows):
                        fetch_line(build, v.shift(o.a, o.a_row * index(following + m) + o.a_step * k))
                return walk(k, smaller(k + line, o.depth), values)

            _, _, *sums = carried(build, 0, o.depth, values, halt, line)
        else:
            _, _, *sums = walk(0, o.depth, values)

        def store(end):
            for value, (target, guide, mask) in zip(sums, results):
                v.store(end(value, target, guide, mask), target, mask)

        if len(ends) == 1:
            store(*ends.values())
        else:
            switched(build, o.finish, {code: partial(store, end) for code, end in ends.items()})


def starts_of(v, started, results, spreads):
    """The vectors that the chains of results begin with.

    Without `start` a branch skips the loads: a masked-off load of null takes a microcode assist of some thousand cycles.
    """
    load = lambda: [v.broadcast(guide) if spreads else v.load(guide, mask) for _, guide, mask in results]
    if isinstance(started, bool):
        return load() if started else [v.zero] * len(results)
    build = v.builder
    before, loads, begin = build.block, build.append_basic_block("starts"), build.append_basic_block("begin")
    build.cbranch(started.value, loads, begin)
    build.position_at_end(loads)
    loaded = load()
    build.branch(begin)
    build.position_at_end(begin)
    return [joined(build, (v.zero, before), (value, loads)) for value in loaded]


def switched(build, code, cases):
    """Write the case of a code, or the first case for any other code."""
    blocks, done = [build.append_basic_block("case") for _ in cases], build.append_basic_block("done")
    choice = build.switch(code.value, blocks[0])
    for (number, write), block in zip(cases.items(), blocks):
        choice.add_case(INT(number), block)
        build.position_at_end(block)
        write()
        build.branch(done)
    build.position_at_end(done)


def with_mask(v, rest, most, write):
    """Write write(mask) for the first `rest` lanes, 1 to `most`: for each number where masks must be constants."""
    if MACHINE.constant_masks:
        switched(v.builder, rest, {lanes: partial(write, v.first(lanes)) for lanes in range(1, most + 1)})
    else:
        write(v.first(rest))


def stored(total, target, guide, mask):
    """The end that stores the sum unchanged."""
    return total


def ends_of(v, kind, rate, l2):
    """The ends of a kind's tiles, for `emit_tiles`."""
    build = v.builder
    symbol = lambda value: Symbol(build, value)
    rate, l2 = (symbol(broadcast(build, number.value, v.lanes)) for number in (rate, l2))

    def updated(total, target, guide, mask):
        return sgd_step(symbol(v.load(target, mask)), rate, symbol(total)).value

    def decayed(total, target, guide, mask):
        weight = symbol(v.load(target, mask))
        return sgd_step(weight, rate, with_decay(symbol(total), l2, weight)).value

    def gated(total, target, guide, mask):
        return build.select(build.fcmp_ordered(">", v.load(guide, mask), v.zero), total, v.zero)

    def rectified(total, target, guide, mask):
        # An ordered comparison is false for NaN, so that a NaN stays.
        return build.select(build.fcmp_ordered("<", total, v.zero), v.zero, total)

    every = {STORE: stored, RELU: rectified, UPDATE: updated, DECAY: decayed, GATE: gated}
    return {code: every[code] for code in ENDS[kind]}


class Tiles(NamedTuple):
    """The tiles of a kind as a lazy function, with a code for each shape.

    axes : the number of values of each part of a code: rows, vectors, and whether no lane is masked
    masks : whether tiles of fewer rows than the tallest have masks even where all lanes are there
    """

    name: str
    shapes: list[list[int]]
    axes: tuple[int, int, int]
    masks: bool

    def code(self, rows, vectors, whole):
        """The code of a shape; whole : whether all lanes of its last vector are there."""
        unmasked = whole and (not self.masks or rows == max(self.shapes[vectors - 1]))
        return int(np.ravel_multi_index((rows, vectors, unmasked), self.axes))

    def codes(self):
        """The codes of all shapes: the same code twice would be compiled twice."""
        sizes = [(rows, vectors) for vectors, several in enumerate(self.shapes, 1) for rows in several]
        return sorted({self.code(*size, whole) for size in sizes for whole in (False, True)})


def tiles_of(machine, kind):
    """The `Tiles` of a machine and kind; each is compiled when a product first needs it."""
    heights = shapes(machine, kind)
    axes = max(map(max, heights)) + 1, machine.row + 1, 2

    def emit(build, arguments, kinds, code):
        rows, vectors, unmasked = map(int, np.unravel_index(code, axes))
        v = Vectors(build, kinds[-1], machine.vector_bytes)
        o = Stack(*arguments)
        rest = o.columns - (vectors - 1) * v.lanes
        has_start = Symbol(build, build.icmp_unsigned("!=", o.start, ir.Constant(POINTER, None)))
        started = has_start & o.finish.equals(GATE).negated()
        decays = o.finish.equals(UPDATE) & o.l2.equals(0.0).negated()
        stack = o._replace(finish=where(decays, o.finish.number(DECAY), o.finish))
        ends = ends_of(v, kind, o.rate, o.l2)
        write = lambda mask: emit_tiles(v, kind, rows, vectors, stack, started, ends, mask)
        if unmasked:
            write(None)
        else:
            with_mask(v, rest, v.lanes - 1, write)

    tiles = Tiles(f"tile_{kind}_{machine.vector_bytes}", heights, axes, machine.masks)
    return tiles._replace(name=emitted(tiles.name, emit, tiles.codes()))


VECTOR_BYTES, VECTORS, ROW_VECTORS = MACHINE.vector_bytes, MACHINE.vectors, MACHINE.row

ALL_TILES = {kind: tiles_of(MACHINE, kind) for kind in PANEL_LAYOUTS}


def compile_tiles(dtype: str) -> None:
    """Compile, or load, the tiles of every shape for a NumPy dtype."""
    taken = taken_by(from_dtype(np.dtype(dtype)))
    for tiles in ALL_TILES.values():
        compile_all(tiles.name, taken)
