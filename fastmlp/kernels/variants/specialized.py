"""specialized: a program for each small network, in which its sizes are constants.

It wins where a step is so short that what `fused` spends on finding its way costs more than the
arithmetic: up to some tens of microseconds. Sizes, activations, loss and kind of optimiser are bound
when the program is compiled, so every loop has a known length, every array a known place in one
private workspace that stays in L1 or L2, and a layer is straight code (`fastmlp.kernels.small.stages`).
Networks of a few dozen parameters, trained by plain SGD on up to 16 rows, live in vector registers
throughout (`fastmlp.kernels.small.registers`). The price is a compilation of a second or two for every
network, once a machine; rates, moments' decays, penalties' sizes and weights are data and need none.
Whatever has no stage here (gelu, silu, dropout, l1, clipping, users' losses of rows) runs as `fused`.

Large batches go through the network in blocks of rows. From 1024 rows on the blocks form eight groups
whose gradients are summed one after another, so that any number of threads gives the same bits.
"""

# ruff: noqa: F821  (the templates' names are bound later)
# mypy: ignore-errors

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

from fastmlp.kernels.codegen.scalars import accumulate, wide_vectors
from fastmlp.kernels.codegen.subnormals import flush_subnormals, restore_subnormals
from fastmlp.kernels.codegen.views import constants_of, parameters_of, vector
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.jit.disposable import stage
from fastmlp.kernels.program.templates import loss_share, penalty_share
from fastmlp.kernels.runtime.threads import wait
from fastmlp.kernels.small import registers, stages
from fastmlp.kernels.small.padded import Constants, copy_in, copy_out, plan, table
from fastmlp.kernels.variant import Bound, Variant, Work
from fastmlp.kernels.variants import fused
from fastmlp.model.activations import activation_of
from fastmlp.model.losses import loss_of

BLOCK_ROWS = 64
"""Rows taken through the network together: 128 or 256 were no faster at 30-100-1 and 4-32-16-4."""

GROUPED_ROWS = 1024
"""Batches from here on are summed in groups, which threads may share."""

GROUPS = 8

MOST_UNITS, MOST_PARAMETERS, MOST_LAYERS = 128, 1 << 14, 8
"""Where the gain ends: at 64-128-10, 9 610 parameters, `fused` takes 1.5 times as long, and it falls."""

WORTH_SECONDS = 0.02
"""A training that `fused` ends in less is not worth a compilation to "auto"."""

# --- templates -----------------------------------------------------------------------------------


def train_registers(
    layers, objective, rules, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, losses, key, team, memory, places, sums,
):  # fmt: skip
    """As the template `train_chunk`."""
    before = flush_subnormals()
    parameter = parameters_of(objective, 1)[0]
    run(parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter)
    restore_subnormals(before)


def train_blocks(
    layers, objective, rules, parameters, gradients, moments, step, inputs, targets, weights,
    order, starts, stops, totals, rates, losses, key, team, memory, places, sums,
):  # fmt: skip
    """As the template `train_chunk`; what a worker needs stands in its row of the private buffer."""
    wide_vectors()
    before = flush_subnormals()
    shared = vector(memory, places.private, places.private_length)
    own = vector(memory, places.private + team.worker * places.private_length, places.private_length)
    for i in range(SHARED):
        own[i] = 0
    copy_in(own, 0, parameters, LAYOUT)
    copy_in(own, FIRST, moments[0], LAYOUT)
    copy_in(own, SECOND, moments[1], LAYOUT)
    constants, parameter = constants_of(rules[0]), parameters_of(objective, 1)[0]
    for s in range(len(starts)):
        start, stop = starts[s], stops[s]
        share = loss_share(objective.divisor, totals[s])
        l2 = objective.l2 * penalty_share(objective.shared_penalty, totals[s])
        value = 0.0
        renew(own, 0)
        if GROUPED:
            parity = s % 2
            turn = SHARED + parity * GROUPS * SECTION
            blocks = (stop - start + BLOCK - 1) // BLOCK
            for group in range(
                GROUPS * team.worker // team.workers, GROUPS * (team.worker + 1) // team.workers
            ):
                first = start + blocks * group // GROUPS * BLOCK
                last = min(start + blocks * (group + 1) // GROUPS * BLOCK, stop)
                loss = 0.0
                clear(own, 0)
                for at in range(first, last, BLOCK):
                    rows = min(BLOCK, last - at)
                    take_rows(own, inputs, targets, weights, order, at, rows, share)
                    to_logits(own, rows)
                    loss = add_losses(own, rows, parameter, loss)
                    to_gradients(own, rows)
                hand_over(own, shared, turn + group * SECTION)
                sums[parity * GROUPS + group] = loss
            # One barrier a step: the next step's groups go to the other turn's places.
            wait(team)
            add_groups(own, shared, turn)
            for group in range(GROUPS):
                value += sums[parity * GROUPS + group]
        else:
            if BLOCKS:
                clear(own, 0)
            for at in range(start, stop, BLOCK):
                rows = min(BLOCK, stop - at)
                take_rows(own, inputs, targets, weights, order, at, rows, share)
                to_logits(own, rows)
                value = add_losses(own, rows, parameter, value)
                to_gradients(own, rows)
        value /= objective.value_divisor
        if PENALISED:
            value += 0.5 * l2 * squares(own)
        if team.worker == 0:
            losses[s] = value
        t = float(step + s + 1)
        update_weights(own, l2, constants, rates[s, 0], t)
        update_biases(own, l2, constants, rates[s, 1], t)
    if team.worker == 0:
        copy_out(own, 0, parameters, LAYOUT)
        if MOMENTS > 0:
            copy_out(own, FIRST, moments[0], LAYOUT)
        if MOMENTS > 1:
            copy_out(own, SECOND, moments[1], LAYOUT)
    restore_subnormals(before)


# --- binding -------------------------------------------------------------------------------------


def squares_of(count):
    """The stage that sums the squares of the weights, whose padding is 0."""

    @stage
    def squares(work) -> float:
        wide_vectors()
        total = type(work[0])(0)
        for i in range(count):
            total = accumulate(total, work[i] * work[i])
        return total

    return squares


def group_stages(where, groups):
    """The stages that clear the gradients, hand a group's over, and add the groups' in their order."""
    g_at, section = where.gradients, where.section

    @stage
    def clear(work, rows):
        for i in range(section):
            work[g_at + i] = 0

    @stage
    def hand_over(own, shared, to):
        for i in range(section):
            shared[to + i] = own[g_at + i]

    @stage
    def add_groups(own, shared, turn):
        for i in range(section):
            own[g_at + i] = shared[turn + i]
        for group in range(1, groups):
            for i in range(section):
                own[g_at + i] += shared[turn + group * section + i]

    return {"clear": clear, "hand_over": hand_over, "add_groups": add_groups}


def block_names(constants):
    """Return what the names in `train_blocks` stand for."""
    where = plan(constants)
    layers = where.layers
    names = [*constants.hidden, "identity"]
    to_logits = [
        part
        for layer, name in zip(layers, names, strict=True)
        for part in (stages.forward(layer, name, where), stages.activate(layer, name))
    ]
    to_gradients = [
        part
        for layer, name in zip(reversed(layers), ("identity", *constants.hidden)[::-1], strict=True)
        for part in (
            stages.gradient(layer, where, constants.blocks),
            stages.backward(layer, name, where),
            stages.activate_gradient(layer, name),
        )
    ]
    return {
        "renew": stages.sequence([stages.refresh(layer, where) for layer in layers]),
        "take_rows": stages.gather(where),
        "to_logits": stages.sequence(to_logits),
        "add_losses": stages.loss_of(constants, where),
        "to_gradients": stages.sequence(to_gradients),
        "squares": squares_of(where.weights),
        "update_weights": stages.update(constants.rule, 0, where.weights, where, constants.l2),
        "update_biases": stages.update(
            constants.rule, where.weights, where.section - where.weights, where, False
        ),
        **group_stages(where, constants.groups),
        "LAYOUT": table(layers),
        "SHARED": where.shared,
        "SECTION": where.section,
        "FIRST": where.first,
        "SECOND": where.second,
        "MOMENTS": RULE_CODES.of_key(constants.rule).moments,
        "PENALISED": constants.l2,
        "BLOCK": constants.rows,
        "BLOCKS": constants.blocks,
        "GROUPED": constants.groups > 1,
        "GROUPS": constants.groups,
    }


def register_names(constants):
    """Return what the names in `train_registers` stand for."""
    return {"run": registers.chunk(constants)}


def has_stages(network):
    """Whether everything in the network's description has a stage.

    No logit of a hidden layer is kept, so that a derivative has to go by the activation's value.
    """
    if any(network.dropout) or network.l1 > 0:
        return False
    hidden = [activation_of(name) for name in network.hidden]
    if any("z" in entry.reads or not _keeps_padding(entry) for entry in hidden):
        return False
    loss = loss_of(network.loss)
    if loss.element is None:
        return loss.name == "cross_entropy" and not loss.digest
    return network.output != "softmax" and len({*network.loss_parameters}) == 1


TIMES, RATES = (*range(1, 33), 100, 1000, 10**4, 10**6), (1e-6, 1e-3, 1.0)
"""Where a user's rule is tried."""


@functools.cache
def _keeps_padding(activation):
    """Whether padding, whose logits and deltas are 0, gets finite activations and deltas of 0."""
    if not activation.digest:
        return True
    zero = np.zeros(1)
    with np.errstate(all="ignore"):
        a = activation.on_array(zero)
        delta = activation.backward_on_array(zero, zero, a)
    return bool(np.isfinite(a).all() and (delta == 0).all())


@functools.lru_cache(maxsize=64)
def _stays_zero(optimizer):
    """Whether a step of its rule leaves padding alone: a parameter of 0 with a gradient and moments of 0."""
    rule, zero = optimizer.rule, np.zeros(1)
    if not rule.digest:
        return True
    with np.errstate(all="ignore"):
        return all(
            (value == 0).all()
            for rate in RATES
            for t in TIMES
            for value in rule.on_arrays(zero, zero, (zero, zero), rate, optimizer.constants, t)
        )


def is_small(sizes):
    """Whether a network of these sizes is one where constants pay."""
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    return max(sizes) <= MOST_UNITS and parameters <= MOST_PARAMETERS and len(sizes) <= MOST_LAYERS


def specialize(network, optimizer, rows, dtype):
    """Return the network's own `train_chunk` for batches of up to `rows` rows; None if it has none."""
    by_layer = optimizer.layer_rates is not None or optimizer.layer_decays is not None
    if by_layer or optimizer.clip_norm is not None or not is_small(network.sizes) or not has_stages(network):
        return None
    if not _stays_zero(optimizer):
        return None
    rule, loss = optimizer.rule, loss_of(network.loss)
    # A piece is known by its key once it has a code.
    LOSS_CODES.code(loss), RULE_CODES.code(rule)
    hidden = [activation_of(name) for name in network.hidden]
    for entry in hidden:
        ACTIVATION_CODES.code(entry)
    grouped = rows >= GROUPED_ROWS
    constants = Constants(
        network.sizes, tuple(entry.key for entry in hidden), network.output, loss.key, network.clips,
        rule.key, network.l2 > 0, dtype.name, dtype.itemsize,
        BLOCK_ROWS // 2 if rows <= BLOCK_ROWS // 2 else BLOCK_ROWS, rows > BLOCK_ROWS,
        GROUPS if grouped else 1,
    )  # fmt: skip
    means = (network.divisor, network.value_divisor) == (network.sizes[-1], 1)
    plain = rule.key == "sgd" and not (constants.l2 or constants.clips) and loss.element is not None and means
    if plain and registers.fit(network.sizes, rows, dtype.itemsize):
        constants = constants._replace(rows=registers.lanes_for(rows))
        return Bound(train_registers, register_names, constants, network.sizes, 0, 1)
    return _blocks(constants)


@functools.lru_cache(maxsize=64)
def _blocks(constants):
    return Bound(
        train_blocks, block_names, constants, constants.sizes, plan(constants).size,
        GROUPS if constants.groups > 1 else 1,
    )  # fmt: skip


def seconds(work: Work) -> float:
    """What a step takes on 512-bit vectors: near peak, and some passes over rows, units and parameters.

    Within 30 % of measurements from 4-32-16-4 to 64-128-10, within a factor of 2 for smaller networks:
    close enough, as `fused` takes several times as long there.
    """
    dtype = np.dtype(f"f{work.itemsize}")
    if work.network is None or specialize(work.network, work.optimizer, work.rows, dtype) is None:
        return float("inf")
    if work.steps is not None and work.steps * fused.seconds(work) < WORTH_SECONDS:
        return float("inf")
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(work.sizes))
    wide = work.itemsize / 4
    busy = wide * (work.flops / 1.5e11 + 2e-10 * work.rows * work.units) + 5e-9 * work.rows
    sharing = min(workers(work), GROUPS if work.rows >= GROUPED_ROWS else 1)
    return 5e-8 + busy / sharing + 2.5e-10 * wide * parameters


def workers(work: Work) -> int:
    """As `fused`; `Bound.most_workers` says how many of them a network's own program can use."""
    return fused.workers(work)


VARIANT = Variant("specialized", fused.VARIANT, {}, seconds, workers, specialize)
