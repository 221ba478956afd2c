"""Operations other than products, called by name as slots are.

A chain of dense layers needs no function of this file, and so compiles none.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import (
    chosen,
    matrix,
    numbers_of,
    output_of,
    rows_of,
    span,
    subrows_of,
    units_of,
    vector,
)
from fastmlp.kernels.codes import ACTIVATION, ADD, BATCH_NORM, COPY, FIXED_NORM
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.batch_norm import (
    column_gradients,
    fixed_gain_gradient,
    normalise_columns,
    normalise_columns_gradient,
    normalise_fixed,
    normalise_fixed_gradient,
    unit_distances,
    unit_factors,
    unit_sums,
)
from fastmlp.kernels.program.row_operations import gain_gradient, operate, operate_gradient, pass_on
from fastmlp.kernels.program.row_templates import inputs_of
from fastmlp.kernels.program.selecting import take_columns
from fastmlp.kernels.program.step_numbers import left_whole, own_share, parts_of
from fastmlp.kernels.program.unit_runs import run_backward, run_forward
from fastmlp.kernels.program.weight_templates import sum_over_ranks

SHARED_UNITS = 32
"""Units in the parts of workers: two cache lines of float32, fetched in pairs."""


def operation_forward(call, start, rows, number, first, last):
    """Take rows [first, last) of a batch through an operation; as `rows_forward`."""
    operations, memory, here = call.operations, call.memory, call.operations[number]
    if here.joined != 0:
        return
    if here.run > 0:
        z, a = units_of(memory, call.logits, here, rows), units_of(memory, call.activations, here, rows)
        run_forward(
            here.kind, operations, number, call.parameters, rows_of(z, first, last), rows_of(a, first, last)
        )
        return
    buffer = chosen(here.gives_logits != 0, call.logits, call.activations)
    out = rows_of(units_of(memory, buffer, here, rows), first, last)
    if here.source < 0:
        source, order = inputs_of(call, start, rows)
        if here.n_in < call.n_in:
            take_columns(source, order, first, here.column, out)
        elif len(order) > 0:
            gather(source, vector(order, first, last - first), out)
        else:
            pass_on(rows_of(source, first, last), 0, False, out)
        return
    below, second = operations[here.source], operations[chosen(here.other < 0, here.source, here.other)]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    if here.kind == ACTIVATION:
        activate(here.activation, x, out)
        return
    gain = span(call.parameters, here.weights, here.biases)
    shift = span(call.parameters, here.biases, here.trained)
    middle = here.trained + here.n_out
    if here.kind == BATCH_NORM:
        mean, factor = span(call.gradients, here.trained, middle), span(call.gradients, middle, here.end)
        normalise_columns(x, mean, factor, gain, shift, out)
        return
    if here.kind == FIXED_NORM:
        mean, variance = span(call.parameters, here.trained, middle), span(call.parameters, middle, here.end)
        normalise_fixed(x, mean, variance, here.epsilon, gain, shift, out)
        return
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    if here.kind == ADD and stands_in_place(here, below) and below.dropout == 0:
        pass_on(other, 0, True, out)
        return
    k, numbers = here.subrows, numbers_of(here)
    saved = matrix(memory, call.logits + here.saved * rows, rows * k, here.saved_units // k)
    saved = rows_of(saved, first * k, last * k)
    x, other = subrows_of(x, k, below.width // k), subrows_of(other, k, second.width // k)
    out = subrows_of(out, k, here.n_out)
    operate(here.kind, numbers, k, here.second, gain, shift, x, other, saved, out)


def stands_in_place(here, below):
    """Return whether a sum is in place: in the memory of its first source, whose delta is the sum's."""
    return here.units == below.units


def operation_backward(call, rows, of_all, number, first, last):
    """Write, or add to, the deltas of an operation's sources in rows [first, last); as `rows_backward`."""
    operations, memory, here = call.operations, call.memory, call.operations[number]
    if here.joined != 0:
        return
    delta = rows_of(units_of(memory, call.deltas, here, rows), first, last)
    if here.run > 0:
        z = rows_of(units_of(memory, call.logits, here, rows), first, last)
        sums = span(memory, call.part_sums, call.length)
        run_backward(here.kind, operations, number, call.parameters, z, first, parts_of(rows), sums, delta)
        return
    below, second = operations[here.source], operations[chosen(here.other < 0, here.source, here.other)]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    by_source = rows_of(units_of(memory, call.deltas, below, rows), first, last)
    by_other = rows_of(units_of(memory, call.deltas, second, rows), first, last)
    kind = here.kind
    if kind == ACTIVATION:
        a = rows_of(units_of(memory, call.activations, here, rows), first, last)
        activate_gradient(here.activation, x, a, delta)
        kind = COPY
    gain, middle = span(call.parameters, here.weights, here.biases), here.trained + here.n_out
    if kind == BATCH_NORM:
        mean, factor = span(call.gradients, here.trained, middle), span(call.gradients, middle, here.end)
        by_gain = span(call.gradients, here.weights, here.biases)
        by_shift = span(call.gradients, here.biases, here.trained)
        count = x.dtype.type(of_all)
        normalise_columns_gradient(
            x, mean, factor, gain, by_gain, by_shift, count, delta, here.adds != 0, by_source
        )
        return
    if kind == FIXED_NORM:
        variance = span(call.parameters, middle, here.end)
        normalise_fixed_gradient(variance, here.epsilon, gain, delta, here.adds != 0, by_source)
        return
    adds, adds_other = here.adds != 0, here.adds_other != 0
    if kind == ADD and stands_in_place(here, below):
        pass_on(delta, 0, adds_other, by_other)
        return
    k, numbers, n_other = here.subrows, numbers_of(here), second.width // here.subrows
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    saved = matrix(memory, call.logits + here.saved * rows, rows * k, here.saved_units // k)
    saved = rows_of(saved, first * k, last * k)
    x, by_source = subrows_of(x, k, below.width // k), subrows_of(by_source, k, below.width // k)
    other, by_other = subrows_of(other, k, n_other), subrows_of(by_other, k, n_other)
    delta = subrows_of(delta, k, here.n_out)
    adding = adds, adds_other
    operate_gradient(kind, numbers, k, here.second, gain, x, other, saved, delta, adding, by_source, by_other)


def whole_sums(call, step, first, last, worker, workers):
    """Wait until numbers [first, last) of the gradient are sums over all workers and ranks."""
    wait(call.barrier, worker, workers)
    if call.summing > 0:
        if worker == 0:
            sum_over_ranks(call, call.totalling, step, first, last)
        wait(call.barrier, worker, workers)


def whole_forward(call, rows, of_all, step, number, moves, worker, workers):
    """Compute a batch norm's statistics over all rows, a part of the units for each worker.

    The means of its units and the factors of their numbers stay in call.gradients, in the section of the
    state, until the end of the step. moves : whether the running state is moved
    """
    here = call.operations[number]
    below, middle = call.operations[here.source], here.trained + here.n_out
    wait(call.barrier, worker, workers)
    first, last = own_share(here.n_out, worker, workers, SHARED_UNITS)
    x = output_of(call.memory, call.activations, call.dropped, below, rows)
    count = x.dtype.type(of_all)
    mean = span(call.gradients, here.trained + first, here.trained + last)
    factor = span(call.gradients, middle + first, middle + last)
    running = span(call.parameters, here.trained + first, here.trained + last)
    spread = span(call.parameters, middle + first, middle + last)
    unit_sums(x, first, mean)
    if call.summing > 0:
        whole_sums(call, step, here.trained, middle, worker, workers)
    unit_distances(x, first, count, mean, factor)
    if call.summing > 0:
        whole_sums(call, step, middle, here.end, worker, workers)
    unit_factors(count, here.epsilon, here.momentum * moves, mean, factor, running, spread)
    wait(call.barrier, worker, workers)


def whole_backward(call, rows, step, number, worker, workers):
    """Sum the gradients of a batch norm's gain and shift, a part of the units for each worker."""
    here = call.operations[number]
    below, middle = call.operations[here.source], here.trained + here.n_out
    wait(call.barrier, worker, workers)
    first, last = own_share(here.n_out, worker, workers, SHARED_UNITS)
    if first < last:
        x = output_of(call.memory, call.activations, call.dropped, below, rows)
        delta = units_of(call.memory, call.deltas, here, rows)
        mean = span(call.gradients, here.trained + first, here.trained + last)
        factor = span(call.gradients, middle + first, middle + last)
        by_gain = span(call.gradients, here.weights + first, here.weights + last)
        by_shift = span(call.gradients, here.biases + first, here.biases + last)
        column_gradients(x, first, mean, factor, delta, by_gain, by_shift)
    whole_sums(call, step, here.weights, here.trained, worker, workers)


def vectors_step(call, rows, step, number, rate, bias_rate):
    """Write the gradients of an operation's gain and shift; update both."""
    here, memory = call.operations[number], call.memory
    if here.end == here.weights:
        return
    if here.in_run != 0:
        run_step(call, rows, number)
        if not left_whole(call):
            update_vectors(call, step, number, rate, bias_rate)
        return
    below = call.operations[here.source]
    second = call.operations[chosen(here.other < 0, here.source, here.other)]
    of_gain = span(call.gradients, here.weights, here.biases)
    of_shift = span(call.gradients, here.biases, here.trained)
    if here.kind == BATCH_NORM:  # `whole_backward` has written both, of all ranks, of which one counts
        clear(span(call.gradients, chosen(call.leads > 0, here.trained, here.weights), here.end))
    elif rows > 0:
        gain = span(call.parameters, here.weights, here.biases)
        x = output_of(memory, call.activations, call.dropped, below, rows)
        delta, middle = units_of(memory, call.deltas, here, rows), here.trained + here.n_out
        if here.kind == FIXED_NORM:
            mean = span(call.parameters, here.trained, middle)
            variance = span(call.parameters, middle, here.end)
            fixed_gain_gradient(x, mean, variance, here.epsilon, delta, of_gain)
            clear(span(call.gradients, here.trained, here.end))
        else:
            k = here.subrows
            saved = matrix(memory, call.logits + here.saved * rows, rows * k, here.saved_units // k)
            x, delta = subrows_of(x, k, below.width // k), subrows_of(delta, k, here.n_out)
            other = output_of(memory, call.activations, call.dropped, second, rows)
            other, numbers = subrows_of(other, k, second.width // k), numbers_of(here)
            gain_gradient(here.kind, numbers, k, here.second, gain, x, other, saved, delta, of_gain)
    else:
        clear(of_gain)
    if len(of_shift) > 0 and here.kind != BATCH_NORM:
        biases_step(call, rows, number, of_shift)
    if not left_whole(call):
        update_vectors(call, step, number, rate, bias_rate)


def run_step(call, rows, number):
    """Write the gradients of an operation of a run from the parts' sums of `run_backward`."""
    here, parts = call.operations[number], parts_of(rows)
    found = span(call.gradients, here.weights, here.trained)
    if rows > 0:
        bias_gradient(matrix(call.memory, call.part_sums + here.sums * parts, parts, len(found)), found)
    else:
        clear(found)
    if not here.trains_bias:
        clear(span(call.gradients, here.biases, here.trained))


def update_vectors(call, step, number, rate, bias_rate):
    """Apply the gradients of an operation's gain and shift."""
    here = call.operations[number]
    apply_gradients(call, 0, number, step, rate, here.weights, here.biases - here.weights)
    apply_gradients(call, 1, number, step, bias_rate, here.biases, here.trained - here.biases)
