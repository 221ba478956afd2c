"""Blocks of inputs in a step: cosines, bins and linear layers of numbers, tables of codes.

Templates as `operation_templates`, compiled only for networks with blocks. With `by_column` the units of a
column lie together as a matrix (rows, units), so that the column's layer is a product.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

import math

from fastmlp.formulas import elementary
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.vectors import prefetch_row
from fastmlp.kernels.codegen.views import (
    column_of,
    lesser,
    matrix,
    no_order,
    output_of,
    part_of,
    rows_of,
    span,
    units_of,
    vector,
)
from fastmlp.kernels.codes import OPERATION_CODES, SGD
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.row_formulas import copy_columns, pass_on
from fastmlp.kernels.program.step_numbers import left_whole, worker_part

PERIODIC, PIECEWISE_LINEAR, GROUPED = map(
    OPERATION_CODES.code_of_key, ("periodic", "piecewise_linear", "grouped")
)

TAU = 2 * math.pi

cosine, sine = jittable(elementary.cos), jittable(elementary.sin)

AHEAD = 16
"""Rows between a table lookup and the prefetch of a later row of a large table."""

TOGETHER = 16
"""Rows of a table for the same worker, as many as share a cache line."""


def parameters_of_column(op):
    """Return each column's number of weights and of biases."""
    return (op.biases - op.weights) // op.columns, (op.trained - op.biases) // op.columns


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


def block_forward(call, rows, number, first, last, worker):
    """Take rows [first, last) through an operation on a block; as `rows_forward`."""
    memory, op, parameters = call.memory, call.operations[number], call.parameters
    below = call.operations[op.source]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    if op.tables > 0:
        out = rows_of(units_of(memory, call.activations, op, rows), first, last)
        for column in range(op.tables):
            table = call.tables[op.column + column]
            values = matrix(parameters, table.start, table.levels + 1, table.width)
            look_up(x, column, values, table.unit, out)
        return
    n_weights, n_biases = parameters_of_column(op)
    for g in range(op.columns):
        weights = vector(parameters, op.weights + g * n_weights, n_weights)
        biases = vector(parameters, op.biases + g * n_biases, n_biases)
        out, unit = units_of_column(call, call.activations, op, g, rows, first, last)
        saved, part = saved_of_column(call, op, g, rows, first, last)
        if op.kind == GROUPED:
            n_in = op.n_in // op.columns
            source = column_of(memory, call.activations, below.units, g, rows, n_in)
            scratch = part_of(memory, call.scratch, call.scratch_length, worker)
            w = matrix(weights, 0, n_in, n_weights // n_in)
            affine_rows(source, no_order(), w, biases, saved, first, last, False, scratch)
            copy_columns(part, unit, out)
        elif op.kind == PERIODIC:
            angles(x, g, weights, biases, part)
            if n_biases > 0:
                cosines(vector(part, 0, part.size), vector(out, 0, out.size))
            else:
                sinusoids(part, unit, out)
        elif op.kind == PIECEWISE_LINEAR:
            n = op.n_out // op.columns
            edges = vector(parameters, op.trained + g * n, n)
            bins(x, g, edges, vector(parameters, op.trained + op.n_out + g * n, n), unit, out)


def block_backward(call, rows, number, first, last, worker):
    """Write an operation's saved numbers for gradients, and source deltas: `rows_backward`."""
    memory, op = call.memory, call.operations[number]
    below = call.operations[op.source]
    if op.saved_units == 0:
        return
    for g in range(op.columns):
        delta, unit = units_of_column(call, call.deltas, op, g, rows, first, last)
        saved, part = saved_of_column(call, op, g, rows, first, last)
        if op.kind == GROUPED:
            # The deltas of a column are made contiguous, in the room of its saved outputs, for the matrix
            # kernels.
            pass_on(delta, unit, False, part)
            if below.trained > below.weights:
                n_in, n_out = op.n_in // op.columns, op.n_out // op.columns
                w = matrix(call.parameters, op.weights + g * n_in * n_out, n_in, n_out)
                by_x = column_of(memory, call.deltas, below.units, g, rows, n_in)
                scratch = part_of(memory, call.scratch, call.scratch_length, worker)
                input_gradient_rows(saved, w, by_x, by_x, first, last, False, scratch)
        elif op.kind == PERIODIC:
            if op.trained > op.biases:
                cosines_gradient(vector(delta, 0, delta.size), vector(part, 0, part.size))
            else:
                out, _ = units_of_column(call, call.activations, op, g, rows, first, last)
                sinusoids_gradient(delta, out, unit, part)


def blocks_step(call, rows, step, number, rate, bias_rate, worker, workers):
    """Write a worker's part of the gradient of an operation on a block, and update: `weights_step`."""
    memory, op, gradients = call.memory, call.operations[number], call.gradients
    below = call.operations[op.source]
    if op.tables > 0:
        tables_step(call, rows, step, number, rate, worker, workers)
        return
    if worker == 0:
        # The section of the state has no gradient, and a norm or a sum over ranks reads all numbers.
        clear(span(gradients, op.trained, op.end))
    first, last = worker_part(op.columns, worker, workers, 1)
    n_weights, n_biases = parameters_of_column(op)
    x = output_of(memory, call.activations, call.dropped, below, rows)
    for g in range(first, last):
        by_weights = vector(gradients, op.weights + g * n_weights, n_weights)
        by_biases = vector(gradients, op.biases + g * n_biases, n_biases)
        if rows == 0:
            clear(by_weights)
            clear(by_biases)
            continue
        delta, _ = saved_of_column(call, op, g, rows, 0, rows)
        if op.kind == GROUPED:
            n_in = op.n_in // op.columns
            inputs = column_of(memory, call.activations, below.units, g, rows, n_in)
            out, zero = matrix(by_weights, 0, n_in, n_weights // n_in), delta.dtype.type(0)
            scratch = part_of(memory, call.scratch, call.scratch_length, worker)
            part, update = (0, 0, n_in), (False, zero, zero)
            weight_gradient_rows(inputs, no_order(), delta, out, part, update, out, scratch)
        elif op.kind == PERIODIC:
            frequencies_gradient(x, g, delta, by_weights)
        if n_biases > 0:
            bias_gradient(delta, by_biases)
    if not left_whole(call):
        update_columns(call, step, number, first, last, rate, bias_rate)


def update_columns(call, step, number, first, last, rate, bias_rate):
    """Apply the gradients of columns [first, last) of a block's operation."""
    op, (n_weights, n_biases) = call.operations[number], parameters_of_column(call.operations[number])
    weights, biases, n = op.weights + first * n_weights, op.biases + first * n_biases, last - first
    apply_gradients(call, 0, number, step, rate, weights, n * n_weights)
    apply_gradients(call, 1, number, step, bias_rate, biases, n * n_biases)


def updates_sparsely(call, number):
    """Return whether a step moves only table rows of the batch."""
    op, rule = call.operations[number], call.rules[0, number]
    if call.length == 0:  # `update` by itself
        return (call.table_rows > 0) & ((op.sparse_updates != 0) | rule.sparse_updates)
    return (op.sparse_updates != 0) | rule.sparse_updates | ((rule.code == SGD) & (not left_whole(call)))


def takes_row(row, worker, workers):
    """Return whether a table row belongs to this worker."""
    if workers == 1:  # a division takes as long as the rest of a row
        return True
    return row // TOGETHER % workers == worker


def tables_step(call, rows, step, number, rate, worker, workers):
    """Add a batch's deltas to the gradients of its table rows, and update these, or all rows."""
    memory, gradients, op = call.memory, call.gradients, call.operations[number]
    below = call.operations[op.source]
    codes = output_of(memory, call.activations, call.dropped, below, rows)
    delta, sparse_update = units_of(memory, call.deltas, op, rows), updates_sparsely(call, number)
    for column in range(op.tables):
        table = call.tables[op.column + column]
        if sparse_update and not left_whole(call):
            sparse_table_step(call, codes, delta, step, number, column, rate, worker, workers)
            continue
        levels, width, unit = table.levels, table.width, table.unit
        marks = vector(call.row_marks, table.mark, levels + 1)
        first, last = worker_part(levels + 1, worker, workers, TOGETHER)
        offset, n = table.start + first * width, (last - first) * width
        clear(vector(gradients, offset, n))
        for i in range(rows):
            row = table_row(codes[i, column], levels)
            # Each worker looks at all rows of the batch and adds to its part of the table: no number has two
            # writers.
            if first <= row and row < last:
                g = vector(gradients, table.start + row * width, width)
                for j in range(width):
                    g[j] += delta[i, unit + j]
                if sparse_update:
                    marks[row] = 1
        if not left_whole(call):
            apply_gradients(call, 0, number, step, rate, offset, n)


def sparse_table_step(call, codes, delta, step, number, column, rate, worker, workers):
    """Update a worker's part of the batch's rows in the table of a column.

    codes (rows, columns) : of the batch
    delta (rows, units) : where a row comes more than once, the first of its deltas becomes their sum
    """
    op, rule, rows = call.operations[number], call.rules[0, number], len(codes)
    entry = call.tables[op.column + column]
    start, height, width, unit = entry.start, entry.levels + 1, entry.width, entry.unit
    marks = vector(call.row_marks, entry.mark, height)
    numbers, listed = vector(call.row_numbers, (call.batch + APART // 8) * worker, rows), 0
    table, moments = matrix(call.parameters, start, height, width), call.moments
    for i in range(rows):
        row = table_row(codes[i, column], height - 1)
        if row >= 0 and takes_row(row, worker, workers):
            earlier = marks[row]
            if earlier > 0:
                for j in range(width):
                    delta[earlier - 1, unit + j] += delta[i, unit + j]
            else:
                # The mark is 1 + the batch's row with the sum, so that 0 says that the row has not come yet.
                marks[row], numbers[listed] = i + 1, row
                # Rows of a large table are in memory: they are fetched while the batch is searched.
                prefetch_row(table, row)
                for m in range(rule.moments):
                    prefetch_row(matrix(moments, m * moments.shape[1] + start, height, width), row)
                listed += 1
    slices, together = call.slices + worker * call.slice_length, rows_at_a_step(call, rule, width)
    for t in range(0, listed, together):
        count = lesser(together, listed - t)
        part, g = vector(numbers, t, count), matrix(call.memory, slices, count, width)
        for k in range(count):
            i = marks[part[k]] - 1
            # Marks are 0 again after a step, without a pass over the whole table.
            marks[part[k]] = 0
            for j in range(width):
                g[k, j] = delta[i, unit + j]
        step_rows(
            call, rule, step, 0.0, 0.0, rate * rule.rate_factor, start, height, part, g, slices + g.size
        )


def update_blocks(call, step, number, rate, bias_rate, worker, workers):
    """Apply the worker's part of the gradient of a block's operation."""
    op, sparse_update = call.operations[number], updates_sparsely(call, number)
    if op.tables == 0:
        first, last = worker_part(op.columns, worker, workers, 1)
        update_columns(call, step, number, first, last, rate, bias_rate)
    for at in range(op.column, op.column + op.tables):
        table = call.tables[at]
        first, last = worker_part(table.levels + 1, worker, workers, TOGETHER)
        if not sparse_update:
            n = (last - first) * table.width
            apply_gradients(call, 0, number, step, rate, table.start + first * table.width, n)
            continue
        marks = vector(call.row_marks, table.mark, table.levels + 1)
        for row in range(first, last):
            if marks[row] != 0:
                marks[row] = 0
                apply_gradients(call, 0, number, step, rate, table.start + row * table.width, table.width)


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


def bins(x, column, edges, slopes, unit, out):
    """Columns of out from `unit` on = column x by bins; edges, slopes : (bins,)"""
    count = len(edges)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.shape[0]):
        value = x[i, column]
        for j in range(count):
            fraction = (value - edges[j]) * slopes[j]
            lowest, highest = (zero if j > 0 else -one), (one if j < count - 1 else one + one)
            fraction = lowest if fraction < lowest else fraction
            out[i, unit + j] = highest if fraction > highest else fraction


def table_row(code, levels):
    """Return the row of a code in its table: 0 if missing, -1 for an unknown code."""
    if code >= -1 and code < levels:
        return int(code) + 1
    return -1


def look_up(x, column, table, unit, out):
    """Columns of out from `unit` on = rows of a table (levels + 1, width) by codes, the mean if unknown."""
    levels, width, unknown = table.shape[0] - 1, table.shape[1], -1
    for i in range(x.shape[0]):
        if i + AHEAD < x.shape[0]:
            # Codes are random accesses: without the hint each row of a large table would wait for memory.
            prefetch_row(table, max(0, table_row(x[i + AHEAD, column], levels)))
        row = table_row(x[i, column], levels)
        if row >= 0:
            for j in range(width):
                out[i, unit + j] = table[row, j]
        # The mean of a table is computed once a call, and copied from the first row with an unknown code.
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
