"""Register tiles of a matrix product, C[m, n] = finish(start + sum_k A[m, k] * B[k, n]).

A tile holds `rows` x `vectors` accumulators in registers and walks k once: `vectors` loads of
B and `rows` broadcasts of A feed rows * vectors FMAs. A is read by scalars, so its strides
are free: (ld, 1) makes X @ W and (1, ld) makes X.T @ D of the same code. A call does a stack of
tiles, one below another: called one by one, 8x3 tiles over 128 terms lost a tenth of their speed.

Every element is one chain of FMAs over ascending k, whatever tile it falls in: results do not
depend on how rows and columns are cut, to the last bit.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.np.numpy_support import from_dtype

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import INT, LINE_BYTES, POINTER, Vectors, counted, fetch_line, smaller
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.kernels.program.arithmetic import descended, with_decay

# How it ends: C = acc; C = max(acc, 0); C = descended(C, rate, with_decay(acc, l2, C)) of
# `fastmlp.kernels.program.arithmetic`; C = acc where start > 0, else 0.
STORE, RELU, UPDATE, GATE = range(4)

# Where the elements of A lie: by strides, or with the rows of X in the order of an index array,
# read where they are: in "rows" the index follows m (X @ W), in "depth" it follows k (X.T @ D).
KINDS = "strided", "rows", "depth"

ENDS = {"strided": (STORE, RELU, UPDATE, GATE), "rows": (STORE, RELU), "depth": (STORE, UPDATE)}
"""The ends that each kind has; the others would only be compiled."""

MACHINE = host()


def shapes(machine, kind):
    """The machine's shapes, less those whose row pointers would not fit the integer registers.

    X @ W of a single row has shapes of its own, with more vectors across.
    """
    most = 8 if kind == "rows" else 12
    several = [[m for m in heights if m <= most] for heights in machine.shapes]
    return several + [[1]] * (machine.row - machine.vectors if kind == "strided" else 0)


def multiples(build, stride, count):
    """[0, stride, 2 * stride, ...] such that LLVM keeps them apart.

    Left to itself it makes each row of A from the one before, a chain of `count` dependent adds
    in every round of k that held an 8x1 tile to half its speed. An empty piece of assembly hides
    where the odd multiples come from; the even ones are theirs, scaled by 2, 4 or 8 in the
    addressing of the load, so that 12 rows take 6 integer registers.
    """
    hide = ir.FunctionType(INT, [INT])
    found = [INT(0)]
    for m in range(1, count):
        power = m & -m
        if power == 1:
            found.append(build.asm(hide, "", "=r,0", [build.mul(stride, INT(m))], False))
        else:
            found.append(build.mul(found[m // power], INT(power)))
    return found


def taken_by(dtype):
    """The types of what a stack of tiles is given, as `emit_tile` names it."""
    return (types.voidptr,) * 5 + (types.intp,) * 10 + (dtype,) * 2


def emit_tile(build, arguments, dtype, machine, kind, rows, vectors, masked):
    """Write the function of a stack of tiles of one shape."""
    a, order, b, start, c, *integers, rate, l2 = arguments
    count, columns, depth, known, a_row, a_step, b_row, start_row, c_row, finish = integers
    v = Vectors(build, dtype, machine.vector_bytes)
    grid = [(m, j) for m in range(rows) for j in range(vectors)]
    mask = v.first(build.sub(columns, INT((vectors - 1) * v.lanes))) if masked else None
    masks = [None] * (vectors - 1) + [mask]
    within = lambda pointer, row, m, j: v.shift(v.shift(pointer, build.mul(row, INT(m))), j * v.bytes)
    if kind == "strided":
        distances = multiples(build, a_row, rows)
    rate, l2 = (Symbol(build, v.splat(number)) for number in (rate, l2))
    # A branch, not loads under an empty mask: a masked-off load of an unmapped page (null) is
    # suppressed by a microcode assist of some thousand cycles.
    started = build.icmp_unsigned("!=", start, ir.Constant(POINTER, None))
    started = build.and_(started, build.icmp_signed("!=", finish, INT(GATE)))

    with counted(build, count) as t:
        down = build.mul(t, INT(rows))
        start_here = v.shift(start, build.mul(start_row, down))
        c_here = v.shift(c, build.mul(c_row, down))

        # How far row m of A is from row 0.
        if kind == "strided":
            a_here = v.shift(a, build.mul(a_row, down))
        elif kind == "rows":
            index = lambda at: build.load(build.gep(order, [at], source_etype=INT), typ=INT)
            places = [build.mul(a_row, index(build.add(down, INT(m)))) for m in range(rows)]
            a_here, distances = v.shift(a, places[0]), [build.sub(place, places[0]) for place in places]
            following = build.add(down, INT(rows))
            more = build.icmp_signed("<=", build.add(following, INT(rows)), known)
        else:
            a_here, distances = (
                v.shift(a, build.mul(down, INT(v.itemsize))),
                [INT(m * v.itemsize) for m in range(rows)],
            )

        targets = [within(c_here, c_row, m, j) for m, j in grid]
        for target in targets:
            fetch_line(build, target)

        from_start, begin = build.append_basic_block("from_start"), build.append_basic_block("begin")
        before = build.block
        build.cbranch(started, from_start, begin)
        build.position_at_end(from_start)
        loaded = [v.load(within(start_here, start_row, m, j), masks[j]) for m, j in grid]
        build.branch(begin)
        build.position_at_end(begin)
        initial = []
        for value in loaded:
            phi = build.phi(v.type)
            phi.add_incoming(v.zero, before)
            phi.add_incoming(value, from_start)
            initial.append(phi)

        # The walk over k. Kind "rows" halts at every line of its rows to ask for the same line of the
        # next tile's; a test in every round instead of an outer loop took a tenth of the tile's speed.
        halting = kind == "rows"
        outer, loop, done = (build.append_basic_block(n) for n in ("outer", "loop", "done"))
        carried_types = [INT, POINTER, POINTER] + [v.type] * len(grid)
        build.cbranch(build.icmp_signed(">", depth, INT(0)), outer, done)
        build.position_at_end(outer)
        at_halt = [build.phi(t) for t in carried_types]
        end = depth
        if halting:
            fetch, walk = build.append_basic_block("fetch"), build.append_basic_block("walk")
            build.cbranch(more, fetch, walk)
            build.position_at_end(fetch)
            column = build.mul(at_halt[0], a_step)
            for m in range(rows):
                place = build.mul(a_row, index(build.add(following, INT(m))))
                fetch_line(build, v.shift(v.shift(a, place), column))
            build.branch(walk)
            build.position_at_end(walk)
            end = smaller(build, build.add(at_halt[0], INT(LINE_BYTES // v.itemsize)), depth)
        before_loop = build.block
        build.branch(loop)

        build.position_at_end(loop)
        k, a_pointer, b_pointer, *carried = at_loop = [build.phi(t) for t in carried_types]
        b_vectors = [v.load(v.shift(b_pointer, j * v.bytes), masks[j]) for j in range(vectors)]
        a_column = a_pointer
        if kind == "depth":
            place = build.load(build.gep(order, [k], source_etype=INT), typ=INT)
            a_column = v.shift(a_here, build.mul(place, a_step))
        advanced = [build.add(k, INT(1)), v.shift(a_pointer, a_step), v.shift(b_pointer, b_row)]
        for m in range(rows):
            broadcast = v.broadcast(v.shift(a_column, distances[m]))
            advanced += [v.fma(broadcast, b_vectors[j], carried[m * vectors + j]) for j in range(vectors)]
        walked = build.append_basic_block("walked")
        build.cbranch(build.icmp_signed("<", advanced[0], end), loop, walked)
        build.position_at_end(walked)
        for phi, halt, after in zip(at_loop, at_halt, advanced):
            phi.add_incoming(halt, before_loop)
            phi.add_incoming(after, loop)
        for phi, first, after in zip(at_halt, [INT(0), a_here, b, *initial], advanced):
            phi.add_incoming(first, begin)
            if halting:
                phi.add_incoming(after, walked)
        if halting:
            build.cbranch(build.icmp_signed("<", advanced[0], depth), outer, done)
        else:
            build.branch(done)

        build.position_at_end(done)
        sums = []
        for first, after in zip(initial, advanced[3:]):
            phi = build.phi(v.type)
            phi.add_incoming(first, begin)
            phi.add_incoming(after, walked)
            sums.append(phi)

        relu, update, plain, decaying, gate, store, stored = (
            build.append_basic_block(n)
            for n in ("relu", "update", "plain", "decaying", "gate", "store", "stored")
        )
        choice = build.switch(finish, store)
        for code, block in (RELU, relu), (UPDATE, update), (GATE, gate):
            choice.add_case(INT(code), block if code in ENDS[kind] else store)
        build.position_at_end(store)
        for (_, j), value, target in zip(grid, sums, targets):
            v.store(value, target, masks[j])
        build.branch(stored)
        build.position_at_end(relu)
        for (_, j), value, target in zip(grid, sums, targets):
            v.store(v.relu(value), target, masks[j])
        build.branch(stored)
        build.position_at_end(update)
        # Two ends: what most have no need for was a hundredth of a step of 32 rows.
        build.cbranch(build.fcmp_ordered("==", arguments[-1], ir.Constant(v.scalar, 0.0)), plain, decaying)
        build.position_at_end(plain)
        for (_, j), value, target in zip(grid, sums, targets):
            weight = Symbol(build, v.load(target, masks[j]))
            v.store(descended(weight, rate, Symbol(build, value)).value, target, masks[j])
        build.branch(stored)
        build.position_at_end(decaying)
        for (_, j), value, target in zip(grid, sums, targets):
            weight = Symbol(build, v.load(target, masks[j]))
            gradient = with_decay(Symbol(build, value), l2, weight)
            v.store(descended(weight, rate, gradient).value, target, masks[j])
        build.branch(stored)
        build.position_at_end(gate)
        for (m, j), value, target in zip(grid, sums, targets):
            guide = v.load(within(start_here, start_row, m, j), masks[j])
            v.store(build.select(build.fcmp_ordered(">", guide, v.zero), value, v.zero), target, masks[j])
        build.branch(stored)
        build.position_at_end(stored)


class Tiles(NamedTuple):
    """The tiles of one kind as a piece, whose code is a shape.

    name : of the piece
    shapes : as `shapes` gives them
    axes : how many values the rows and vectors of a shape have, and whether none of its lanes is masked
    """

    name: str
    shapes: list[list[int]]
    axes: tuple[int, int, int]

    def code(self, rows, vectors, whole):
        """The code of a shape; it has one whether or not there are such tiles."""
        return int(np.ravel_multi_index((rows, vectors, whole), self.axes))


def tiles_of(machine, kind):
    """The `Tiles` of a machine and kind; each is compiled when a product first needs it."""
    heights = shapes(machine, kind)
    tallest = [max(several) for several in heights]
    axes = max(tallest) + 1, machine.row + 1, 2

    def emit(build, arguments, kinds, code):
        rows, vectors, whole = map(int, np.unravel_index(code, axes))
        masked = not whole or (machine.masks and rows < tallest[vectors - 1])
        emit_tile(build, arguments, kinds[-1], machine, kind, rows, vectors, masked)

    return Tiles(emitted(f"tile_{kind}_{machine.vector_bytes}", emit), heights, axes)


VECTOR_BYTES, VECTORS, ROW_VECTORS = MACHINE.vector_bytes, MACHINE.vectors, MACHINE.row

ALL_TILES = {kind: tiles_of(MACHINE, kind) for kind in KINDS}


def compile_tiles(dtype: str) -> None:
    """Compile the tiles of every shape for a NumPy dtype, or load them."""
    taken = taken_by(from_dtype(np.dtype(dtype)))
    for tiles in ALL_TILES.values():
        for vectors, heights in enumerate(tiles.shapes, 1):
            for rows, whole in product(heights, range(2)):
                compile_now(tiles.name, taken, str(tiles.code(rows, vectors, whole)))
