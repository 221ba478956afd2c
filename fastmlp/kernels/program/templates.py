"""The compiled program as templates: plain functions that call slots by name.

`fastmlp.kernels.jit.bind` copies them for each variant with the slots' names bound to that variant's
functions, and Numba compiles the copies. A name that is not defined here is a slot; their
signatures stand in `fastmlp.testing.slots`. Sizes, activations, loss and optimiser are data, so
that one compilation for each dtype serves every network. Nothing in a step allocates.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.subnormals import flush_subnormals, restore_subnormals
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import (
    biases_of,
    constants_of,
    lesser,
    matrix,
    parameters_of,
    record_of,
    rows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES, Codes
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import PLACES, UNBOUNDED


class Piece(NamedTuple):
    """How a slot is a piece (`fastmlp.kernels.jit.lazy`).

    result : what it returns, one of Numba's types
    codes : of which its first argument is one, if each has machine code of its own
    constant : the template that calls it, as `coded`, with the constant CODE for that
    """

    result: types.Type = types.none
    codes: Codes | None = None
    constant: Callable[..., Any] | None = None


def activate_one(z, out):
    """As `activate`, of one code."""
    coded(CODE, z, out)


def activate_gradient_one(z, a, delta):
    """As `activate_gradient`, of one code."""
    coded(CODE, z, a, delta)


def output_loss_one(output, parameters, share, z, targets, weights, scratch, delta):
    """As `output_loss`, of one code."""
    return coded(CODE, output, parameters, share, z, targets, weights, scratch, delta)


def apply_rule_one(rate, constants, t, g, p, first, second):
    """As `apply_rule`, of one code."""
    coded(CODE, rate, constants, t, g, p, first, second)


PIECES = {
    **dict.fromkeys(("affine", "weight_gradient", "bias_gradient", "input_gradient", "gather"), Piece()),
    **dict.fromkeys(("affine_rows", "weight_gradient_rows", "input_gradient_rows"), Piece()),
    "activate": Piece(codes=ACTIVATION_CODES, constant=activate_one),
    "activate_gradient": Piece(codes=ACTIVATION_CODES, constant=activate_gradient_one),
    **dict.fromkeys(("output_loss", "wide_output_loss"), Piece(types.float64, LOSS_CODES, output_loss_one)),
    **dict.fromkeys(("rows_forward", "rows_loss", "rows_backward", "weights_step"), Piece()),
    "apply_rule": Piece(codes=RULE_CODES, constant=apply_rule_one),
    **dict.fromkeys(("penalty", "penalties"), Piece(types.float64)),
    **dict.fromkeys(("penalty_gradient", "drop", "clip", "update", "update_part"), Piece()),
}
"""The slots, and what else programs share: products over some rows, losses, the phases of a step."""


places_at = record_of(PLACES)


def forward(layers, parameters, inputs, key, step, memory, places):
    """Fill logits of all layers, activations of the hidden ones, dropped where a layer drops.

    layers : (layers,) LAYER; parameters (P,); inputs (rows, n_in)
    memory, places : as in `Workspace`
    """
    rows = inputs.shape[0]
    last = len(layers) - 1
    scratch = vector(memory, places.scratch, places.scratch_length)
    source = inputs
    for layer in range(last + 1):
        here = layers[layer]
        z = units_of(memory, places.logits, here, rows)
        affine(source, weights_of(parameters, here), biases_of(parameters, here), scratch, z)
        if layer < last:
            source = units_of(memory, places.activations, here, rows)
            activate(here.activation, z, source)
            if here.dropout > 0:
                a, source = source, units_of(memory, places.dropped, here, rows)
                drop(key, step, layer, 0, here.dropout, a, source)


@jittable
def loss_share(divisor, total):
    """Return what one element's weighted loss counts: 1 / (total weight * divisor), or 0."""
    return where(total > 0.0, 1.0 / (total * divisor), 0.0)


@jittable
def penalty_share(shared: bool, total):
    """Return what the penalties count: 1, or 1 / total weight where the batch shares them."""
    return where(shared, where(total > 0.0, 1.0 / total, 0.0), 1.0)


def penalties(layers, parameters, l1, l2):
    """Return the penalties on the weights of all layers."""
    total = 0.0
    for layer in range(len(layers)):
        total += penalty(l1, l2, weights_of(parameters, layers[layer]))
    return total


def add_losses(value, objective, output, share, z, targets, weights, scratch, delta):
    """Return value plus the loss of all rows, a part after another; otherwise as the slot `output_loss`."""
    rows = len(weights)
    for start in range(0, rows, LOSS_ROWS):
        stop = lesser(start + LOSS_ROWS, rows)
        value += output_loss(
            objective.loss, output, parameters_of(objective, targets.shape[1]), share,
            rows_of(z, start, stop), rows_of(targets, start, stop), vector(weights, start, stop - start),
            scratch, rows_of(delta, start, stop),
        )  # fmt: skip
    return value


def gradient(
    layers, objective, parameters, inputs, targets, weights, total, key, step, memory, places, gradients
):  # fmt: skip
    """Fill gradients (P,) over all rows of the batch; return the objective, penalties included."""
    before = flush_subnormals()
    rows = inputs.shape[0]
    last = len(layers) - 1
    scratch = vector(memory, places.scratch, places.scratch_length)
    forward(layers, parameters, inputs, key, step, memory, places)
    output = layers[last]
    z, delta = units_of(memory, places.logits, output, rows), units_of(memory, places.deltas, output, rows)
    share = loss_share(objective.divisor, total)
    value = add_losses(0.0, objective, output.activation, share, z, targets, weights, scratch, delta)
    value /= objective.value_divisor
    of_penalties = penalty_share(objective.shared_penalty, total)
    l1, l2 = objective.l1 * of_penalties, objective.l2 * of_penalties
    if l1 > 0 or l2 > 0:
        value += penalties(layers, parameters, l1, l2)
    for layer in range(last, -1, -1):
        here, below = layers[layer], layers[layer - 1]
        w, dw, p = weights_of(parameters, here), weights_of(gradients, here), below.dropout
        hidden = places.dropped if p > 0 else places.activations
        source = inputs if layer == 0 else units_of(memory, hidden, below, rows)
        weight_gradient(source, delta, scratch, dw)
        bias_gradient(delta, biases_of(gradients, here))
        if l1 > 0 or l2 > 0:
            penalty_gradient(l1, l2, w, dw)
        if layer > 0:
            next_delta = units_of(memory, places.deltas, below, rows)
            input_gradient(delta, w, scratch, next_delta)
            if p > 0:
                drop(key, step, layer - 1, 0, p, next_delta, next_delta)
            z = units_of(memory, places.logits, below, rows)
            a = units_of(memory, places.activations, below, rows)
            activate_gradient(below.activation, z, a, next_delta)
            delta = next_delta
    restore_subnormals(before)
    return value


def update(layers, rules, parameters, gradients, moments, step, rate, bias_rate):
    """Apply gradients to parameters; step counts the updates done before. rules : (layers,) RULE"""
    before = flush_subnormals()
    for layer in range(len(layers)):
        here = layers[layer]
        if rules[layer].rate_factor == 0:
            for i in range(here.weights, here.end):
                gradients[i] = 0
    if rules[0].clip_norm < UNBOUNDED:
        clip(rules[0].clip_norm, gradients)
    for layer in range(len(layers)):
        here, rule = layers[layer], rules[layer]
        if rule.rate_factor != 0:
            of_weights = vector(gradients, here.weights, here.biases - here.weights)
            update_part(rule, parameters, moments, step, rate * rule.rate_factor, here.weights, of_weights)
            of_biases = vector(gradients, here.biases, here.end - here.biases)
            update_part(rule, parameters, moments, step, bias_rate * rule.rate_factor, here.biases, of_biases)
    restore_subnormals(before)


def update_part(rule, parameters, moments, step, rate, start, g):
    """Apply the gradient g (n,) to the n parameters that begin at `start`; step counts the updates before."""
    n = len(g)
    p, first = vector(parameters, start, n), vector(moments, start, n)
    second = vector(moments, moments.shape[1] + start, n)
    apply_rule(rule.code, rate, constants_of(rule), float(step + 1), g, p, first, second)


def train_chunk(
    layers, objective, rules, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, losses, key, team, memory, places, sums,
):  # fmt: skip
    """Take all steps of a chunk; write each one's objective to losses (steps,)."""
    before = flush_subnormals()
    n_in, n_out = inputs.shape[1], targets.shape[1]
    for s in range(len(starts)):
        visited = vector(order, starts[s], stops[s] - starts[s])
        rows = len(visited)
        x, y = matrix(memory, places.inputs, rows, n_in), matrix(memory, places.targets, rows, n_out)
        w = vector(memory, places.weights, rows)
        gather(inputs, visited, x)
        gather(targets, visited, y)
        for i in range(rows):
            w[i] = weights[visited[i]]
        losses[s] = gradient(
            layers, objective, parameters, x, y, w, totals[s], key, step + s, memory, places, gradients
        )
        update(layers, rules, parameters, gradients, moments, step + s, rates[s, 0], rates[s, 1])
    restore_subnormals(before)


def predict(parameters, layers, inputs, memory, address, block, out):
    """Write the network's output for inputs (rows, n_in) to out (rows, n_out), `block` rows at a time.

    layers : as in `Shape`, without dropout
    address : of the PLACES: a record's dtype is hashed at every call, a microsecond of one row's 17
    """
    places = places_at(address)
    output = layers[len(layers) - 1]
    key, step = np.int64(0), np.int64(0)
    for start in range(0, len(inputs), block):
        rows = rows_of(inputs, start, lesser(start + block, len(inputs)))
        forward(layers, parameters, rows, key, step, memory, places)
        z = units_of(memory, places.logits, output, len(rows))
        activate(output.activation, z, rows_of(out, start, start + len(rows)))


def evaluate(layers, objective, parameters, inputs, targets, weights, total, memory, places, block):
    """Return the loss over all rows, without penalties, `block` rows at a time; layers as `predict`."""
    key, step = np.int64(0), np.int64(0)
    scratch = vector(memory, places.scratch, places.scratch_length)
    output = layers[len(layers) - 1]
    share = loss_share(objective.divisor, total)
    loss = 0.0
    for start in range(0, len(inputs), block):
        stop = lesser(start + block, len(inputs))
        rows = stop - start
        forward(layers, parameters, rows_of(inputs, start, stop), key, step, memory, places)
        z, delta = (
            units_of(memory, places.logits, output, rows),
            units_of(memory, places.deltas, output, rows),
        )
        loss = add_losses(
            loss, objective, output.activation, share, z, rows_of(targets, start, stop),
            vector(weights, start, rows), scratch, delta,
        )  # fmt: skip
    return loss / objective.value_divisor
