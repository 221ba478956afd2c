"""A formula of a row or two: norms of rows, gates, sums, custom layers; and copies of rows.

What is computed follows from the kind's expressions (`fastmlp.kernels.program.row_formulas`).
"""

# mypy: ignore-errors

from fastmlp.kernels.codegen.views import (
    chosen,
    numbers_of,
    output_of,
    rows_of,
    saved_of,
    span,
    subrows_of,
    units_of,
)
from fastmlp.kernels.program.row_formulas import gain_gradient, operate, operate_gradient, pass_on
from fastmlp.kernels.program.row_templates import is_passed_on
from fastmlp.kernels.program.step_numbers import left_whole
from fastmlp.kernels.program.weight_templates import biases_step, clear, update_vectors


def sources_of(call, op):
    """Return the operations of both sources; the first twice where there is one."""
    operations = call.operations
    return operations[op.source], operations[chosen(op.other < 0, op.source, op.other)]


def stands_in_place(op, below):
    """Return whether a sum is in place: in the memory of its first source, whose delta is the sum's."""
    return op.units == below.units


def forward(call, start, rows, number, first, last, worker):
    """Compute the formula."""
    memory, op = call.memory, call.operations[number]
    below, second = sources_of(call, op)
    buffer = chosen(op.gives_logits != 0, call.logits, call.activations)
    out = rows_of(units_of(memory, buffer, op, rows), first, last)
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    # The first source is there already. With dropout its output is in another buffer, and both are added.
    if stands_in_place(op, below) and below.dropout == 0:
        pass_on(other, 0, True, out)
        return
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    gain = span(call.parameters, op.weights, op.biases)
    shift = span(call.parameters, op.biases, op.trained)
    k, numbers = op.subrows, numbers_of(op)
    saved = rows_of(saved_of(memory, call.logits, op, rows), first * k, last * k)
    x, other = subrows_of(x, k, below.width // k), subrows_of(other, k, second.width // k)
    operate(op.kind, numbers, k, op.second, gain, shift, x, other, saved, subrows_of(out, k, op.n_out))


def backward(call, rows, of_all, number, first, last, worker):
    """Write the derivatives by both sources, or add them to those of other readers."""
    if not is_passed_on(call, number):
        return
    memory, op = call.memory, call.operations[number]
    below, second = sources_of(call, op)
    delta = rows_of(units_of(memory, call.deltas, op, rows), first, last)
    by_other = rows_of(units_of(memory, call.deltas, second, rows), first, last)
    # The first source's delta is this memory: only the other source gets a copy.
    if stands_in_place(op, below):
        pass_on(delta, 0, op.adds_other != 0, by_other)
        return
    by_source = rows_of(units_of(memory, call.deltas, below, rows), first, last)
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    other = rows_of(output_of(memory, call.activations, call.dropped, second, rows), first, last)
    gain, adding = span(call.parameters, op.weights, op.biases), (op.adds != 0, op.adds_other != 0)
    k, numbers, n_other = op.subrows, numbers_of(op), second.width // op.subrows
    saved = rows_of(saved_of(memory, call.logits, op, rows), first * k, last * k)
    x, by_source = subrows_of(x, k, below.width // k), subrows_of(by_source, k, below.width // k)
    other, by_other = subrows_of(other, k, n_other), subrows_of(by_other, k, n_other)
    delta, kind = subrows_of(delta, k, op.n_out), op.kind
    operate_gradient(kind, numbers, k, op.second, gain, x, other, saved, delta, adding, by_source, by_other)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Write the gradients of gain and shift, and update both; a single worker takes all of them."""
    if worker != number % workers:
        return
    memory, op = call.memory, call.operations[number]
    of_gain = span(call.gradients, op.weights, op.biases)
    of_shift = span(call.gradients, op.biases, op.trained)
    if rows > 0:
        below, second = sources_of(call, op)
        k, gain = op.subrows, span(call.parameters, op.weights, op.biases)
        x = output_of(memory, call.activations, call.dropped, below, rows)
        other = output_of(memory, call.activations, call.dropped, second, rows)
        x, other = subrows_of(x, k, below.width // k), subrows_of(other, k, second.width // k)
        saved, numbers = saved_of(memory, call.logits, op, rows), numbers_of(op)
        delta = subrows_of(units_of(memory, call.deltas, op, rows), k, op.n_out)
        gain_gradient(op.kind, numbers, k, op.second, gain, x, other, saved, delta, of_gain)
    else:
        clear(of_gain)
    if len(of_shift) > 0:
        biases_step(call, rows, number, of_shift)
    if not left_whole(call):
        update_vectors(call, step, number, rates, worker, workers)


update = update_vectors
