"""The first layer's weights in a step on sparse inputs: the columns that a batch touches, and their rows.

These are templates as in `fastmlp.kernels.program.templates`, whose `weights_step` calls `columns_step` by
name, as it calls a slot.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from fastmlp.kernels.codegen.vectors import prefetch_rows
from fastmlp.kernels.codegen.views import (
    chosen,
    constants_of,
    lesser,
    matrix,
    rows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import SGD
from fastmlp.kernels.program.columns import list_columns
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.templates import left_whole, slice_of, sparse_inputs_of, whole

MOST_IDLE = 8
"""The bound on a batch's non-zeros per column. Above it nearly no column is empty, and all are listed."""

MOST_GATHERED = 4
"""Rows are gathered for their step where at most one in this many is touched. Else many lie together."""

LEAST_SINGLE, LEAST_DOUBLE, FLUSHED_TOGETHER = float(np.finfo("f4").tiny), float(np.finfo("f8").tiny), 256
"""The least normal numbers of both dtypes; and how many numbers `flush` looks at together."""


def columns_step(call, start, rows, step, l1, l2, rate, first, last, worker):
    """As `weights_step`, for rows [first, last) of the first layer's weights, where inputs are sparse.

    Rows that the batch does not touch are left out where a step would not change them, or where the rule
    steps only touched rows.
    """
    here, rule, memory = call.layers[0], call.rules[0], call.memory
    n_out, width = here.n_out, last - first
    apart = left_whole(call)
    kept = apart | (not streams())
    plain = (rule.code == SGD) & (l1 == 0) & (not kept)
    touched = rule.touched_only & (not apart)
    few = touched | (plain & (l2 == 0) & (MOST_IDLE * width > call.terms))
    indptr, order = sparse_inputs_of(call, start, rows)
    counts = vector(call.list_counts, first + APART // 4 * worker, width)
    marks = vector(call.list_marks, first // 64 + APART // 8 * worker, whole(width, 64))
    columns = vector(call.list_columns, first + APART // 8 * worker, width + 1)
    starts = vector(call.list_starts, first + APART // 8 * worker, width + 1)
    samples = vector(call.list_samples, worker * call.terms, call.terms)
    numbers = vector(call.list_numbers, worker * call.terms, call.terms)
    places = vector(call.list_places, (call.batch + APART // 8) * worker, rows)
    list_columns(
        indptr, call.indices, call.values, order, rows, first, last, here.n_in, not few,
        counts, marks, columns, starts, samples, numbers, places,
    )  # fmt: skip
    listed, every = columns[width], vector(columns, 0, 0)
    delta = units_of(memory, call.deltas, here, rows)
    w, dw = weights_of(call.parameters, here), weights_of(call.gradients, here)
    own_rate = rate * rule.rate_factor
    r, decay = w.dtype.type(own_rate), w.dtype.type(l2)
    if plain:
        if few and step == call.step:
            # A step along a gradient of 0 sets subnormal numbers to 0; after the first step none are left.
            flush(vector(w, first * n_out, width * n_out), w.dtype.type(1))
        those, ends = vector(columns, 0, listed), vector(starts, 0, listed + 1)
        weight_gradient_sparse_rows(ends, samples, numbers, those, delta, w, True, r, decay)
        return
    slices = call.slices + worker * call.slice_length
    together = chosen(kept, listed + 1, slice_of(call.slice_length, n_out))
    together = chosen(touched, call.slice_length // (4 * n_out), together)
    for t in range(0, listed, together):
        count = lesser(together, listed - t)
        at = first + t  # where all columns are listed
        g = matrix(memory, slices, count, n_out) if touched or not kept else rows_of(dw, at, at + count)
        ends = vector(starts, t, count + 1)
        weight_gradient_sparse_rows(ends, samples, numbers, every, delta, g, False, r, decay)
        if touched and MOST_GATHERED * listed > width:
            step_runs(call, step, l1, l2, own_rate, vector(columns, t, count), g)
            continue
        if touched:
            following = lesser(t + 2 * together, listed)
            step_rows(
                call, step, l1, l2, own_rate, vector(columns, t, following - t), count, g, slices + g.size
            )
            continue
        if l1 > 0 or l2 > 0:
            penalty_gradient(l1, l2, rows_of(w, at, at + count), g)
        if not apart:
            update_part(call, rule, step, own_rate, here.weights + at * n_out, vector(g, 0, g.size))


def step_runs(call, step, l1, l2, rate, some, g):
    """As `step_rows`, where rows lie: those that follow one another together.

    A batch that touches 71 % of 20 000 rows took 0.6 of the time, one of 39 % 0.85.
    """
    here, rule, n_out = call.layers[0], call.rules[0], g.shape[1]
    w, t = weights_of(call.parameters, here), 0
    while t < len(some):
        stop = t + 1
        while stop < len(some) and some[stop] == some[stop - 1] + 1:
            stop += 1
        row, rows = some[t], rows_of(g, t, stop)
        if l1 > 0 or l2 > 0:
            penalty_gradient(l1, l2, rows_of(w, row, row + stop - t), rows)
        update_part(call, rule, step, rate, here.weights + row * n_out, vector(rows, 0, rows.size))
        t = stop


def step_rows(call, step, l1, l2, rate, some, count, g, at):
    """Apply the gradients g (count, n_out) to rows some[:count] of the first layer's weights.

    The rows and their moments are copied side by side, so that the constants of the rule are computed once.
    some : int64; after the first `count` come the rows of the next call, which are prefetched
    at : a place in memory with room for three times as many numbers as g has
    """
    here, rule, moments = call.layers[0], call.rules[0], call.moments
    n_out, size, columns = here.n_out, g.size, vector(some, 0, count)
    p = matrix(call.memory, at, count, n_out)
    first, second = (
        matrix(call.memory, at + size, count, n_out),
        matrix(call.memory, at + 2 * size, count, n_out),
    )
    w = weights_of(call.parameters, here)
    every_first = matrix(moments, here.weights, here.n_in, n_out)
    every_second = matrix(moments, moments.shape[1] + here.weights, here.n_in, n_out)
    prefetch_rows(w, some, count, len(some))
    prefetch_rows(every_first, some, count, len(some))
    prefetch_rows(every_second, some, count, len(some))
    gather(w, columns, p)
    gather(every_first, columns, first)
    gather(every_second, columns, second)
    if l1 > 0 or l2 > 0:
        penalty_gradient(l1, l2, p, g)
    apply_rule(
        rule.code, rate, constants_of(rule), float(step + 1),
        vector(g, 0, size), vector(p, 0, size), vector(first, 0, size), vector(second, 0, size),
    )  # fmt: skip
    scatter(p, columns, w)
    scatter(first, columns, every_first)
    scatter(second, columns, every_second)


def scatter(rows, places, out):
    """out (.., columns) at places (n,) = rows (n, columns)."""
    columns = rows.shape[1]
    for i in range(len(places)):
        source, target = vector(rows, i * columns, columns), vector(out, places[i] * columns, columns)
        for j in range(columns):
            target[j] = source[j]


def flush(numbers, one):
    """numbers *= 1, which sets subnormal numbers to 0.

    It writes only where it finds one: reading is twice as fast as writing.
    one : 1, an argument because LLVM would leave out a multiplication by a constant 1
    """
    least = LEAST_DOUBLE if numbers.itemsize == 8 else LEAST_SINGLE
    for start in range(0, len(numbers), FLUSHED_TOGETHER):
        some = vector(numbers, start, lesser(FLUSHED_TOGETHER, len(numbers) - start))
        found = False
        for i in range(len(some)):
            found |= abs(some[i]) < least
        if found:
            for i in range(len(some)):
                some[i] *= one
