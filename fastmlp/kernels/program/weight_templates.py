"""The second phase of a step: a worker's rows of all weights, their gradient, and the optimiser's rule.

Templates as in `step_templates`. The operations are walked once; what an operation does stands in its file in
`fastmlp.kernels.program.operations`.
"""

# mypy: ignore-errors

import math
from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.scalars import call_back
from fastmlp.kernels.codegen.views import (
    chosen,
    columns_of,
    constants_of,
    lesser,
    matrix,
    no_order,
    rows_of,
    span,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import DENSE
from fastmlp.kernels.program.barrier import is_abandoned, wait
from fastmlp.kernels.program.records import ABANDONED, NESTEROV, SLICE_ROWS, UNSUMMED
from fastmlp.kernels.program.row_templates import sparse_in_of
from fastmlp.kernels.program.slots import (
    affine_rows,
    input_gradient_rows,
    operation_gradient,
    operation_update,
)
from fastmlp.kernels.program.step_numbers import rows_of_bucket, worker_part
from fastmlp.model.optimizers import NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS, SMALLEST_NORM

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import apply_rule, bias_gradient, clip, penalty


def weights_step(call, start, rows, step, penalised, rates, worker, workers):
    """Form the worker's part of the gradients of all operations over the batch; update unless left whole.

    penalised : see `penalty_factor`; rates : of weights and of biases; the rest as in `rows_forward`
    """
    # Where ranks sum the gradient, the sum of a bucket begins as soon as all workers have formed the bucket,
    # and they go on with the next.
    operations, begun = call.operations, 0
    summed = (call.summing > 0) & (call.accumulates == 0)
    for number in range(len(operations)):
        op, top, bottom = operations[number], 0, 0
        trains = call.rules[0, number].rate_factor != 0 and op.end > op.weights
        while bottom < op.n_in:
            bottom = bucket_end(call, op, top, summed)
            if trains:
                operation_gradient(
                    op.file, call, start, rows, step, number, penalised, rates, top, bottom, worker, workers
                )
            if summed:
                # The biases lie behind the matrix, and are summed with its last rows.
                end = chosen(bottom == op.n_in, op.end, op.weights + bottom * op.n_out)
                begun = sum_formed(call, step, begun, end, worker, workers)
            top = bottom


def bucket_end(call, op, top, summed):
    """Return the end of the rows from `top` on whose gradient is formed together; all but of products."""
    if op.kind != DENSE:
        return op.n_in
    dense_in = op.n_in - sparse_in_of(call, op)
    if top >= dense_in:
        return op.n_in
    return lesser(top + rows_of_bucket(call.together, op.n_out, dense_in), dense_in) if summed else dense_in


def sum_formed(call, step, begun, end, worker, workers):
    """Have ranks sum numbers [begun, end) if enough; return the begin of the next sum."""
    if end < call.size and end - begun < call.together:
        return begun
    wait(call.barrier, worker, workers)
    if worker == 0:
        sum_over_ranks(call, call.summing, step, begun, end)
    return end


def update_all(call, step, rates, worker, workers):
    """Apply the worker's part of call.gradients to the parameters."""
    operations = call.operations
    for number in range(len(operations)):
        op = operations[number]
        if call.rules[0, number].rate_factor != 0 and op.trained > op.weights:
            operation_update(op.file, call, step, number, rates, worker, workers)


def biases_step(call, rows, number, out):
    """Write the gradient of the biases, or of the shift, of an operation to out (n_out,)."""
    op = call.operations[number]
    if rows > 0 and op.trains_bias:
        bias_gradient(units_of(call.memory, call.deltas, op, rows), out)
    else:
        clear(out)


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


def update_vectors(call, step, number, rates, worker, workers):
    """Apply the gradients of an operation's gain and shift; a single worker takes both."""
    op = call.operations[number]
    if worker == number % workers:
        apply_gradients(call, 0, number, step, rates[0], op.weights, op.biases - op.weights)
        apply_gradients(call, 1, number, step, rates[1], op.biases, op.trained - op.biases)


def clip_all(call):
    """Scale call.gradients down to the optimiser's norm; frozen operations do not count."""
    operations, rules, gradients = call.operations, call.rules, call.gradients
    for number in range(len(operations)):
        op = operations[number]
        if rules[0, number].rate_factor == 0:
            clear(vector(gradients, op.weights, op.end - op.weights))
    clip(rules[0, 0].clip_norm, gradients)


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


def combine(factor, x, share, out):
    """out = factor * x + share * out, all (rows, columns)."""
    first, second = out.dtype.type(factor), out.dtype.type(share)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = first * x[i, j] + second * out[i, j]
