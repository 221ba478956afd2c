"""The matrix products of layers for jitted code: arrays become the operands of a product.

Separate because `fastmlp.kernels.gemm.macrokernel` does not know arrays, and jitted code should not name its twenty
operands: each name is a statement that Numba types and lowers, about a millisecond.
"""

import functools

from numba import types

from fastmlp.kernels.codegen.symbols import INT
from fastmlp.kernels.codegen.vectors import NOTHING, NumberArray, counted, of_arrays, shifted
from fastmlp.kernels.gemm.macrokernel import TRANSPOSED, multiply
from fastmlp.kernels.gemm.microkernel import GATE, STORE, VECTOR_BYTES, VECTORS


@of_arrays
def product_of_rows(x, order, first, rows, w, k, terms, packing, panel, b, out, finish, across):
    """`rows` rows of out = x[order] @ w + b, from row `first` on; with an empty order, of x @ w + b.

    The sums run over `terms` inputs from input k on. Where k > 0 the sums of earlier inputs are in out, and go on.
    """
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
    """Write the distances in bytes to rows order[k], .. of x behind the panel; return their place."""
    build = x.builder
    place = shifted(build, panel.data, (terms * (VECTORS * VECTOR_BYTES)).value)
    samples, far = (NumberArray(build, types.int64, at) for at in (order.at(0, k), place))
    with counted(build, terms) as term:
        far[term] = samples[term] * x.row
    return place


@of_arrays
def product_of_columns(
    x, order, first, rows, delta, k, terms, packing, panel, sums, out, to, finish, rate, l2
):  # fmt: skip
    """Rows to, .. of out = `rows` rows of x[order].T @ delta from row `first`; of x.T @ delta if the order is empty.

    The terms of rows k, k + 1, .. of delta, `terms` of them; sums of earlier rows wait in `sums`, and go on.
    """
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
def product(
    a, a_at, a_row, a_step, b, b_at, b_row, start, start_at, start_row, c, c_at, c_row,
    rows, columns, depth, finish, rate, l2, across,
):  # fmt: skip
    """Any product of flat arrays: element (m, k) of A is a[a_at + m * a_row + k * a_step]; B and C likewise."""
    size = a.itemsize
    place = lambda array, at: array.data if array.data is NOTHING else array.at(0, at)
    multiply(
        a.builder, "strided", a.dtype, a=place(a, a_at), b=place(b, b_at), c=place(c, c_at), rows=rows,
        columns=columns, depth=depth, a_row=a_row * size, a_step=a_step * size, b_row=b_row * size,
        c_row=c_row * size, start=place(start, start_at), start_row=start_row * size, finish=finish,
        rate=rate, l2=l2, across=across,
    )  # fmt: skip
