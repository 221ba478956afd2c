"""What makes units of numbers and categories, and its gradients: the loops that `input_templates` calls."""

# mypy: ignore-errors

from __future__ import annotations

import math

from fastmlp.formulas import elementary
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.vectors import prefetch_row

TAU = 2 * math.pi

AHEAD = 16
"""Rows of a batch from one that is looked up to one whose row of a large table is fetched meanwhile."""


@jittable
def cosine(x):
    """Return cos(x)."""
    return elementary.cos(x)


@jittable
def sine(x):
    """Return sin(x)."""
    return elementary.sin(x)


def angles(x, column, frequencies, phases, z):
    """z (rows, terms) = 2 pi c x + b, of one column of x; phases : b (terms,), or empty for 0"""
    tau = x.dtype.type(TAU)
    for i in range(z.shape[0]):
        turns = tau * x[i, column]
        if len(phases) > 0:
            for j in range(z.shape[1]):
                z[i, j] = turns * frequencies[j] + phases[j]
        else:
            for j in range(z.shape[1]):
                z[i, j] = turns * frequencies[j]


def cosines(z, out):
    """out (n,) = cos(z)."""
    for i in range(len(z)):
        out[i] = cosine(z[i])


def cosines_gradient(delta, z):
    """z (n,) = the derivative of the loss by z, given delta, that by cos(z)."""
    for i in range(len(z)):
        z[i] = -(delta[i] * sine(z[i]))


def sinusoids(z, unit, out):
    """Columns of out (rows, units) from `unit` on = sin(z), and then cos(z); z : (rows, terms)"""
    terms = z.shape[1]
    for i in range(z.shape[0]):
        for j in range(terms):
            out[i, unit + j] = sine(z[i, j])
        for j in range(terms):
            out[i, unit + terms + j] = cosine(z[i, j])


def sinusoids_gradient(delta, out, unit, z):
    """z (rows, terms) = the derivative of the loss by z, given delta, that by `sinusoids`."""
    terms = z.shape[1]
    for i in range(z.shape[0]):
        for j in range(terms):
            by_sine, by_cosine = delta[i, unit + j], delta[i, unit + terms + j]
            z[i, j] = by_sine * out[i, unit + terms + j] - by_cosine * out[i, unit + j]


def frequencies_gradient(x, column, delta, out):
    """out (terms,) = the derivative of the loss by c, given delta (rows, terms), that by `angles`."""
    tau = x.dtype.type(TAU)
    for j in range(len(out)):
        out[j] = 0
    for i in range(delta.shape[0]):
        turns = tau * x[i, column]
        for j in range(len(out)):
            out[j] += turns * delta[i, j]


def bins(x, column, edges, slopes, unit, out):
    """Columns of out from `unit` on = a column of x by its bins; edges, slopes : (columns, bins)"""
    count = edges.shape[1]
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.shape[0]):
        value = x[i, column]
        for j in range(count):
            share = (value - edges[column, j]) * slopes[column, j]
            lowest, highest = (zero if j > 0 else -one), (one if j < count - 1 else one + one)
            share = lowest if share < lowest else share
            out[i, unit + j] = highest if share > highest else share


def table_row(code, levels):
    """Return the row of a code in its table: 0 for what is missing, -1 for a code of no level."""
    if code >= -1 and code < levels:
        return int(code) + 1
    return -1


def look_up(x, column, table, unit, out):
    """Columns of out from `unit` on = the rows of a table (levels + 1, width), by the codes in a column of x.

    A code of no level has the mean of the levels' rows.
    """
    levels, width, unknown = table.shape[0] - 1, table.shape[1], -1
    for i in range(x.shape[0]):
        if i + AHEAD < x.shape[0]:
            prefetch_row(table, max(0, table_row(x[i + AHEAD, column], levels)))
        row = table_row(x[i, column], levels)
        if row >= 0:
            for j in range(width):
                out[i, unit + j] = table[row, j]
        elif unknown >= 0:
            for j in range(width):
                out[i, unit + j] = out[unknown, unit + j]
        else:
            for j in range(width):
                out[i, unit + j] = 0
            for level in range(1, levels + 1):
                for j in range(width):
                    out[i, unit + j] += table[level, j]
            for j in range(width):
                out[i, unit + j] /= x.dtype.type(levels)
            unknown = i
