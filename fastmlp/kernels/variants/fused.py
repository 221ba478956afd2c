"""fused: rows, then weights, and between them nothing that leaves the caches.

A step has two phases. In the first every worker takes rows of the batch through all layers and
back to their deltas; inputs are read where they lie, through the row order, and bias and relu end
the tile while it is in registers. In the second every worker takes rows of the weights, contracts
over the whole batch and applies the optimiser at once, so that no gradient array is written.
That is two barriers a step whatever the depth, and no element is summed by two workers: one thread
or sixteen give the same bits. It wins wherever a step is more than a few microseconds.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.formulas.numbers import at_most
from fastmlp.kernels.codegen.subnormals import flush_subnormals, restore_subnormals
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.vectors import prefetch_rows, total_of
from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
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
from fastmlp.kernels.gemm.dispatch import affine as affine_rows
from fastmlp.kernels.gemm.dispatch import input_gradient as input_gradient_rows
from fastmlp.kernels.gemm.dispatch import weight_gradient as weight_gradient_rows
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import UNBOUNDED
from fastmlp.kernels.program.templates import loss_share, penalty_share, update, update_part
from fastmlp.kernels.runtime.threads import wait
from fastmlp.kernels.runtime.workspace import SLICE_ROWS
from fastmlp.kernels.variant import Variant, Work
from fastmlp.kernels.variants import tiled

BLOCK_ROWS = 128
"""Rows that a worker takes through the layers together: their activations stay in L2."""

STREAMED_BYTES, MANY_ROWS = 1 << 21, 1 << 30
"""Parameters beyond L2 are read from memory once for all of a worker's rows, not for every block."""


def whole(count, unit):
    """Return in how many units so many items fit."""
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
    """Return how many rows of gradients fit in so many numbers, in whole SLICE_ROWS."""
    return numbers // n_out // SLICE_ROWS * SLICE_ROWS


def rows_forward(
    layers, parameters, inputs, visited, rows, first, last, key, step, worker, memory, places
):  # fmt: skip
    """Take rows [first, last) of a batch of `rows` rows through all layers, up to the last one's logits.

    Row i is row visited[i] of the inputs (samples, n_in), or row i itself if `visited`, int64, is empty.
    layers : as in `Shape`; parameters (P,); worker : whose scratch to use; memory, places : as in `Workspace`
    """
    scratch = part_of(memory, places.scratch, places.scratch_length, worker)
    source, order = inputs, visited
    for layer in range(len(layers)):
        here, hidden = layers[layer], layer < len(layers) - 1
        w, b = weights_of(parameters, here), biases_of(parameters, here)
        relu = hidden & (here.activation == RELU)
        z = units_of(memory, chosen(relu, places.activations, places.logits), here, rows)
        affine_rows(source, order, w, b, z, first, last, relu, scratch)
        order = no_order()
        if hidden:
            source = units_of(memory, places.activations, here, rows)
            a = rows_of(source, first, last)
            if not relu:
                activate(here.activation, rows_of(z, first, last), a)
            if here.dropout > 0:
                source = units_of(memory, places.dropped, here, rows)
                drop(key, step, layer, first, here.dropout, a, rows_of(source, first, last))


def forward(layers, parameters, inputs, key, step, memory, places):
    """As the template."""
    rows = len(inputs)
    rows_forward(layers, parameters, inputs, no_order(), rows, 0, rows, key, step, 0, memory, places)


def rows_loss(
    layers, objective, targets, weights, visited, first, last, share, worker, memory, places, sums
):  # fmt: skip
    """Fill the last layer's deltas of rows [first, last), and their partial sums of the loss.

    targets (samples, n_out), weights (samples,), visited (rows,) int64; the others as `rows_forward`
    """
    output = layers[len(layers) - 1]
    rows = len(visited)
    z, delta = units_of(memory, places.logits, output, rows), units_of(memory, places.deltas, output, rows)
    own_targets = matrix(memory, places.targets, rows, output.n_out)
    own_weights = vector(memory, places.weights, rows)
    scratch = part_of(memory, places.scratch, places.scratch_length, worker)
    for start in range(first, last, LOSS_ROWS):
        stop = lesser(start + LOSS_ROWS, last)
        y, w = rows_of(own_targets, start, stop), vector(own_weights, start, stop - start)
        gather(targets, vector(visited, start, stop - start), y)
        for i in range(len(w)):
            w[i] = weights[visited[start + i]]
        sums[start // LOSS_ROWS] = output_loss(
            objective.loss, output.activation, parameters_of(objective, output.n_out), share,
            rows_of(z, start, stop), y, w, scratch, rows_of(delta, start, stop),
        )  # fmt: skip


def rows_backward(layers, parameters, rows, first, last, key, step, worker, memory, places):
    """Take the deltas of rows [first, last) from the last layer back to the first; as `rows_forward`."""
    scratch = part_of(memory, places.scratch, places.scratch_length, worker)
    for layer in range(len(layers) - 1, 0, -1):
        here, below = layers[layer], layers[layer - 1]
        w, delta = weights_of(parameters, here), units_of(memory, places.deltas, here, rows)
        next_delta = units_of(memory, places.deltas, below, rows)
        a = units_of(memory, places.activations, below, rows)
        relu = below.activation == RELU
        input_gradient_rows(delta, w, a, next_delta, first, last, relu, scratch)
        own = rows_of(next_delta, first, last)
        if below.dropout > 0:
            drop(key, step, layer - 1, first, below.dropout, own, own)
        if not relu:
            z = rows_of(units_of(memory, places.logits, below, rows), first, last)
            activate_gradient(below.activation, z, rows_of(a, first, last), own)


def weights_step(
    layers, rules, parameters, gradients, moments, step, inputs, visited, l1, l2, rate, bias_rate,
    worker, workers, memory, places,
):  # fmt: skip
    """Contract and update the worker's share of every layer's weights; spread the biases. As `rows_forward`.

    gradients (P,), moments (2, P) : written; the gradients not whole, unless the optimiser clips
    """
    rows = len(visited)
    clipped = rules[0].clip_norm < UNBOUNDED
    plain = (rules[0].code == SGD) & (l1 == 0) & (not clipped)
    scratch = part_of(memory, places.scratch, places.scratch_length, worker)
    slices, order = places.slices + worker * places.slice_length, visited
    for layer in range(len(layers)):
        here, below, rule = layers[layer], layers[layer - 1], rules[layer]
        if rule.rate_factor == 0:
            order = no_order()
            continue
        # Below the first layer is the last, which drops nothing.
        hidden = chosen(below.dropout > 0, places.dropped, places.activations)
        source = inputs if layer == 0 else units_of(memory, hidden, below, rows)
        delta, n_out = units_of(memory, places.deltas, here, rows), here.n_out
        w, dw = weights_of(parameters, here), weights_of(gradients, here)
        first, last = own_share(here.n_in, worker, workers, SLICE_ROWS)
        r, decay = w.dtype.type(rate * rule.rate_factor), w.dtype.type(l2)
        # A worker may have no rows of a layer with few inputs, and a range no step of 0.
        together = chosen(plain, last - first + 1, slice_of(places.slice_length, n_out))
        for start in range(first, last, together):
            stop = lesser(start + together, last)
            sums = rows_of(dw, start, stop)
            g = sums if clipped else matrix(memory, slices, stop - start, n_out)
            g = rows_of(w, start, stop) if plain else g
            weight_gradient_rows(source, order, delta, g, start, start, stop, plain, r, decay, sums, scratch)
            if plain:
                continue
            if l1 > 0 or l2 > 0:
                penalty_gradient(l1, l2, rows_of(w, start, stop), g)
            if not clipped:
                at = here.weights + start * n_out
                own_rate = rate * rule.rate_factor
                update_part(rule, parameters, moments, step, own_rate, at, vector(g, 0, g.size))
        order = no_order()
        if worker == layer % workers:
            db = biases_of(gradients, here)
            bias_gradient(delta, db)
            if not clipped:
                own_rate = bias_rate * rule.rate_factor
                update_part(rule, parameters, moments, step, own_rate, here.biases, db)


def train_fused(
    layers, objective, rules, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, losses, key, team, memory, places, sums,
):  # fmt: skip
    """As the template `train_chunk`."""
    before = flush_subnormals()
    worker, workers = team.worker, team.workers
    block = chosen(parameters.size * parameters.itemsize < STREAMED_BYTES, BLOCK_ROWS, MANY_ROWS)
    for s in range(len(starts)):
        visited = vector(order, starts[s], stops[s] - starts[s])
        rows = len(visited)
        first, last = own_share(rows, worker, workers, LOSS_ROWS)
        share = loss_share(objective.divisor, totals[s])
        of_penalties = penalty_share(objective.shared_penalty, totals[s])
        l1, l2 = objective.l1 * of_penalties, objective.l2 * of_penalties
        for start in range(first, last, block):
            stop = lesser(start + block, last)
            # A random line or two for each row: waiting for them in the loss was 12 us of a step of 380.
            prefetch_rows(targets, visited, start, stop)
            prefetch_rows(weights, visited, start, stop)
            rows_forward(
                layers, parameters, inputs, visited, rows, start, stop, key, step + s, worker, memory, places
            )
            rows_loss(
                layers, objective, targets, weights, visited, start, stop, share, worker, memory, places, sums
            )
            rows_backward(layers, parameters, rows, start, stop, key, step + s, worker, memory, places)
        of_weights = 0.0
        if worker == 0 and (l1 > 0 or l2 > 0):
            of_weights = penalties(layers, parameters, l1, l2)
        wait(team)
        if worker == 0:
            losses[s] = total_of(sums, parts_of(rows)) / objective.value_divisor + of_weights
        weights_step(
            layers, rules, parameters, gradients, moments, step + s, inputs, visited,
            l1, l2, rates[s, 0], rates[s, 1], worker, workers, memory, places,
        )  # fmt: skip
        if rules[0].clip_norm < UNBOUNDED:
            # The norm needs the whole gradient before any of it is applied.
            wait(team)
            if worker == 0:
                update(layers, rules, parameters, gradients, moments, step + s, rates[s, 0], rates[s, 1])
        wait(team)
    restore_subnormals(before)


def seconds(work: Work) -> float:
    """About 85 % of peak, split over the workers, a few passes over the units, and 80 ns a row.

    A row of 1-1-1-1 or 9-6 takes 90 to 130 ns, nearly all of it for its loss and its place in tiles.
    """
    busy = work.flops * work.itemsize / 4 / 9e10 + work.rows * (8e-8 + 5e-10 * work.units)
    return 1.5e-6 + busy / workers(work)


def workers(work: Work) -> int:
    """Return how many threads a step is worth: each needs 16 rows, and 20 us of work to share."""
    microseconds = work.flops * work.itemsize / 4 / 9e4
    return max(1, min(work.threads, work.rows // LOSS_ROWS, int(microseconds / 20)))


VARIANT = Variant(
    "fused", tiled.VARIANT, {"train_chunk": train_fused, "forward": forward}, seconds, workers, exact=True
)
