"""Weights of sparse columns in a step: the non-zero columns of a batch, and their rows.

Templates as in `weight_templates`; `operations.dense` calls `columns_step`.
"""

# mypy: ignore-errors

from typing import TYPE_CHECKING

import numpy as np

from fastmlp.kernels.codegen.scalars import trailing_zeros
from fastmlp.kernels.codegen.vectors import prefetch_rows
from fastmlp.kernels.codegen.views import (
    chosen,
    columns_of,
    constants_of,
    lesser,
    matrix,
    rows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import SGD
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.row_templates import sparse_inputs_of
from fastmlp.kernels.program.slots import streams, weight_gradient_sparse_rows
from fastmlp.kernels.program.step_numbers import left_whole, slice_of, whole
from fastmlp.kernels.program.weight_templates import update_part

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import apply_rule, gather, penalty_gradient


MOST_IDLE = 8
"""The most non-zeros of a batch per column. Above, nearly no column is empty, and all are listed."""

MOST_GATHERED = 4
"""Rows of a sparse update are gathered below this fraction of all rows, as its inverse."""

LEAST_SINGLE, LEAST_DOUBLE, FLUSHED_TOGETHER = float(np.finfo("f4").tiny), float(np.finfo("f8").tiny), 256
"""The least normal numbers of both dtypes; and the numbers examined at a time by `flush`."""


def columns_step(call, start, rows, step, number, l1, l2, rate, first, last, worker):
    """`weights_step` for the weights of sparse columns [first, last)."""
    # Rows without a non-zero are left out where a step would not change them, or the rule updates sparsely.
    op, rule, memory = call.operations[number], call.rules[0, number], call.memory
    n_out, width = op.n_out, last - first
    before = op.n_in - op.sparse_in
    apart = left_whole(call)
    stored = apart | (not streams())
    plain = (rule.code == SGD) & (l1 == 0) & (not stored)
    sparse_update = rule.sparse_updates & (not apart)
    few = sparse_update | (plain & (l2 == 0) & (MOST_IDLE * width > call.terms))
    indptr, order = sparse_inputs_of(call, start, rows)
    counts = vector(call.list_counts, first + APART // 4 * worker, width)
    marks = vector(call.list_marks, first // 64 + APART // 8 * worker, whole(width, 64))
    columns = vector(call.list_columns, first + APART // 8 * worker, width + 1)
    starts = vector(call.list_starts, first + APART // 8 * worker, width + 1)
    samples = vector(call.list_samples, worker * call.terms, call.terms)
    numbers = vector(call.list_numbers, worker * call.terms, call.terms)
    cursors = vector(call.list_cursors, (call.batch + APART // 8) * worker, rows)
    list_columns(
        (indptr, call.indices, call.values), order, rows, first, last, op.sparse_in, not few,
        (counts, marks), (columns, starts, samples, numbers), cursors,
    )  # fmt: skip
    listed, every = columns[width], vector(columns, 0, 0)
    delta = units_of(memory, call.deltas, op, rows)
    w = rows_of(weights_of(call.parameters, op), before, op.n_in)
    dw = rows_of(weights_of(call.gradients, op), before, op.n_in)
    layer_rate = rate * rule.rate_factor
    update = plain, w.dtype.type(layer_rate), w.dtype.type(l2)
    if plain:
        if few and step == call.step:
            # A step along a gradient of 0 sets subnormal numbers to 0; after the first step none are left.
            flush(vector(w, first * n_out, width * n_out), w.dtype.type(1))
        those, ends = vector(columns, 0, listed), vector(starts, 0, listed + 1)
        # Plain SGD: the sums step the weights themselves.
        weight_gradient_sparse_rows(ends, samples, numbers, those, delta, w, update)
        return
    slices = call.slices + worker * call.slice_length
    together = chosen(stored, listed + 1, slice_of(call.slice_length, n_out))
    together = chosen(sparse_update, rows_at_a_step(call, rule, n_out), together)
    behind = op.weights + before * n_out
    for t in range(0, listed, together):
        count = lesser(together, listed - t)
        at = first + t  # where all columns are listed
        g = (
            matrix(memory, slices, count, n_out)
            if sparse_update or not stored
            else rows_of(dw, at, at + count)
        )
        ends = vector(starts, t, count + 1)
        weight_gradient_sparse_rows(ends, samples, numbers, every, delta, g, update)
        # With many rows next to each other a copy side by side costs more than it saves.
        if sparse_update and MOST_GATHERED * listed > width:
            step_neighbours(call, step, number, l1, l2, layer_rate, vector(columns, t, count), g)
            continue
        if sparse_update:
            # The rows of the next slice are prefetched while this slice is computed.
            following = lesser(t + 2 * together, listed)
            ahead = vector(columns, t, following - t)
            step_rows(call, rule, step, l1, l2, layer_rate, behind, op.sparse_in, ahead, g, slices + g.size)
            continue
        if l1 > 0 or l2 > 0:
            penalty_gradient(l1, l2, rows_of(w, at, at + count), g)
        if not apart:
            offset = op.weights + (before + at) * n_out
            update_part(call, rule, step, layer_rate, offset, vector(g, 0, g.size))


def mark_nonzero_columns(call, start, stop):
    """Mark the columns with a number in visits [start, stop), in call.nonzero_columns."""
    nonzero = call.nonzero_columns
    for k in range(len(nonzero)):
        nonzero[k] = False
    indptr, order = sparse_inputs_of(call, start, stop - start)
    for i in range(stop - start):
        row = order[i] if len(order) > 0 else i
        for p in range(indptr[row], indptr[row + 1]):
            nonzero[call.indices[p]] = True


def step_neighbours(call, step, number, l1, l2, rate, numbers, g):
    """`step_rows` in place: neighbouring rows are taken together."""
    # A batch with non-zeros in 71 % of 20 000 rows took 0.6 of the time, a batch with non-zeros in 39 % took
    # 0.85.
    op, rule, n_out, t = call.operations[number], call.rules[0, number], g.shape[1], 0
    before = op.n_in - op.sparse_in
    w = rows_of(weights_of(call.parameters, op), before, op.n_in)
    while t < len(numbers):
        stop = t + 1
        while stop < len(numbers) and numbers[stop] == numbers[stop - 1] + 1:
            stop += 1
        row, rows = numbers[t], rows_of(g, t, stop)
        if l1 > 0 or l2 > 0:
            penalty_gradient(l1, l2, rows_of(w, row, row + stop - t), rows)
        offset = op.weights + (before + row) * n_out
        update_part(call, rule, step, rate, offset, vector(rows, 0, rows.size))
        t = stop


def rows_at_a_step(call, rule, width):
    """Return the most rows of a matrix for `step_rows`, as long as a slice has room."""
    return call.slice_length // ((2 + rule.moments) * width)


def step_rows(call, rule, step, l1, l2, rate, offset, height, numbers, g, at):
    """Apply the gradients g (count, width) to the first `count` of numbered rows of a matrix (height, width).

    offset : the offset of the matrix in the parameters
    numbers : int64; after the first `count` come the rows of the next call, which are prefetched
    at : an offset in memory with room for the rows and their moments
    """
    # Rows and moments are copied side by side, so that the constants of the rule are computed once.
    moments, memory, size = call.moments, call.memory, g.size
    count, width = g.shape
    columns, w = vector(numbers, 0, count), matrix(call.parameters, offset, height, width)
    p = matrix(memory, at, count, width)
    prefetch_rows(w, numbers, count, len(numbers))
    gather(w, columns, 0, 0, p)
    for m in range(rule.moments):
        every = matrix(moments, m * moments.shape[1] + offset, height, width)
        prefetch_rows(every, numbers, count, len(numbers))
        gather(every, columns, 0, 0, matrix(memory, at + (1 + m) * size, count, width))
    if l1 > 0 or l2 > 0:
        penalty_gradient(l1, l2, p, g)
    # A view of all columns has the type that `update_part` passes: `apply_rule` is compiled once for both.
    held = columns_of(matrix(memory, at + size, rule.moments, size), 0, size)
    apply_rule(
        rule.code, rate, constants_of(rule), float(step + 1), vector(g, 0, size), vector(p, 0, size), held
    )
    scatter(p, columns, w)
    for m in range(rule.moments):
        every = matrix(moments, m * moments.shape[1] + offset, height, width)
        scatter(matrix(memory, at + (1 + m) * size, count, width), columns, every)


def scatter(rows, indices, out):
    """out (.., columns) at indices (n,) = rows (n, columns)."""
    columns = rows.shape[1]
    for i in range(len(indices)):
        source, target = vector(rows, i * columns, columns), vector(out, indices[i] * columns, columns)
        for j in range(columns):
            target[j] = source[j]


def flush(numbers, one):
    """numbers *= 1, which sets subnormal numbers to 0.

    one : 1, an argument because LLVM would leave out a multiplication by a constant 1
    """
    # Most numbers are normal, and reading is twice as fast as writing: numbers are written only where needed.
    least = LEAST_DOUBLE if numbers.itemsize == 8 else LEAST_SINGLE
    for start in range(0, len(numbers), FLUSHED_TOGETHER):
        block = vector(numbers, start, lesser(FLUSHED_TOGETHER, len(numbers) - start))
        has_small = False
        for i in range(len(block)):
            has_small |= abs(block[i]) < least
        if has_small:
            for i in range(len(block)):
                block[i] *= one


# --- lists of each column's non-zeros ------------------------------------------------------------------

SIX, LOW_SIX = np.uint64(6), np.uint64(63)
"""The shift of a column to its 64-bit word of marks, and the mask of its bit."""

LEAST_LISTED, OF_EACH_ROW = 1 << 12, 8
"""Non-zeros listed before the next columns, altogether and of each row on the average.

So written memory lies on few pages. A batch of digits was listed in 0.6 of the time.
"""


def find_column(indices, first, last, column):
    """Return the first index of the ascending indices[first:last] that is not below `column`."""
    while first < last:
        middle = (first + last) // 2
        if indices[middle] < column:
            first = middle + 1
        else:
            last = middle
    return first


def terms_of(indptr, indices, order, i, first, last, n_in):
    """Return the range [begin, end) of row i's non-zeros in columns [first, last)."""
    row = order[i] if len(order) > 0 else i
    begin, end = indptr[row], indptr[row + 1]
    if first > 0:
        begin = find_column(indices, begin, end, first)
    if last < n_in:
        end = find_column(indices, begin, end, last)
    return begin, end


def list_columns(sparse, order, rows, first, last, n_in, every, zeros, lists, cursors):
    """List the non-zeros of a batch of `rows` rows in columns [first, last), column by ascending column.

    sparse : (indptr, indices, values) of all rows: (all rows + 1,) int64, int32, floating
    order : (rows,) int64, or empty; every : whether empty columns are listed, too
    zeros : (counts, marks): (last - first,) int32, (ceil((last - first) / 64),) uint64; 0 before and after
    lists : (columns, starts, samples, numbers), written: (last - first + 1,) int64, the listed columns and
        their number; (last - first + 1,) int64, where each listed column begins among the non-zeros; of each
        non-zero its row of the batch, int32, and its value, floating
    cursors : (rows,) int64, overwritten
    """
    indptr, indices, values = sparse
    counts, marks = zeros
    columns, starts, samples, numbers = lists
    width, one = last - first, np.uint64(1)
    for i in range(rows):
        begin, end = terms_of(indptr, indices, order, i, first, last, n_in)
        # Each row goes on from here for the next columns, without a search.
        cursors[i] = begin
        # Unsigned indices: Numba wraps negative ones, by a comparison for each access.
        for p in range(np.uint64(begin), np.uint64(end)):
            k = np.uint64(indices[p] - first)
            counts[k] += 1
            if not every:
                marks[k >> SIX] |= one << (k & LOW_SIX)
    listed, total = np.int64(0), np.int64(0)
    if every:
        for k in range(width):
            columns[k], starts[k] = first + k, total
            count = counts[k]
            # A column's count becomes the index of its next non-zero: a counting sort.
            counts[k] = total
            total += count
        listed = width
    else:
        for number in range(len(marks)):
            word = marks[number]
            marks[number] = 0
            while word != 0:
                k = (np.uint64(number) << SIX) + np.uint64(trailing_zeros(word))
                # Marks are read word by word: of many columns few have a non-zero, and the lists must ascend.
                word &= word - one
                columns[listed], starts[listed] = first + np.int64(k), total
                count = counts[k]
                counts[k] = total
                total += count
                listed += 1
    starts[listed] = total
    # A processor stores at once to few pages only; going back to a row costs as much as some non-zeros.
    together = max(LEAST_LISTED, OF_EACH_ROW * rows)
    stop = 0
    while stop < listed:
        enough = starts[stop] + together
        while stop < listed and starts[stop] < enough:
            stop += 1
        bound = columns[stop - 1] + 1
        for i in range(rows):
            end = np.uint64(indptr[(order[i] if len(order) > 0 else i) + 1])
            p = np.uint64(cursors[i])
            while p < end and indices[p] < bound:
                k = np.uint64(indices[p] - first)
                at = np.uint64(counts[k])
                counts[k] += 1
                samples[at] = i
                numbers[at] = values[p]
                p += one
            cursors[i] = p
    for t in range(listed):
        # The next batch expects zeros, and only listed columns have others.
        counts[np.uint64(columns[t] - first)] = 0
    columns[width] = listed
