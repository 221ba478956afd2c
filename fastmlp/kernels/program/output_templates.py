"""Outputs in a step: losses, outputs and their derivatives, of all heads and of all members.

Templates as in `step_templates`. A network without heads has a single head; without `Members`, a single
member. The outputs of all heads lie side by side, as do their targets; each head's logits and deltas belong
to its last product. With members the last product has the logits of all members of a row, one after another.
"""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.views import lesser, matrix, outputs_of, part_of, rows_of, vector
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.step_numbers import loss_factor, parts_of

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import activate, activate_gradient, gather, output_loss


def rows_loss(call, s, start, rows, first, last, worker):
    """Write the deltas of all outputs of rows [first, last) in step s, and partial sums of the losses."""
    memory, k, sums = call.memory, call.members, call.sums
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    for at in range(first, last, LOSS_ROWS):
        stop = lesser(at + LOSS_ROWS, last)
        # The sums of a part stand at the part's first row, whichever worker takes the part: the objective,
        # and behind the objective each reported loss of a head, without the head's weight.
        count, part = stop - at, at // LOSS_ROWS * LOSS_ROWS
        if at == part:  # else the part's earlier rows were another block of this worker, see `rows_together`
            for h in range(call.reported + 1):
                sums[part + h] = 0.0
        w = vector(memory, call.batch_weights + at * k, count * k)
        take_weights(call.weights, call.order, start + at, k, w)
        for h in range(call.n_heads):
            head = call.heads[h]
            output, units = call.operations[head.operation], head.units
            z = rows_of(outputs_of(memory, call.logits, output, head, rows, k), at * k, stop * k)
            delta = rows_of(outputs_of(memory, call.deltas, output, head, rows, k), at * k, stop * k)
            y = matrix(memory, call.batch_targets + (head.column * rows + at * units) * k, count * k, units)
            gather(call.targets, call.order, start + at, head.column, rows_of(y, 0, count))
            if k > 1:
                repeat_rows(y, k)  # all members see the same target
            factor = head.weight * loss_factor(head.divisor, call.head_totals[h, s]) / k
            for i in range(0, count * k, LOSS_ROWS):
                end = lesser(i + LOSS_ROWS, count * k)
                weights = vector(w, i, end - i)
                if head.missing == 0 and head.weighted == 0:
                    value = output_loss(
                        head.loss, head.output, vector(call.head_numbers, head.column, units), factor,
                        rows_of(z, i, end), rows_of(y, i, end), weights, scratch, rows_of(delta, i, end),
                    )  # fmt: skip
                else:
                    value = masked_loss(call, h, rows, at, factor, z, y, weights, scratch, delta)
                value /= head.value_divisor
                sums[part] += value
                if h < call.reported:
                    sums[part + 1 + h] += value / head.weight


def masked_loss(call, h, rows, at, factor, z, y, w, scratch, delta):
    """Return the loss of rows from `at` on where targets may be missing or have weights; write the deltas."""
    memory, head, count = call.memory, call.heads[h], len(w)
    numbers = vector(call.head_numbers, head.column, head.units)
    factors = vector(call.head_numbers, call.n_out + head.column, head.units)
    weights = vector(memory, call.batch_weights + rows + at, count)
    if head.by_row != 0:
        masked_rows(y, w, factors, head.weighted != 0, weights)
        return output_loss(head.loss, head.output, numbers, factor, z, y, weights, scratch, delta)
    total = 0.0
    z_of = matrix(memory, call.batch_weights + 2 * rows + at, count, 1)
    y_of = matrix(memory, call.batch_weights + 3 * rows + at, count, 1)
    delta_of = matrix(memory, call.batch_weights + 4 * rows + at, count, 1)
    for j in range(head.units):
        masked_column(z, y, w, j, factors[j], z_of, y_of, weights)
        number = vector(numbers, j, 1)
        total += output_loss(head.loss, head.output, number, factor, z_of, y_of, weights, scratch, delta_of)
        for i in range(count):
            delta[i, j] = delta_of[i, 0]
    return total


def head_losses(call, s, rows, adds):
    """Write the loss of each head in a step to call.head_losses, or add where `adds`."""
    sums = call.sums
    for h in range(call.reported):
        total = call.head_losses[h, s] if adds else 0.0
        for part in range(parts_of(rows)):
            total += sums[part * LOSS_ROWS + 1 + h]
        call.head_losses[h, s] = total


def rows_outputs(call, rows, first, last, at):
    """Write the outputs of rows [first, last), after `rows_forward`, to call.out from row `at` on."""
    memory, k, out = call.memory, call.members, rows_of(call.out, at, at + last - first)
    for h in range(call.n_heads):
        head = call.heads[h]
        output = call.operations[head.operation]
        z = rows_of(outputs_of(memory, call.logits, output, head, rows, k), first * k, last * k)
        a = rows_of(outputs_of(memory, call.activations, output, head, rows, k), first * k, last * k)
        activate(head.output, z, a)
        mean_of_members(a, k, head.column, out)


def outputs_backward(call, rows, first, last):
    """Write the deltas of all outputs of rows [first, last), from call.by_outputs, after `rows_outputs`."""
    memory, k, by_outputs = call.memory, call.members, rows_of(call.by_outputs, first, last)
    for h in range(call.n_heads):
        head = call.heads[h]
        output = call.operations[head.operation]
        z = rows_of(outputs_of(memory, call.logits, output, head, rows, k), first * k, last * k)
        a = rows_of(outputs_of(memory, call.activations, output, head, rows, k), first * k, last * k)
        delta = rows_of(outputs_of(memory, call.deltas, output, head, rows, k), first * k, last * k)
        repeat_derivatives(by_outputs, head.column, k, delta)
        output_gradient(head.output, z, a, by_outputs, head.column, k, delta)


# --- loops over rows ---------------------------------------------------------------------------------------


def take_weights(weights, order, start, k, out):
    """out (n * k,) = weights of rows order[start], .., of rows start, .. without an order; each k times"""
    for i in range(len(out) // k):
        weight = weights[order[start + i]] if len(order) > 0 else weights[start + i]
        for member in range(k):
            out[i * k + member] = weight


def repeat_rows(numbers, k):
    """Repeat the first n rows of numbers (n * k, units) in place, each k times."""
    for i in range(numbers.shape[0] // k - 1, -1, -1):
        for member in range(k):
            for j in range(numbers.shape[1]):
                numbers[i * k + member, j] = numbers[i, j]


def long_rows(outputs, k, units):
    """Return the rows and units of a head in outputs (rows, columns): a single row if these are all of it."""
    if k == 1 and units == outputs.shape[1]:
        return 1, outputs.size  # which fills vectors, also with one output
    return outputs.shape[0], units


def repeat_derivatives(by_outputs, column, k, delta):
    """delta (n * k, units) = columns of by_outputs (n, ..) from `column` on / k, each row k times."""
    columns, (rows, units) = by_outputs.shape[1], long_rows(by_outputs, k, delta.shape[1])
    for i in range(rows):
        source = vector(by_outputs, i * columns + column, units)
        for member in range(k):
            target = vector(delta, (i * k + member) * units, units)
            for j in range(units):
                target[j] = source[j] / delta.dtype.type(k)


def mean_of_members(a, k, column, out):
    """Columns of out (n, ..) from `column` on = the means of k rows each of a (n * k, units)."""
    columns, (rows, units) = out.shape[1], long_rows(out, k, a.shape[1])
    for i in range(rows):
        source, target = vector(a, i * k * units, k * units), vector(out, i * columns + column, units)
        for j in range(units):
            target[j] = source[j]
        for member in range(1, k):
            for j in range(units):
                target[j] += source[member * units + j]
        if k > 1:
            for j in range(units):
                target[j] /= a.dtype.type(k)


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
    columns, (rows, units) = by_outputs.shape[1], long_rows(by_outputs, k, delta.shape[1])
    for i in range(rows):
        asked = vector(by_outputs, i * columns + column, units)
        for member in range(k):
            target = vector(delta, (i * k + member) * units, units)
            for j in range(units):
                if asked[j] == 0:
                    target[j] = 0
