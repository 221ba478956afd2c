"""Columns and rows of a batch as numbers, and those that a block of inputs or a head reads or writes."""

# mypy: ignore-errors

from functools import partial

from numba import types

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.symbols import FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, folded, of_arrays
from fastmlp.kernels.codegen.views import vector


def convert_bytes(numbers, order, first, scale, out):
    """out (visited, columns) = numbers (rows, columns) uint8 at order (visited,) int64, times scale[0].

    Without an order, rows first, first + 1, .. of them. scale : (1,) float64
    """
    wide_vectors()
    columns, factor = out.shape[1], out.dtype.type(scale[0])
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else first + i
        source, target = vector(numbers, row * columns, columns), vector(out, i * columns, columns)
        for j in range(columns):
            target[j] = out.dtype.type(source[j]) * factor


def take_weights(weights, order, start, out):
    """out (n,) = weights of the rows order[start], ..; of rows start, .. where the order is empty"""
    for i in range(len(out)):
        out[i] = weights[order[start + i]] if len(order) > 0 else weights[start + i]


def take_columns(x, order, start, column, out):
    """out (n, columns) = columns of x from `column` on, in the rows of `take_weights`"""
    for i in range(out.shape[0]):
        row = order[start + i] if len(order) > 0 else start + i
        for j in range(out.shape[1]):
            out[i, j] = x[row, column + j]


def copy_columns(x, column, out):
    """Columns of out from `column` on = x (rows, columns)."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, column + j] = x[i, j]


def masked_rows(y, w, factors, weighted, out):
    """out (n,) = the weights w of rows with all targets y (n, units); 0 of others, whose targets become 0.

    factors : (units,) of classes where `weighted`: a row counts by the mean of its targets' factors, and its
        targets become their products with these, which sum to 1 again
    """
    for i in range(len(w)):
        there, factor = True, 0.0
        for j in range(y.shape[1]):
            if y[i, j] != y[i, j]:
                there = False
            else:
                factor += y[i, j] * factors[j]
        if not there:
            out[i] = 0
            for j in range(y.shape[1]):
                y[i, j] = 0
        elif weighted:
            out[i] = w[i] * factor
            if factor > 0.0:
                for j in range(y.shape[1]):
                    y[i, j] = y[i, j] * factors[j] / factor
        else:
            out[i] = w[i]


def masked_column(z, y, w, column, factor, z_of, y_of, out):
    """Copy a column of z and y (n, units) to z_of, y_of (n, 1); out (n,) = w * factor, 0 where y is NaN."""
    for i in range(len(w)):
        z_of[i, 0] = z[i, column]
        if y[i, column] != y[i, column]:
            y_of[i, 0] = 0
            out[i] = 0
        else:
            y_of[i, 0] = y[i, column]
            out[i] = w[i] * factor


def softmax_gradient(a, delta):
    """delta (rows, units) = the derivative of the loss by logits, given that by their softmax a."""
    for i in range(a.shape[0]):
        along = a.dtype.type(0)
        for j in range(a.shape[1]):
            along += a[i, j] * delta[i, j]
        for j in range(a.shape[1]):
            delta[i, j] = a[i, j] * (delta[i, j] - along)


def softmax_slopes(a, output, is_softmax, delta):
    """delta (units, rows) = the derivative of an output by the logits, of softmax a; else 1 for itself."""
    wide_vectors()
    units, rows = a.shape
    one = a.dtype.type(1)
    own = vector(a, output * rows, rows)
    for j in range(units):
        is_own = one if j == output else a.dtype.type(0)
        share, found = vector(a, j * rows, rows), vector(delta, j * rows, rows)
        for i in range(rows):
            found[i] = own[i] * (is_own - share[i]) if is_softmax else is_own


def clear_unasked(by_outputs, column, k, delta):
    """delta (n * k, units) = 0 where by_outputs (n, columns) is 0, from a column on; k rows for each.

    So the infinite slope of an output has no part in the derivatives of others.
    """
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            if by_outputs[i // k, column + j] == 0:
                delta[i, j] = 0


def add_to_rows(b, out):
    """out (units, rows) += b (units,)."""
    wide_vectors()
    for j in range(out.shape[0]):
        own = vector(out, j * out.shape[1], out.shape[1])
        for i in range(out.shape[1]):
            own[i] += b[j]


def fill_rows(x, out):
    """out (units, rows) = x (units,), in every column."""
    wide_vectors()
    for j in range(out.shape[0]):
        own = vector(out, j * out.shape[1], out.shape[1])
        for i in range(out.shape[1]):
            own[i] = x[j]


def bend(curvature, slopes, adds, tangent):
    """tangent of a cotangent = curvature * tangent of a logit, + slopes where `adds`; all of one shape."""
    wide_vectors()
    c, s, t = (
        vector(curvature, 0, curvature.size),
        vector(slopes, 0, curvature.size),
        vector(tangent, 0, curvature.size),
    )
    for i in range(len(t)):
        t[i] = c[i] * t[i] + s[i] if adds else c[i] * t[i]


def copy_transposed(x, out, first, step):
    """Rows first, first + step, .. of out (.., n) = the columns of x (n, columns)."""
    for j in range(x.shape[1]):
        for i in range(x.shape[0]):
            out[first + j * step, i] = x[i, j]


@partial(of_arrays, result="float64")
def square_sum(x):
    """Return the sum of the squares of a few numbers x (n,): whole vectors are added, then their halves."""
    build = x.builder
    v = Vectors(build, x.dtype, host().vector_bytes)
    total = Running(Symbol(build, v.zero))

    def add(i, mask):
        some = Symbol(build, v.load(v.shift(x.data, i * v.itemsize), mask))
        total.value = fma(some, some, total.value)

    v.over(x.units, add)
    found = folded(build, total.value, lambda a, b: a + b).value
    return found if x.dtype == types.float64 else build.fpext(found, FLOATS[types.float64])
