"""Columns of a block of inputs, each with arrays and units of its own.

With `by_column` the units of a column lie together as a matrix (rows, units), so that the column's linear
layer is a product.
"""

# mypy: ignore-errors

from fastmlp.kernels.codegen.views import column_of, rows_of, units_of
from fastmlp.kernels.program.step_numbers import worker_part
from fastmlp.kernels.program.weight_templates import apply_gradients


def saved_of_column(call, op, column, rows, first, last):
    """Return the saved numbers of a column: all (rows, numbers), and rows [first, last)."""
    saved = column_of(call.memory, call.logits, op.saved, column, rows, op.saved_units // op.columns)
    return saved, rows_of(saved, first, last)


def units_of_column(call, buffer, op, column, rows, first, last):
    """Return rows [first, last) with a column's units, or deltas; and the first unit's index in a row."""
    units = op.n_out // op.columns
    if op.by_column != 0:
        return rows_of(column_of(call.memory, buffer, op.units, column, rows, units), first, last), 0
    return rows_of(units_of(call.memory, buffer, op, rows), first, last), column * units


def update_columns(call, step, number, rates, worker, workers):
    """Apply the gradients of a worker's columns."""
    op = call.operations[number]
    n_weights, n_biases = (op.biases - op.weights) // op.columns, (op.trained - op.biases) // op.columns
    first, last = worker_part(op.columns, worker, workers, 1)
    n = last - first
    apply_gradients(call, 0, number, step, rates[0], op.weights + first * n_weights, n * n_weights)
    apply_gradients(call, 1, number, step, rates[1], op.biases + first * n_biases, n * n_biases)
