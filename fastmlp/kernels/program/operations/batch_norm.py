"""A batch norm: statistics down the columns of a batch, and normalised numbers.

In predictions (`whole_batch` is 0) the running state stands in the place of the statistics.
"""

# mypy: ignore-errors

import math

from fastmlp.kernels.codegen.views import chosen, output_of, rows_of, span, units_of, vector
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.row_templates import is_passed_on
from fastmlp.kernels.program.step_numbers import left_whole, worker_part
from fastmlp.kernels.program.weight_templates import biases_step, clear, sum_over_ranks, update_vectors

SHARED_UNITS = 32
"""Units in the parts of workers: two cache lines of float32, fetched in pairs."""


def state_of(call, vector_of_all, op, first, last):
    """Return both sections of the state from unit `first` to `last`, each (last - first,).

    vector_of_all : parameters, with running means and variances; or gradients, with means and factors
    """
    middle = op.trained + op.n_out
    of_means = span(vector_of_all, op.trained + first, op.trained + last)
    return of_means, span(vector_of_all, middle + first, middle + last)


def statistics(call, rows, of_all, step, number, moves, worker, workers):
    """Compute means and factors over all rows, a part of the units for each worker.

    moves : whether the running state is moved
    """
    # Means and factors stay in call.gradients, in the section of the state, until the end of the step.
    op = call.operations[number]
    middle = op.trained + op.n_out
    # A worker's units are sums over the rows of all workers.
    wait(call.barrier, worker, workers)
    first, last = worker_part(op.n_out, worker, workers, SHARED_UNITS)
    x = output_of(call.memory, call.activations, call.dropped, call.operations[op.source], rows)
    count = x.dtype.type(of_all)
    mean, factor = state_of(call, call.gradients, op, first, last)
    running, spread = state_of(call, call.parameters, op, first, last)
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


def statistics_gradient(call, rows, step, number, worker, workers):
    """Sum the gradients of gain and shift over all rows, a part of the units for each worker."""
    op = call.operations[number]
    wait(call.barrier, worker, workers)
    first, last = worker_part(op.n_out, worker, workers, SHARED_UNITS)
    if first < last:
        mean, factor = state_of(call, call.gradients, op, first, last)
        by_gain = span(call.gradients, op.weights + first, op.weights + last)
        by_shift = span(call.gradients, op.biases + first, op.biases + last)
        x = output_of(call.memory, call.activations, call.dropped, call.operations[op.source], rows)
        delta = units_of(call.memory, call.deltas, op, rows)
        column_gradients(x, first, mean, factor, delta, by_gain, by_shift)
    whole_sums(call, step, op.weights, op.trained, worker, workers)


def whole_sums(call, step, first, last, worker, workers):
    """Wait until numbers [first, last) of the gradient are sums over all workers and ranks."""
    wait(call.barrier, worker, workers)
    if call.summing > 0:
        if worker == 0:
            sum_over_ranks(call, call.totalling, step, first, last)
        wait(call.barrier, worker, workers)


def forward(call, start, rows, number, first, last, worker):
    """Normalise rows, by the statistics or by the running state."""
    op, below = call.operations[number], call.operations[call.operations[number].source]
    buffer = chosen(op.gives_logits != 0, call.logits, call.activations)
    out = rows_of(units_of(call.memory, buffer, op, rows), first, last)
    x = rows_of(output_of(call.memory, call.activations, call.dropped, below, rows), first, last)
    gain = span(call.parameters, op.weights, op.biases)
    shift = span(call.parameters, op.biases, op.trained)
    if op.whole_batch != 0:
        mean, factor = state_of(call, call.gradients, op, 0, op.n_out)
        normalise_columns(x, mean, factor, gain, shift, out)
    else:
        mean, variance = state_of(call, call.parameters, op, 0, op.n_out)
        normalise_fixed(x, mean, variance, op.epsilon, gain, shift, out)


def backward(call, rows, of_all, number, first, last, worker):
    """Write the derivative by the source, or add it to those of other readers."""
    if not is_passed_on(call, number):
        return
    memory, op = call.memory, call.operations[number]
    adds, below = op.adds != 0, call.operations[op.source]
    delta = rows_of(units_of(memory, call.deltas, op, rows), first, last)
    by_source = rows_of(units_of(memory, call.deltas, below, rows), first, last)
    gain = span(call.parameters, op.weights, op.biases)
    if op.whole_batch != 0:
        x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
        count = x.dtype.type(of_all)
        mean, factor = state_of(call, call.gradients, op, 0, op.n_out)
        by_gain = span(call.gradients, op.weights, op.biases)
        by_shift = span(call.gradients, op.biases, op.trained)
        normalise_columns_gradient(x, mean, factor, gain, by_gain, by_shift, count, delta, adds, by_source)
    else:
        _, variance = state_of(call, call.parameters, op, 0, op.n_out)
        normalise_fixed_gradient(variance, op.epsilon, gain, delta, adds, by_source)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Leave the gradients of gain and shift that `statistics_gradient` has written; update both."""
    if worker != number % workers:
        return
    op = call.operations[number]
    if op.whole_batch != 0:  # of the sums of all ranks one counts
        clear(span(call.gradients, chosen(call.leads > 0, op.trained, op.weights), op.end))
    else:
        of_gain = span(call.gradients, op.weights, op.biases)
        if rows > 0:
            mean, variance = state_of(call, call.parameters, op, 0, op.n_out)
            below, delta = call.operations[op.source], units_of(call.memory, call.deltas, op, rows)
            x = output_of(call.memory, call.activations, call.dropped, below, rows)
            fixed_gain_gradient(x, mean, variance, op.epsilon, delta, of_gain)
            clear(span(call.gradients, op.trained, op.end))
        else:
            clear(of_gain)
        biases_step(call, rows, number, span(call.gradients, op.biases, op.trained))
    if not left_whole(call):
        update_vectors(call, step, number, rates, worker, workers)


update = update_vectors


# --- loops over the rows and columns of a batch -----------------------------------------------------------
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
