"""The three products of a layer: with bfloat16 operands where the layer is large enough, else as in `fused`.

Each call packs both operands as a whole. At 128 x 784 x 128 packing takes as long as the product itself, and both
together take a third of the time of the product in float32.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.symbols import INT, jittable
from fastmlp.kernels.codegen.vectors import NOTHING, of_arrays, shifted
from fastmlp.kernels.gemm import dispatch
from fastmlp.kernels.gemm.packing import call
from fastmlp.kernels.mixed.multiplying import BY_PAIRS, BY_ROWS, ENDS, ORDERED, PACK, TURNED, WAYS
from fastmlp.kernels.mixed.tiles import BLOCK, ROOM_ROW, SIDE, TERMS, TILE_BYTES, whole
from fastmlp.model.state import takes_bfloat16

takes = jittable(takes_bfloat16)


def taken(pointers, numbers, singles=0):
    """The types of a piece's arguments: its code, pointers, whole numbers, and numbers of float32."""
    return types.intp, *(types.voidptr,) * pointers, *(types.intp,) * numbers, *(types.float32,) * singles


NO_ROWS, NO_STEP = INT(0), ir.Constant(ir.FloatType(), 0.0)


def multiply(
    by, build, a, b, c, scratch, rows, columns, depth, end, *,
    start=NOTHING, start_row=NO_ROWS, rate=NO_STEP, l2=NO_STEP,
):  # fmt: skip
    """Write a product C (rows, columns): pack A and B, then multiply.

    by : a piece of `multiplying`
    a, b : tuples of the packing's code, the place, the order of rows, rows, columns, and the bytes between rows
    c : the place, and the bytes between rows; end : a place in ENDS; the others as in `multiplying`
    """
    blocks, places = (depth + (TERMS - 1)) // TERMS, []
    place = shifted(build, scratch.data, INT(BLOCK * ROOM_ROW))
    for (how, source, order, *sizes), count in ((a, rows), (b, columns)):
        outer = whole(count, BLOCK) // SIDE
        call(build, PACK, WAYS, taken(3, 4), [how, source, order, place, *sizes, outer])
        places.append(place)
        place = shifted(build, place, (outer * blocks * TILE_BYTES).value)
    numbers = rows, columns, blocks, c[1], start_row, rate, l2
    call(build, by, len(ENDS), taken(5, 5, 2), [end, *places, c[0], start, scratch.data, *numbers])


def ordered(x, order, first):
    """The first three of `multiply`'s `a` for the rows of x[order] from `first` on; of x where the order is empty."""
    build = x.builder
    there = (order.columns > 0).value
    place = build.select(there, x.data, x.at(first))
    return way(build, BY_ROWS, order), place, order.at(0, first)


def way(build, how, order):
    """The code of a packing: `how`, and ORDERED unless the order is empty."""
    return build.select((order.columns > 0).value, INT(how | ORDERED), INT(how))


def chosen(build, condition, a, b):
    """Return the place in ENDS of a or b, by a condition."""
    return build.select(condition.value, *(INT(ENDS.index(name)) for name in (a, b)))


def slots_of(by):
    """Return the slots of a variant that multiplies by `by`, a piece of `multiplying`."""

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
    def weight_gradient(x, order, delta, out, to, first, rows, apply, rate, l2, scratch):
        build = x.builder
        multiply(
            by, build,
            (way(build, BY_PAIRS | TURNED, order), x.at(0, first), order.data, delta.rows, rows, x.row),
            (INT(BY_PAIRS), delta.data, NOTHING, delta.rows, delta.columns, delta.row),
            (out.at(to), out.row), scratch, rows, delta.columns, delta.rows,
            chosen(build, apply, "updated", "plain"), rate=rate.value, l2=l2.value,
        )  # fmt: skip

    def affine_rows(x, order, w, b, out, start, stop, relu, scratch):
        """`dispatch.affine` with rounded operands."""
        if takes(w.shape[0], w.shape[1]):
            affine(x, order, w, b, out, start, stop - start, relu, scratch)
        else:
            dispatch.affine(x, order, w, b, out, start, stop, relu, scratch)

    def input_gradient_rows(delta, w, hidden, out, start, stop, relu, scratch):
        """`dispatch.input_gradient` with rounded operands."""
        if takes(w.shape[0], w.shape[1]):
            input_gradient(delta, w, hidden, out, start, stop - start, relu, scratch)
        else:
            dispatch.input_gradient(delta, w, hidden, out, start, stop, relu, scratch)

    def weight_gradient_rows(x, order, delta, out, out_first, start, stop, apply, rate, l2, sums, scratch):
        """`dispatch.weight_gradient` with rounded operands."""
        if takes(x.shape[1], delta.shape[1]):
            to, rows = start - out_first, stop - start
            weight_gradient(x, order, delta, out, to, start, rows, apply, rate, l2, scratch)
        else:
            dispatch.weight_gradient(
                x, order, delta, out, out_first, start, stop, apply, rate, l2, sums, scratch
            )

    return {one.__name__: one for one in (affine_rows, input_gradient_rows, weight_gradient_rows)}
