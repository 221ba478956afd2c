"""Outputs in a step: the losses and outputs of several heads, and of the members of a network.

Templates as in `step_templates`, never compiled for a network with a single loss and without `Members`. The
outputs of all heads lie side by side, as do their targets; each head's logits and deltas belong to its last
product. With members the last operation has the logits of all members of a row, member after member.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import (
    lesser,
    matrix,
    no_order,
    parameters_of,
    part_of,
    rows_of,
    subrows_of,
    units_of,
    vector,
)
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.row_formulas import copy_columns, take_columns
from fastmlp.kernels.program.step_numbers import loss_factor, parts_of


def heads_loss(call, s, start, rows, first, last, worker):
    """Write the deltas of all heads of rows [first, last) in step s, and partial sums of losses and total."""
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
            # Each head has its targets contiguous, as the slot `output_loss` reads them.
            y = matrix(memory, call.batch_targets + head.column * rows + at * units, count, units)
            take_columns(call.targets, order, start + at, head.column, y)
            numbers = vector(call.head_numbers, head.column, units)
            factors = vector(call.head_numbers, call.n_out + head.column, units)
            factor = head.weight * loss_factor(head.divisor, call.head_totals[h, s])
            if head.missing == 0 and head.weighted == 0:
                value = output_loss(head.loss, head.output, numbers, factor, z, y, w, scratch, delta)
            elif head.by_row != 0:
                weights = vector(memory, call.batch_weights + rows + at, count)
                masked_rows(y, w, factors, head.weighted != 0, weights)
                value = output_loss(head.loss, head.output, numbers, factor, z, y, weights, scratch, delta)
            else:
                value = 0.0
                weights = vector(memory, call.batch_weights + rows + at, count)
                z_of = matrix(memory, call.batch_weights + 2 * rows + at, count, 1)
                y_of = matrix(memory, call.batch_weights + 3 * rows + at, count, 1)
                d_of = matrix(memory, call.batch_weights + 4 * rows + at, count, 1)
                for j in range(units):
                    masked_column(z, y, w, j, factors[j], z_of, y_of, weights)
                    number = vector(call.head_numbers, head.column + j, 1)
                    value += output_loss(
                        head.loss, head.output, number, factor, z_of, y_of, weights, scratch, d_of
                    )
                    copy_columns(d_of, j, delta)
            value /= head.value_divisor
            call.sums[at] += value
            # Losses of heads are reported without their weights in the objective; LOSS_ROWS numbers of a part
            # have room for them.
            call.sums[at + 1 + h] = value / head.weight


def heads_outputs(call, rows, first, last, at):
    """Write the outputs of all heads of rows [first, last) to call.out, from row `at` on."""
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
        z = rows_of(units_of(memory, call.logits, output, rows), first, last)
        output_gradient(head.output, z, a, by_outputs, head.column, 1, delta)


def heads_losses(call, s, rows, adds):
    """Write the loss of each head in a step to call.head_losses, or add where `adds`."""
    sums = call.sums
    for h in range(call.n_heads):
        total = call.head_losses[h, s] if adds else 0.0
        for part in range(parts_of(rows)):
            total += sums[part * LOSS_ROWS + 1 + h]
        call.head_losses[h, s] = total


# --- members -----------------------------------------------------------------------------------------------


def members_loss(call, start, rows, first, last, factor, worker):
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
            # The earlier rows of this part were another block of the same worker.
            value = call.sums[part]
        while begin < stop:
            end = lesser(begin + LOSS_ROWS, stop)
            y = rows_of(matrix(memory, call.batch_targets, rows * k, n_out), begin, end)
            w = vector(memory, call.batch_weights + begin, end - begin)
            for i in range(end - begin):
                visit = start + (begin + i) // k
                row = call.order[visit] if call.visits > 0 else visit
                # All members see the same row, target and weight.
                w[i] = weights[row]
                for j in range(n_out):
                    y[i, j] = targets[row, j]
            above, below = begin - first * k, end - first * k
            value += output_loss(
                objective.loss, output.activation, parameters_of(objective, n_out), factor / k,
                rows_of(z, above, below), y, w, scratch, rows_of(delta, above, below),
            )  # fmt: skip
            begin = end
        call.sums[part] = value


def members_outputs(call, rows, first, last, at):
    """Write the means of the members' outputs of rows [first, last) to call.out, from row `at` on."""
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
    output_gradient(output.activation, z, a, rows_of(call.by_outputs, first, last), 0, k, delta)


# --- loops over rows ---------------------------------------------------------------------------------------


def take_weights(weights, order, start, out):
    """out (n,) = weights of the rows order[start], ..; of rows start, .. where the order is empty"""
    for i in range(len(out)):
        out[i] = weights[order[start + i]] if len(order) > 0 else weights[start + i]


def masked_rows(y, w, factors, weighted, out):
    """out (n,) = the weights w of rows with all targets y (n, units); 0 for other rows, whose y become 0.

    factors : (units,) of classes where `weighted`: a row counts by the mean of its targets' factors, and its
        targets become their products with the factors, scaled to the sum 1
    """
    for i in range(len(w)):
        there, factor = True, 0.0
        for j in range(y.shape[1]):
            # NaN marks a missing target.
            if y[i, j] != y[i, j]:
                there = False
            else:
                factor += y[i, j] * factors[j]
        if not there:
            out[i] = 0
            for j in range(y.shape[1]):
                y[i, j] = 0
        elif weighted:
            out[i] = w[i] * factor
            if factor > 0.0:
                for j in range(y.shape[1]):
                    y[i, j] = y[i, j] * factors[j] / factor
        else:
            out[i] = w[i]


def masked_column(z, y, w, column, factor, z_of, y_of, out):
    """Copy a column of z and y (n, units) to z_of, y_of (n, 1); out (n,) = w * factor, 0 where y is NaN."""
    for i in range(len(w)):
        z_of[i, 0] = z[i, column]
        if y[i, column] != y[i, column]:
            y_of[i, 0] = 0
            out[i] = 0
        else:
            y_of[i, 0] = y[i, column]
            out[i] = w[i] * factor


def output_gradient(activation, z, a, by_outputs, column, k, delta):
    """delta (n * k, units) = the derivative by logits z, given delta of outputs a; as `clear_unasked`."""
    if activation != SOFTMAX:
        activate_gradient(activation, z, a, delta)
        clear_unasked(by_outputs, column, k, delta)
        return
    for i in range(a.shape[0]):
        along = a.dtype.type(0)
        for j in range(a.shape[1]):
            # The Jacobian of softmax is diag(a) - a a': a product with it needs no matrix.
            along += a[i, j] * delta[i, j]
        for j in range(a.shape[1]):
            delta[i, j] = a[i, j] * (delta[i, j] - along)


def clear_unasked(by_outputs, column, k, delta):
    """delta (n * k, units) = 0 where by_outputs (n, columns) is 0, from a column on; k rows for each."""
    # So the infinite slope of an output has no part in the derivatives of others.
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            if by_outputs[i // k, column + j] == 0:
                delta[i, j] = 0
