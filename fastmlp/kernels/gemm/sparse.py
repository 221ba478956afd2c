"""Products with a sparse factor: each row of the result is a sum of a few rows of a dense matrix.

Both products of a first layer have this form. Forward, a sum belongs to a sample: its terms are its non-zeros times
rows of W. In the weight gradient, a sum belongs to an input's column: its terms are the column's non-zeros times
rows of deltas. Here a product is cut into sums that registers hold (`fastmlp.kernels.gemm.sparse_sums`).
"""

import numpy as np
from llvmlite import ir
from numba import njit, types

from fastmlp.formulas.numbers import at_least
from fastmlp.kernels.codegen.symbols import FLOATS, INT, ITEMSIZE, Symbol
from fastmlp.kernels.codegen.vectors import NOTHING, ascending, of_arrays, shifted, smaller
from fastmlp.kernels.codegen.views import chosen
from fastmlp.kernels.gemm.microkernel import MACHINE, RELU, STORE, UPDATE
from fastmlp.kernels.gemm.packing import call
from fastmlp.kernels.gemm.sparse_sums import (
    AXES,
    BLOCKED,
    MOST_VECTORS,
    NEAR,
    SUMS,
    Sums,
    is_given,
    is_unmasked,
    load_at,
    operands,
    taken_by,
    way_to,
)
from fastmlp.kernels.jit.lazy import emitted


def emit_product(build, arguments, kinds, code):
    """Write the function of sums of any width: columns are cut into blocks of nearly equal width."""
    o, dtype = operands(build, arguments), kinds[-1]
    lanes = MACHINE.vector_bytes // ITEMSIZE[dtype]
    up = lambda a, b: (a + (b - 1)) // b
    across = up(o.columns, lanes)
    width = up(across, up(across, MOST_VECTORS)) * lanes
    with ascending(build, o.columns) as (left, to_the_right):
        columns = smaller(width, o.columns - left)
        vectors = up(columns, lanes)
        along = (left * ITEMSIZE[dtype]).value
        start = build.select(is_given(build, o.start).value, shifted(build, o.start, along), NOTHING)
        values = o._replace(
            b=shifted(build, o.b, along), c=shifted(build, o.c, along), start=start, columns=columns
        )
        way = way_to(o, columns * ITEMSIZE[dtype])
        is_whole = (vectors * lanes).equals(columns)
        if not is_unmasked(BLOCKED):
            is_whole &= way.equals(NEAR)
        whole = Symbol(build, build.zext(is_whole.value, INT))
        shape = (vectors * AXES[1] + whole) * AXES[2] + way
        call(build, SUMS, int(np.prod(AXES)), (types.intp, *kinds), [shape, *values])
        to_the_right(columns)


PRODUCT = emitted(f"sparse_product_{MACHINE.vector_bytes}", emit_product)


def multiply(builder, dtype, **given):
    """Write a call of the product. given : fields of `Sums`; places that are not given are null, numbers 0."""
    zero = ir.Constant(FLOATS[dtype], 0.0)
    others = {
        **dict.fromkeys(("places", "start", "targets"), NOTHING),
        **dict.fromkeys(("depth", "terms", "start_row"), INT(0)),
        "rate": zero,
        "l2": zero,
    }
    call(builder, PRODUCT, 0, taken_by(dtype), Sums(**{**others, **given}))


@of_arrays
def sums_of_samples(indptr, indices, values, order, w, b, out, finish):
    """out = x[order] @ w + b, of sparse rows x; with an empty order, of x @ w + b. b : a row, or a row for each sum"""
    build, ordered = values.builder, (order.columns > 0).value
    rows = indptr.columns - 1
    stored = load_at(build, indptr.data, rows) - load_at(build, indptr.data, Symbol(build, INT(0)))
    terms = stored // at_least(rows, 1)
    multiply(
        build, values.dtype, starts=indptr.data, indices=indices.data, values=values.data,
        places=build.select(ordered, order.data, NOTHING), b=w.data, b_row=w.row, start=b.data,
        start_row=b.row if b.kind.ndim == 2 else INT(0),
        c=out.data, c_row=out.row, count=out.rows, columns=out.columns, finish=finish,
        depth=w.rows, terms=terms,
    )  # fmt: skip


@of_arrays
def sums_of_columns(starts, samples, numbers, columns, delta, out, finish, rate, l2):
    """Row columns[t] of out, int64, or row t where `columns` is empty, = sum t of rows of delta.

    Sum t is that of numbers[p] * delta[samples[p]], for p from starts[t] to starts[t + 1].
    """
    listed = (columns.columns > 0).value
    multiply(
        numbers.builder, numbers.dtype, starts=starts.data, indices=samples.data, values=numbers.data,
        targets=numbers.builder.select(listed, columns.data, NOTHING), b=delta.data, b_row=delta.row,
        c=out.data, c_row=out.row, count=starts.columns - 1, columns=out.columns, finish=finish, rate=rate, l2=l2,
    )  # fmt: skip


compiled = njit(error_model="numpy", inline="always")


@compiled
def affine(indptr, indices, values, order, w, b, out, relu):
    """`dispatch.affine` for all rows of out, with sparse rows of x."""
    sums_of_samples(indptr, indices, values, order, w, b, out, chosen(relu, RELU, STORE))


@compiled
def add(indptr, indices, values, order, w, out):
    """out += x @ w, with sparse rows of x: each chain goes on from what out has."""
    sums_of_samples(indptr, indices, values, order, w, out, out, STORE)


@compiled
def weight_gradient(starts, samples, numbers, columns, delta, out, apply, rate, l2):
    """`dispatch.weight_gradient` of listed columns: see `sums_of_columns`."""
    sums_of_columns(starts, samples, numbers, columns, delta, out, chosen(apply, UPDATE, STORE), rate, l2)
