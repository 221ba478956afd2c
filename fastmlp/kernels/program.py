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
from fastmlp.kernels.symbols import jittable, sqrt, where
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
    **dict.fromkeys(("rows_forward", "rows_loss", "rows_backward", "weights_step"), Piece()),
    "penalty": Piece(types.float64),
    **dict.fromkeys(("penalty_gradient", "drop", "clip", "sgd", "rmsprop", "adam", "update"), Piece()),
}
"""The slots, and what else programs share: products over some rows, losses, the phases of a step."""


LAYER = np.dtype(
    [
        *((name, np.int64) for name in ("n_in", "n_out", "weights", "biases", "end", "units", "activation")),
        ("dropout", np.float64),
    ],
    align=True,
)
"""A layer in numbers. A record: compiled code takes all layers as one array, and a field is a load.

n_in, n_out : its inputs and units
weights, biases, end : places in the flat vector (`fastmlp.layout`)
units : the place of its units in a row of the workspace
activation : a code; dropout : a probability, 0 for the last
"""


class Shape(NamedTuple):
    """A network in numbers.

    layers : (layers,) LAYER
    loss : int code; loss_parameter : float, see `Network.loss_parameter`
    divisor : float, what the summed loss is divided by for its derivative, beside the batch's weight
    value_divisor : float, what the loss that is reported is divided by once more
    shared_penalty : bool, whether penalties are divided by the batch's weight
    l1, l2 : float
    """

    layers: np.ndarray
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


def forward(layers, parameters, inputs, key, step, scratch, logits, activations, dropped):
    """Fill logits of all layers, activations of the hidden ones, dropped where a layer drops.

    layers : as `Shape.layers`; parameters (P,); inputs (rows, n_in)
    scratch (n,), logits, activations, dropped : as in `Workspace`
    """
    rows = inputs.shape[0]
    last = len(layers) - 1
    source = inputs
    for layer in range(last + 1):
        here = layers[layer]
        n_out, at = here.n_out, here.units * rows
        w, b = matrix(parameters, here.weights, here.n_in, n_out), vector(parameters, here.biases, n_out)
        z = matrix(logits, at, rows, n_out)
        affine(source, w, b, scratch, z)
        if layer < last:
            source = matrix(activations, at, rows, n_out)
            activate(here.activation, z, source)
            if here.dropout > 0:
                a, source = source, matrix(dropped, at, rows, n_out)
                drop(key, step, layer, 0, here.dropout, a, source)


@jittable
def loss_share(divisor, total):
    """Return what one element's weighted loss counts: 1 / (total weight * divisor), or 0."""
    return where(total > 0.0, 1.0 / (total * divisor), 0.0)


@jittable
def penalty_share(shared: bool, total):
    """Return what the penalties count: 1, or 1 / total weight where the batch shares them."""
    return where(shared, where(total > 0.0, 1.0 / total, 0.0), 1.0)


@jittable
def adam_epsilon(epsilon, hat: bool, correction2):
    """Return what is added to the root of the corrected second moment."""
    return where(hat, epsilon / sqrt(correction2), epsilon)


def gradient(shape, parameters, inputs, targets, weights, total, key, step, work, gradients):
    """Fill gradients (P,) over all rows of the batch; return the objective, penalties included."""
    rows = inputs.shape[0]
    layers, last = shape.layers, len(shape.layers) - 1
    logits, activations, dropped, deltas = work.logits, work.activations, work.dropped, work.deltas
    scratch = vector(work.scratch, 0, work.scratch.shape[1])
    forward(layers, parameters, inputs, key, step, scratch, logits, activations, dropped)
    output = layers[last]
    z = matrix(logits, output.units * rows, rows, output.n_out)
    delta = matrix(deltas, output.units * rows, rows, output.n_out)
    share = loss_share(shape.divisor, total)
    objective = output_loss(
        shape.loss, output.activation, shape.loss_parameter, share, z, targets, weights, scratch, delta
    )
    objective /= shape.value_divisor
    of_penalties = penalty_share(shape.shared_penalty, total)
    l1, l2 = shape.l1 * of_penalties, shape.l2 * of_penalties
    for layer in range(last, -1, -1):
        here, below = layers[layer], layers[layer - 1]
        n_in, n_out, at, p = here.n_in, here.n_out, below.units * rows, below.dropout
        w = matrix(parameters, here.weights, n_in, n_out)
        dw = matrix(gradients, here.weights, n_in, n_out)
        a = matrix(activations, at, rows, n_in)
        source = matrix(dropped, at, rows, n_in) if p > 0 else a
        weight_gradient(inputs if layer == 0 else source, delta, scratch, dw)
        bias_gradient(delta, vector(gradients, here.biases, n_out))
        if l1 > 0 or l2 > 0:
            objective += penalty(l1, l2, w)
            penalty_gradient(l1, l2, w, dw)
        if layer > 0:
            next_delta = matrix(deltas, at, rows, n_in)
            input_gradient(delta, w, scratch, next_delta)
            if p > 0:
                drop(key, step, layer - 1, 0, p, next_delta, next_delta)
            z = matrix(logits, at, rows, n_in)
            activate_gradient(below.activation, z, a, next_delta)
            delta = next_delta
    return objective


def update(shape, rule, parameters, gradients, moments, step, rate, bias_rate):
    """Apply gradients to parameters; step counts the updates done before."""
    if rule.clip_norm < np.inf:
        clip(rule.clip_norm, gradients)
    for layer in range(len(shape.layers)):
        here = shape.layers[layer]
        of_weights = vector(gradients, here.weights, here.biases - here.weights)
        update_part(rule, parameters, moments, step, rate, here.weights, of_weights)
        of_biases = vector(gradients, here.biases, here.end - here.biases)
        update_part(rule, parameters, moments, step, bias_rate, here.biases, of_biases)


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


def predict(parameters, layers, inputs, memory, block, out):
    """Write the network's output for inputs (rows, n_in) to out (rows, n_out), `block` rows at a time.

    Of a call for one row, 12 us, taking `Workspace` field by field from Python would be a quarter.

    layers : as `Shape.layers`, without dropout
    memory : floating, `buffers.prediction_memory`
    """
    output = layers[len(layers) - 1]
    units = block * (output.units + output.n_out)
    logits, activations = vector(memory, 0, units), vector(memory, units, units)
    scratch, dropped = vector(memory, 2 * units, len(memory) - 2 * units), vector(memory, 0, 0)
    key, step = np.int64(0), np.int64(0)
    for start in range(0, len(inputs), block):
        rows = rows_of(inputs, start, lesser(start + block, len(inputs)))
        forward(layers, parameters, rows, key, step, scratch, logits, activations, dropped)
        z = matrix(logits, output.units * len(rows), len(rows), output.n_out)
        activate(output.activation, z, rows_of(out, start, start + len(rows)))


def evaluate(shape, parameters, inputs, targets, weights, total, work):
    """Return the loss over all rows, without penalties, block by block; shape is without dropout."""
    key, step = np.int64(0), np.int64(0)
    block = len(work.weights)
    logits, activations, dropped, deltas = work.logits, work.activations, work.dropped, work.deltas
    scratch = vector(work.scratch, 0, work.scratch.shape[1])
    output = shape.layers[len(shape.layers) - 1]
    share = loss_share(shape.divisor, total)
    loss = 0.0
    for start in range(0, len(inputs), block):
        stop = lesser(start + block, len(inputs))
        rows, at = stop - start, output.units * (stop - start)
        x = rows_of(inputs, start, stop)
        forward(shape.layers, parameters, x, key, step, scratch, logits, activations, dropped)
        z, delta = matrix(logits, at, rows, output.n_out), matrix(deltas, at, rows, output.n_out)
        loss += output_loss(
            shape.loss, output.activation, shape.loss_parameter, share,
            z, rows_of(targets, start, stop), vector(weights, start, rows), scratch, delta,
        )  # fmt: skip
    return loss / shape.value_divisor
