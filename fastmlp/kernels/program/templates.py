"""The compiled program as templates: plain functions that call slots by name.

`fastmlp.kernels.jit.bind` copies them for each variant with the slots' names bound to that variant's
functions, and Numba compiles the copies. A name that is not defined here is a slot;
`fastmlp.testing.slots` has the slots' signatures. Sizes, activations, loss and optimiser are data, so
that one compilation for each dtype serves every network. Nothing in a step allocates.

A step has two phases. In the first every worker takes rows of the batch through all layers and back to their
deltas. In the second every worker takes rows of the weights, contracts over the whole batch and applies the
optimiser. Whatever the depth, a step has two barriers; one or two more where the whole gradient is formed
before any of it is applied, and one for each piece of it that ranks sum. No element is summed by two workers,
so one thread and sixteen give the same bits. The layers are walked once forward, once back, once over the
weights.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.vectors import prefetch_rows, total_of
from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
    constants_of,
    lesser,
    matrix,
    no_order,
    parameters_of,
    part_of,
    rows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import RELU, SGD
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.converting import convert_bytes
from fastmlp.kernels.program.records import ABANDONED, SLICE_ROWS, UNBOUNDED, UNSUMMED
from fastmlp.kernels.program.summing import call_back
from fastmlp.kernels.tuning.reading import tuned

ALL_ROWS = 1 << 30
"""More rows than any batch has."""

block_rows, streamed_bytes = tuned("block_rows"), tuned("streamed_bytes")


# --- numbers of a step ------------------------------------------------------------------------------


@jittable
def loss_share(divisor, total):
    """Return the factor of one element's weighted loss: 1 / (total weight * divisor), or 0 without weight."""
    return where(total > 0.0, 1.0 / (total * divisor), 0.0)


@jittable
def penalty_share(shared: bool, total):
    """Return the factor of the penalties: 1, or 1 / total weight where the batch shares them."""
    return where(shared, where(total > 0.0, 1.0 / total, 0.0), 1.0)


def whole(count, unit):
    """Return how many units hold `count` items; the last one may be part empty."""
    return (count + unit - 1) // unit


@jittable
def parts_of(rows: int):
    """Return how many partial sums of the loss a batch has."""
    return whole(rows, LOSS_ROWS)


@jittable
def own_share(count: int, worker: int, workers: int, unit: int) -> tuple[int, int]:
    """Return [first, last) of the worker's share of `count` items, in whole units."""
    units = whole(count, unit)
    first, last = (units * before // workers * unit for before in (worker, worker + 1))
    return at_most(first, count), at_most(last, count)


@jittable
def slice_of(numbers: int, n_out: int):
    """Return how many rows of a gradient fit into `numbers` numbers, a multiple of SLICE_ROWS."""
    return numbers // n_out // SLICE_ROWS * SLICE_ROWS


@jittable
def rows_at_once(parameter_bytes: int, streamed: int, block: int):
    """Return how many rows a worker takes through the layers together, where `streams`.

    They are all rows where the parameters outgrow L2: these are then read from memory once, not once a block.
    """
    return where(parameter_bytes < streamed, block, ALL_ROWS)


def left_whole(call):
    """Whether the whole gradient is written to call.gradients before any parameter is updated."""
    return (call.rules[0].clip_norm < UNBOUNDED) | (call.summing > 0)


@jittable
def rows_of_piece(together: int, n_out: int, n_in: int):
    """Return the fewest rows of weights, in whole SLICE_ROWS, that hold `together` numbers."""
    return at_most(whole(together, n_out * SLICE_ROWS) * SLICE_ROWS, n_in)


# --- slots that a variant may override; here they call other slots ----------------------------------


def streams():
    """Return whether products read rows of X in place, and gradients are applied slice by slice.

    Otherwise the rows of a batch are gathered first, and every gradient is formed whole.
    """
    return False


def affine_rows(x, order, w, b, out, first, last, relu, scratch):
    """Rows [first, last) of out = x @ w + b, and max(., 0) of it where `relu`; order : empty."""
    z = rows_of(out, first, last)
    affine(rows_of(x, first, last), w, b, scratch, z)
    if relu:
        activate(RELU, z, z)


def input_gradient_rows(delta, w, a, out, first, last, relu, scratch):
    """Rows [first, last) of out = delta @ w.T; where `relu`, times the derivative of the relu that made a."""
    below, a = rows_of(out, first, last), rows_of(a, first, last)
    input_gradient(rows_of(delta, first, last), w, scratch, below)
    if relu:
        activate_gradient(RELU, a, a, below)


def weight_gradient_rows(x, order, delta, out, out_first, start, stop, descend, rate, l2, sums, scratch):
    """out = x.T @ delta, for all inputs; without a step: it is called where `descend` is false."""
    weight_gradient(x, delta, scratch, out)


def affine_sparse_rows(indptr, indices, values, order, w, b, out, relu):
    """As `affine_sparse`, and max(., 0) of it where `relu`."""
    affine_sparse(indptr, indices, values, order, w, b, out)
    if relu:
        activate(RELU, out, out)


def weight_gradient_sparse_rows(starts, samples, numbers, columns, delta, out, descend, rate, l2):
    """As `weight_gradient_sparse`, without a step: it is called where `descend` is false."""
    weight_gradient_sparse(starts, samples, numbers, columns, delta, out)


# --- the phases of a step -------------------------------------------------------------------------


def inputs_of(call, start, rows):
    """Return the inputs of a batch, and the order of its rows in them; empty if they lie row after row.

    The batch begins with visit `start` of the call's order, or with sample `start` where there is no order.
    """
    if call.bytes == 0:
        if call.visits == 0:
            return rows_of(call.inputs, start, start + rows), no_order()
        if streams():
            return call.inputs, vector(call.order, start, rows)
    return matrix(call.memory, call.batch_inputs, rows, call.n_in), no_order()


def sparse_inputs_of(call, start, rows):
    """Return the indptr of a batch's sparse inputs, and the order of its rows, as `inputs_of` does."""
    if call.visits == 0:
        return vector(call.indptr, start, rows + 1), no_order()
    return call.indptr, vector(call.order, start, rows)


def rows_forward(call, start, rows, first, last, step, worker):
    """Take rows [first, last) of a batch of `rows` rows through all layers, up to the last one's logits.

    call : a `told.Told`; start : see `inputs_of`
    step : updates before this one, for the dropout masks; worker : whose scratch to use
    """
    layers, parameters, memory = call.layers, call.parameters, call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    sparse = call.bounds > 0
    if call.bytes > 0:
        visited = vector(call.order, start + first, chosen(call.visits > 0, last - first, 0))
        own = rows_of(matrix(memory, call.batch_inputs, rows, call.n_in), first, last)
        convert_bytes(call.numbers, visited, start + first, call.scale, own)
    elif call.visits > 0 and not streams() and not sparse:
        visited = vector(call.order, start + first, last - first)
        gather(call.inputs, visited, rows_of(matrix(memory, call.batch_inputs, rows, call.n_in), first, last))
    source, order = inputs_of(call, start, rows)
    for layer in range(len(layers)):
        here, hidden = layers[layer], layer < len(layers) - 1
        w, b = weights_of(parameters, here), biases_of(parameters, here)
        relu = hidden & (here.activation == RELU)
        z = units_of(memory, chosen(relu, call.activations, call.logits), here, rows)
        if layer == 0 and sparse:
            indptr, some = sparse_inputs_of(call, start + first, last - first)
            affine_sparse_rows(indptr, call.indices, call.values, some, w, b, rows_of(z, first, last), relu)
        else:
            affine_rows(source, order, w, b, z, first, last, relu, scratch)
        order = no_order()
        if hidden:
            source = units_of(memory, call.activations, here, rows)
            a = rows_of(source, first, last)
            if not relu:
                activate(here.activation, rows_of(z, first, last), a)
            if here.dropout > 0:
                source = units_of(memory, call.dropped, here, rows)
                drop_placed(call, start, step, layer, first, here.dropout, a, rows_of(source, first, last))


def drop_placed(call, start, step, layer, first, p, a, out):
    """As `drop`. The rows of a part of a batch get the masks of their places in the whole batch."""
    if call.placed == 0:
        drop(call.key, step, layer, first, p, a, out)
    else:
        for i in range(a.shape[0]):
            own, place = rows_of(out, i, i + 1), call.places[start + first + i]
            drop(call.key, step, layer, place, p, rows_of(a, i, i + 1), own)


def rows_loss(call, start, rows, first, last, share, worker):
    """Write the last layer's deltas of rows [first, last), and their partial sums of the loss.

    share : the factor of a row's weighted loss, see `loss_share`; the others as in `rows_forward`
    """
    output, objective, memory = call.layers[call.depth - 1], call.objective, call.memory
    z, delta = units_of(memory, call.logits, output, rows), units_of(memory, call.deltas, output, rows)
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    gathered = call.visits > 0
    for at in range(first, last, LOSS_ROWS):
        stop = lesser(at + LOSS_ROWS, last)
        count = stop - at
        y, w = rows_of(call.targets, start + at, start + stop), vector(call.weights, start + at, count)
        if gathered:
            y = rows_of(matrix(memory, call.batch_targets, rows, output.n_out), at, stop)
            w = vector(memory, call.batch_weights + at, count)
            visited = vector(call.order, start + at, count)
            gather(call.targets, visited, y)
            weights = call.weights
            for i in range(count):
                w[i] = weights[visited[i]]
        call.sums[at] = output_loss(
            objective.loss, output.activation, parameters_of(objective, output.n_out), share,
            rows_of(z, at, stop), y, w, scratch, rows_of(delta, at, stop),
        )  # fmt: skip


def rows_backward(call, start, rows, first, last, step, worker):
    """Take the deltas of rows [first, last) from the last layer back to the first; as `rows_forward`."""
    layers, parameters, memory = call.layers, call.parameters, call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    for layer in range(len(layers) - 1, 0, -1):
        here, below = layers[layer], layers[layer - 1]
        w, delta = weights_of(parameters, here), units_of(memory, call.deltas, here, rows)
        next_delta = units_of(memory, call.deltas, below, rows)
        a = units_of(memory, call.activations, below, rows)
        relu = below.activation == RELU
        input_gradient_rows(delta, w, a, next_delta, first, last, relu, scratch)
        own = rows_of(next_delta, first, last)
        if below.dropout > 0:
            drop_placed(call, start, step, layer - 1, first, below.dropout, own, own)
        if not relu:
            z = rows_of(units_of(memory, call.logits, below, rows), first, last)
            activate_gradient(below.activation, z, rows_of(a, first, last), own)


def weights_step(call, start, rows, step, l1, l2, rate, bias_rate, worker, workers):
    """Contract the worker's share of every layer's weights over the batch, and update it.

    One worker takes all biases of a layer. Where the gradient is left whole, nothing is updated. Where ranks
    sum it, the sum of a piece begins as soon as all workers have formed it, and they go on with the next.
    l1, l2, rate, bias_rate : of this step; the others as in `rows_forward`
    """
    layers, gradients, summed, begun = call.layers, call.gradients, call.summing > 0, 0
    for layer in range(len(layers)):
        here, rule = layers[layer], call.rules[layer]
        n_in, n_out, trained = here.n_in, here.n_out, rule.rate_factor != 0
        if trained and worker == layer % workers:
            db = biases_of(gradients, here)
            biases_step(call, rows, layer, db)
            if not left_whole(call):
                update_part(call, rule, step, bias_rate * rule.rate_factor, here.biases, db)
        sparse = (layer == 0) & (call.bounds > 0)
        together, top = n_in, 0
        if summed and not sparse:
            together = rows_of_piece(call.together, n_out, n_in)
        while top < n_in:  # a range of variable step would divide, which the smallest networks wait for
            bottom = lesser(top + together, n_in)
            if trained:
                first, last = own_share(bottom - top, worker, workers, SLICE_ROWS)
                if sparse:
                    columns_step(call, start, rows, step, l1, l2, rate, first, last, worker)
                else:
                    layer_step(call, start, rows, step, layer, l1, l2, rate, top + first, top + last, worker)
            if summed:
                end = chosen(bottom == n_in, here.end, here.weights + bottom * n_out)
                if end == call.size or end - begun >= call.together:
                    wait(call.barrier, worker, workers)
                    if worker == 0:
                        sum_over_ranks(call, step, begun, end)
                    begun = end
            top = bottom


def biases_step(call, rows, layer, out):
    """Write the gradient of a layer's biases to out (n_out,)."""
    if rows > 0:
        bias_gradient(units_of(call.memory, call.deltas, call.layers[layer], rows), out)
    else:
        clear(out)


def layer_step(call, start, rows, step, layer, l1, l2, rate, first, last, worker):
    """As `weights_step`, for rows [first, last) of the weights of one layer."""
    layers, memory, here, rule = call.layers, call.memory, call.layers[layer], call.rules[layer]
    kept = left_whole(call) | (not streams())  # the whole gradient is written to call.gradients
    plain = (rule.code == SGD) & (l1 == 0) & (not kept)
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    slices = call.slices + worker * call.slice_length
    source, order = inputs_of(call, start, rows)
    if layer > 0:
        below = layers[layer - 1]
        source = units_of(memory, chosen(below.dropout > 0, call.dropped, call.activations), below, rows)
        order = no_order()
    delta, n_out = units_of(memory, call.deltas, here, rows), here.n_out
    w, dw = weights_of(call.parameters, here), weights_of(call.gradients, here)
    own_rate = rate * rule.rate_factor
    r, decay = w.dtype.type(own_rate), w.dtype.type(l2)
    together, at = last - first, first
    if streams() and not plain:
        together = slice_of(call.slice_length, n_out)
    while at < last:
        stop = lesser(at + together, last)
        sums = rows_of(dw, at, stop)
        g = sums if kept else matrix(memory, slices, stop - at, n_out)
        g = rows_of(w, at, stop) if plain else g
        if rows > 0:
            weight_gradient_rows(source, order, delta, g, at, at, stop, plain, r, decay, sums, scratch)
        else:  # all rows of the batch are in other processes
            clear(vector(g, 0, g.size))
        if not plain:
            if l1 > 0 or l2 > 0:
                penalty_gradient(l1, l2, rows_of(w, at, stop), g)
            if not left_whole(call):
                update_part(call, rule, step, own_rate, here.weights + at * n_out, vector(g, 0, g.size))
        at = stop


def clear(out):
    """out (n,) = 0."""
    for i in range(len(out)):
        out[i] = 0


def sum_over_ranks(call, step, first, last):
    """Have numbers [first, last) of the gradient summed. The call with the last of them waits for all sums.

    The function that is called clears UNSUMMED as its last act, so that no error in it passes for a success.
    """
    barrier = call.barrier
    if barrier[ABANDONED] == 0:
        barrier[UNSUMMED] = 1
        call_back(call.summing, step - call.step, first, last)
        if barrier[UNSUMMED] != 0:
            barrier[ABANDONED] = 1


def update_part(call, rule, step, rate, start, g):
    """Apply the gradient g (n,) to the n parameters that begin at `start`; step : updates before this one."""
    n, moments = len(g), call.moments
    p, first = vector(call.parameters, start, n), vector(moments, start, n)
    second = vector(moments, moments.shape[1] + start, n)
    apply_rule(rule.code, rate, constants_of(rule), float(step + 1), g, p, first, second)


def clip_all(call):
    """Scale call.gradients down to the optimiser's norm; frozen layers do not count."""
    layers, rules, gradients = call.layers, call.rules, call.gradients
    for layer in range(len(layers)):
        here = layers[layer]
        if rules[layer].rate_factor == 0:
            clear(vector(gradients, here.weights, here.end - here.weights))
    clip(rules[0].clip_norm, gradients)


def update_all(call, step, rate, bias_rate, worker, workers):
    """Apply the worker's share of call.gradients to the parameters."""
    layers, rules, gradients = call.layers, call.rules, call.gradients
    for layer in range(len(layers)):
        here, rule = layers[layer], rules[layer]
        if rule.rate_factor != 0:
            own_rate, n_out = rate * rule.rate_factor, here.n_out
            first, last = own_share(here.n_in, worker, workers, SLICE_ROWS)
            if layer == 0 and rule.touched_only and call.marks > 0:
                for k in range(first, last):
                    if call.touched[k]:
                        at = here.weights + k * n_out
                        update_part(call, rule, step, own_rate, at, vector(gradients, at, n_out))
            else:
                at = here.weights + first * n_out
                of_weights = vector(gradients, at, (last - first) * n_out)
                update_part(call, rule, step, own_rate, at, of_weights)
            if worker == layer % workers:
                of_biases = vector(gradients, here.biases, here.end - here.biases)
                update_part(call, rule, step, bias_rate * rule.rate_factor, here.biases, of_biases)


def penalties(call, l1, l2):
    """Return the sum of the penalties on the weights of all layers."""
    layers, total = call.layers, 0.0
    for layer in range(len(layers)):
        total += penalty(l1, l2, weights_of(call.parameters, layers[layer]))
    return total


def descend(call, s, worker, workers, updates):
    """Take step s of the call, and write its objective to call.losses.

    updates : whether parameters are updated. If not, the gradient is left in call.gradients, and the
        optimiser must be one that clips: only then is the gradient whole before the update.
    """
    objective = call.objective
    start, step, total = call.starts[s], call.step + s, call.totals[s]
    rows = call.stops[s] - start
    first, last = own_share(rows, worker, workers, LOSS_ROWS)
    share, of_penalties = loss_share(objective.divisor, total), penalty_share(objective.shared_penalty, total)
    l1, l2 = objective.l1 * of_penalties, objective.l2 * of_penalties
    at_once = rows_at_once(call.size * call.parameters.itemsize, streamed_bytes(), block_rows())
    block = chosen(streams(), at_once, ALL_ROWS)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        if call.visits > 0:
            # Each row has a random cache line or two: the loss waited for them for 12 us of a step of 380.
            visited = vector(call.order, start, rows)
            prefetch_rows(call.targets, visited, at, stop)
            prefetch_rows(call.weights, visited, at, stop)
        rows_forward(call, start, rows, at, stop, step, worker)
        rows_loss(call, start, rows, at, stop, share, worker)
        rows_backward(call, start, rows, at, stop, step, worker)
    of_weights = 0.0
    if worker == 0 and (l1 > 0 or l2 > 0):
        of_weights = penalties(call, l1, l2)
    wait(call.barrier, worker, workers)
    if worker == 0:
        call.losses[s] = total_of(call.sums, parts_of(rows), LOSS_ROWS) / objective.value_divisor + of_weights
    rate, bias_rate = call.rates[s, 0], call.rates[s, 1]
    weights_step(call, start, rows, step, l1, l2, rate, bias_rate, worker, workers)
    if updates and left_whole(call):
        wait(call.barrier, worker, workers)
        if call.rules[0].clip_norm < UNBOUNDED:
            # The norm needs the whole gradient before any of it is applied.
            if worker == 0:
                clip_all(call)
            wait(call.barrier, worker, workers)
        update_all(call, step, rate, bias_rate, worker, workers)
    wait(call.barrier, worker, workers)


# --- entry points; their arguments: a call, this worker's number, how many workers there are -------------


def train_chunk(call, worker, workers):
    """Take all steps of the call; write each one's objective to call.losses."""
    for s in range(call.steps):
        if call.barrier[ABANDONED] == 0:
            descend(call, s, worker, workers, True)


def gradient(call, worker, workers):
    """Fill call.gradients over all samples; write the objective, penalties included, to call.losses."""
    descend(call, 0, worker, workers, False)


def update(call, worker, workers):
    """Apply call.gradients, clipped before where the optimiser clips, to the parameters, at call.rates."""
    if call.rules[0].clip_norm < UNBOUNDED:
        clip_all(call)
    update_all(call, call.step, call.rates[0, 0], call.rates[0, 1], worker, workers)


def predict(call, worker, workers):
    """Write the network's output for all samples to call.out, a batch at a time."""
    output = call.layers[call.depth - 1]
    for start in range(0, call.samples, call.batch):
        rows = lesser(call.batch, call.samples - start)
        rows_forward(call, start, rows, 0, rows, 0, worker)
        z = units_of(call.memory, call.logits, output, rows)
        activate(output.activation, z, rows_of(call.out, start, start + rows))


def evaluate(call, worker, workers):
    """Write the loss over all samples, without penalties, to call.losses, a batch at a time."""
    share, loss = loss_share(call.objective.divisor, call.totals[0]), 0.0
    for start in range(0, call.samples, call.batch):
        rows = lesser(call.batch, call.samples - start)
        rows_forward(call, start, rows, 0, rows, 0, worker)
        rows_loss(call, start, rows, 0, rows, share, worker)
        sums = call.sums
        for part in range(parts_of(rows)):
            loss += sums[part * LOSS_ROWS]
    call.losses[0] = loss / call.objective.value_divisor
