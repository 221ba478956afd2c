"""Batch norms: statistics down the columns of a batch, and normalised numbers.

Sums run down the rows in order, a share of the columns for each worker, so that bits do not depend on the
number of workers. Where ranks share a batch, each rank sums its rows, and sums are added up between passes.
"""

# mypy: ignore-errors

import math

from fastmlp.kernels.codegen.views import vector

# Columns of a row are read as a `vector`: an index x[i, first + j] may be negative, as Python's are, so that
# LLVM would load number by number.


def unit_sums(x, first, out):
    """out (n,) = the sums of the columns of x from `first` on."""
    units = len(out)
    for j in range(units):
        out[j] = 0
    for i in range(x.shape[0]):
        row = vector(x, i * x.shape[1] + first, units)
        for j in range(units):
            out[j] += row[j]


def unit_distances(x, first, count, mean, out):
    """Make means (n,) of sums over `count` rows; out (n,) = the sums of squared distances from the means."""
    units = len(out)
    for j in range(units):
        mean[j] /= count
        out[j] = 0
    for i in range(x.shape[0]):
        row = vector(x, i * x.shape[1] + first, units)
        for j in range(units):
            distance = row[j] - mean[j]
            out[j] += distance * distance


def unit_factors(count, epsilon, momentum, mean, factor, running, spread):
    """Make factors (n,), 1 / sqrt(variance + epsilon), of sums of squared distances over `count` rows.

    running, spread : (n,), the running means and unbiased variances, moved by `momentum`
    """
    one, moved, added = mean.dtype.type(1), mean.dtype.type(momentum), mean.dtype.type(epsilon)
    for j in range(len(mean)):
        variance = factor[j] / count
        if momentum > 0:
            running[j] = (one - moved) * running[j] + moved * mean[j]
            spread[j] = (one - moved) * spread[j] + moved * (factor[j] / (count - one))
        factor[j] = one / math.sqrt(variance + added)


def column_gradients(x, first, mean, factor, delta, by_gain, by_shift):
    """Write the derivatives of the loss by gain and shift (n,) of the columns of x from `first` on."""
    units = len(mean)
    for j in range(units):
        by_gain[j] = 0
        by_shift[j] = 0
    for i in range(x.shape[0]):
        row, d = vector(x, i * x.shape[1] + first, units), vector(delta, i * x.shape[1] + first, units)
        for j in range(units):
            by_shift[j] += d[j]
            by_gain[j] += d[j] * ((row[j] - mean[j]) * factor[j])


def normalise_columns(x, mean, factor, gain, shift, out):
    """out (rows, units) = (x - mean) * factor * gain + shift, of each column."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[j]) * factor[j] * gain[j] + shift[j]


def normalise_fixed(x, mean, variance, epsilon, gain, shift, out):
    """`normalise_columns` by given variances."""
    one, added = x.dtype.type(1), x.dtype.type(epsilon)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[j]) * (one / math.sqrt(variance[j] + added)) * gain[j] + shift[j]


def normalise_fixed_gradient(variance, epsilon, gain, delta, adds, below):
    """below (rows, units) = the derivative of the loss by the x of `normalise_fixed`; += where `adds`."""
    one, added = delta.dtype.type(1), delta.dtype.type(epsilon)
    if adds:
        for i in range(delta.shape[0]):
            for j in range(delta.shape[1]):
                below[i, j] += delta[i, j] * gain[j] * (one / math.sqrt(variance[j] + added))
    else:
        for i in range(delta.shape[0]):
            for j in range(delta.shape[1]):
                below[i, j] = delta[i, j] * gain[j] * (one / math.sqrt(variance[j] + added))


def fixed_gain_gradient(x, mean, variance, epsilon, delta, out):
    """out (units,) = the derivative of the loss by the gain of `normalise_fixed`."""
    one, added = delta.dtype.type(1), delta.dtype.type(epsilon)
    for j in range(len(out)):
        out[j] = 0
    for i in range(x.shape[0]):
        for j in range(len(out)):
            out[j] += delta[i, j] * ((x[i, j] - mean[j]) * (one / math.sqrt(variance[j] + added)))


def normalise_columns_gradient(x, mean, factor, gain, by_gain, by_shift, count, delta, adds, below):
    """below (rows, units) = the derivative of the loss by x, or += where `adds`; count : its rows."""
    if adds:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                normal = (x[i, j] - mean[j]) * factor[j]
                own = delta[i, j] - by_shift[j] / count - normal * (by_gain[j] / count)
                below[i, j] += factor[j] * gain[j] * own
    else:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                normal = (x[i, j] - mean[j]) * factor[j]
                own = delta[i, j] - by_shift[j] / count - normal * (by_gain[j] / count)
                below[i, j] = factor[j] * gain[j] * own
