"""Operations other than products, called by name as slots are.

A chain of dense layers needs no function of this file, and so compiles none.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

import math

from fastmlp.kernels.codegen.views import (
    chosen,
    matrix,
    numbers_of,
    output_of,
    rows_of,
    saved_of,
    span,
    subrows_of,
    units_of,
    vector,
)
from fastmlp.kernels.codes import ACTIVATION, ADD, BATCH_NORM, COPY, FIXED_NORM
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.fused_chains import fused_backward, fused_forward
from fastmlp.kernels.program.row_formulas import (
    gain_gradient,
    operate,
    operate_gradient,
    pass_on,
)
from fastmlp.kernels.program.row_templates import inputs_of
from fastmlp.kernels.program.step_numbers import left_whole, parts_of, worker_part
from fastmlp.kernels.program.weight_templates import sum_over_ranks

SHARED_UNITS = 32
"""Units in the parts of workers: two cache lines of float32, fetched in pairs."""


def operation_forward(call, start, rows, number, first, last):
    """Take rows [first, last) through an operation: `rows_forward`."""
    operations, memory, op = call.operations, call.memory, call.operations[number]
    if op.joined != 0:
        return
    buffer = chosen(op.gives_logits != 0, call.logits, call.activations)
    out = rows_of(units_of(memory, buffer, op, rows), first, last)
    if op.fused > 0:
        z = rows_of(units_of(memory, call.logits, op, rows), first, last)
        a = rows_of(units_of(memory, call.activations, op, rows), first, last)
        fused_forward(op.kind, operations, number, call.parameters, z, a)
        return
    if op.source < 0:
        source, order = inputs_of(call, start, rows)
        gather(source, order, first, op.column, out)
        return
    below, second = operations[op.source], operations[chosen(op.other < 0, op.source, op.other)]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    if op.kind == ACTIVATION:
        activate(op.activation, x, out)
        return
    gain = span(call.parameters, op.weights, op.biases)
    shift = span(call.parameters, op.biases, op.trained)
    middle = op.trained + op.n_out
    if op.kind == BATCH_NORM:
        mean, factor = span(call.gradients, op.trained, middle), span(call.gradients, middle, op.end)
        normalise_columns(x, mean, factor, gain, shift, out)
        return
    if op.kind == FIXED_NORM:
        mean, variance = span(call.parameters, op.trained, middle), span(call.parameters, middle, op.end)
        normalise_fixed(x, mean, variance, op.epsilon, gain, shift, out)
        return
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    # The first source is there already. With dropout its output is in another buffer, and both are added.
    if op.kind == ADD and stands_in_place(op, below) and below.dropout == 0:
        pass_on(other, 0, True, out)
        return
    k, numbers = op.subrows, numbers_of(op)
    saved = rows_of(saved_of(memory, call.logits, op, rows), first * k, last * k)
    x, other = subrows_of(x, k, below.width // k), subrows_of(other, k, second.width // k)
    out = subrows_of(out, k, op.n_out)
    operate(op.kind, numbers, k, op.second, gain, shift, x, other, saved, out)


def stands_in_place(op, below):
    """Return whether a sum is in place: in the memory of its first source, whose delta is the sum's."""
    return op.units == below.units


def operation_backward(call, rows, of_all, number, first, last):
    """Write, or add to, the deltas of an operation's sources: `rows_backward`."""
    operations, memory, op = call.operations, call.memory, call.operations[number]
    if op.joined != 0:
        return
    delta = rows_of(units_of(memory, call.deltas, op, rows), first, last)
    if op.fused > 0:
        z = rows_of(units_of(memory, call.logits, op, rows), first, last)
        sums = span(memory, call.part_sums, call.length)
        fused_backward(op.kind, operations, number, call.parameters, z, first, parts_of(rows), sums, delta)
        return
    below, second = operations[op.source], operations[chosen(op.other < 0, op.source, op.other)]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    by_source = rows_of(units_of(memory, call.deltas, below, rows), first, last)
    by_other = rows_of(units_of(memory, call.deltas, second, rows), first, last)
    kind = op.kind
    if kind == ACTIVATION:
        a = rows_of(units_of(memory, call.activations, op, rows), first, last)
        activate_gradient(op.activation, x, a, delta)
        # The delta is by the source now: what is left is to add it there.
        kind = COPY
    gain, middle = span(call.parameters, op.weights, op.biases), op.trained + op.n_out
    if kind == BATCH_NORM:
        mean, factor = span(call.gradients, op.trained, middle), span(call.gradients, middle, op.end)
        by_gain = span(call.gradients, op.weights, op.biases)
        by_shift = span(call.gradients, op.biases, op.trained)
        count, adds = x.dtype.type(of_all), op.adds != 0
        normalise_columns_gradient(x, mean, factor, gain, by_gain, by_shift, count, delta, adds, by_source)
        return
    if kind == FIXED_NORM:
        variance = span(call.parameters, middle, op.end)
        normalise_fixed_gradient(variance, op.epsilon, gain, delta, op.adds != 0, by_source)
        return
    adding = op.adds != 0, op.adds_other != 0
    # The first source's delta is this memory: only the other source gets a copy.
    if kind == ADD and stands_in_place(op, below):
        pass_on(delta, 0, op.adds_other != 0, by_other)
        return
    k, numbers, n_other = op.subrows, numbers_of(op), second.width // op.subrows
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    saved = rows_of(saved_of(memory, call.logits, op, rows), first * k, last * k)
    x, by_source = subrows_of(x, k, below.width // k), subrows_of(by_source, k, below.width // k)
    other, by_other = subrows_of(other, k, n_other), subrows_of(by_other, k, n_other)
    delta = subrows_of(delta, k, op.n_out)
    operate_gradient(kind, numbers, k, op.second, gain, x, other, saved, delta, adding, by_source, by_other)


def whole_sums(call, step, first, last, worker, workers):
    """Wait until numbers [first, last) of the gradient are sums over all workers and ranks."""
    wait(call.barrier, worker, workers)
    if call.summing > 0:
        if worker == 0:
            sum_over_ranks(call, call.totalling, step, first, last)
        wait(call.barrier, worker, workers)


def whole_forward(call, rows, of_all, step, number, moves, worker, workers):
    """Compute a batch norm's statistics over all rows, a part of the units for each worker.

    moves : whether the running state is moved
    """
    # Means and factors stay in call.gradients, in the section of the state, until the end of the step.
    op = call.operations[number]
    below, middle = call.operations[op.source], op.trained + op.n_out
    # A worker's units are sums over the rows of all workers.
    wait(call.barrier, worker, workers)
    first, last = worker_part(op.n_out, worker, workers, SHARED_UNITS)
    x = output_of(call.memory, call.activations, call.dropped, below, rows)
    count = x.dtype.type(of_all)
    mean = span(call.gradients, op.trained + first, op.trained + last)
    factor = span(call.gradients, middle + first, middle + last)
    running = span(call.parameters, op.trained + first, op.trained + last)
    spread = span(call.parameters, middle + first, middle + last)
    unit_sums(x, first, mean)
    if call.summing > 0:
        whole_sums(call, step, op.trained, middle, worker, workers)
    # Distances from the finished mean: E[x^2] - E[x]^2 would cancel.
    unit_distances(x, first, count, mean, factor)
    if call.summing > 0:
        whole_sums(call, step, middle, op.end, worker, workers)
    # Ranks move the same running state: each has the sums of all rows.
    unit_factors(count, op.epsilon, op.momentum * moves, mean, factor, running, spread)
    # Rows go on with the factors of all workers' units.
    wait(call.barrier, worker, workers)


def whole_backward(call, rows, step, number, worker, workers):
    """Sum the gradients of a batch norm's gain and shift, a part of the units for each worker."""
    op = call.operations[number]
    below, middle = call.operations[op.source], op.trained + op.n_out
    wait(call.barrier, worker, workers)
    first, last = worker_part(op.n_out, worker, workers, SHARED_UNITS)
    if first < last:
        x = output_of(call.memory, call.activations, call.dropped, below, rows)
        delta = units_of(call.memory, call.deltas, op, rows)
        mean = span(call.gradients, op.trained + first, op.trained + last)
        factor = span(call.gradients, middle + first, middle + last)
        by_gain = span(call.gradients, op.weights + first, op.weights + last)
        by_shift = span(call.gradients, op.biases + first, op.biases + last)
        column_gradients(x, first, mean, factor, delta, by_gain, by_shift)
    whole_sums(call, step, op.weights, op.trained, worker, workers)


def vectors_step(call, rows, step, number, rate, bias_rate):
    """Write the gradients of an operation's gain and shift; update both."""
    op, memory = call.operations[number], call.memory
    if op.end == op.weights:
        return
    if op.is_fused != 0:
        fused_step(call, rows, number)
        if not left_whole(call):
            update_vectors(call, step, number, rate, bias_rate)
        return
    operations, below = call.operations, call.operations[op.source]
    second = operations[chosen(op.other < 0, op.source, op.other)]
    of_gain = span(call.gradients, op.weights, op.biases)
    of_shift = span(call.gradients, op.biases, op.trained)
    if op.kind == BATCH_NORM:  # `whole_backward` has written both, of all ranks, of which one counts
        clear(span(call.gradients, chosen(call.leads > 0, op.trained, op.weights), op.end))
    elif rows > 0:
        gain = span(call.parameters, op.weights, op.biases)
        x = output_of(memory, call.activations, call.dropped, below, rows)
        delta, middle = units_of(memory, call.deltas, op, rows), op.trained + op.n_out
        if op.kind == FIXED_NORM:
            mean = span(call.parameters, op.trained, middle)
            variance = span(call.parameters, middle, op.end)
            fixed_gain_gradient(x, mean, variance, op.epsilon, delta, of_gain)
            clear(span(call.gradients, op.trained, op.end))
        else:
            k = op.subrows
            saved = saved_of(memory, call.logits, op, rows)
            x, delta = subrows_of(x, k, below.width // k), subrows_of(delta, k, op.n_out)
            other = output_of(memory, call.activations, call.dropped, second, rows)
            other, numbers = subrows_of(other, k, second.width // k), numbers_of(op)
            gain_gradient(op.kind, numbers, k, op.second, gain, x, other, saved, delta, of_gain)
    else:
        clear(of_gain)
    if len(of_shift) > 0 and op.kind != BATCH_NORM:
        biases_step(call, rows, number, of_shift)
    if not left_whole(call):
        update_vectors(call, step, number, rate, bias_rate)


def fused_step(call, rows, number):
    """Write the gradients of an operation of a fused chain from the parts' sums of `fused_backward`."""
    op, parts = call.operations[number], parts_of(rows)
    out = span(call.gradients, op.weights, op.trained)
    if rows > 0:
        bias_gradient(matrix(call.memory, call.part_sums + op.sums * parts, parts, len(out)), out)
    else:
        clear(out)
    # The chain sums both; a shift without training must not move.
    if not op.trains_bias:
        clear(span(call.gradients, op.biases, op.trained))


def update_vectors(call, step, number, rate, bias_rate):
    """Apply the gradients of an operation's gain and shift."""
    op = call.operations[number]
    apply_gradients(call, 0, number, step, rate, op.weights, op.biases - op.weights)
    apply_gradients(call, 1, number, step, bias_rate, op.biases, op.trained - op.biases)


# --- batch norms: statistics down the columns of a batch, and normalised numbers --------------------------
#
# Sums run down the rows in order, a part of the columns for each worker, so that bits do not depend on
# the number of workers. Where ranks share a batch, each rank sums its rows, and sums are added up between
# passes.
#
# Columns of a row are read as a `vector`: an index x[i, first + j] may be negative, as Python's are, so that
# LLVM would load number by number.


def unit_sums(x, first, out):
    """out (n,) = the sums of the columns of x from `first` on."""
    units = len(out)
    for j in range(units):
        out[j] = 0
    for i in range(x.shape[0]):
        row = vector(x, i * x.shape[1] + first, units)
        for j in range(units):
            out[j] += row[j]


def unit_distances(x, first, count, mean, out):
    """Make means (n,) of sums over `count` rows; out (n,) = the sums of squared distances from the means."""
    units = len(out)
    for j in range(units):
        mean[j] /= count
        out[j] = 0
    for i in range(x.shape[0]):
        row = vector(x, i * x.shape[1] + first, units)
        for j in range(units):
            distance = row[j] - mean[j]
            out[j] += distance * distance


def unit_factors(count, epsilon, momentum, mean, factor, running, spread):
    """Make factors (n,), 1 / sqrt(variance + epsilon), of sums of squared distances over `count` rows.

    running, spread : (n,), the running means and unbiased variances, moved by `momentum`
    """
    one, moved, added = mean.dtype.type(1), mean.dtype.type(momentum), mean.dtype.type(epsilon)
    for j in range(len(mean)):
        variance = factor[j] / count
        if momentum > 0:
            running[j] = (one - moved) * running[j] + moved * mean[j]
            # The running variance is the unbiased one, as PyTorch's.
            spread[j] = (one - moved) * spread[j] + moved * (factor[j] / (count - one))
        factor[j] = one / math.sqrt(variance + added)


def column_gradients(x, first, mean, factor, delta, by_gain, by_shift):
    """Write the derivatives of the loss by gain and shift (n,) of the columns of x from `first` on."""
    units = len(mean)
    for j in range(units):
        by_gain[j] = 0
        by_shift[j] = 0
    for i in range(x.shape[0]):
        row, d = vector(x, i * x.shape[1] + first, units), vector(delta, i * x.shape[1] + first, units)
        for j in range(units):
            by_shift[j] += d[j]
            by_gain[j] += d[j] * ((row[j] - mean[j]) * factor[j])


def normalise_columns(x, mean, factor, gain, shift, out):
    """out (rows, units) = (x - mean) * factor * gain + shift, of each column."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[j]) * factor[j] * gain[j] + shift[j]


def normalise_fixed(x, mean, variance, epsilon, gain, shift, out):
    """`normalise_columns` by given variances."""
    one, added = x.dtype.type(1), x.dtype.type(epsilon)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[j]) * (one / math.sqrt(variance[j] + added)) * gain[j] + shift[j]


def normalise_fixed_gradient(variance, epsilon, gain, delta, adds, below):
    """below (rows, units) = the derivative of the loss by the x of `normalise_fixed`; += where `adds`."""
    one, added = delta.dtype.type(1), delta.dtype.type(epsilon)
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            by_x = delta[i, j] * gain[j] * (one / math.sqrt(variance[j] + added))
            below[i, j] = below[i, j] + by_x if adds else by_x


def fixed_gain_gradient(x, mean, variance, epsilon, delta, out):
    """out (units,) = the derivative of the loss by the gain of `normalise_fixed`."""
    one, added = delta.dtype.type(1), delta.dtype.type(epsilon)
    clear(out)
    for i in range(x.shape[0]):
        for j in range(len(out)):
            out[j] += delta[i, j] * ((x[i, j] - mean[j]) * (one / math.sqrt(variance[j] + added)))


def normalise_columns_gradient(x, mean, factor, gain, by_gain, by_shift, count, delta, adds, below):
    """below (rows, units) = the derivative of the loss by x, or += where `adds`; count : its rows."""
    # Two loops: a step of two norms of 128 units took 1.07 times as long with the choice in one.
    if adds:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                normal = (x[i, j] - mean[j]) * factor[j]
                centred = delta[i, j] - by_shift[j] / count - normal * (by_gain[j] / count)
                below[i, j] += factor[j] * gain[j] * centred
    else:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                normal = (x[i, j] - mean[j]) * factor[j]
                centred = delta[i, j] - by_shift[j] / count - normal * (by_gain[j] / count)
                below[i, j] = factor[j] * gain[j] * centred
