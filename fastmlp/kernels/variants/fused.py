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

import numpy as np

from fastmlp.activations import RELU
from fastmlp.kernels.buffers import SLICE_ROWS
from fastmlp.kernels.program import (
    SGD,
    loss_share,
    penalty_share,
    update,
    update_part,
)
from fastmlp.kernels.subnormals import flush_subnormals, restore_subnormals
from fastmlp.kernels.sweeps import affine as affine_rows
from fastmlp.kernels.sweeps import compiled
from fastmlp.kernels.sweeps import input_gradient as input_gradient_rows
from fastmlp.kernels.sweeps import weight_gradient as weight_gradient_rows
from fastmlp.kernels.symbols import at_most, jittable
from fastmlp.kernels.variant import Variant, Work
from fastmlp.kernels.variants import tiled
from fastmlp.kernels.vectors import prefetch
from fastmlp.kernels.views import lesser, matrix, no_order, rows_of, vector
from fastmlp.kernels.workers import wait

LOSS_ROWS = 16
"""Rows whose loss makes one partial sum, whoever computes it, so that the sum has one order."""

BLOCK_ROWS = 128
"""Rows that a worker takes through the layers together: their activations stay in L2."""

LINE_BYTES = 64

STREAMED_BYTES, MANY_ROWS = 1 << 21, 1 << 30
"""Parameters beyond L2 are read from memory once for all of a worker's rows, not for every block."""


@jittable
def own_share(count: int, worker: int, workers: int, unit: int) -> tuple[int, int]:
    """Return [first, last) of the worker's share of `count` items, in whole units."""
    units = (count + unit - 1) // unit
    first, last = (units * before // workers * unit for before in (worker, worker + 1))
    return at_most(first, count), at_most(last, count)


@jittable
def slice_of(numbers: int, n_out: int):
    """Return how many rows of gradients fit in so many numbers, in whole SLICE_ROWS."""
    return numbers // n_out // SLICE_ROWS * SLICE_ROWS


def rows_forward(
    layers, parameters, inputs, visited, rows, first, last, key, step, scratch, logits, activations, dropped
):  # fmt: skip
    """Take rows [first, last) of a batch of `rows` through all layers, up to the last one's logits.

    Row i is row visited[i] of the inputs (samples, n_in), or row i itself if `visited`, int64, is empty.
    layers : as in `Shape`; parameters (P,); scratch : a worker's own; the other buffers as in `Workspace`
    """
    source = inputs
    for layer in range(len(layers)):
        here, hidden = layers[layer], layer < len(layers) - 1
        n_out, at = here.n_out, here.units * rows
        w, b = matrix(parameters, here.weights, here.n_in, n_out), vector(parameters, here.biases, n_out)
        relu = hidden and here.activation == RELU
        z, a = matrix(logits, at, rows, n_out), matrix(activations, at, rows, n_out)
        place = visited if layer == 0 else no_order()
        affine_rows(source, place, w, b, a if relu else z, first, last, relu, scratch)
        source = a
        if hidden and not relu:
            activate(here.activation, rows_of(z, first, last), rows_of(a, first, last))
        if hidden and here.dropout > 0:
            source = matrix(dropped, at, rows, n_out)
            drop(key, step, layer, first, here.dropout, rows_of(a, first, last), rows_of(source, first, last))


def forward(layers, parameters, inputs, key, step, scratch, logits, activations, dropped):
    """As the template."""
    rows = len(inputs)
    rows_forward(
        layers, parameters, inputs, no_order(), rows, 0, rows, key, step,
        scratch, logits, activations, dropped,
    )  # fmt: skip


@compiled
def fetch_targets(targets, weights, visited):
    """Ask for what the loss will read, a random line or two for each row: 12 us of a step of 380."""
    n_out = targets.shape[1]
    line = LINE_BYTES // targets.itemsize
    for i in range(len(visited)):
        row = visited[i]
        prefetch(weights, row)
        for j in range(0, n_out, line):
            prefetch(targets, row * n_out + j)


def rows_loss(
    shape, targets, weights, visited, first, last, share,
    scratch, logits, own_targets, own_weights, losses, deltas,
):  # fmt: skip
    """Fill the last layer's deltas of rows [first, last), and their partial sums of the loss.

    targets (samples, n_out), weights (samples,), visited (rows,) int64; logits, deltas : as in `Workspace`
    own_targets, own_weights : where the rows' targets and weights are copied to
    """
    output = shape.layers[len(shape.layers) - 1]
    rows, n_out = len(visited), targets.shape[1]
    z = matrix(logits, output.units * rows, rows, n_out)
    delta = matrix(deltas, output.units * rows, rows, n_out)
    y = matrix(own_targets, 0, rows, n_out)
    for start in range(first, last, LOSS_ROWS):
        stop = lesser(start + LOSS_ROWS, last)
        gather(targets, vector(visited, start, stop - start), rows_of(y, start, stop))
        for i in range(start, stop):
            own_weights[i] = weights[visited[i]]
        losses[start // LOSS_ROWS] = output_loss(
            shape.loss, output.activation, shape.loss_parameter, share,
            rows_of(z, start, stop), rows_of(y, start, stop), vector(own_weights, start, stop - start),
            scratch, rows_of(delta, start, stop),
        )  # fmt: skip


def rows_backward(layers, parameters, rows, first, last, key, step, scratch, logits, activations, deltas):
    """Take the deltas of rows [first, last) from the last layer back to the first; as `rows_forward`."""
    for layer in range(len(layers) - 1, 0, -1):
        here, below = layers[layer], layers[layer - 1]
        n_in, n_out, at = here.n_in, here.n_out, below.units * rows
        w = matrix(parameters, here.weights, n_in, n_out)
        delta = matrix(deltas, here.units * rows, rows, n_out)
        next_delta, a = matrix(deltas, at, rows, n_in), matrix(activations, at, rows, n_in)
        relu = below.activation == RELU
        input_gradient_rows(delta, w, a, next_delta, first, last, relu, scratch)
        own = rows_of(next_delta, first, last)
        if not relu:
            z = rows_of(matrix(logits, at, rows, n_in), first, last)
            activate_gradient(below.activation, z, rows_of(a, first, last), own)
        if below.dropout > 0:
            drop(key, step, layer - 1, first, below.dropout, own, own)


def weights_step(
    layers, rule, parameters, gradients, moments, step, inputs, visited, l1, l2, rate, bias_rate, team,
    scratch, slices, activations, dropped, deltas,
):  # fmt: skip
    """Contract and update the worker's share of every layer's weights; spread the biases. As `rows_forward`.

    gradients (P,), moments (2, P) : written; slices : as in `Workspace`
    """
    rows = len(visited)
    clipped = rule.clip_norm < np.inf
    plain = rule.code == SGD and rule.momentum == 0 and l1 == 0 and not clipped
    for layer in range(len(layers)):
        here, below = layers[layer], layers[layer - 1]  # below the first: the last, which drops nothing
        n_in, n_out = here.n_in, here.n_out
        hidden = dropped if below.dropout > 0 else activations
        source = inputs if layer == 0 else matrix(hidden, below.units * rows, rows, n_in)
        delta = matrix(deltas, here.units * rows, rows, n_out)
        w, dw = matrix(parameters, here.weights, n_in, n_out), matrix(gradients, here.weights, n_in, n_out)
        first, last = own_share(n_in, team.worker, team.workers, SLICE_ROWS)
        place = visited if layer == 0 else no_order()
        r, keep = w.dtype.type(rate), w.dtype.type(1.0 - rate * l2)
        slice_rows = slice_of(slices.shape[1], n_out)
        hot = matrix(slices, team.worker * slices.shape[1], slice_rows, n_out)
        # A worker may have no rows of a layer with few inputs, and a range no step of 0.
        for start in range(first, last, last - first + 1 if plain else slice_rows):
            stop = last if plain else lesser(start + slice_rows, last)
            g = rows_of(dw, start, stop) if clipped else rows_of(hot, 0, stop - start)
            g = rows_of(w, start, stop) if plain else g
            weight_gradient_rows(source, place, delta, g, start, start, stop, plain, r, keep, scratch)
            if plain:
                continue
            if l1 > 0 or l2 > 0:
                penalty_gradient(l1, l2, rows_of(w, start, stop), g)
            if not clipped:
                at = here.weights + start * n_out
                update_part(rule, parameters, moments, step, rate, at, vector(g, 0, g.size))
        if team.worker == layer % team.workers:
            db = vector(gradients, here.biases, n_out)
            bias_gradient(delta, db)
            if not clipped:
                update_part(rule, parameters, moments, step, bias_rate, here.biases, db)


def train_fused(
    shape, rule, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, key, team, work, losses,
):  # fmt: skip
    """Take all steps of a chunk; write each one's objective to losses (steps,)."""
    before = flush_subnormals()
    layers = shape.layers
    logits, activations, dropped, deltas = work.logits, work.activations, work.dropped, work.deltas
    own_targets, own_weights, parts, slices = work.targets, work.weights, work.losses, work.slices
    scratch = vector(work.scratch, team.worker * work.scratch.shape[1], work.scratch.shape[1])
    block = BLOCK_ROWS if parameters.size * parameters.itemsize < STREAMED_BYTES else MANY_ROWS
    for s in range(len(starts)):
        visited = vector(order, starts[s], stops[s] - starts[s])
        rows = len(visited)
        first, last = own_share(rows, team.worker, team.workers, LOSS_ROWS)
        share = loss_share(shape.divisor, totals[s])
        of_penalties = penalty_share(shape.shared_penalty, totals[s])
        l1, l2 = shape.l1 * of_penalties, shape.l2 * of_penalties
        for start in range(first, last, block):
            stop = lesser(start + block, last)
            fetch_targets(targets, weights, vector(visited, start, stop - start))
            rows_forward(
                layers, parameters, inputs, visited, rows, start, stop, key, step + s,
                scratch, logits, activations, dropped,
            )  # fmt: skip
            rows_loss(
                shape, targets, weights, visited, start, stop, share,
                scratch, logits, own_targets, own_weights, parts, deltas,
            )  # fmt: skip
            rows_backward(
                layers, parameters, rows, start, stop, key, step + s, scratch, logits, activations, deltas
            )
        objective = 0.0
        if team.worker == 0 and (l1 > 0 or l2 > 0):
            for layer in range(len(layers)):
                here = layers[layer]
                objective += penalty(l1, l2, matrix(parameters, here.weights, here.n_in, here.n_out))
        wait(team)
        if team.worker == 0:
            for part in range((rows + LOSS_ROWS - 1) // LOSS_ROWS):
                objective += parts[part] / shape.value_divisor
            losses[s] = objective
        weights_step(
            layers, rule, parameters, gradients, moments, step + s, inputs, visited,
            l1, l2, rates[s, 0], rates[s, 1], team, scratch, slices, activations, dropped, deltas,
        )  # fmt: skip
        if rule.clip_norm < np.inf:
            # The norm needs the whole gradient before any of it is applied.
            wait(team)
            if team.worker == 0:
                update(shape, rule, parameters, gradients, moments, step + s, rates[s, 0], rates[s, 1])
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


VARIANT = Variant("fused", tiled.VARIANT, {"train_chunk": train_fused, "forward": forward}, seconds, workers)
