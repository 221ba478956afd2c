"""Members in a step: their losses, the mean of their outputs, and the way back from it.

Templates as those of `step_templates`, which a network without `Members` never meets. The last operation has
the logits of all members of a row, one after another.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import (
    lesser,
    matrix,
    parameters_of,
    part_of,
    rows_of,
    subrows_of,
    units_of,
    vector,
)
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.selecting import clear_unasked, softmax_gradient


def members_loss(call, start, rows, first, last, share, worker):
    """Write the deltas of all members of rows [first, last), and partial sums of the loss; as `rows_loss`."""
    output, objective, memory = call.operations[call.depth - 1], call.objective, call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    targets, weights, k, n_out = call.targets, call.weights, call.members, call.n_out
    z = subrows_of(rows_of(units_of(memory, call.logits, output, rows), first, last), k, n_out)
    delta = subrows_of(rows_of(units_of(memory, call.deltas, output, rows), first, last), k, n_out)
    for at in range(first, last, LOSS_ROWS):
        begin, stop, value = at * k, lesser(at + LOSS_ROWS, last) * k, 0.0
        part = at // LOSS_ROWS * LOSS_ROWS
        if at > part:  # a block may have some rows of a part, see `rows_together`
            value = call.sums[part]
        while begin < stop:
            end = lesser(begin + LOSS_ROWS, stop)
            y = rows_of(matrix(memory, call.batch_targets, rows * k, n_out), begin, end)
            w = vector(memory, call.batch_weights + begin, end - begin)
            for i in range(end - begin):
                row = start + (begin + i) // k
                if call.visits > 0:
                    row = call.order[row]
                w[i] = weights[row]
                for j in range(n_out):
                    y[i, j] = targets[row, j]
            own, below = begin - first * k, end - first * k
            value += output_loss(
                objective.loss, output.activation, parameters_of(objective, n_out), share / k,
                rows_of(z, own, below), y, w, scratch, rows_of(delta, own, below),
            )  # fmt: skip
            begin = end
        call.sums[part] = value


def members_outputs(call, rows, first, last, at):
    """Write the means of the members' outputs of rows [first, last) to rows of call.out from `at` on."""
    output, memory, k, n_out = call.operations[call.depth - 1], call.memory, call.members, call.n_out
    z = subrows_of(rows_of(units_of(memory, call.logits, output, rows), first, last), k, n_out)
    a = subrows_of(rows_of(units_of(memory, call.activations, output, rows), first, last), k, n_out)
    activate(output.activation, z, a)
    out = rows_of(call.out, at, at + last - first)
    for i in range(last - first):
        for j in range(n_out):
            total = a[i * k, j]
            for member in range(1, k):
                total += a[i * k + member, j]
            out[i, j] = total / a.dtype.type(k)


def members_backward(call, rows, first, last):
    """Write the deltas of all members of rows [first, last) from call.by_outputs, after `members_outputs`."""
    output, memory, k, n_out = call.operations[call.depth - 1], call.memory, call.members, call.n_out
    z = subrows_of(rows_of(units_of(memory, call.logits, output, rows), first, last), k, n_out)
    a = subrows_of(rows_of(units_of(memory, call.activations, output, rows), first, last), k, n_out)
    delta = subrows_of(rows_of(units_of(memory, call.deltas, output, rows), first, last), k, n_out)
    for i in range((last - first) * k):
        for j in range(n_out):
            delta[i, j] = call.by_outputs[first + i // k, j] / delta.dtype.type(k)
    if output.activation == SOFTMAX:
        softmax_gradient(a, delta)
    else:
        activate_gradient(output.activation, z, a, delta)
        clear_unasked(rows_of(call.by_outputs, first, last), 0, k, delta)
