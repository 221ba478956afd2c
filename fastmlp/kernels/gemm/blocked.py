"""The weight gradient of layers or batches that outgrow L2: both operands are packed, a block of rows at a time.

`fastmlp.kernels.gemm.dispatch` reads the columns of x in place, once for each panel of delta. Where rows of x lie 4 or
8 KB apart, their lines fall into few sets of every cache: 1024 x 2048 x 2048 reached 0.38 of peak. With delta in panels
and columns of x in strips, which stay in L2 while all panels are read, it reaches 0.77.
"""

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.symbols import FLOATS, INT, Symbol, jittable
from fastmlp.kernels.codegen.vectors import NOTHING, Vectors, counted, of_arrays
from fastmlp.kernels.codegen.views import lesser
from fastmlp.kernels.gemm import macrokernel
from fastmlp.kernels.gemm.dispatch import compiled, weight_gradient_in_place
from fastmlp.kernels.gemm.microkernel import MACHINE, STORE, UPDATE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.gemm.operands import product
from fastmlp.kernels.gemm.packing import call, pack
from fastmlp.kernels.jit.lazy import emitted, helper
from fastmlp.kernels.thresholds import BLOCK_BYTES, BLOCK_ROWS, is_blocked, threshold

next_vectors = jittable(macrokernel.next_vectors)

large_bytes, many_bytes, pays = threshold("large_bytes"), threshold("many_bytes"), jittable(is_blocked)

STRIP = 8
"""Columns of x in a strip, as many as a tile has rows: all that a tile reads of x lies together. With strips of three
tiles, a tile no longer found in L1 the lines that it shares with its neighbours, and took 1.02 times as long."""


def scratch_length(rows, n_out, itemsize):
    """Return the length of the scratch that a product with deltas (rows, n_out) needs."""
    lanes = VECTOR_BYTES // itemsize
    return strip_rows(itemsize) * BLOCK_ROWS + min(rows, BLOCK_ROWS) * (n_out + VECTORS * lanes)


@helper
def strip_rows(itemsize):
    """Return the rows of the gradient with strips of x within BLOCK_BYTES."""
    return BLOCK_BYTES // (BLOCK_ROWS * itemsize) // STRIP * STRIP


def taken_by(dtype):
    """The types of the arguments of `emit_strips`: three addresses, three sizes, and a scalar of the dtype."""
    return (types.voidptr,) * 3 + (types.intp,) * 3 + (dtype,)


def emit_strips(build, arguments, kinds, code):
    """Write the copy of columns into strips, a row at a time.

    arguments : the addresses of the first number, the order or nothing, and the first strip; rows, columns, bytes of a row
    """
    source, order, target, rows, columns, row_bytes, _ = arguments
    v = Vectors(build, kinds[-1], MACHINE.vector_bytes)
    v = v.of_lanes(min(v.lanes, STRIP))

    def copy(i, number):
        row, strips = v.shift(source, number * row_bytes), v.shift(target, i * (STRIP * v.itemsize))
        with counted(build, columns, STRIP) as j:
            width, numbers = columns - j, v.shift(row, j * v.itemsize)
            strip = v.shift(strips, rows * j * v.itemsize)

            def move(mask_of):
                for part in range(0, STRIP, v.lanes):
                    at, mask = part * v.itemsize, mask_of(part)
                    v.store(v.load(v.shift(numbers, at), mask), v.shift(strip, at), mask)

            with build.if_else((width >= STRIP).value) as (whole, edge):
                with whole:
                    move(lambda part: None)
                with edge:
                    move(lambda part: v.first(width - part))

    ordered = build.icmp_unsigned("!=", order, NOTHING)
    with build.if_else(ordered) as (by_order, straight):
        # Two loops: a test of the order in each round would be paid for every row.
        with by_order, counted(build, rows) as i:
            copy(i, Symbol(build, build.load(build.gep(order, [i.value], source_etype=INT), typ=INT)))
        with straight, counted(build, rows) as i:
            copy(i, i)


STRIPS = emitted(f"strips_{VECTOR_BYTES}", emit_strips)


@of_arrays
def pack_strips(x, order, first, rows, left, columns, scratch):
    """Copy columns [left, ..) of `rows` rows of x[order] from row `first` on to strips of STRIP columns in scratch."""
    build, dtype = x.builder, x.dtype
    ordered = (order.columns > 0).value
    source = build.select(ordered, x.at(0, left), x.at(first, left))
    order_at = build.select(ordered, order.at(0, first), NOTHING)
    values = source, order_at, scratch.data, rows, columns, x.row, ir.Constant(FLOATS[dtype], 0)
    call(build, STRIPS, 0, taken_by(dtype), values)


@helper
def pack_panels(delta, first, rows, scratch, at, lanes):
    """Copy `rows` rows of delta into panels."""
    n_out = delta.shape[1]
    # The hardware prefetches along rows: all panels get a few rows before the next rows are read.
    group = 16
    for start in range(0, rows, group):
        count = lesser(group, rows - start)
        left = 0
        while left < n_out:
            columns = lesser(next_vectors(n_out - left, VECTORS, lanes) * lanes, n_out - left)
            row = (columns + lanes - 1) // lanes * lanes
            source = (first + start) * n_out + left
            pack(count, columns, delta, source, n_out, scratch, at + left * rows + start * row, row)
            left += columns


@compiled
def blocked_weight_gradient(x, order, delta, out, part, update, sums, scratch):
    """`dispatch.weight_gradient_in_place` by blocks of BLOCK_ROWS rows; unfinished sums wait in `out`, or in `sums` where `apply`."""
    (first, start, stop), (apply, rate, l2) = part, update
    rows, n_out = delta.shape
    lanes = VECTOR_BYTES // out.itemsize
    strips = strip_rows(out.itemsize)
    panels = strips * BLOCK_ROWS
    waiting = sums if apply else out
    for k in range(0, rows, BLOCK_ROWS):
        depth = lesser(BLOCK_ROWS, rows - k)
        # The step of plain SGD needs the whole sum, so that only the last block of rows takes it.
        steps = apply and k + depth == rows
        target, finish = out if steps else waiting, UPDATE if steps else STORE
        pack_panels(delta, k, depth, scratch, panels, lanes)
        # Panels of delta are packed once a block; strips of x are as many as stay in L2 while all panels are
        # read.
        for top in range(start, stop, strips):
            bottom = lesser(top + strips, stop)
            pack_strips(x, order, k, depth, top, bottom - top, scratch)
            left = 0
            while left < n_out:
                vectors = next_vectors(n_out - left, VECTORS, lanes)
                columns = lesser(vectors * lanes, n_out - left)
                for i in range(top, bottom, STRIP):
                    height, offset = lesser(STRIP, bottom - i), (i - first) * n_out + left
                    a = (i - top) * depth
                    strip, panel = (scratch, a, 1, STRIP), (scratch, panels + left * depth, vectors * lanes)
                    out_of, size, end = (target, offset, n_out), (height, columns, depth), (finish, rate, l2)
                    if k > 0:
                        product(strip, panel, (waiting, offset, n_out), out_of, size, end, VECTORS)
                    else:
                        product(strip, panel, (None, 0, 0), out_of, size, end, VECTORS)
                left += columns


@compiled
def weight_gradient_rows(x, order, delta, out, part, update, sums, scratch):
    """`dispatch.weight_gradient_in_place`, by blocks where that is faster."""
    rows, n_out = delta.shape
    if pays(rows, x.shape[1], n_out, out.itemsize, large_bytes(), many_bytes()):
        blocked_weight_gradient(x, order, delta, out, part, update, sums, scratch)
    else:
        weight_gradient_in_place(x, order, delta, out, part, update, sums, scratch)
