"""The parts of a step by themselves, between which a user's own loss is computed.

Templates as those of `step_templates`: `forward` takes a batch through the layers and keeps what `backward`
needs in the call's memory; `penalize` and then `update` take the optimiser's step. Each operation is that of
a whole step, so together they have its bits.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import chosen, lesser, part_of, rows_of, units_of, weights_of
from fastmlp.kernels.codes import DENSE, SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.row_operations import pass_on
from fastmlp.kernels.program.row_templates import (
    part_before,
    parts_backward,
    parts_forward,
    rows_backward,
    rows_forward,
    rows_loss,
    rows_outputs,
)
from fastmlp.kernels.program.selecting import softmax_gradient
from fastmlp.kernels.program.step_numbers import (
    ALL_ROWS,
    block_rows,
    loss_share,
    own_share,
    penalty_share,
    rows_at_once,
    rows_together,
    streamed_bytes,
)


def block_of(call):
    """Return how many rows a worker takes through the layers together."""
    block = rows_together(block_rows(), call.members)
    at_once = rows_at_once(call.size * call.parameters.itemsize, streamed_bytes(), block)
    return chosen(streams(), at_once, ALL_ROWS)


def output_backward(call, rows, first, last):
    """Write the last layer's deltas of rows [first, last), from call.by_outputs."""
    output, memory = call.operations[call.depth - 1], call.memory
    z = rows_of(units_of(memory, call.logits, output, rows), first, last)
    a = rows_of(units_of(memory, call.activations, output, rows), first, last)
    delta = rows_of(units_of(memory, call.deltas, output, rows), first, last)
    by_outputs = rows_of(call.by_outputs, first, last)
    activate(output.activation, z, a)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            delta[i, j] = by_outputs[i, j]
    if output.activation != SOFTMAX:
        activate_gradient(output.activation, z, a, delta)
        return
    softmax_gradient(a, delta)


# --- entry points; their arguments: a call, this worker's number, how many workers there are -------------


def forward(call, worker, workers):
    """Write the network's output for all samples, which are one batch, to call.out."""
    rows = call.samples
    first, last = own_share(rows, worker, workers, LOSS_ROWS)
    block = block_of(call)
    begin = parts_forward(call, 0, rows, rows, first, last, block, call.step, True, worker, workers)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        rows_forward(call, 0, rows, at, stop, begin, call.depth, call.step, worker)
        rows_outputs(call, rows, at, stop, at)


def backward(call, worker, workers):
    """Write the gradient of a loss to call.gradients, given its derivative by the outputs of `forward`.

    Its derivative by the inputs goes to call.by_inputs, if that has rows.
    """
    input_backward(call, worker, workers)
    wait(call.barrier, worker, workers)
    weights_step(call, 0, call.samples, call.step, 0.0, 0.0, 0.0, worker, workers)


def input_backward(call, worker, workers):
    """Take deltas from the outputs back to the inputs, as `backward` does, and leave call.gradients alone."""
    here, memory, rows = call.operations[0], call.memory, call.samples
    first, last = own_share(rows, worker, workers, LOSS_ROWS)
    block, end = block_of(call), call.depth
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    begin = part_before(call, end)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        if call.n_heads > 0:
            heads_backward(call, rows, at, stop)
        elif call.members > 1:
            members_outputs(call, rows, at, stop, at)
            members_backward(call, rows, at, stop)
        else:
            output_backward(call, rows, at, stop)
        rows_backward(call, 0, rows, rows, at, stop, begin, end, call.step, worker)
    parts_backward(call, 0, rows, rows, first, last, block, begin, call.step, worker, workers)
    if call.by_inputs_rows > 0:
        for at in range(first, last, block):
            stop = lesser(at + block, last)
            delta, out = units_of(memory, call.deltas, here, rows), call.by_inputs
            if here.kind == DENSE:
                w = weights_of(call.parameters, here)
                input_gradient_rows(delta, w, out, out, at, stop, False, scratch)
            else:  # the copy of the inputs
                pass_on(rows_of(delta, at, stop), 0, False, rows_of(out, at, stop))


def loss_backward(call, worker, workers):
    """Take all samples of a chain forward, and back the deltas of each sample's own loss."""
    rows, block, depth = call.samples, block_of(call), call.depth
    share = loss_share(call.objective.divisor, 1.0)
    for at in range(0, rows, block):
        stop = lesser(at + block, rows)
        rows_forward(call, 0, rows, at, stop, 0, depth, call.step, worker)
        rows_loss(call, 0, rows, at, stop, share, worker)
        rows_backward(call, 0, rows, rows, at, stop, 0, depth, call.step, worker)


def penalize(call, worker, workers):
    """Add the derivative of the penalties to call.gradients; call.totals has the weight of the batch."""
    operations, share = call.operations, penalty_share(call.objective.shared_penalty, call.totals[0])
    for number in range(len(operations)):
        here = operations[number]
        if here.kind == DENSE:
            w, dw = weights_of(call.parameters, here), weights_of(call.gradients, here)
            penalty_gradient(here.l1 * share, here.l2 * share, w, dw)
