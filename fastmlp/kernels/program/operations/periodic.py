"""Cosines of each number of a block, of trained frequencies; or sines and cosines: see `Periodic`."""

# mypy: ignore-errors

import math
from typing import TYPE_CHECKING

from fastmlp.formulas import elementary
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import biases_of_column, output_of, rows_of, vector, weights_of_column
from fastmlp.kernels.program.columns import (
    saved_of_column,
    units_of_column,
    update_columns,
)
from fastmlp.kernels.program.step_numbers import left_whole, worker_part
from fastmlp.kernels.program.weight_templates import clear

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import bias_gradient

TAU = 2 * math.pi

cosine, sine = jittable(elementary.cos), jittable(elementary.sin)


def forward(call, start, rows, number, first, last, worker):
    """Keep the angles, and compute the units; without phases a sine comes before each cosine's."""
    op = call.operations[number]
    below = call.operations[op.source]
    x = rows_of(output_of(call.memory, call.activations, call.dropped, below, rows), first, last)
    for g in range(op.columns):
        out, unit = units_of_column(call, call.activations, op, g, rows, first, last)
        _, z = saved_of_column(call, op, g, rows, first, last)
        phases = biases_of_column(call.parameters, op, g)
        angles(x, g, weights_of_column(call.parameters, op, g), phases, z)
        if len(phases) > 0:
            cosines(vector(z, 0, z.size), vector(out, 0, out.size))
        else:
            sinusoids(z, unit, out)


def backward(call, rows, of_all, number, first, last, worker):
    """Write the derivatives by the angles over the angles, for `gradient`; numbers of X get none."""
    op = call.operations[number]
    for g in range(op.columns):
        delta, unit = units_of_column(call, call.deltas, op, g, rows, first, last)
        _, z = saved_of_column(call, op, g, rows, first, last)
        if op.trained > op.biases:
            cosines_gradient(vector(delta, 0, delta.size), vector(z, 0, z.size))
        else:
            out, _ = units_of_column(call, call.activations, op, g, rows, first, last)
            sinusoids_gradient(delta, out, unit, z)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Write the gradients of a worker's columns, and update."""
    op = call.operations[number]
    first, last = worker_part(op.columns, worker, workers, 1)
    x = output_of(call.memory, call.activations, call.dropped, call.operations[op.source], rows)
    for g in range(first, last):
        of_frequencies = weights_of_column(call.gradients, op, g)
        of_phases = biases_of_column(call.gradients, op, g)
        if rows > 0:
            by_z, _ = saved_of_column(call, op, g, rows, 0, rows)
            frequencies_gradient(x, g, by_z, of_frequencies)
            if len(of_phases) > 0:
                bias_gradient(by_z, of_phases)
        else:
            clear(of_frequencies)
            clear(of_phases)
    if not left_whole(call):
        update_columns(call, step, number, rates, worker, workers)


update = update_columns


# --- loops over the rows of a column -------------------------------------------------------------------


def angles(x, column, frequencies, phases, z):
    """z (rows, terms) = 2 pi c x + b, of a column of x; phases : b (terms,), or empty for 0"""
    tau = x.dtype.type(TAU)
    for i in range(z.shape[0]):
        turns = tau * x[i, column]
        for j in range(z.shape[1]):
            z[i, j] = turns * frequencies[j]
        for j in range(len(phases)):
            z[i, j] += phases[j]


def cosines(z, out):
    """out (n,) = cos(z)."""
    for i in range(len(z)):
        out[i] = cosine(z[i])


def cosines_gradient(delta, z):
    """z (n,) = delta times the derivative of cos(z)."""
    for i in range(len(z)):
        # z is needed no more, so that its derivative takes its memory.
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
    """z (rows, terms) = the derivative of the loss by z, given delta of the output of `sinusoids`."""
    terms = z.shape[1]
    for i in range(z.shape[0]):
        for j in range(terms):
            by_sine, by_cosine = delta[i, unit + j], delta[i, unit + terms + j]
            z[i, j] = by_sine * out[i, unit + terms + j] - by_cosine * out[i, unit + j]


def frequencies_gradient(x, column, delta, out):
    """out (terms,) = the derivative of the loss by c, given delta (rows, terms) of the output of `angles`."""
    tau = x.dtype.type(TAU)
    for j in range(len(out)):
        out[j] = 0
    for i in range(delta.shape[0]):
        turns = tau * x[i, column]
        for j in range(len(out)):
            out[j] += turns * delta[i, j]
