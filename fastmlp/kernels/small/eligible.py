"""Which networks have a program of their own, and with which constants. This file loads no compiler."""

# mypy: ignore-errors

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.small.padded import Constants, plan
from fastmlp.kernels.variant import Bound
from fastmlp.model.activations import activation_of
from fastmlp.model.losses import loss_of

PROGRAMS = "fastmlp.kernels.small.programs"

BLOCK_ROWS = 64
"""Rows that go through the network together: 128 and 256 were no faster at 30-100-1 and 4-32-16-4."""

GROUPED_ROWS = 1024
"""Batches of this many rows and more are summed in groups, which threads can share."""

GROUPS = 8

MOST_UNITS, MOST_PARAMETERS, MOST_LAYERS = 128, 1 << 14, 8
"""The largest networks with a gain: at 64-128-10, 9 610 parameters, `fused` takes 1.5 times as long, later less."""

MOST_ROWS = 16
"""The most rows of a batch where a network stays in registers."""

MOST_VECTORS = 64
"""The most vectors of parameters of such a network: with more the registers overflow, and nothing is gained."""


def has_stages(network):
    """Whether everything in the network's description has a stage.

    The logits of hidden layers are not kept, so a derivative must be computed from the activation's value.
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
"""The steps and rates at which a user's rule is tried."""


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
    """Whether a step of its rule leaves padding at 0: parameters of 0 with gradients and moments of 0."""
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
    """Whether a network of these sizes is small enough to gain by constants."""
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    return max(sizes) <= MOST_UNITS and parameters <= MOST_PARAMETERS and len(sizes) <= MOST_LAYERS


@functools.lru_cache(maxsize=64)
def specialize(network, optimizer, rows, dtype):
    """Return the network's own `train_chunk` for batches of up to `rows` rows; None if it has none."""
    by_layer = optimizer.layer_rates is not None or optimizer.layer_decays is not None
    if by_layer or optimizer.clip_norm is not None or not is_small(network.sizes) or not has_stages(network):
        return None
    if not _stays_zero(optimizer):
        return None
    rule, loss = optimizer.rule, loss_of(network.loss)
    # The program finds its pieces by their keys, so each must have a code.
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
    if plain and fits_registers(network.sizes, rows, dtype.itemsize):
        constants = constants._replace(rows=lanes_for(rows))
        return Bound(
            f"{PROGRAMS}:train_registers", f"{PROGRAMS}:register_names", constants, network.sizes, 0, 1, True
        )
    return _blocks(constants)


@functools.lru_cache(maxsize=64)
def _blocks(constants):
    exact = constants.groups == 1 and not constants.l2
    return Bound(
        f"{PROGRAMS}:train_blocks", f"{PROGRAMS}:block_names", constants, constants.sizes, plan(constants).size,
        GROUPS if constants.groups > 1 else 1, exact,
    )  # fmt: skip


def lanes_for(rows):
    """Return the lanes of the vector that holds a number of each row of a batch."""
    return max(4, 1 << (rows - 1).bit_length())


def fits_registers(sizes, rows, itemsize):
    """Whether the parameters of a network stay in registers for batches of `rows` rows."""
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    vectors = parameters * max(1, lanes_for(rows) * itemsize // 64)
    return rows <= MOST_ROWS and vectors <= MOST_VECTORS
