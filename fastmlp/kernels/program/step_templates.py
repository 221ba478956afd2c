"""The compiled program as templates: a step, and the entry points for steps or passes.

Templates are plain functions that call slots by name. `fastmlp.kernels.jit.bind` copies templates for each
variant with the slots' names bound to the variant's functions, and Numba compiles the copies. Names imported
for type checkers alone are slots, with contracts in `variants.baseline`. Sizes, activations, loss and
optimiser are data, so that a single compilation for each dtype serves every network. Nothing in a step
allocates.

A step has two phases. In the first (`row_templates`) every worker takes rows of the batch through all layers
and back to their deltas. In the second (`weight_templates`) every worker takes rows of the weights, contracts
over the whole batch and applies the optimiser. Whatever the depth, a step has two barriers, and four more for
each batch norm; one or two more where the whole gradient is formed before its application, and a barrier for
each bucket of it summed by ranks. A step may take its rows in microbatches, each with these barriers; their
gradients are added to a sum. No element is summed by two workers, so any number of threads gives the same
bits.
"""

# mypy: ignore-errors

from fastmlp.kernels.codegen.vectors import prefetch_rows, total_of
from fastmlp.kernels.codegen.views import chosen, lesser, span, vector
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import is_abandoned, wait
from fastmlp.kernels.program.output_templates import head_losses, rows_loss, rows_outputs
from fastmlp.kernels.program.records import SLICE_ROWS, UNBOUNDED
from fastmlp.kernels.program.row_templates import (
    part_after,
    parts_backward,
    parts_forward,
    rows_backward,
    rows_forward,
)
from fastmlp.kernels.program.sparse_templates import mark_nonzero_columns
from fastmlp.kernels.program.step_numbers import block_of, left_whole, parts_of, penalty_factor, worker_part
from fastmlp.kernels.program.weight_templates import (
    clip_all,
    orthogonalise_all,
    penalties,
    sum_over_ranks,
    update_all,
    weights_step,
)


def rows_of_step(call, s):
    """Return the rows of step s, on all ranks."""
    if call.summing > 0:
        return call.batch_rows[s]
    return call.stops[s] - call.starts[s]


def end_of_microbatch(call, position, rows):
    """Return the end of the step's microbatch from a position on, among all ranks' `rows` rows."""
    end = chosen(call.accumulates > 0, position + call.microbatch, rows)
    # A rest too small for a microbatch (a batch norm needs two rows) joins the rows before it.
    return chosen(rows - end < call.fewest, rows, end)


def visit_at(call, s, begin, position):
    """Return a rank's first visit of step s, not before `begin`, whose row stands at a position or behind."""
    while begin < call.stops[s] and call.positions[begin] < position:
        begin += 1
    return begin


def accumulate(call, first, last, worker, workers):
    """Add the worker's part of a microbatch's gradient to earlier ones; the last gets the sum."""
    begin, end = worker_part(call.size, worker, workers, SLICE_ROWS)
    g, total = span(call.gradients, begin, end), span(call.accumulated, begin, end)
    if not first:
        for i in range(len(g)):
            g[i] += total[i]
    if not last:
        for i in range(len(g)):
            total[i] = g[i]


def batch_step(call, s, worker, workers, updates):
    """Take step s of the call; write the objective to call.losses.

    updates : whether parameters are updated. If not, the gradient is left in call.gradients, and the
        optimiser must clip: only then is the gradient whole before the update.
    """
    rows, position, begin = rows_of_step(call, s), 0, call.starts[s]
    more = True
    while more:
        until = end_of_microbatch(call, position, rows)
        end = call.starts[s] + until
        if call.summing > 0:
            end = visit_at(call, s, begin, until)
        form_gradient(call, s, begin, end, position, until, worker, workers, updates)
        more = until < rows
        if more:
            wait(call.barrier, worker, workers)
            # Parts of the sum cut across matrices: other workers must have formed their rows before. The next
            # rows write to the gradient only after a barrier of their own.
            accumulate(call, position == 0, False, worker, workers)
            position, begin = until, end
    if position > 0:
        wait(call.barrier, worker, workers)
        accumulate(call, False, True, worker, workers)
    if updates and left_whole(call):
        apply_whole(call, s, worker, workers)
    # The next step's rows read the weights that other workers update.
    wait(call.barrier, worker, workers)


def apply_whole(call, s, worker, workers):
    """Apply the gradient of step s once all is formed."""
    step = call.step + s
    wait(call.barrier, worker, workers)
    if call.accumulates > 0:
        if worker == 0 and call.summing > 0:
            # Gradients of microbatches were not summed over ranks: one sum of all is less traffic.
            sum_over_ranks(call, call.summing, step, 0, call.size)
        # A microbatch has the columns of its own rows only; the update needs those of the whole step.
        elif worker == 0 and call.marks > 0:
            mark_nonzero_columns(call, call.starts[s], call.stops[s])
        wait(call.barrier, worker, workers)
    if call.rules[0, 0].clip_norm < UNBOUNDED:
        # The norm needs the whole gradient before any of it is applied.
        if worker == 0:
            clip_all(call)
        wait(call.barrier, worker, workers)
    if call.matrix_size > 0:
        orthogonalise_all(call, worker, workers)
        wait(call.barrier, worker, workers)
    update_all(call, step, (call.rates[s, 0], call.rates[s, 1]), worker, workers)


def form_gradient(call, s, start, end, position, until, worker, workers, updates):
    """Form the gradient of visits [start, end) of step s, and apply it unless it is left whole.

    position, until : [first, last) of the positions in the step's batch, of rows of all ranks
    """
    # The objective is added to that of the step's earlier rows. Penalties count with the last rows of a step.
    objective = call.objective
    step, total, rows = call.step + s, call.totals[s], end - start
    first, last = worker_part(rows, worker, workers, LOSS_ROWS)
    penalised = 0.0
    if until == rows_of_step(call, s):
        penalised = penalty_factor(objective.shared_penalty, total)
    block, depth, of_all, begin = block_of(call), call.depth, until - position, 0
    # Workers meet at each batch norm, so that all their rows go there before any goes on; other operations
    # take a block of rows from the inputs to the loss and back while it is in L2.
    if part_after(call, 0) < depth:
        begin = parts_forward(call, start, rows, of_all, first, last, block, step, updates, worker, workers)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        if call.visits > 0:
            # Each row has a random cache line or two: the loss waited for them for 12 us of a step of 380.
            visited = vector(call.order, start, rows)
            prefetch_rows(call.targets, visited, at, stop)
            prefetch_rows(call.weights, visited, at, stop)
        rows_forward(call, start, rows, at, stop, begin, depth, step, worker)
        rows_loss(call, s, start, rows, at, stop, worker)
        rows_backward(call, start, rows, of_all, at, stop, begin, depth, step, worker)
    if begin > 0:
        parts_backward(call, start, rows, of_all, first, last, block, begin, step, worker, workers)
    of_weights = 0.0
    if worker == 0 and objective.penalises:
        of_weights = penalties(call, penalised)
    # A row of weights contracts the deltas of all workers' rows; the objective adds the parts of all workers.
    wait(call.barrier, worker, workers)
    if worker == 0:
        adds = position > 0
        if call.reported > 0:
            head_losses(call, s, rows, adds)
        # In the order of the rows, so that bits do not depend on the number of workers.
        value = total_of(call.sums, parts_of(rows), LOSS_ROWS) / objective.value_divisor + of_weights
        call.losses[s] = call.losses[s] + value if adds else value
    weights_step(call, start, rows, step, penalised, (call.rates[s, 0], call.rates[s, 1]), worker, workers)


# --- entry points; their arguments: a call, this worker's number, how many workers there are -------------


def train_chunk(call, worker, workers):
    """Take all steps of the call; write each step's objective to call.losses."""
    for s in range(call.steps):
        if not is_abandoned(call.barrier):
            batch_step(call, s, worker, workers, True)


def gradient(call, worker, workers):
    """Fill call.gradients over all samples; write the objective, penalties included, to call.losses."""
    batch_step(call, 0, worker, workers, False)


def update(call, worker, workers):
    """Apply call.gradients to the parameters at call.rates, clipped where the optimiser clips."""
    if call.rules[0, 0].clip_norm < UNBOUNDED:
        clip_all(call)
    if call.matrix_size > 0:
        orthogonalise_all(call, worker, workers)
    update_all(call, call.step, (call.rates[0, 0], call.rates[0, 1]), worker, workers)


def predict(call, worker, workers):
    """Write the network's output for all samples to call.out, a batch at a time."""
    for start in range(0, call.samples, call.batch):
        rows = lesser(call.batch, call.samples - start)
        rows_forward(call, start, rows, 0, rows, 0, call.depth, 0, worker)
        rows_outputs(call, rows, 0, rows, start)


def evaluate(call, worker, workers):
    """Write the loss over all samples, without penalties, to call.losses, a batch at a time."""
    loss = 0.0
    for start in range(0, call.samples, call.batch):
        rows = lesser(call.batch, call.samples - start)
        rows_forward(call, start, rows, 0, rows, 0, call.depth, 0, worker)
        rows_loss(call, 0, start, rows, 0, rows, worker)
        if call.reported > 0:
            head_losses(call, 0, rows, start > 0)
        sums = call.sums
        for part in range(parts_of(rows)):
            loss += sums[part * LOSS_ROWS]
    call.losses[0] = loss / call.objective.value_divisor
