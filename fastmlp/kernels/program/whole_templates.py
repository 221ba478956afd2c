"""The operations of `whole_steps` in compiled programs: vectors, passes over all rows, equations.

Templates as in `step_templates`, for one worker. J is transposed: a row has a parameter's derivatives, which
are products of inputs and deltas. Damped equations are those of the parameters, or those of the residuals
where there are fewer residuals (Woodbury). A symmetric matrix has its upper half alone, in panels of STRIP
columns, so that the slots of matrix products sum and factor the matrix.
"""

# mypy: ignore-errors

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numba import types

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.symbols import FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, counted, folded, of_arrays, total_of
from fastmlp.kernels.codegen.views import (
    chosen,
    lesser,
    matrix,
    panel_of,
    part_of,
    rows_of,
    span,
    units_of,
    vector,
)
from fastmlp.kernels.codes import SIGMOID, SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.output_templates import rows_loss
from fastmlp.kernels.program.row_templates import rows_backward, rows_forward
from fastmlp.kernels.program.step_numbers import block_of, parts_of, penalty_factor
from fastmlp.kernels.program.step_templates import batch_step
from fastmlp.kernels.program.weight_templates import clear, penalties

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import activate, activate_gradient, input_gradient, weight_gradient


STRIP = 24
"""Columns of a panel: a multiple of the columns of the widest register tiles of all machines."""

# --- vectors ----------------------------------------------------------------------------------------------
# Loops that LLVM makes vectors of take short arrays, and up to 31 last numbers of others, one by one.


@partial(of_arrays, result="float64")
def inner(x, y):
    """Return the sum of products of x and y (n,), of four sums that do not wait for each other."""
    build = x.builder
    v = Vectors(build, x.dtype, host().vector_bytes)
    totals = [Running(Symbol(build, v.zero)) for _ in range(4)]

    def add(i, mask, total):
        terms = (Symbol(build, v.load(v.shift(array.data, i * v.itemsize), mask)) for array in (x, y))
        total.value = fma(*terms, total.value)

    whole = x.units - x.units % (4 * v.lanes)
    with counted(build, whole, 4 * v.lanes) as i:
        for part, total in enumerate(totals):
            add(i + part * v.lanes, None, total)
    v.over(x.units - whole, lambda i, mask: add(whole + i, mask, totals[0]))
    first, second, third, fourth = (total.value for total in totals)
    total_of_lanes = folded(build, (first + second) + (third + fourth), lambda a, b: a + b).value
    return total_of_lanes if x.dtype == types.float64 else build.fpext(total_of_lanes, FLOATS[types.float64])


def write_each(formula, out, *arrays):
    """Write out (n,) = formula(numbers of arrays (n,)), by vectors."""
    build = out.builder
    v = Vectors(build, out.dtype, host().vector_bytes)

    def write(i, mask):
        at = i * v.itemsize
        result = formula(*(Symbol(build, v.load(v.shift(array.data, at), mask)) for array in arrays))
        v.store(result.value, v.shift(out.data, at), mask)

    v.over(out.units, write)


@of_arrays
def scaled(factor, x, out):
    """out (n,) = factor * x"""
    write_each(lambda a: a * factor, out, x)


@of_arrays
def multiplied(x, y, out):
    """out (n,) = x * y"""
    write_each(lambda a, b: a * b, out, x, y)


@of_arrays
def combined(x, factor, y, out):
    """out (n,) = x + factor * y"""
    write_each(lambda a, b: fma(b, factor, a), out, x, y)


@of_arrays
def subtract_rows(u, a, i, first, out):
    """out (m,) -= rows k < i of a (n, ..) from column `first` on, times numbers (k, i) of u (n, n)."""
    build = out.builder
    v = Vectors(build, out.dtype, host().vector_bytes)

    def subtract(j, mask):
        offset = v.shift(out.data, j * v.itemsize)
        total = Running(Symbol(build, v.load(offset, mask)))
        with counted(build, i) as k:
            row, factor = v.load(a.at(k, first + j), mask), v.broadcast(u.at(k, i))
            total.value = fma(-Symbol(build, factor), Symbol(build, row), total.value)
        v.store(total.value.value, offset, mask)

    v.over(out.units, subtract)


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
    for at in range(0, rows, block):
        stop = lesser(at + block, rows)
        rows_forward(call, 0, rows, at, stop, 0, call.depth, 0, 0)
        rows_loss(call, 0, 0, rows, at, stop, 0)
    value = total_of(call.sums, parts_of(rows), LOSS_ROWS) / objective.value_divisor
    if objective.penalises:
        value += penalties(call, penalty_factor(objective.shared_penalty, call.totals[0]))
    return value


def form_equations(call):
    """Write J'r to call.down, and J'J, of a chain; where there are fewer residuals, J alone.

    The logits and activations of all rows are those of the last loss, which was taken at this point.
    """
    state, rows, size, outputs, room = call.whole, call.samples, call.size, call.n_out, call.room
    scratch = part_of(call.memory, call.scratch, call.scratch_length, 0)
    down, dual = call.down, state.dual != 0
    clear(down)
    state.square = state.counted = state.total_diagonal = 0.0
    for at in range(0, rows, state.block):
        stop = lesser(at + state.block, rows)
        count = outputs * (stop - at)
        begin, apart = state.jacobian + chosen(dual, outputs * at, 0), chosen(dual, state.side, count)
        residuals = vector(room, state.residuals, count)
        for output in range(outputs):
            first = output * (stop - at)
            seed_output(call, output, at, stop, span(residuals, first, first + stop - at))
            rows_backward(call, 0, rows, rows, at, stop, 0, call.depth, 0, 0)
            multiply_rows(call, at, stop, begin + first, apart)
        state.square += inner(residuals, residuals)
        for i in range(size):
            column = vector(room, begin + i * apart, count)
            down[i] += inner(column, residuals)
            state.total_diagonal += inner(column, column)
        for left in range(0, chosen(dual, 0, size), STRIP):
            panel = panel_of(room, chosen(at > 0, state.factor, state.gram), size, left, STRIP)
            jacobian = matrix(room, begin, panel.shape[0], count)
            input_gradient(jacobian, rows_of(jacobian, left, panel.shape[0]), scratch, panel)
            if at > 0:
                gram = vector(panel_of(room, state.gram, size, left, STRIP), 0, panel.size)
                combined(gram, 1.0, vector(panel, 0, panel.size), gram)
    for i in range(rows):
        state.counted += outputs if call.weights[i] != 0 else 0


def seed_output(call, output, at, stop, residuals):
    """Write the residuals of an output in rows [at, stop), and the cotangents of the logits behind them.

    The residual of a squared error has the root of the row's weight as a factor. The residual of a likelihood
    with its canonical output is divided by the deviation, whose square is the slope of the output.
    """
    op, squares = call.operations[call.depth - 1], call.whole.squares != 0
    z = rows_of(units_of(call.memory, call.logits, op, call.samples), at, stop)
    a = rows_of(units_of(call.memory, call.activations, op, call.samples), at, stop)
    delta = rows_of(units_of(call.memory, call.deltas, op, call.samples), at, stop)
    activate(op.activation, z, a)
    softmax, sigmoid = op.activation == SOFTMAX, op.activation == SIGMOID
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            delta[i, j] = -z[i, j] if sigmoid else 1.0
    if sigmoid:  # 1 - a, without its rounding
        activate(op.activation, delta, delta)
    elif not softmax:
        activate_gradient(op.activation, z, a, delta)
    for i in range(z.shape[0]):
        slope, weight = delta[i, output], call.weights[at + i]
        if sigmoid or softmax:
            slope *= a[i, output]
        factor = 0.0
        if weight > 0.0 and (squares or slope > 0.0):
            factor = math.sqrt(weight if squares else weight / slope)
        residuals[i] = factor * (a[i, output] - call.targets[at + i, output])
        for j in range(z.shape[1]):
            delta[i, j] = -factor * slope * a[i, j] if softmax else 0.0
        delta[i, output] = factor * slope * (1.0 - a[i, output] if softmax else 1.0)


def multiply_rows(call, at, stop, begin, apart):
    """Write the derivatives by all parameters of rows [at, stop), whose deltas are in memory.

    begin, apart : the offset in the room of the first number, and the distance of two parameters' numbers
    """
    x, room, count = rows_of(call.inputs, at, stop), call.room, stop - at
    for number in range(call.depth):
        op = call.operations[number]
        n_out = op.n_out
        delta = rows_of(units_of(call.memory, call.deltas, op, call.samples), at, stop)
        biases = begin + op.biases * apart
        for j in range(n_out):
            column = vector(room, biases + j * apart, count)
            for i in range(count):
                column[i] = delta[i, j]
        for k in range(op.n_in):
            weights = begin + (op.weights + k * n_out) * apart
            column = vector(room, weights + (n_out - 1) * apart, count)  # the last product is written here
            for i in range(count):
                column[i] = x[i, k]
            for j in range(n_out):
                by_bias, out = biases + j * apart, weights + j * apart
                multiplied(column, vector(room, by_bias, count), vector(room, out, count))
        if not op.trains_bias:
            for j in range(n_out):
                clear(vector(room, biases + j * apart, count))
        x = rows_of(units_of(call.memory, call.activations, op, call.samples), at, stop)


# --- damped equations -------------------------------------------------------------------------------------


def factor_equations(call, diagonal):
    """Factor the matrix of the equations with a diagonal (P,); return False where rounding leaves no factor.

    The matrix is J'J + diagonal, or JD (JD)' + 1 with D = diagonal ** -0.5 where there are fewer residuals.
    """
    state, side, size, room = call.whole, call.whole.side, call.size, call.room
    scratch, dual = part_of(call.memory, call.scratch, call.scratch_length, 0), call.whole.dual != 0
    for left in range(0, side, STRIP):
        panel = panel_of(room, state.factor, side, left, STRIP)
        right, width = panel.shape
        if not dual:
            gram = panel_of(room, state.gram, side, left, STRIP)
            scaled(1.0, vector(gram, 0, gram.size), vector(panel, 0, panel.size))
        else:  # strips of D J' in place of panels
            strip = matrix(room, state.scaled + left * size, size, width)
            for j in range(size):
                row = vector(room, state.jacobian + j * side + left, width)
                scaled(1.0 / math.sqrt(diagonal[j]), row, vector(strip, j * width, width))
            for top in range(0, right, STRIP):
                bottom = lesser(top + STRIP, right)
                above = matrix(room, state.scaled + top * size, size, bottom - top)
                weight_gradient(above, strip, scratch, rows_of(panel, top, bottom))
        for j in range(width):
            panel[left + j, j] += 1.0 if dual else diagonal[left + j]
        if not eliminate_panels(call, 0, panel, left):
            return False
    return True


def solve_damped(call, damping):
    """Write the step of the damped equations to call.along; return False where there is none."""
    state, side, size, room = call.whole, call.whole.side, call.size, call.room
    down, step, diagonal, precisions = call.down, call.along, call.diagonal, call.precisions
    for i in range(size):
        diagonal[i] = damping + precisions[i]
    if not factor_equations(call, diagonal):
        return False
    if state.dual == 0:
        scaled(-1.0, down, step)
        solve(call, step)
        return True
    combination = vector(room, state.residuals, side)
    clear(combination)
    for i in range(size):  # without J; what J changes is of its rank
        step[i] = -down[i] / diagonal[i]
        combined(combination, -step[i], vector(room, state.jacobian + i * side, side), combination)
    solve(call, combination)
    for i in range(size):
        step[i] += inner(vector(room, state.jacobian + i * side, side), combination) / diagonal[i]
    return True


def determined_by(call, ratio, most):
    """Return how many of `most` parameters the data determine.

    ratio : the precision of the prior over that of the noise
    """
    state, side, room, dual = call.whole, call.whole.side, call.room, call.whole.dual != 0
    diagonal, trace = call.diagonal, 0.0
    for i in range(call.size):
        diagonal[i] = ratio
    if ratio == 0.0 or not factor_equations(call, diagonal):
        return min(float(side), most)
    for left in range(0, side, STRIP):  # of the inverse: the sum of squares of the inverse factor
        offset, width = chosen(dual, state.scaled, state.jacobian), lesser(STRIP, side - left)
        columns, numbers = matrix(room, offset, side, width), vector(room, offset, side * width)
        clear(numbers)
        for i in range(width):
            columns[left + i, i] = 1.0
        eliminate_panels(call, left, columns, side)
        trace += inner(numbers, numbers)
    return side - (trace if dual else ratio * trace)


def eliminate_panels(call, first, a, left):
    """Replace a (rows, m) by X with U'X = a, of U in panels; return False where there is no U.

    first : of the rows that are not 0; left : of the panel that a is, whose U is found, or `side`
    """
    room, offset, side = call.room, call.whole.factor, call.whole.side
    scratch = part_of(call.memory, call.scratch, call.scratch_length, 0)
    for top in range(first, a.shape[0], STRIP):
        above = panel_of(room, offset, side, top, STRIP)
        bottom = above.shape[0]
        block = rows_of(a, top, bottom)
        if top > first:
            numbers = vector(block, 0, block.size)
            behind = offset + side * side - block.size  # all panels
            product = matrix(room, behind, bottom - top, a.shape[1])
            weight_gradient(rows_of(above, first, top), rows_of(a, first, top), scratch, product)
            combined(numbers, -1.0, vector(product, 0, product.size), numbers)
        if not eliminate(rows_of(above, top, bottom), block, top == left):
            return False
    return True


def eliminate(u, a, factors):
    """Replace a (n, m) by X with U'X = a, of U in the upper half of u (n, n).

    factors : whether u is a, a symmetric matrix that U is found of; then return False where there is no U
    """
    n, m = a.shape
    for i in range(n):
        first = i if factors else 0
        row = vector(a, i * m + first, m - first)
        subtract_rows(u, a, i, first, row)
        if not u[i, i] > 0.0:
            return False
        scaled(1.0 / (math.sqrt(u[i, i]) if factors else u[i, i]), row, row)
    return True


def solve(call, x):
    """x (side,) = the solution of U'U y = x, of U in panels."""
    side = call.whole.side
    eliminate_panels(call, 0, matrix(x, 0, side, 1), side)
    for left in range((side - 1) // STRIP * STRIP, -1, -STRIP):
        panel = panel_of(call.room, call.whole.factor, side, left, STRIP)
        right, width = panel.shape
        for k in range(right - 1, -1, -1):
            begin = chosen(k < left, left, k + 1)
            x[k] -= inner(vector(panel, k * width + begin - left, right - begin), span(x, begin, right))
            if k >= left:
                x[k] /= panel[k, k - left]
