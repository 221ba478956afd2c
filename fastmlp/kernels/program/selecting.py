"""Columns and rows of a batch as numbers, and those that a block of inputs or a head reads or writes."""

# mypy: ignore-errors

from fastmlp.kernels.codegen.scalars import wide_vectors
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
