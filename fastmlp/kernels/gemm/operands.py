"""The matrix products of layers for jitted code: arrays become the operands of a product.

Jitted code should not name twenty operands: each name is typed and lowered by Numba, in about a millisecond.
"""

import functools

from numba import types

from fastmlp.kernels.codegen.symbols import INT
from fastmlp.kernels.codegen.vectors import NOTHING, NumberArray, counted, of_arrays, shifted
from fastmlp.kernels.gemm.macrokernel import TRANSPOSED, multiply
from fastmlp.kernels.gemm.microkernel import GATE, STORE, VECTOR_BYTES, VECTORS


@of_arrays
def product_of_rows(x, order, first, rows, w, inputs, packing, panel, b, out, finish, across):
    """`rows` rows of out = x[order] @ w + b, from row `first` on; with an empty order, of x @ w + b.

    inputs : (k, terms); the sums run over `terms` inputs from k on, and continue from out where k > 0
    """
    k, terms = inputs
    builder, begins = x.builder, k.equals(0).value
    product_of = functools.partial(
        multiply, builder, dtype=x.dtype, b=w.at(k), c=out.at(first), rows=rows, columns=w.columns,
        depth=terms, a_row=x.row, a_step=x.itemsize, b_row=w.row, c_row=out.row, panel=panel.data,
        start=builder.select(begins, b.data, out.at(first)),
        start_row=builder.select(begins, INT(0), out.row.value),
        finish=finish, packing=packing, across=across,
    )  # fmt: skip
    with builder.if_else((order.columns > 0).value) as (ordered, straight):
        with ordered:
            product_of("rows", a=x.at(0, k), order=order.at(0, first), known=order.columns - first)
        with straight:
            product_of("strided", a=x.at(first, k))


def distances(x, order, k, terms, panel):
    """Write the distances in bytes to rows order[k], .. of x behind the panel; return their address."""
    build = x.builder
    address = shifted(build, panel.data, (terms * (VECTORS * VECTOR_BYTES)).value)
    samples, far = (NumberArray(build, types.int64, at) for at in (order.at(0, k), address))
    with counted(build, terms) as term:
        # Once for all tiles: a multiplication for each term would take a port of the FMAs, see
        # `microkernel.PANEL_LAYOUTS`.
        far[term] = samples[term] * x.row
    return address


@of_arrays
def product_of_columns(
    x, order, first, rows, delta, samples, packing, panel, sums, out, to, end
):  # fmt: skip
    """Rows to, .. of out = `rows` rows of x[order].T @ delta from row `first`; of x.T @ delta if the order is empty.

    samples : (k, terms), the first row of delta and their number; the sums of earlier rows are in `sums`
    end : (finish, rate, l2)
    """
    (k, terms), (finish, rate, l2) = samples, end
    builder = x.builder
    product_of = functools.partial(
        multiply, builder, dtype=x.dtype, b=delta.at(k), c=out.at(to), rows=rows, columns=delta.columns,
        depth=terms, a_row=x.itemsize, a_step=x.row, b_row=delta.row, c_row=out.row, panel=panel.data,
        start=builder.select(k.equals(0).value, NOTHING, sums.at(to)), start_row=sums.row, finish=finish,
        packing=packing, rate=rate, l2=l2,
    )  # fmt: skip
    with builder.if_else((order.columns > 0).value) as (ordered, straight):
        with ordered:
            product_of("depth", a=x.at(0, first), order=distances(x, order, k, terms, panel))
        with straight:
            product_of("strided", a=x.at(k, first))


@of_arrays
def product_by_transposed(delta, first, rows, w, panel, gate, out, gated):
    """`rows` rows of out = delta @ w.T, from row `first` on; where `gated`, 0 unless gate is above 0."""
    builder = delta.builder
    multiply(
        builder, "strided", delta.dtype, a=delta.at(first), b=w.data, c=out.at(first), rows=rows,
        columns=w.rows, depth=w.columns, a_row=delta.row, a_step=delta.itemsize, b_row=w.row, c_row=out.row,
        panel=panel.data, packing=TRANSPOSED, start=builder.select(gated.value, gate.at(first), NOTHING),
        start_row=gate.row, finish=builder.select(gated.value, INT(GATE), INT(STORE)),
    )  # fmt: skip


@of_arrays
def product(a, b, start, c, size, end, across):
    """Any product of flat arrays, C = end(start + A B).

    a : (array, at, row, step); element (m, k) of A is array[at + m * row + k * step]; b, start, c : (array, at, row)
    start : (None, 0, 0) for 0; size : (rows, columns, depth); end : (finish, rate, l2)
    """
    (array, *_, a_row, a_step), (rows, columns, depth), (finish, rate, l2) = a, size, end
    itemsize = array.itemsize
    address = lambda array, at, *_: array.data if array.data is NOTHING else array.at(0, at)
    multiply(
        array.builder, "strided", array.dtype, a=address(*a), b=address(*b), c=address(*c), rows=rows,
        columns=columns, depth=depth, a_row=a_row * itemsize, a_step=a_step * itemsize,
        b_row=b[2] * itemsize, c_row=c[2] * itemsize, start=address(*start), start_row=start[2] * itemsize,
        finish=finish, rate=rate, l2=l2, across=across,
    )  # fmt: skip
