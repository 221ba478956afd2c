"""A linear layer for each column's units, separate ones: the end of some blocks of inputs."""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.views import (
    biases_of_column,
    column_of,
    matrix,
    no_order,
    part_of,
    weights_of_column,
)
from fastmlp.kernels.program.columns import saved_of_column, units_of_column, update_columns
from fastmlp.kernels.program.row_formulas import copy_columns, pass_on
from fastmlp.kernels.program.slots import affine_rows, input_gradient_rows, weight_gradient_rows
from fastmlp.kernels.program.step_numbers import left_whole, worker_part
from fastmlp.kernels.program.weight_templates import clear

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import bias_gradient


def forward(call, start, rows, number, first, last, worker):
    """Multiply each column's units with its weights, column by column, and copy them to their rows."""
    op = call.operations[number]
    below, n_in, n_out = call.operations[op.source], op.n_in // op.columns, op.n_out // op.columns
    scratch = part_of(call.memory, call.scratch, call.scratch_length, worker)
    for g in range(op.columns):
        w = matrix(weights_of_column(call.parameters, op, g), 0, n_in, n_out)
        z, part = saved_of_column(call, op, g, rows, first, last)
        x = column_of(call.memory, call.activations, below.units, g, rows, n_in)
        b = biases_of_column(call.parameters, op, g)
        affine_rows(x, no_order(), w, b, z, first, last, False, scratch)
        out, unit = units_of_column(call, call.activations, op, g, rows, first, last)
        copy_columns(part, unit, out)


def backward(call, rows, of_all, number, first, last, worker):
    """Make each column's deltas contiguous, and pass them to the source if that trains."""
    op = call.operations[number]
    below, n_in, n_out = call.operations[op.source], op.n_in // op.columns, op.n_out // op.columns
    scratch = part_of(call.memory, call.scratch, call.scratch_length, worker)
    for g in range(op.columns):
        delta, unit = units_of_column(call, call.deltas, op, g, rows, first, last)
        # In the room of the saved outputs, for the matrix kernels.
        by_z, part = saved_of_column(call, op, g, rows, first, last)
        pass_on(delta, unit, False, part)
        if below.trained > below.weights:
            w = matrix(weights_of_column(call.parameters, op, g), 0, n_in, n_out)
            by_x = column_of(call.memory, call.deltas, below.units, g, rows, n_in)
            input_gradient_rows(by_z, w, by_x, by_x, first, last, False, scratch)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Write the gradients of a worker's columns, and update."""
    op = call.operations[number]
    below, n_in, n_out = call.operations[op.source], op.n_in // op.columns, op.n_out // op.columns
    scratch = part_of(call.memory, call.scratch, call.scratch_length, worker)
    first, last = worker_part(op.columns, worker, workers, 1)
    for g in range(first, last):
        of_weights = weights_of_column(call.gradients, op, g)
        of_biases = biases_of_column(call.gradients, op, g)
        if rows > 0:
            x = column_of(call.memory, call.activations, below.units, g, rows, n_in)
            by_z, _ = saved_of_column(call, op, g, rows, 0, rows)
            out, zero = matrix(of_weights, 0, n_in, n_out), x.dtype.type(0)
            part, no_step = (0, 0, n_in), (False, zero, zero)
            weight_gradient_rows(x, no_order(), by_z, out, part, no_step, out, scratch)
            bias_gradient(by_z, of_biases)
        else:
            clear(of_weights)
            clear(of_biases)
    if not left_whole(call):
        update_columns(call, step, number, rates, worker, workers)


update = update_columns
