"""The orthogonal part of Muon's step.

Templates as `operation_templates`, compiled only for an optimiser with such a rule. Workers divide the rows
of each product, and every number is summed by a single worker, so that any number of workers has equal bits.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

import math

from fastmlp.kernels.codegen.views import lesser, matrix, no_order, rows_of, span, vector, weights_of
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.records import NESTEROV, SLICE_ROWS
from fastmlp.kernels.program.step_numbers import own_share
from fastmlp.kernels.program.weight_templates import clear
from fastmlp.model.optimizers import NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS, SMALLEST_NORM


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
    here, rule, memory = call.operations[number], call.rules[0, number], call.matrices
    n_in, n_out = here.n_in, here.n_out
    k, turned = lesser(n_in, n_out), n_in > n_out
    n = n_in + n_out - k
    g = weights_of(call.gradients, here)
    first, last = own_share(n_in, worker, workers, SLICE_ROWS)
    begin, end = here.weights + first * n_out, here.weights + last * n_out
    move_momentum(rule, span(call.gradients, begin, end), span(call.moments, begin, end))
    wait(call.barrier, worker, workers)
    scale = g.dtype.type(1.0 / max(norm_of(vector(g, 0, n_in * n_out)), SMALLEST_NORM))
    x_at, y_at, size, side = 0, call.matrix_size, call.matrix_size, call.matrix_side
    a, b = matrix(memory, 2 * size, k, k), matrix(memory, 2 * size + side, k, k)
    zeros_at = 2 * size + 2 * side
    scratch = vector(memory, zeros_at + call.matrix_width + worker * call.matrix_scratch, call.matrix_scratch)
    if worker == 0:
        clear(vector(memory, zeros_at, n))
    first, last = own_share(k, worker, workers, SLICE_ROWS)
    copy_rows(g, turned, scale, first, last, matrix(memory, x_at, k, n))
    wait(call.barrier, worker, workers)
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        x, y = matrix(memory, x_at, k, n), matrix(memory, y_at, k, n)
        if first < last:
            input_gradient_rows(x, x, a, a, first, last, False, scratch)
        wait(call.barrier, worker, workers)
        if first < last:
            affine_rows(a, no_order(), a, vector(memory, zeros_at, k), b, first, last, False, scratch)
            combine(NEWTON_SCHULZ[1], rows_of(a, first, last), NEWTON_SCHULZ[2], rows_of(b, first, last))
        wait(call.barrier, worker, workers)
        if first < last:
            affine_rows(b, no_order(), x, vector(memory, zeros_at, n), y, first, last, False, scratch)
            combine(NEWTON_SCHULZ[0], rows_of(x, first, last), 1.0, rows_of(y, first, last))
        wait(call.barrier, worker, workers)
        x_at, y_at = y_at, x_at
    # As large as Adam's step of the matrix, by root mean square.
    scale = g.dtype.type(0.2 * math.sqrt(n))
    first, last = own_share(n_in, worker, workers, SLICE_ROWS)
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
