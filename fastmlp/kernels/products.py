"""Matrix products of register tiles: any number of rows, of as many columns as fit the vectors across.

Separate from `fastmlp.kernels.tiles`, where a tile has one shape: here the rows are cut into stacks of tiles,
and each stack is called by its shape.
"""

# mypy: ignore-errors

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.pieces import calling
from fastmlp.kernels.tiles import ALL_TILES, MACHINE, shapes, taken_by
from fastmlp.kernels.vectors import BYTE, INT, ITEMSIZE, byte_pointer, element


def product_intrinsic(machine, kind, tiles):
    """The intrinsic `product` for a machine and a kind of tiles. All positions, rows and steps count elements.

    product(rows, columns, depth, a, a_at, a_row, a_step, order, order_at, known, b, b_at, b_row,
            start, start_at, start_row, c, c_at, c_row, finish, alpha, beta)

    rows : any number; columns : at most as many as fit the vectors across a tile
    depth : number of terms of each sum
    a : its element (m, k) is, by kind,
        strided  a[a_at + m * a_row + k * a_step]
        rows     a[a_at + order[order_at + m] * a_row + k * a_step]
        depth    a[a_at + m + order[order_at + k] * a_step]
    order : int64, or None when strided
    known : entries of order from order_at on, read by kind "rows": the rows of each next tile are
        fetched into the caches while its predecessor is computed
    b : rows of B, read from b[b_at + k * b_row]
    start : None for 0, or an array: the chain of (m, n) starts at start[start_at + m * start_row + n]
        (a bias with start_row = 0, or c itself to resume); for GATE, the array that gates
    c : overwritten, at c[c_at + m * c_row]
        b, start and c may be addresses (see `address`) in place of an array and its position
    finish : STORE, RELU, GATE or UPDATE, the only one that reads alpha and beta

    Raw pointers: nothing is checked, nothing is counted, and the arrays are used as flat memory.
    """

    call = calling(tiles.name, math.prod(tiles.axes))
    lanes = {dtype: machine.vector_bytes // itemsize for dtype, itemsize in ITEMSIZE.items()}
    table = Table(f"cuts_{kind}_{machine.vector_bytes}", cuts(machine, kind))

    @intrinsic
    def product(
        typing_context, rows, columns, depth, a, a_at, a_row, a_step, order, order_at, known,
        b, b_at, b_row, start, start_at, start_row, c, c_at, c_row, finish, alpha, beta,
    ):  # fmt: skip
        dtype = a.dtype
        integer = types.intp

        def emit(context, build, signature, arguments):
            rows, columns, depth, known = (arguments[i] for i in (0, 1, 2, 9))
            at = lambda i: element(context, build, signature.args[i], arguments[i], arguments[i + 1])
            size = lambda i: build.mul(arguments[i], INT(ITEMSIZE[dtype]))
            a, order, b, start, c = map(at, (3, 7, 10, 13, 16))
            a_row, a_step, b_row, start_row, c_row = map(size, (5, 6, 12, 15, 18))
            # How far apart the places are where A and the order are read for one row and the next.
            a_down = {"strided": a_row, "rows": INT(0), "depth": INT(ITEMSIZE[dtype])}[kind]
            order_down = INT(8 if kind == "rows" else 0)
            vectors = build.sdiv(build.add(columns, INT(lanes[dtype] - 1)), INT(lanes[dtype]))
            whole = build.icmp_signed("==", build.mul(vectors, INT(lanes[dtype])), columns)

            before, head, body, after = build.block, *map(build.append_basic_block, ("head", "body", "after"))
            build.branch(head)
            build.position_at_end(head)
            done = build.phi(INT)
            done.add_incoming(INT(0), before)
            build.cbranch(build.icmp_signed("<", done, rows), body, after)
            build.position_at_end(body)
            below = lambda pointer, row: byte_pointer(
                build, build.gep(pointer, [build.mul(row, done)], source_etype=BYTE)
            )
            count, height = next_stack(build, table, vectors, build.sub(rows, done))
            code = build.add(build.mul(height, INT(tiles.axes[1])), vectors)
            code = build.add(build.mul(code, INT(tiles.axes[2])), build.zext(whole, INT))
            values = [
                code, below(a, a_down), below(order, order_down), byte_pointer(build, b),
                below(start, start_row), below(c, c_row), count, columns, depth, build.sub(known, done),
                a_row, a_step, b_row, start_row, c_row, *arguments[19:],
            ]  # fmt: skip
            call(context, build, types.void(integer, *taken_by(dtype)), values)
            done.add_incoming(build.add(done, build.mul(count, height)), build.block)
            build.branch(head)
            build.position_at_end(after)
            return context.get_dummy_value()

        signature = types.void(
            integer, integer, integer, a, integer, integer, integer, order, integer, integer,
            b, integer, integer, start, integer, integer, c, integer, integer, integer, dtype, dtype,
        )  # fmt: skip
        return signature, emit

    return product


def cuts(machine, kind):
    """How to cut `left` rows into tiles: table[vectors, left] is (rows of the next tile, tiles of as many).

    The cut of least cost by what a tile takes: its FMAs (two a cycle, latency 4), its loads
    (two a cycle), and a constant worth about a tenth of its work. At left = 0 stands the tallest tile, which
    comes first where there are more rows than the table has.
    """
    most = 2 * max(max(heights) for heights in machine.shapes)
    table = np.zeros((machine.row + 1, most + 1, 2), np.int64)
    for j, heights in enumerate(shapes(machine, kind), 1):
        cost = [0.0]
        for left in range(1, most + 1):
            round_of_k = {m: max(m * j / 2, (m + j) / 2, 4) for m in heights if m <= left}
            least, height = min((c * 1.1 + cost[left - m], -m) for m, c in round_of_k.items())
            cost.append(least)
            rows, tiles = table[j, left + height]
            table[j, left] = -height, 1 + tiles * (rows == -height)
        table[j, 0] = max(heights), 0
    return table


class Table(NamedTuple):
    """A constant of compiled code; equal names mean equal values.

    values : (vectors, left, 2) int64, as `cuts` gives them
    """

    name: str
    values: np.ndarray

    def at(self, build, index):
        """Emit the number at a place in the flat table."""
        found = build.module.globals.get(self.name)
        if found is None:
            numbers = ir.Constant(ir.ArrayType(INT, self.values.size), self.values.ravel().tolist())
            found = cgutils.global_constant(build.module, self.name, numbers)
        return build.load(build.gep(found, [INT(0), index]))


def next_stack(build, table, vectors, left):
    """Emit which tiles come next where `left` rows are to do; return how many, and the rows of each."""
    width = table.values.shape[1]
    row = build.mul(vectors, INT(2 * width))
    tallest, beyond = table.at(build, row), build.sub(left, INT(width - 1))
    tall = cgutils.alloca_once_value(build, INT(0))
    with build.if_then(build.icmp_signed(">", beyond, INT(0))):
        build.store(build.sdiv(build.add(beyond, build.sub(tallest, INT(1))), tallest), tall)
    tall = build.load(tall)
    place = build.add(row, build.mul(build.sub(left, build.mul(tall, tallest)), INT(2)))
    height, alike = table.at(build, place), table.at(build, build.add(place, INT(1)))
    short = build.icmp_signed("==", tall, INT(0))
    joined = build.or_(short, build.icmp_signed("==", height, tallest))
    return build.add(tall, build.select(joined, alike, INT(0))), build.select(short, height, tallest)


product, product_of_rows, product_of_depth = (
    product_intrinsic(MACHINE, kind, tiles) for kind, tiles in ALL_TILES.items()
)
