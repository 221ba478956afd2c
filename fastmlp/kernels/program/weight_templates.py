"""The second phase of a step: a worker's rows of all weights, their gradient, and the optimiser's rule.

Templates as in `step_templates`. The operations are walked once. Products stand here, other operations in
`operation_templates`, blocks of inputs in `input_templates`, the first product on sparse rows in
`sparse_templates`.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

import math

from fastmlp.kernels.codegen.scalars import call_back
from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
    columns_of,
    constants_of,
    lesser,
    matrix,
    no_order,
    output_of,
    part_of,
    rows_of,
    span,
    subrows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import DENSE, SGD
from fastmlp.kernels.program.barrier import is_abandoned, wait
from fastmlp.kernels.program.records import ABANDONED, NESTEROV, SLICE_ROWS, UNSUMMED
from fastmlp.kernels.program.row_templates import inputs_of, sparse_in_of
from fastmlp.kernels.program.step_numbers import left_whole, rows_of_bucket, slice_of, worker_part
from fastmlp.model.optimizers import NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS, SMALLEST_NORM


def weights_step(call, start, rows, step, penalised, rate, bias_rate, worker, workers):
    """Contract the worker's part of every matrix of weights over the batch, and update unless left whole.

    penalised, rate, bias_rate : of this step, see `penalty_factor`; the rest as in `rows_forward`
    """
    # A single worker takes all biases of an operation, or its gain and shift. Where ranks sum the gradient,
    # the sum of a bucket begins as soon as all workers have formed the bucket, and they go on with the next.
    operations, gradients, begun = call.operations, call.gradients, 0
    summed = (call.summing > 0) & (call.accumulates == 0)
    for number in range(len(operations)):
        op, rule = operations[number], call.rules[0, number]
        n_in, n_out, trained = op.n_in, op.n_out, rule.rate_factor != 0
        if trained and op.is_block != 0:
            blocks_step(call, rows, step, number, rate, bias_rate, worker, workers)
        elif trained and worker == number % workers:
            if op.kind != DENSE:
                vectors_step(call, rows, step, number, rate, bias_rate)
            else:
                db = biases_of(gradients, op)
                biases_step(call, rows, number, db)
                if op.trains_bias and not left_whole(call):
                    apply_gradients(call, 1, number, step, bias_rate, op.biases, n_out)
        if op.kind != DENSE:
            if summed:
                begun = sum_formed(call, step, begun, op.end, worker, workers)
            continue
        sparse_in, top = sparse_in_of(call, op), 0
        dense_in = n_in - sparse_in
        together = dense_in
        l1, l2 = op.l1 * penalised, op.l2 * penalised
        if summed:
            together = rows_of_bucket(call.together, n_out, dense_in)
        while top < dense_in:  # a range of variable step would divide, which the smallest networks wait for
            bottom = lesser(top + together, dense_in)
            if trained:
                first, last = worker_part(bottom - top, worker, workers, SLICE_ROWS)
                layer_step(call, start, rows, step, number, l1, l2, rate, top + first, top + last, worker)
            if summed:
                # The biases lie behind the matrix, and are summed with its last rows.
                end = chosen(bottom == n_in, op.end, op.weights + bottom * n_out)
                begun = sum_formed(call, step, begun, end, worker, workers)
            top = bottom
        if sparse_in > 0:
            if trained:
                first, last = worker_part(sparse_in, worker, workers, SLICE_ROWS)
                columns_step(call, start, rows, step, number, l1, l2, rate, first, last, worker)
            if summed:
                begun = sum_formed(call, step, begun, op.end, worker, workers)


def sum_formed(call, step, begun, end, worker, workers):
    """Have ranks sum numbers [begun, end) if enough; return the begin of the next sum."""
    if end < call.size and end - begun < call.together:
        return begun
    wait(call.barrier, worker, workers)
    if worker == 0:
        sum_over_ranks(call, call.summing, step, begun, end)
    return end


def biases_step(call, rows, number, out):
    """Write the gradient of the biases, or of the shift, of an operation to out (n_out,)."""
    op = call.operations[number]
    if rows > 0 and op.trains_bias:
        bias_gradient(units_of(call.memory, call.deltas, op, rows), out)
    else:
        clear(out)


def layer_step(call, start, rows, step, number, l1, l2, rate, first, last, worker):
    """`weights_step` for rows [first, last) of a product's weights."""
    operations, memory, op = call.operations, call.memory, call.operations[number]
    rule = call.rules[0, number]
    stored = left_whole(call) | (not streams())  # the whole gradient is written to call.gradients
    plain = (rule.code == SGD) & (l1 == 0) & (not stored)
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    slices = call.slices + worker * call.slice_length
    source, order = inputs_of(call, start, rows)
    if number > 0:
        below, order = operations[op.source], no_order()
        source = output_of(memory, call.activations, call.dropped, below, rows)
    source, n_out = subrows_of(source, op.subrows, op.n_in - sparse_in_of(call, op)), op.n_out
    delta = subrows_of(units_of(memory, call.deltas, op, rows), op.subrows, n_out)
    w, dw = weights_of(call.parameters, op), weights_of(call.gradients, op)
    layer_rate = rate * rule.rate_factor
    update = plain, w.dtype.type(layer_rate), w.dtype.type(l2)
    together, at = last - first, first
    if streams() and not plain:
        # The rule is applied to a slice of the gradient that is still in the cache.
        together = slice_of(call.slice_length, n_out)
    while at < last:
        stop = lesser(at + together, last)
        sums = rows_of(dw, at, stop)
        g = sums if stored else matrix(memory, slices, stop - at, n_out)
        # A step of plain SGD ends the register tiles: the weights are the output, and no gradient is stored.
        g = rows_of(w, at, stop) if plain else g
        if rows > 0:
            weight_gradient_rows(source, order, delta, g, (at, at, stop), update, sums, scratch)
        else:  # all rows of the batch are in other processes
            clear(vector(g, 0, g.size))
        if not plain:
            if l1 > 0 or l2 > 0:
                penalty_gradient(l1, l2, rows_of(w, at, stop), g)
            if not left_whole(call):
                update_part(call, rule, step, layer_rate, op.weights + at * n_out, vector(g, 0, g.size))
        at = stop


def clear(out):
    """out (n,) = 0."""
    for i in range(len(out)):
        out[i] = 0


def sum_over_ranks(call, function, step, first, last):
    """Have numbers [first, last) of the gradient summed by a function of the call."""
    # The call of call.summing with the last numbers waits for all sums; each call of call.totalling waits.
    barrier = call.barrier
    if not is_abandoned(barrier):
        barrier[UNSUMMED] = 1  # cleared by the function's last act, so that no error passes for a success
        call_back(function, step - call.step, first, last)
        if barrier[UNSUMMED] != 0:
            barrier[ABANDONED] = 1  # others read it after the next barrier


def update_part(call, rule, step, rate, start, g):
    """Apply the gradient g (n,) to the n parameters from `start` on; step : updates before this step."""
    p, moments = vector(call.parameters, start, len(g)), columns_of(call.moments, start, len(g))
    apply_rule(rule.code, rate, constants_of(rule), float(step + 1), g, p, moments)


def apply_gradients(call, section, number, step, rate, start, length):
    """Apply gradients of an operation; section : 0 of weights, a gain or tables, 1 of biases or a shift"""
    rule = call.rules[section, number]
    if length > 0:
        update_part(call, rule, step, rate * rule.rate_factor, start, vector(call.gradients, start, length))


def clip_all(call):
    """Scale call.gradients down to the optimiser's norm; frozen operations do not count."""
    operations, rules, gradients = call.operations, call.rules, call.gradients
    for number in range(len(operations)):
        op = operations[number]
        if rules[0, number].rate_factor == 0:
            clear(vector(gradients, op.weights, op.end - op.weights))
    clip(rules[0, 0].clip_norm, gradients)


def update_all(call, step, rate, bias_rate, worker, workers):
    """Apply the worker's part of call.gradients to the parameters."""
    operations, rules = call.operations, call.rules
    for number in range(len(operations)):
        op, rule = operations[number], rules[0, number]
        if rule.rate_factor != 0 and op.is_block != 0:
            update_blocks(call, step, number, rate, bias_rate, worker, workers)
        elif rule.rate_factor != 0 and op.kind != DENSE:
            if worker == number % workers:
                update_vectors(call, step, number, rate, bias_rate)
        elif rule.rate_factor != 0:
            n_out = op.n_out
            sparse_in = chosen(rule.sparse_updates & (call.marks > 0), op.sparse_in, 0)
            dense_in = op.n_in - sparse_in
            first, last = worker_part(dense_in, worker, workers, SLICE_ROWS)
            at = op.weights + first * n_out
            apply_gradients(call, 0, number, step, rate, at, (last - first) * n_out)
            first, last = worker_part(sparse_in, worker, workers, SLICE_ROWS)
            # A column without a non-zero on any rank keeps its weights and moments: see
            # `StepRule.sparse_updates`.
            for k in range(first, last):
                if call.nonzero_columns[k]:
                    at = op.weights + (dense_in + k) * n_out
                    apply_gradients(call, 0, number, step, rate, at, n_out)
            if worker == number % workers and op.trains_bias:
                apply_gradients(call, 1, number, step, bias_rate, op.biases, n_out)


def penalties(call, factor):
    """Return the sum of the penalties on all weights; factor : see `penalty_factor`."""
    operations, total = call.operations, 0.0
    for number in range(len(operations)):
        op = operations[number]
        if op.kind == DENSE:
            total += penalty(op.l1 * factor, op.l2 * factor, weights_of(call.parameters, op))
    return total


# --- the orthogonal part of Muon's step ----------------------------------------------------------------
#
# Compiled only for an optimiser with such a rule. Workers divide the rows of each product, and every number
# is summed by a single worker, so that any number of workers has equal bits.


def orthogonalise_all(call, worker, workers):
    """Replace the gradient of every matrix with an orthogonal rule."""
    rules = call.rules
    for number in range(len(call.operations)):
        if rules[0, number].orthogonal > 0 and rules[0, number].rate_factor != 0:
            orthogonalise(call, number, worker, workers)


def orthogonalise(call, number, worker, workers):
    """Move a matrix's momentum, and replace the gradient by the orthogonalised momentum.

    The buffer call.matrices holds x and y (k, n), a and b (k, k), n zeros and each worker's scratch, where
    (k, n) is the shape of the matrix, transposed if it has more rows than columns.
    """
    op, rule, memory = call.operations[number], call.rules[0, number], call.matrices
    n_in, n_out = op.n_in, op.n_out
    k, turned = lesser(n_in, n_out), n_in > n_out
    n = n_in + n_out - k
    g = weights_of(call.gradients, op)
    first, last = worker_part(n_in, worker, workers, SLICE_ROWS)
    begin, end = op.weights + first * n_out, op.weights + last * n_out
    # The momentum moves by the gradient in parts of the workers, before anybody reads the whole matrix.
    move_momentum(rule, span(call.gradients, begin, end), span(call.moments, begin, end))
    wait(call.barrier, worker, workers)
    # Every worker computes the norm: a sum of parts would depend on the number of workers.
    scale = g.dtype.type(1.0 / max(norm_of(vector(g, 0, n_in * n_out)), SMALLEST_NORM))
    x_at, y_at, size, side = 0, call.matrix_size, call.matrix_size, call.matrix_side
    a, b = matrix(memory, 2 * size, k, k), matrix(memory, 2 * size + side, k, k)
    zeros_at = 2 * size + 2 * side
    scratch = vector(memory, zeros_at + call.matrix_width + worker * call.matrix_scratch, call.matrix_scratch)
    if worker == 0:
        clear(vector(memory, zeros_at, n))
    first, last = worker_part(k, worker, workers, SLICE_ROWS)
    # With the smaller side first, x x' has the fewest numbers.
    copy_rows(g, turned, scale, first, last, matrix(memory, x_at, k, n))
    wait(call.barrier, worker, workers)
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        x, y = matrix(memory, x_at, k, n), matrix(memory, y_at, k, n)
        if first < last:
            # a = x x', by the kernel of input gradients, which multiplies by a transpose.
            input_gradient_rows(x, x, a, a, first, last, False, scratch)
        wait(call.barrier, worker, workers)
        if first < last:
            # b = a a, and then b = NEWTON_SCHULZ[1] a + NEWTON_SCHULZ[2] b.
            affine_rows(a, no_order(), a, vector(memory, zeros_at, k), b, first, last, False, scratch)
            combine(NEWTON_SCHULZ[1], rows_of(a, first, last), NEWTON_SCHULZ[2], rows_of(b, first, last))
        wait(call.barrier, worker, workers)
        if first < last:
            # y = b x, and then y = NEWTON_SCHULZ[0] x + y; x is read by all workers until the barrier below,
            # so y is another buffer.
            affine_rows(b, no_order(), x, vector(memory, zeros_at, n), y, first, last, False, scratch)
            combine(NEWTON_SCHULZ[0], rows_of(x, first, last), 1.0, rows_of(y, first, last))
        wait(call.barrier, worker, workers)
        x_at, y_at = y_at, x_at
    # As large as Adam's step of the matrix, by root mean square.
    scale = g.dtype.type(0.2 * math.sqrt(n))
    first, last = worker_part(n_in, worker, workers, SLICE_ROWS)
    copy_rows(matrix(memory, x_at, k, n), turned, scale, first, last, g)


def move_momentum(rule, g, moment):
    """moment (n,) = momentum * moment + (1 - momentum) * g; g becomes the moment, or Nesterov's mean."""
    momentum = g.dtype.type(rule.momentum)
    for i in range(len(g)):
        moment[i] += (g[i] - moment[i]) * (1 - momentum)
        g[i] = g[i] + momentum * (moment[i] - g[i]) if rule.orthogonal == NESTEROV else moment[i]


def norm_of(numbers):
    """Return the 2-norm of numbers (n,), summed in order in float64."""
    squares = 0.0
    for i in range(len(numbers)):
        squares += float(numbers[i]) * float(numbers[i])
    return math.sqrt(squares)


def copy_rows(source, turned, scale, first, last, out):
    """Rows [first, last) of out = scale * source, or its transpose where `turned`."""
    for i in range(first, last):
        for j in range(out.shape[1]):
            out[i, j] = scale * (source[j, i] if turned else source[i, j])


def combine(factor, one, other, out):
    """out = factor * one + other * out, all (rows, columns)."""
    first, second = out.dtype.type(factor), out.dtype.type(other)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = first * one[i, j] + second * out[i, j]
