"""The operations of `whole_steps` in compiled programs: vectors, passes over all rows, equations.

Templates as in `step_templates`, for one worker. The rows of J are products of a row's inputs and deltas, and
the slots of matrix products sum J'J. Damped equations are those of the parameters, or those of the residuals
where there are fewer residuals (Woodbury), with small matrices factored here.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

import math
from functools import partial

import numpy as np
from numba import types

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.symbols import FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, folded, of_arrays, total_of
from fastmlp.kernels.codegen.views import (
    lesser,
    matrix,
    part_of,
    rows_of,
    span,
    units_of,
    vector,
)
from fastmlp.kernels.codes import SIGMOID, SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.row_templates import rows_backward, rows_forward, rows_loss
from fastmlp.kernels.program.step_numbers import block_of, loss_factor, parts_of, penalty_factor
from fastmlp.kernels.program.step_templates import batch_step
from fastmlp.kernels.program.weight_templates import clear, penalties
from fastmlp.kernels.program.whole_steps import DOWN, LINES, PENALTY, STEP

# --- vectors ----------------------------------------------------------------------------------------------


@partial(of_arrays, result="float64")
def inner(x, y):
    """Return the sum of products of x and y (n,): whole vectors are added, then their lanes."""
    build = x.builder
    v = Vectors(build, x.dtype, host().vector_bytes)
    total = Running(Symbol(build, v.zero))

    def add(i, mask):
        terms = (Symbol(build, v.load(v.shift(one.data, i * v.itemsize), mask)) for one in (x, y))
        total.value = fma(*terms, total.value)

    v.over(x.units, add)
    found = folded(build, total.value, lambda a, b: a + b).value
    return found if x.dtype == types.float64 else build.fpext(found, FLOATS[types.float64])


def scaled(factor, x, out):
    """out (n,) = factor * x"""
    wide_vectors()
    by = x.dtype.type(factor)
    for i in range(len(out)):
        out[i] = by * x[i]


def combined(x, factor, y, out):
    """out (n,) = x + factor * y"""
    wide_vectors()
    by = x.dtype.type(factor)
    for i in range(len(out)):
        out[i] = x[i] + by * y[i]


def add_products(x, y, out):
    """out (n,) += x * y"""
    for i in range(len(out)):
        out[i] += x[i] * y[i]


def weighed_square(weights, x):
    """Return the sum of weights * x * x."""
    total = 0.0
    for i in range(len(x)):
        total += weights[i] * x[i] * x[i]
    return total


def round_single(x, twice):
    """Round x (n,) to the numbers of float32; `twice`: to sums of two of them."""
    for i in range(len(x)):
        number = np.float64(np.float32(x[i]))  # Numba's `float` leaves a float32 as it is
        x[i] = number + np.float64(np.float32(x[i] - number)) if twice else number


def round_numbers(state):
    """Round the numbers that a step leaves to the next to those of float32."""
    state.damping, state.gain = np.float32(state.damping), np.float32(state.gain)
    state.prior_precision, state.noise = np.float32(state.prior_precision), np.float32(state.noise)


# --- passes over all rows ---------------------------------------------------------------------------------


def gradient_at(call):
    """Write the gradient at call.parameters to call.gradients; return the objective."""
    batch_step(call, 0, 0, 1, False)
    return call.losses[0]


def loss_at(call):
    """Return the objective at call.parameters, of a chain."""
    objective, rows, block = call.objective, call.samples, block_of(call)
    factor = loss_factor(objective.divisor, call.totals[0])
    for at in range(0, rows, block):
        stop = lesser(at + block, rows)
        rows_forward(call, 0, rows, at, stop, 0, call.depth, 0, 0)
        rows_loss(call, 0, rows, at, stop, factor, 0)
    found = total_of(call.sums, parts_of(rows), LOSS_ROWS) / objective.value_divisor
    if objective.penalises:
        found += penalties(call, penalty_factor(objective.shared_penalty, call.totals[0]))
    return found


def form_equations(call):
    """Write J'r to the line DOWN, and J'J, of a chain; where there are fewer residuals, J alone."""
    state, rows, size, outputs = call.whole, call.samples, call.size, call.n_out
    scratch = part_of(call.memory, call.scratch, call.scratch_length, 0)
    side, down, product = (
        state.side,
        part_of(call.room, 0, call.size, DOWN),
        part_of(call.room, 0, call.size, STEP),
    )
    gram, some = vector(call.room, state.gram, side * side), vector(call.room, state.factor, side * side)
    clear(down)
    clear(gram)
    state.square = state.counted = 0.0
    for at in range(0, rows, state.block):
        stop = lesser(at + state.block, rows)
        rows_forward(call, 0, rows, at, stop, 0, call.depth, 0, 0)
        count = outputs * (stop - at)
        offset = state.jacobian + state.dual * at * outputs * size
        jacobian = matrix(call.room, offset, count, size)
        residuals = vector(call.room, state.residuals, count)
        for output in range(outputs):
            first = output * (stop - at)
            seed_output(call, output, at, stop, span(residuals, first, first + stop - at))
            rows_backward(call, 0, rows, rows, at, stop, 0, call.depth, 0, 0)
            multiply_rows(call, at, stop, rows_of(jacobian, first, first + stop - at))
        state.square += inner(residuals, residuals)
        weight_gradient(jacobian, matrix(residuals, 0, count, 1), scratch, matrix(product, 0, size, 1))
        combined(down, 1.0, product, down)
        if state.dual == 0:
            weight_gradient(jacobian, jacobian, scratch, matrix(some, 0, size, size))
            combined(gram, 1.0, some, gram)
    state.total_diagonal = 0.0
    for i in range(side):
        row = vector(call.room, state.jacobian + i * size, size)
        state.total_diagonal += inner(row, row) if state.dual != 0 else gram[i * side + i]
    for i in range(rows):
        state.counted += outputs if call.weights[i] != 0 else 0


def seed_output(call, output, at, stop, residuals):
    """Write the residuals of an output in rows [at, stop), and the cotangents of the logits behind them.

    The residual of a squared error has the root of the row's weight as a factor. The residual of a likelihood
    with its canonical output is divided by the deviation, whose square is the slope of the output.
    """
    here, squares = call.operations[call.depth - 1], call.whole.squares != 0
    z = rows_of(units_of(call.memory, call.logits, here, call.samples), at, stop)
    a = rows_of(units_of(call.memory, call.activations, here, call.samples), at, stop)
    delta = rows_of(units_of(call.memory, call.deltas, here, call.samples), at, stop)
    activate(here.activation, z, a)
    softmax, sigmoid = here.activation == SOFTMAX, here.activation == SIGMOID
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            delta[i, j] = -z[i, j] if sigmoid else 1.0
    if sigmoid:  # 1 - a, without its rounding
        activate(here.activation, delta, delta)
        for i in range(z.shape[0]):
            delta[i, output] = delta[i, output] * a[i, output]
    elif softmax:
        for i in range(z.shape[0]):
            delta[i, output] = a[i, output]
    else:
        activate_gradient(here.activation, z, a, delta)
    for i in range(z.shape[0]):
        slope, weight = delta[i, output], call.weights[at + i]
        factor = 0.0
        if weight > 0.0 and (squares or slope > 0.0):
            factor = math.sqrt(weight if squares else weight / slope)
        residuals[i] = factor * (a[i, output] - call.targets[at + i, output])
        for j in range(z.shape[1]):
            delta[i, j] = -factor * slope * a[i, j] if softmax else 0.0
        delta[i, output] = factor * slope * (1.0 - a[i, output] if softmax else 1.0)


def multiply_rows(call, at, stop, out):
    """out (rows, P) = the derivatives by all parameters of rows [at, stop), whose deltas are in memory."""
    x = rows_of(call.inputs, at, stop)
    for number in range(call.depth):
        here = call.operations[number]
        delta = rows_of(units_of(call.memory, call.deltas, here, call.samples), at, stop)
        for i in range(out.shape[0]):
            of_row = vector(delta, i * here.n_out, here.n_out)
            for k in range(here.n_in):
                offset = i * call.size + here.weights + k * here.n_out
                scaled(x[i, k], of_row, vector(out, offset, here.n_out))
            offset = i * call.size + here.biases
            scaled(1.0 if here.trains_bias else 0.0, of_row, vector(out, offset, here.n_out))
        x = rows_of(units_of(call.memory, call.activations, here, call.samples), at, stop)


# --- damped equations -------------------------------------------------------------------------------------


def factor_equations(call, diagonal):
    """Factor the matrix of the equations with a diagonal (P,); return False where rounding leaves no factor.

    The matrix is J'J + diagonal, or JD (JD)' + 1 with D = diagonal ** -0.5 where there are fewer residuals.
    """
    state, side, size = call.whole, call.whole.side, call.size
    factor = matrix(call.room, state.factor, side, side)
    if state.dual == 0:
        scaled(1.0, vector(call.room, state.gram, side * side), vector(call.room, state.factor, side * side))
        for i in range(side):
            factor[i, i] += diagonal[i]
        return cholesky(factor)
    jacobian = matrix(call.room, state.jacobian, side, size)
    by_root = matrix(call.room, state.scaled, side, size)
    roots = part_of(call.room, 0, size, STEP)
    for j in range(size):
        roots[j] = 1.0 / math.sqrt(diagonal[j])
    for i in range(side):
        for j in range(size):
            by_root[i, j] = jacobian[i, j] * roots[j]
    scratch = part_of(call.memory, call.scratch, call.scratch_length, 0)
    input_gradient(by_root, by_root, scratch, factor)
    for i in range(side):
        factor[i, i] += 1.0
    return cholesky(factor)


def solve_damped(call, damping):
    """Write the step of the damped equations to the line STEP; return False where there is none."""
    state, side, size = call.whole, call.whole.side, call.size
    down, step, diagonal = (
        part_of(call.room, 0, call.size, DOWN),
        part_of(call.room, 0, call.size, STEP),
        part_of(call.room, 0, call.size, LINES),
    )
    for i in range(size):
        diagonal[i] = damping + part_of(call.room, 0, call.size, PENALTY)[i]
    if not factor_equations(call, diagonal):
        return False
    factor = matrix(call.room, state.factor, side, side)
    if state.dual == 0:
        scaled(-1.0, down, step)
        solve_lower(factor, step)
        solve_upper(factor, step)
        return True
    by_root, found = matrix(call.room, state.scaled, side, size), vector(call.room, state.residuals, side)
    for i in range(size):  # without J; what J changes is of its rank
        diagonal[i] = math.sqrt(diagonal[i])
        step[i] = down[i] / diagonal[i]
    for i in range(side):
        found[i] = inner(vector(by_root, i * size, size), step)
    solve_lower(factor, found)
    solve_upper(factor, found)
    for i in range(side):
        combined(step, -found[i], vector(by_root, i * size, size), step)
    for i in range(size):
        step[i] = -step[i] / diagonal[i]
    return True


def determined_by(call, ratio, most):
    """Return how many of `most` parameters the data determine.

    ratio : the precision of the prior over that of the noise
    """
    state, side, diagonal = call.whole, call.whole.side, part_of(call.room, 0, call.size, LINES)
    for i in range(call.size):
        diagonal[i] = ratio
    if ratio == 0.0 or not factor_equations(call, diagonal):
        return min(float(side), most)
    factor, row, trace = (
        matrix(call.room, state.factor, side, side),
        part_of(call.room, 0, call.size, STEP),
        0.0,
    )
    if state.dual != 0:
        row = vector(call.room, state.residuals, side)
    for i in range(side):  # of the inverse: the sum of squares of the inverse factor
        clear(row)
        row[i] = 1.0
        solve_lower(factor, row)
        trace += inner(row, row)
    return side - (trace if state.dual != 0 else ratio * trace)


def cholesky(a):
    """Replace the upper half of a (n, n) by U with U'U = a; return False where a is not positive definite.

    A row stays in L1 while earlier rows are subtracted, four at a time.
    """
    n = a.shape[0]
    for i in range(n):
        row, together = vector(a, i * n + i, n - i), i // 4 * 4
        for k in range(0, together, 4):
            subtract_rows(a, k, i, row)
        for k in range(together, i):
            combined(row, -a[k, i], vector(a, k * n + i, n - i), row)
        if not a[i, i] > 0.0:
            return False
        scaled(1.0 / math.sqrt(a[i, i]), row, row)
    return True


def subtract_rows(u, k, i, out):
    """out (n - i,) -= rows k to k + 3 of u (n, n) from column i on, times the rows' numbers in column i"""
    wide_vectors()
    n, count = u.shape[1], len(out)
    first, second = vector(u, k * n + i, count), vector(u, (k + 1) * n + i, count)
    third, fourth = vector(u, (k + 2) * n + i, count), vector(u, (k + 3) * n + i, count)
    a, b, c, d = u[k, i], u[k + 1, i], u[k + 2, i], u[k + 3, i]
    for j in range(count):
        out[j] -= a * first[j] + b * second[j] + c * third[j] + d * fourth[j]


def solve_lower(u, x):
    """x (n,) = the solution of U' y = x, of the upper half of u."""
    n = u.shape[0]
    for k in range(n):
        x[k] /= u[k, k]
        rest = span(x, k + 1, n)
        combined(rest, -x[k], vector(u, k * n + k + 1, n - k - 1), rest)


def solve_upper(u, x):
    """x (n,) = the solution of U y = x, of the upper half of u."""
    n = u.shape[0]
    for k in range(n - 1, -1, -1):
        x[k] = (x[k] - inner(vector(u, k * n + k + 1, n - k - 1), span(x, k + 1, n))) / u[k, k]
