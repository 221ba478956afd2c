"""Tables of categories: a row of units for each code of a column, and one for missing codes: `Categories`."""

# mypy: ignore-errors

from fastmlp.kernels.codegen.vectors import prefetch_row
from fastmlp.kernels.codegen.views import lesser, matrix, output_of, rows_of, units_of, vector
from fastmlp.kernels.codes import SGD
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.sparse_templates import rows_at_a_step, step_rows
from fastmlp.kernels.program.step_numbers import left_whole, worker_part
from fastmlp.kernels.program.weight_templates import apply_gradients, clear

AHEAD = 16
"""Rows between a table lookup and the prefetch of a later row of a large table."""

TOGETHER = 16
"""Rows of a table for the same worker, as many as share a cache line."""


def forward(call, start, rows, number, first, last, worker):
    """Look up the units of each code."""
    op = call.operations[number]
    below = call.operations[op.source]
    codes = rows_of(output_of(call.memory, call.activations, call.dropped, below, rows), first, last)
    out = rows_of(units_of(call.memory, call.activations, op, rows), first, last)
    for column in range(op.tables):
        table = call.tables[op.column + column]
        values = matrix(call.parameters, table.start, table.levels + 1, table.width)
        look_up(codes, column, values, table.unit, out)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Add the batch's deltas to the gradients of its table rows, and update these, or all rows."""
    memory, gradients, op = call.memory, call.gradients, call.operations[number]
    codes = output_of(memory, call.activations, call.dropped, call.operations[op.source], rows)
    delta, sparse_update = units_of(memory, call.deltas, op, rows), updates_sparsely(call, number)
    for column in range(op.tables):
        table = call.tables[op.column + column]
        if sparse_update and not left_whole(call):
            sparse_table_step(call, codes, delta, step, number, column, rates[0], worker, workers)
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
            apply_gradients(call, 0, number, step, rates[0], offset, n)


def update(call, step, number, rates, worker, workers):
    """Apply the worker's part of the gradient: all rows, or those of the batch."""
    op, sparse_update = call.operations[number], updates_sparsely(call, number)
    for at in range(op.column, op.column + op.tables):
        table = call.tables[at]
        first, last = worker_part(table.levels + 1, worker, workers, TOGETHER)
        if not sparse_update:
            n = (last - first) * table.width
            apply_gradients(call, 0, number, step, rates[0], table.start + first * table.width, n)
            continue
        marks = vector(call.row_marks, table.mark, table.levels + 1)
        for row in range(first, last):
            if marks[row] != 0:
                marks[row] = 0
                apply_gradients(call, 0, number, step, rates[0], table.start + row * table.width, table.width)


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
