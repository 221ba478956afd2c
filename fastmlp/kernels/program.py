"""The compiled program as templates: plain functions that call slots by name.

`fastmlp.kernels.bind` copies them for each variant with the slots' names bound to that variant's
functions, and Numba compiles the copies. A name that is not defined here is a slot; their
signatures stand in `fastmlp.slots`. Sizes, activations, loss and optimiser are data, so
that one compilation for each dtype serves every network. Nothing in a step allocates.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastmlp.activations import ACTIVATIONS
from fastmlp.kernels.subnormals import flush_subnormals, restore_subnormals
from fastmlp.kernels.views import lesser, matrix, rows_of, vector
from fastmlp.losses import LOSSES

SGD, RMSPROP, ADAM = range(3)
"""The codes of the optimisers' slots; AdamW is ADAM with a decay."""


class Piece(NamedTuple):
    """How a slot is a piece (`fastmlp.kernels.pieces`).

    result : what it returns, one of Numba's types
    codes : how many values its first argument has, if that is a code and each has machine code of its own
    constant : the template that calls it, as `coded`, with the constant CODE for that
    """

    result: types.Type = types.none
    codes: int = 0
    constant: Callable[..., Any] | None = None


def activation(z, out):
    """As `activate`, of one code."""
    coded(CODE, z, out)


def activation_gradient(z, a, delta):
    """As `activate_gradient`, of one code."""
    coded(CODE, z, a, delta)


def loss_of(output, parameter, share, z, targets, weights, scratch, delta):
    """As `output_loss`, of one code."""
    return coded(CODE, output, parameter, share, z, targets, weights, scratch, delta)


PIECES = {
    **dict.fromkeys(("affine", "weight_gradient", "bias_gradient", "input_gradient", "gather"), Piece()),
    **dict.fromkeys(("affine_rows", "weight_gradient_rows", "input_gradient_rows"), Piece()),
    "activate": Piece(codes=len(ACTIVATIONS), constant=activation),
    "activate_gradient": Piece(codes=len(ACTIVATIONS), constant=activation_gradient),
    **dict.fromkeys(
        ("output_loss", "narrow_output_loss", "wide_output_loss"), Piece(types.float64, len(LOSSES), loss_of)
    ),
    "penalty": Piece(types.float64),
    **dict.fromkeys(("penalty_gradient", "drop", "clip", "sgd", "rmsprop", "adam", "update"), Piece()),
}
"""The slots and what else all programs share: products over some rows, ways to compute a loss, the update."""


class Shape(NamedTuple):
    """A network in numbers; one entry a layer unless said otherwise.

    sizes : (layers + 1,) int64, units of every layer, inputs first
    weights, biases, ends : (layers,) int64, places in the flat vector (`fastmlp.layout`)
    units : (layers,) int64, place of a layer's units in a row of the workspace
    activations : (layers,) int64 codes, the output's last
    dropout : (layers,) float64 probabilities, 0 for the last
    loss : int code; loss_parameter : float, see `Network.loss_parameter`
    divisor : float, what the summed loss is divided by for its derivative, beside the batch's weight
    value_divisor : float, what the loss that is reported is divided by once more
    shared_penalty : bool, whether penalties are divided by the batch's weight
    l1, l2 : float
    """

    sizes: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    ends: np.ndarray
    units: np.ndarray
    activations: np.ndarray
    dropout: np.ndarray
    loss: int
    loss_parameter: float
    divisor: float
    value_divisor: float
    shared_penalty: bool
    l1: float
    l2: float


class Rule(NamedTuple):
    """An optimiser in numbers: a code, and the constants that its slot takes.

    epsilon_hat : whether Adam's epsilon is added before the second moment is corrected
    """

    code: int
    momentum: float
    nesterov: bool
    beta1: float
    beta2: float
    epsilon: float
    epsilon_hat: bool
    decay: float
    clip_norm: float


class Workspace(NamedTuple):
    """Buffers for one batch, every one flat and used layer after layer.

    inputs (rows * n_in), targets (rows * n_out), weights (rows) : the gathered batch
    losses : (rows) float64, for partial sums
    logits, activations, dropped, deltas : (rows * units of all layers)
    scratch : (workers, `buffers.scratch_length`) for the matmul slots' own use
    slices : (workers, `buffers.slice_length`) for gradients that are applied at once
    private : (workers, `variant.Bound.private`) for what a program lays out itself
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    losses: np.ndarray
    logits: np.ndarray
    activations: np.ndarray
    dropped: np.ndarray
    deltas: np.ndarray
    scratch: np.ndarray
    slices: np.ndarray
    private: np.ndarray


class Team(NamedTuple):
    """Which of the threads that run a program together this one is.

    worker, workers : int; barrier : see `fastmlp.kernels.workers`
    """

    worker: int
    workers: int
    barrier: np.ndarray


def forward(shape, parameters, inputs, key, step, work):
    """Fill work.logits of all layers, activations of the hidden ones, dropped where a layer drops."""
    rows = inputs.shape[0]
    last = len(shape.activations) - 1
    source = inputs
    for layer in range(last + 1):
        n_in, n_out, at = shape.sizes[layer], shape.sizes[layer + 1], shape.units[layer] * rows
        w = matrix(parameters, shape.weights[layer], n_in, n_out)
        b = vector(parameters, shape.biases[layer], n_out)
        z = matrix(work.logits, at, rows, n_out)
        affine(source, w, b, work.scratch[0], z)
        if layer < last:
            source = matrix(work.activations, at, rows, n_out)
            activate(shape.activations[layer], z, source)
            if shape.dropout[layer] > 0:
                a, source = source, matrix(work.dropped, at, rows, n_out)
                drop(key, step, layer, 0, shape.dropout[layer], a, source)


def loss_share(divisor, total):
    """Return what one element's weighted loss counts: 1 / (total weight * divisor), or 0."""
    return 1.0 / (total * divisor) if total > 0 else 0.0


def penalty_share(shared, total):
    """Return what the penalties count: 1, or 1 / total weight where the batch shares them."""
    if not shared:
        return 1.0
    return 1.0 / total if total > 0 else 0.0


def adam_epsilon(epsilon, hat, correction2):
    """Return what is added to the root of the corrected second moment."""
    return epsilon / np.sqrt(correction2) if hat else epsilon


def gradient(shape, parameters, inputs, targets, weights, total, key, step, work, gradients):
    """Fill gradients (P,) over all rows of the batch; return the objective, penalties included."""
    rows = inputs.shape[0]
    last = len(shape.activations) - 1
    forward(shape, parameters, inputs, key, step, work)
    at = shape.units[last] * rows
    logits = matrix(work.logits, at, rows, shape.sizes[last + 1])
    delta = matrix(work.deltas, at, rows, shape.sizes[last + 1])
    share = loss_share(shape.divisor, total)
    objective = output_loss(
        shape.loss, shape.activations[last], shape.loss_parameter, share,
        logits, targets, weights, work.scratch[0], delta,
    )  # fmt: skip
    objective /= shape.value_divisor
    of_penalties = penalty_share(shape.shared_penalty, total)
    l1, l2 = shape.l1 * of_penalties, shape.l2 * of_penalties
    for layer in range(last, -1, -1):
        n_in, n_out = shape.sizes[layer], shape.sizes[layer + 1]
        w = matrix(parameters, shape.weights[layer], n_in, n_out)
        dw = matrix(gradients, shape.weights[layer], n_in, n_out)
        p, at = shape.dropout[layer - 1], shape.units[layer - 1] * rows  # the layer's below
        a = matrix(work.activations, at, rows, n_in)
        source = matrix(work.dropped, at, rows, n_in) if p > 0 else a
        weight_gradient(inputs if layer == 0 else source, delta, work.scratch[0], dw)
        bias_gradient(delta, vector(gradients, shape.biases[layer], n_out))
        if l1 > 0 or l2 > 0:
            objective += penalty(l1, l2, w)
            penalty_gradient(l1, l2, w, dw)
        if layer > 0:
            below = matrix(work.deltas, at, rows, n_in)
            input_gradient(delta, w, work.scratch[0], below)
            if p > 0:
                drop(key, step, layer - 1, 0, p, below, below)
            z = matrix(work.logits, at, rows, n_in)
            activate_gradient(shape.activations[layer - 1], z, a, below)
            delta = below
    return objective


def update(shape, rule, parameters, gradients, moments, step, rate, bias_rate):
    """Apply gradients to parameters; step counts the updates done before."""
    if rule.clip_norm < np.inf:
        clip(rule.clip_norm, gradients)
    for layer in range(len(shape.activations)):
        weights, biases, end = shape.weights[layer], shape.biases[layer], shape.ends[layer]
        of_weights, of_biases = (
            vector(gradients, weights, biases - weights),
            vector(gradients, biases, end - biases),
        )
        update_part(rule, parameters, moments, step, rate, weights, of_weights)
        update_part(rule, parameters, moments, step, bias_rate, biases, of_biases)


def update_part(rule, parameters, moments, step, rate, start, g):
    """Apply the gradient g (n,) to the n parameters that begin at `start`."""
    n = len(g)
    p, first = vector(parameters, start, n), vector(moments, start, n)
    second = vector(moments, moments.shape[1] + start, n)
    if rule.code == SGD:
        sgd(rate, rule.momentum, rule.nesterov, g, p, first)
    elif rule.code == RMSPROP:
        rmsprop(rate, rule.beta2, rule.epsilon, rule.momentum, g, p, first, second)
    elif rule.code == ADAM:
        taken = float(step + 1)  # an integer's power would be a loop of its own
        correction1, correction2 = 1.0 - rule.beta1**taken, 1.0 - rule.beta2**taken
        epsilon = adam_epsilon(rule.epsilon, rule.epsilon_hat, correction2)
        adam(
            rate, rule.beta1, rule.beta2, epsilon, rule.decay, correction1, correction2, g, p, first, second,
        )  # fmt: skip


def train_chunk(
    shape, rule, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, key, team, work, losses,
):  # fmt: skip
    """Take all steps of a chunk; write each one's objective to losses (steps,)."""
    before = flush_subnormals()
    n_in, n_out = inputs.shape[1], targets.shape[1]
    for s in range(len(starts)):
        visited = vector(order, starts[s], stops[s] - starts[s])
        rows = len(visited)
        x, y = matrix(work.inputs, 0, rows, n_in), matrix(work.targets, 0, rows, n_out)
        w = vector(work.weights, 0, rows)
        gather(inputs, visited, x)
        gather(targets, visited, y)
        for i in range(rows):
            w[i] = weights[visited[i]]
        losses[s] = gradient(shape, parameters, x, y, w, totals[s], key, step + s, work, gradients)
        update(shape, rule, parameters, gradients, moments, step + s, rates[s, 0], rates[s, 1])
    restore_subnormals(before)


def predict(parameters, layers, no_dropout, inputs, memory, block, out):
    """Write the network's output for inputs (rows, n_in) to out (rows, n_out), `block` rows at a time.

    Of a call for one row, 12 us, taking `Shape` and `Workspace` field by field from Python was a
    quarter; what of them a prediction needs comes in three arrays.

    layers : (6, layers + 1) int64, `Shape`'s sizes, weights, biases, ends, units, activations
    no_dropout : (layers,) float64, zeros
    memory : floating, `buffers.prediction_length`
    """
    count, n = len(no_dropout), layers.shape[1]
    shape = Shape(
        vector(layers, 0, n), vector(layers, n, count), vector(layers, 2 * n, count),
        vector(layers, 3 * n, count), vector(layers, 4 * n, count), vector(layers, 5 * n, count),
        no_dropout, 0, 0.0, 1.0, 1.0, False, 0.0, 0.0,
    )  # fmt: skip
    units = block * (shape.units[count - 1] + shape.sizes[count])
    none, nowhere = vector(memory, 0, 0), matrix(memory, 0, 1, 0)
    work = Workspace(
        none, none, none, vector(no_dropout, 0, 0), vector(memory, 0, units), vector(memory, units, units),
        none, none, matrix(memory, 2 * units, 1, len(memory) - 2 * units), nowhere, nowhere,
    )  # fmt: skip
    key, step = np.int64(0), np.int64(0)
    for start in range(0, len(inputs), block):
        rows = rows_of(inputs, start, lesser(start + block, len(inputs)))
        forward(shape, parameters, rows, key, step, work)
        z = matrix(work.logits, shape.units[count - 1] * len(rows), len(rows), shape.sizes[count])
        activate(shape.activations[count - 1], z, rows_of(out, start, start + len(rows)))


def evaluate(shape, parameters, inputs, targets, weights, total, work):
    """Return the loss over all rows, without penalties, block by block; shape is without dropout."""
    key, step = np.int64(0), np.int64(0)
    block = len(work.weights)
    last = len(shape.activations) - 1
    share = loss_share(shape.divisor, total)
    loss = 0.0
    for start in range(0, len(inputs), block):
        stop = lesser(start + block, len(inputs))
        forward(shape, parameters, rows_of(inputs, start, stop), key, step, work)
        at, n_out = shape.units[last] * (stop - start), shape.sizes[last + 1]
        z, delta = matrix(work.logits, at, stop - start, n_out), matrix(work.deltas, at, stop - start, n_out)
        loss += output_loss(
            shape.loss, shape.activations[last], shape.loss_parameter, share,
            z, rows_of(targets, start, stop), vector(weights, start, stop - start), work.scratch[0], delta,
        )  # fmt: skip
    return loss / shape.value_divisor
