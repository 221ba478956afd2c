"""Networks and optimisers as numbers for programs."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.codes import (
    ACTIVATION_CODES,
    BATCH_NORM,
    FIXED_NORM,
    LOSS_CODES,
    OPERATION_CODES,
    RULE_CODES,
)
from fastmlp.kernels.program.records import (
    HEAD,
    NESTEROV,
    OPERATION,
    ORTHOGONAL,
    RULE,
    TABLE,
    UNBOUNDED,
    Shape,
    address_of,
    objective_of,
)
from fastmlp.model.activations import activation_of
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.norms import BatchNorm
from fastmlp.model.operations import INPUTS
from fastmlp.model.optimizers import Muon, Optimizer, check_optimizer
from fastmlp.model.state import Array


@functools.lru_cache(maxsize=64)
def shape_of(network: Network) -> Shape:
    """Return a network in numbers."""
    operations = np.zeros(len(network.operations), OPERATION)
    for record, one in zip(operations, network.operations, strict=True):
        for name in COPIED:
            record[name] = getattr(one, name)
        record["kind"] = OPERATION_CODES.code(one.run or one.kind)
        record["activation"] = ACTIVATION_CODES.code(activation_of(one.activation))
        record["run"] = len(one.run.parts) if one.run else 0
        record["source"], record["other"] = (*one.sources, NONE)[:2]
        record["adds"], record["adds_other"] = (*one.adds, False)[:2]
        record["gives_logits"] = one.is_head or one is network.operations[-1]
        record["tables"], record["touched_only"] = len(one.tables), getattr(one.layer, "sparse", False)
        if isinstance(one.layer, BatchNorm):
            record["momentum"], record["epsilon"] = one.layer.momentum, one.layer.epsilon
        given = [MACHINE_EPSILON if number is None else number for number in one.numbers]
        record["numbers"][: len(given)] = given
    ours = network.objective
    objective = objective_of(np.array(ours.loss_parameters))
    objective["divisor"], objective["value_divisor"] = ours.divisor, ours.value_divisor
    objective["l1"], objective["l2"] = network.l1, network.l2
    objective["loss"] = LOSS_CODES.code(loss_of(network.loss))
    objective["shared_penalty"] = network.convention == "sklearn"
    objective["penalises"] = network.penalises
    heads, numbers = _heads(network)
    tables = np.array([*network.tables], TABLE)
    return Shape.of(operations, objective, heads, numbers, tables, network.n_in, network.members)


def _heads(network: Network) -> tuple[Array, NDArray[np.float64]]:
    """Return the heads of a network in numbers, (n_heads,) HEAD, and (2, n_out) as of `Shape`."""
    heads, numbers = np.zeros(len(network.heads), HEAD), np.ones((2, network.n_out))
    places = [number for number, one in enumerate(network.operations) if one.is_head]
    columns = columns_of_heads(network.heads)
    for record, place, (name, head) in zip(heads, places, network.heads.items(), strict=True):
        objective, own = head.objective, columns[name]
        record["operation"], record["column"], record["units"] = place, own.start, head.units
        record["loss"] = LOSS_CODES.code(loss_of(head.loss))
        record["output"] = ACTIVATION_CODES.code(activation_of(objective.output))
        record["by_row"], record["missing"] = head.by_row, head.missing
        record["weighted"] = head.loss_weights is not None
        record["weight"], record["divisor"] = head.weight, head.divisor
        record["value_divisor"] = objective.value_divisor
        numbers[0, own] = objective.loss_parameters
        if head.loss_weights is not None:
            numbers[1, own] = head.loss_weights
    return heads, numbers


COPIED = (
    *("n_in", "n_out", "weights", "biases", "trained", "end", "units", "kept", "kept_units", "is_block"),
    *("gates", "gated", "trains_bias", "dropout", "l1", "l2", "column", "sparse_in", "columns", "by_column"),
    *("subrows", "second", "width", "joined", "in_run", "sums"),
)
"""Fields of an operation, unchanged in the record."""

NONE, MACHINE_EPSILON = -1, float("nan")
"""No second source; a hyperparameter equal to the dtype's epsilon."""


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers for predictions: without dropout, batch norms by the running state."""
    shape = shape_of(network)
    operations = shape.operations.copy()
    operations["dropout"] = 0
    operations["kind"][operations["kind"] == BATCH_NORM] = FIXED_NORM
    return shape.with_operations(operations)


class Rules(NamedTuple):
    """An optimiser in numbers.

    records : (2, operations) RULE; address : of the records
    moments : numbers remembered for each parameter
    """

    records: Array
    address: int
    moments: int


@functools.lru_cache(maxsize=64)
def rules_of(optimizer: Optimizer, network: Network) -> Rules:
    """Return an optimiser in numbers, for the operations of a network."""
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(network)
    rules = np.zeros((2, len(network.operations)), RULE)
    rules["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rules["touched_only"] = optimizer.rule.touched_only
    for number, one in enumerate(network.operations):
        of_one = rules[:, number]
        of_one["rate_factor"] = factor = optimizer.rate_factor(number, one)
        trains = factor != 0 and one.trained > one.weights
        of_one["reached"] = trains or any(rules["reached"][0, at] for at in one.sources if at != INPUTS)
        for rule, part in zip(of_one, optimizer.of_layer(number, one), strict=True):
            rule["code"], rule["moments"] = RULE_CODES.code(part.rule), part.rule.moments
            if isinstance(part, Muon):
                rule["orthogonal"] = NESTEROV if part.nesterov else ORTHOGONAL
                rule["momentum"] = part.momentum
            rule["constants"][: len(part.constants)] = part.constants
    return Rules(rules, address_of(rules), optimizer.moment_rows)


@functools.lru_cache(maxsize=64)
def no_rules(operations: int) -> Rules:
    """Return the rules of `gradient`, without steps."""
    rules = np.zeros((2, operations), RULE)
    rules["rate_factor"] = 1
    rules["reached"] = True
    return Rules(rules, address_of(rules), 0)
