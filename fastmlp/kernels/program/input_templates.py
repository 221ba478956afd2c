"""Blocks of inputs in a step: cosines and bins of numbers, linear layers of each, tables of categories.

Templates as `operation_templates`, which only networks with blocks meet. With `by_group` the units of a
column lie together as a matrix (rows, units), so that a linear layer of a column is a product.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

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
from fastmlp.kernels.program.embeddings import (
    angles,
    bins,
    cosines,
    cosines_gradient,
    frequencies_gradient,
    look_up,
    sinusoids,
    sinusoids_gradient,
    table_row,
)
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.row_operations import pass_on
from fastmlp.kernels.program.selecting import copy_columns
from fastmlp.kernels.program.step_numbers import left_whole, own_share

PERIODIC, PIECEWISE_LINEAR, GROUPED, CATEGORIES = map(
    OPERATION_CODES.code_of_key, ("periodic", "piecewise_linear", "grouped", "categories")
)

START, LEVELS, WIDTH, UNIT, MARK = range(5)
"""The numbers of a table in call.tables."""

TOGETHER = 16
"""Rows of a table that one worker takes together, as long as theirs would share a cache line."""


def parameters_of_column(here):
    """Return how many weights and biases each column of a block has."""
    return (here.biases - here.weights) // here.groups, (here.trained - here.biases) // here.groups


def block_forward(call, rows, number, first, last, worker):
    """Take rows [first, last) of a batch through an operation on a block of inputs; as `rows_forward`."""
    memory, here = call.memory, call.operations[number]
    below = call.operations[here.source]
    out = rows_of(units_of(memory, call.activations, here, rows), first, last)
    if here.kind == GROUPED:
        n_in, n_out = here.n_in // here.groups, here.n_out // here.groups
        scratch = part_of(memory, call.scratch, call.scratch_length, worker)
        for g in range(here.groups):
            x = column_of(memory, call.activations, below.units, g, rows, n_in)
            y = column_of(memory, call.logits, here.kept, g, rows, n_out)
            w = matrix(call.parameters, here.weights + g * n_in * n_out, n_in, n_out)
            b = vector(call.parameters, here.biases + g * n_out, n_out)
            affine_rows(x, no_order(), w, b, y, first, last, False, scratch)
            copy_columns(rows_of(y, first, last), g * n_out, out)
        return
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    if here.kind == CATEGORIES:
        for column in range(here.n_in):
            at = here.column + column
            tables = call.tables
            width = tables[at, WIDTH]
            table = matrix(call.parameters, tables[at, START], tables[at, LEVELS] + 1, width)
            look_up(x, column, table, tables[at, UNIT], out)
        return
    units = here.n_out // here.groups
    if here.kind == PIECEWISE_LINEAR:
        edges = matrix(call.parameters, here.trained, here.groups, units)
        slopes = matrix(call.parameters, here.trained + here.n_out, here.groups, units)
        for g in range(here.groups):
            if here.by_group != 0:
                own = column_of(memory, call.activations, here.units, g, rows, units)
                bins(x, g, edges, slopes, 0, rows_of(own, first, last))
            else:
                bins(x, g, edges, slopes, g * units, out)
        return
    terms, n_phases = parameters_of_column(here)
    for g in range(here.groups):
        z = rows_of(column_of(memory, call.logits, here.kept, g, rows, terms), first, last)
        frequencies = vector(call.parameters, here.weights + g * terms, terms)
        phases = vector(call.parameters, here.biases + g * n_phases, n_phases)
        angles(x, g, frequencies, phases, z)
        if here.by_group != 0:
            own = rows_of(column_of(memory, call.activations, here.units, g, rows, terms), first, last)
            cosines(vector(z, 0, z.size), vector(own, 0, own.size))
        else:
            sinusoids(z, g * units, out)


def block_backward(call, rows, number, first, last, worker):
    """Write what the gradient of an operation on a block needs, and its source's deltas: `rows_backward`."""
    memory, here = call.memory, call.operations[number]
    below = call.operations[here.source]
    delta = rows_of(units_of(memory, call.deltas, here, rows), first, last)
    if here.kind == GROUPED:
        n_in, n_out = here.n_in // here.groups, here.n_out // here.groups
        scratch = part_of(memory, call.scratch, call.scratch_length, worker)
        for g in range(here.groups):
            d = column_of(memory, call.deltas, here.kept, g, rows, n_out)
            pass_on(delta, g * n_out, False, rows_of(d, first, last))
            if below.kind == PERIODIC:
                w = matrix(call.parameters, here.weights + g * n_in * n_out, n_in, n_out)
                by_x = column_of(memory, call.deltas, below.units, g, rows, n_in)
                input_gradient_rows(d, w, by_x, by_x, first, last, False, scratch)
    elif here.kind == PERIODIC:
        terms, _ = parameters_of_column(here)
        out = units_of(memory, call.activations, here, rows)
        for g in range(here.groups):
            z = rows_of(column_of(memory, call.logits, here.kept, g, rows, terms), first, last)
            if here.by_group != 0:
                own = rows_of(column_of(memory, call.deltas, here.units, g, rows, terms), first, last)
                cosines_gradient(vector(own, 0, own.size), vector(z, 0, z.size))
            else:
                sinusoids_gradient(delta, rows_of(out, first, last), 2 * g * terms, z)


def blocks_step(call, rows, step, number, rate, bias_rate, worker, workers):
    """Write a worker's share of the gradient of an operation on a block, and update it: `weights_step`."""
    memory, here, gradients = call.memory, call.operations[number], call.gradients
    below = call.operations[here.source]
    if here.kind == CATEGORIES:
        tables_step(call, rows, step, number, rate, worker, workers)
        return
    first, last = own_share(here.groups, worker, workers, 1)
    if here.kind == PIECEWISE_LINEAR:
        if worker == 0:
            clear(span(gradients, here.trained, here.end))
        return
    n_weights, n_biases = parameters_of_column(here)
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    x = output_of(memory, call.activations, call.dropped, below, rows)
    for g in range(first, last):
        weights_at, biases_at = here.weights + g * n_weights, here.biases + g * n_biases
        by_weights = vector(gradients, weights_at, n_weights)
        by_biases = vector(gradients, biases_at, n_biases)
        if rows == 0:
            clear(by_weights)
            clear(by_biases)
        elif here.kind == GROUPED:
            n_in, n_out = here.n_in // here.groups, here.n_out // here.groups
            d = column_of(memory, call.deltas, here.kept, g, rows, n_out)
            own = column_of(memory, call.activations, below.units, g, rows, n_in)
            out, zero = matrix(gradients, weights_at, n_in, n_out), d.dtype.type(0)
            weight_gradient_rows(own, no_order(), d, out, 0, 0, n_in, False, zero, zero, out, scratch)
            bias_gradient(d, by_biases)
        else:
            z = column_of(memory, call.logits, here.kept, g, rows, n_weights)
            frequencies_gradient(x, g, z, by_weights)
            if n_biases > 0:
                bias_gradient(z, by_biases)
    if not left_whole(call):
        update_groups(call, step, number, first, last, rate, bias_rate)


def update_groups(call, step, number, first, last, rate, bias_rate):
    """Apply the gradients of columns [first, last) of an operation on a block."""
    here, rule, gradients = call.operations[number], call.rules[0, number], call.gradients
    n_weights, n_biases = parameters_of_column(here)
    if first < last:
        at, n = here.weights + first * n_weights, (last - first) * n_weights
        if n > 0:
            update_part(call, rule, step, rate * rule.rate_factor, at, vector(gradients, at, n))
        at, n = here.biases + first * n_biases, (last - first) * n_biases
        if n > 0:
            update_part(
                call, call.rules[1, number], step, bias_rate * rule.rate_factor, at, vector(gradients, at, n)
            )


def moves_touched(call, number):
    """Whether a step moves only the rows of tables that its batch has."""
    here, rule = call.operations[number], call.rules[0, number]
    if call.length == 0:  # `update` by itself
        return (call.table_rows > 0) & ((here.touched_only != 0) | rule.touched_only)
    return (here.touched_only != 0) | rule.touched_only | ((rule.code == SGD) & (not left_whole(call)))


def takes_row(row, worker, workers):
    """Whether this worker takes a row of a table."""
    if workers == 1:  # a division takes as long as the rest of a row
        return True
    return row // TOGETHER % workers == worker


def tables_step(call, rows, step, number, rate, worker, workers):
    """Add the deltas of a batch to the gradients of its rows of tables, and update these, or all rows."""
    memory, gradients, tables = call.memory, call.gradients, call.tables
    here, rule = call.operations[number], call.rules[0, number]
    below = call.operations[here.source]
    codes = output_of(memory, call.activations, call.dropped, below, rows)
    delta = units_of(memory, call.deltas, here, rows)
    touched, own_rate = moves_touched(call, number), rate * rule.rate_factor
    for column in range(here.n_in):
        at = here.column + column
        if touched and not left_whole(call):
            touched_step(call, codes, delta, step, number, column, own_rate, worker, workers)
            continue
        start, levels = tables[at, START], tables[at, LEVELS]
        width, unit = tables[at, WIDTH], tables[at, UNIT]
        marks = vector(call.row_marks, tables[at, MARK], levels + 1)
        first, last = own_share(levels + 1, worker, workers, TOGETHER)
        place, n = start + first * width, (last - first) * width
        clear(vector(gradients, place, n))
        for i in range(rows):
            row = table_row(codes[i, column], levels)
            if first <= row and row < last:
                g = vector(gradients, start + row * width, width)
                for j in range(width):
                    g[j] += delta[i, unit + j]
                if touched:
                    marks[row] = 1
        if not left_whole(call):
            update_part(call, rule, step, own_rate, place, vector(gradients, place, n))


def touched_step(call, codes, delta, step, number, column, rate, worker, workers):
    """Update the rows of a column's table that a batch has, of which a worker takes its own.

    codes (rows, columns) : of the batch
    delta (rows, units) : where a row comes more than once, the first of its deltas becomes their sum
    """
    here, rule, tables = call.operations[number], call.rules[0, number], call.tables
    at, rows = here.column + column, len(codes)
    start, height = tables[at, START], tables[at, LEVELS] + 1
    width, unit = tables[at, WIDTH], tables[at, UNIT]
    marks = vector(call.row_marks, tables[at, MARK], height)
    some, found = vector(call.row_places, (call.batch + APART // 8) * worker, rows), 0
    table, moments = matrix(call.parameters, start, height, width), call.moments
    for i in range(rows):
        row = table_row(codes[i, column], height - 1)
        if row >= 0 and takes_row(row, worker, workers):
            earlier = marks[row]
            if earlier > 0:
                for j in range(width):
                    delta[earlier - 1, unit + j] += delta[i, unit + j]
            else:
                marks[row], some[found] = i + 1, row
                prefetch_row(table, row)
                for m in range(rule.moments):
                    prefetch_row(matrix(moments, m * moments.shape[1] + start, height, width), row)
                found += 1
    slices, together = call.slices + worker * call.slice_length, rows_at_a_step(call, rule, width)
    for t in range(0, found, together):
        count = lesser(together, found - t)
        own, g = vector(some, t, count), matrix(call.memory, slices, count, width)
        for k in range(count):
            i = marks[own[k]] - 1
            marks[own[k]] = 0
            for j in range(width):
                g[k, j] = delta[i, unit + j]
        step_rows(call, rule, step, 0.0, 0.0, rate, start, height, own, g, slices + g.size)


def update_blocks(call, step, number, rate, bias_rate, worker, workers):
    """Apply the worker's share of the whole gradient of an operation on a block."""
    here, rule = call.operations[number], call.rules[0, number]
    gradients, tables = call.gradients, call.tables
    if here.kind != CATEGORIES:
        if here.trained > here.weights:
            first, last = own_share(here.groups, worker, workers, 1)
            update_groups(call, step, number, first, last, rate, bias_rate)
        return
    own_rate, touched = rate * rule.rate_factor, moves_touched(call, number)
    for column in range(here.n_in):
        at = here.column + column
        start, levels, width = tables[at, START], tables[at, LEVELS], tables[at, WIDTH]
        first, last = own_share(levels + 1, worker, workers, TOGETHER)
        if touched:
            marks = vector(call.row_marks, tables[at, MARK], levels + 1)
            for row in range(first, last):
                if marks[row] != 0:
                    marks[row] = 0
                    place = start + row * width
                    update_part(call, rule, step, own_rate, place, vector(gradients, place, width))
        else:
            place, n = start + first * width, (last - first) * width
            update_part(call, rule, step, own_rate, place, vector(gradients, place, n))
