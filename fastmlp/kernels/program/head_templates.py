"""Heads in a step: the losses and the outputs of each, for networks that have several.

Templates as those of `step_templates`, which a network of one loss never meets. The outputs of all heads lie
side by side, as do their targets; each head's logits and deltas are those of its own last product.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import lesser, matrix, no_order, part_of, rows_of, units_of, vector
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.selecting import (
    clear_unasked,
    copy_columns,
    masked_column,
    masked_rows,
    softmax_gradient,
    take_columns,
    take_weights,
)
from fastmlp.kernels.program.step_numbers import loss_share, parts_of


def heads_loss(call, s, start, rows, first, last, worker):
    """Write the deltas of all heads of rows [first, last), and the partial sums of each loss and of all.

    s : of the step, whose weights call.head_totals has; the others as in `rows_loss`
    """
    memory, heads, order = call.memory, call.heads, call.order
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    for at in range(first, last, LOSS_ROWS):
        stop = lesser(at + LOSS_ROWS, last)
        count = stop - at
        w = vector(memory, call.batch_weights + at, count)
        take_weights(call.weights, order, start + at, w)
        call.sums[at] = 0.0
        for h in range(call.n_heads):
            head = heads[h]
            output, units = call.operations[head.operation], head.units
            z = rows_of(units_of(memory, call.logits, output, rows), at, stop)
            delta = rows_of(units_of(memory, call.deltas, output, rows), at, stop)
            y = matrix(memory, call.batch_targets + head.column * rows + at * units, count, units)
            take_columns(call.targets, order, start + at, head.column, y)
            numbers = vector(call.head_numbers, head.column, units)
            factors = vector(call.head_numbers, call.n_out + head.column, units)
            share = head.weight * loss_share(head.divisor, call.head_totals[h, s])
            if head.missing == 0 and head.weighted == 0:
                value = output_loss(head.loss, head.output, numbers, share, z, y, w, scratch, delta)
            elif head.by_row != 0:
                own = vector(memory, call.batch_weights + rows + at, count)
                masked_rows(y, w, factors, head.weighted != 0, own)
                value = output_loss(head.loss, head.output, numbers, share, z, y, own, scratch, delta)
            else:
                value = 0.0
                own = vector(memory, call.batch_weights + rows + at, count)
                z_of = matrix(memory, call.batch_weights + 2 * rows + at, count, 1)
                y_of = matrix(memory, call.batch_weights + 3 * rows + at, count, 1)
                d_of = matrix(memory, call.batch_weights + 4 * rows + at, count, 1)
                for j in range(units):
                    masked_column(z, y, w, j, factors[j], z_of, y_of, own)
                    parameter = vector(call.head_numbers, head.column + j, 1)
                    value += output_loss(
                        head.loss, head.output, parameter, share, z_of, y_of, own, scratch, d_of
                    )
                    copy_columns(d_of, j, delta)
            value /= head.value_divisor
            call.sums[at] += value
            call.sums[at + 1 + h] = value / head.weight


def heads_outputs(call, rows, first, last, at):
    """Write the outputs of all heads of rows [first, last) to rows of call.out from `at` on."""
    memory = call.memory
    for h in range(call.n_heads):
        head = call.heads[h]
        output = call.operations[head.operation]
        a = rows_of(units_of(memory, call.activations, output, rows), first, last)
        activate(head.output, rows_of(units_of(memory, call.logits, output, rows), first, last), a)
        copy_columns(a, head.column, rows_of(call.out, at, at + last - first))


def heads_backward(call, rows, first, last):
    """Write the deltas of all heads of rows [first, last), from call.by_outputs, after `heads_outputs`."""
    memory, by_outputs = call.memory, rows_of(call.by_outputs, first, last)
    for h in range(call.n_heads):
        head = call.heads[h]
        output = call.operations[head.operation]
        a = rows_of(units_of(memory, call.activations, output, rows), first, last)
        delta = rows_of(units_of(memory, call.deltas, output, rows), first, last)
        take_columns(by_outputs, no_order(), 0, head.column, delta)
        if head.output == SOFTMAX:
            softmax_gradient(a, delta)
        else:
            z = rows_of(units_of(memory, call.logits, output, rows), first, last)
            activate_gradient(head.output, z, a, delta)
            clear_unasked(by_outputs, head.column, 1, delta)


def heads_losses(call, s, rows, adds):
    """Write the loss of each head in a step to call.head_losses, or add it where `adds`."""
    sums = call.sums
    for h in range(call.n_heads):
        total = call.head_losses[h, s] if adds else 0.0
        for part in range(parts_of(rows)):
            total += sums[part * LOSS_ROWS + 1 + h]
        call.head_losses[h, s] = total
