"""A product of rows with a matrix of weights, and the activation at its end.

Sparse rows are the last inputs of a first product, if any: see `fastmlp.kernels.program.sparse_templates`.
"""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
    lesser,
    matrix,
    no_order,
    output_of,
    part_of,
    rows_of,
    subrows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import IDENTITY, RELU, SGD
from fastmlp.kernels.program.records import SLICE_ROWS
from fastmlp.kernels.program.row_formulas import pass_on
from fastmlp.kernels.program.row_templates import inputs_of, is_passed_on, sparse_in_of, sparse_inputs_of
from fastmlp.kernels.program.slots import (
    add_sparse_rows,
    affine_rows,
    affine_sparse_rows,
    input_gradient_rows,
    streams,
    weight_gradient_rows,
)
from fastmlp.kernels.program.sparse_templates import columns_step
from fastmlp.kernels.program.step_numbers import left_whole, slice_of, worker_part
from fastmlp.kernels.program.weight_templates import apply_gradients, biases_step, clear, update_part

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import activate, activate_gradient, penalty_gradient


def source_of(call, start, rows, number):
    """Return the rows that a product reads, without sparse columns; and their order, empty without one."""
    if number == 0:
        return inputs_of(call, start, rows)
    below = call.operations[call.operations[number].source]
    return output_of(call.memory, call.activations, call.dropped, below, rows), no_order()


def forward(call, start, rows, number, first, last, worker):
    """Multiply rows with the weights, add the biases, and apply the activation unless a loss reads logits."""
    op, memory = call.operations[number], call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    w, b = weights_of(call.parameters, op), biases_of(call.parameters, op)
    hidden, dense_in = op.gives_logits == 0, op.n_in - sparse_in_of(call, op)
    mixed = (dense_in > 0) & (dense_in < op.n_in)
    # A relu may end the tiles only if no sparse columns are added afterwards.
    relu = hidden & (op.activation == RELU) & (not mixed)
    joined = op.joined != 0
    ended = relu | (hidden & (op.activation == IDENTITY) & (not joined))
    # A product that needs no further pass is stored as the activations at once. A fused chain begins with the
    # logits, and its last operation stores activations.
    z = units_of(memory, chosen(ended, call.activations, call.logits), op, rows)
    if dense_in > 0:
        k = op.subrows
        source, order = source_of(call, start, rows, number)
        x, out = subrows_of(source, k, dense_in), subrows_of(z, k, op.n_out)
        affine_rows(x, order, rows_of(w, 0, dense_in), b, out, first * k, last * k, relu, scratch)
    if dense_in < op.n_in:
        indptr, row_order = sparse_inputs_of(call, start + first, last - first)
        part = rows_of(z, first, last)
        if mixed:
            # The dense columns' product has the bias already.
            behind = rows_of(w, dense_in, op.n_in)
            add_sparse_rows(indptr, call.indices, call.values, row_order, behind, part)
        else:
            affine_sparse_rows(indptr, call.indices, call.values, row_order, w, b, part, relu)
    if hidden and not (ended or joined):
        a = units_of(memory, call.activations, op, rows)
        activate(op.activation, rows_of(z, first, last), rows_of(a, first, last))


def backward(call, rows, of_all, number, first, last, worker):
    """Take the delta through the activation and the weights; through its source's relu as well (`gates`)."""
    op, memory = call.operations[number], call.memory
    delta = units_of(memory, call.deltas, op, rows)
    # The loss has written derivatives by logits; the product above has multiplied by the relu's derivative.
    if op.gives_logits == 0 and op.gated == 0 and op.activation != IDENTITY:
        a = rows_of(units_of(memory, call.activations, op, rows), first, last)
        z = rows_of(units_of(memory, call.logits, op, rows), first, last)
        activate_gradient(op.activation, z, a, rows_of(delta, first, last))
    if not is_passed_on(call, number):
        return
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    dense_in, below = op.n_in - sparse_in_of(call, op), call.operations[op.source]
    w = rows_of(weights_of(call.parameters, op), 0, dense_in)
    a = units_of(memory, call.activations, below, rows)
    by_source = units_of(memory, call.deltas, below, rows)
    if op.adds == 0:
        k = op.subrows
        part, a = subrows_of(delta, k, op.n_out), subrows_of(a, k, dense_in)
        out = subrows_of(by_source, k, dense_in)
        input_gradient_rows(part, w, a, out, first * k, last * k, op.gates != 0, scratch)
    else:
        # Another reader has written to the source's delta: the product is formed apart, and added.
        added = matrix(memory, call.deltas + op.saved * rows, rows, dense_in)
        input_gradient_rows(delta, w, a, added, first, last, False, scratch)
        pass_on(rows_of(added, first, last), 0, True, rows_of(by_source, first, last))


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Contract the batch for a worker's part of rows [top, bottom) of the weights, and update.

    A single worker takes all biases, with the first rows.
    """
    op = call.operations[number]
    if top == 0 and worker == number % workers:
        biases_step(call, rows, number, biases_of(call.gradients, op))
        if op.trains_bias and not left_whole(call):
            apply_gradients(call, 1, number, step, rates[1], op.biases, op.n_out)
    first, last = worker_part(bottom - top, worker, workers, SLICE_ROWS)
    if top < op.n_in - sparse_in_of(call, op):
        rows_step(call, start, rows, step, number, penalised, rates[0], top + first, top + last, worker)
    else:
        l1, l2 = op.l1 * penalised, op.l2 * penalised
        columns_step(call, start, rows, step, number, l1, l2, rates[0], first, last, worker)


def rows_step(call, start, rows, step, number, penalised, rate, first, last, worker):
    """Form the gradient of rows [first, last) of the weights, and update them unless left whole."""
    memory, op, rule = call.memory, call.operations[number], call.rules[0, number]
    l1, l2 = op.l1 * penalised, op.l2 * penalised
    stored = left_whole(call) | (not streams())  # the whole gradient is written to call.gradients
    plain = (rule.code == SGD) & (l1 == 0) & (not stored)
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    slices = call.slices + worker * call.slice_length
    source, order = source_of(call, start, rows, number)
    source, n_out = subrows_of(source, op.subrows, op.n_in - sparse_in_of(call, op)), op.n_out
    delta = subrows_of(units_of(memory, call.deltas, op, rows), op.subrows, n_out)
    w, dw = weights_of(call.parameters, op), weights_of(call.gradients, op)
    layer_rate = rate * rule.rate_factor
    update_of_tiles = plain, w.dtype.type(layer_rate), w.dtype.type(l2)
    together, at = last - first, first
    if streams() and not plain:
        # The rule is applied to a slice of the gradient that is still in the cache.
        together = slice_of(call.slice_length, n_out)
    while at < last:
        stop = lesser(at + together, last)
        sums = rows_of(dw, at, stop)
        g = sums if stored else matrix(memory, slices, stop - at, n_out)
        # A step of plain SGD ends the register tiles: the weights are the output, and no gradient is stored.
        g = rows_of(w, at, stop) if plain else g
        if rows > 0:
            weight_gradient_rows(source, order, delta, g, (at, at, stop), update_of_tiles, sums, scratch)
        else:  # all rows of the batch are in other processes
            clear(vector(g, 0, g.size))
        if not plain:
            if l1 > 0 or l2 > 0:
                penalty_gradient(l1, l2, rows_of(w, at, stop), g)
            if not left_whole(call):
                update_part(call, rule, step, layer_rate, op.weights + at * n_out, vector(g, 0, g.size))
        at = stop


def update(call, step, number, rates, worker, workers):
    """Apply the gradients of a worker's part of the weights; a single worker takes all biases."""
    op, rule = call.operations[number], call.rules[0, number]
    rate, n_out = rates[0], op.n_out
    sparse_in = chosen(rule.sparse_updates & (call.marks > 0), op.sparse_in, 0)
    dense_in = op.n_in - sparse_in
    first, last = worker_part(dense_in, worker, workers, SLICE_ROWS)
    apply_gradients(call, 0, number, step, rate, op.weights + first * n_out, (last - first) * n_out)
    first, last = worker_part(sparse_in, worker, workers, SLICE_ROWS)
    # A column without a non-zero on any rank keeps its weights and moments: see `StepRule.sparse_updates`.
    for k in range(first, last):
        if call.nonzero_columns[k]:
            apply_gradients(call, 0, number, step, rate, op.weights + (dense_in + k) * n_out, n_out)
    if worker == number % workers and op.trains_bias:
        apply_gradients(call, 1, number, step, rates[1], op.biases, n_out)
