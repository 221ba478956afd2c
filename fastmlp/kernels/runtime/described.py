"""Networks and optimisers in the numbers that programs read."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.program.records import LAYER, RULE, UNBOUNDED, Shape, address_of, objective_of
from fastmlp.model.activations import activation_of
from fastmlp.model.layout import LayerSlices, layer_slices
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, check_optimizer

Array = NDArray[Any]


@functools.lru_cache(maxsize=64)
def shape_of(network: Network) -> Shape:
    """Return a network in numbers."""
    slices, units = layer_slices(network.sizes), network.sizes[1:]
    layers = np.zeros(len(slices), LAYER)
    for name in LayerSlices._fields:
        layers[name] = [getattr(at, name) for at in slices]
    layers["units"] = np.cumsum(units) - units
    layers["activation"] = [ACTIVATION_CODES.code(activation_of(a)) for a in network.activations]
    layers["dropout"] = [*network.dropout, 0.0]
    objective = objective_of(np.array(network.loss_parameters))
    for name in ("divisor", "value_divisor", "l1", "l2"):
        objective[name] = getattr(network, name)
    objective["loss"] = LOSS_CODES.code(loss_of(network.loss))
    objective["shared_penalty"] = network.convention == "sklearn"
    return Shape.of(layers, objective)


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers for predictions: without dropout."""
    shape = shape_of(network)
    layers = shape.layers.copy()
    layers["dropout"] = 0
    return Shape.of(layers, shape.objective)


class Rules(NamedTuple):
    """An optimiser in numbers. records : (layers,) RULE; address : where they are"""

    records: Array
    address: int


@functools.lru_cache(maxsize=64)
def rules_of(optimizer: Optimizer, layers: int) -> Rules:
    """Return an optimiser in numbers."""
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(layers)
    rules = np.zeros(layers, RULE)
    rules["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rules["code"] = RULE_CODES.code(optimizer.rule)
    rules["touched_only"] = optimizer.rule.touched_only
    for layer, rule in enumerate(rules):
        rule["rate_factor"] = optimizer.rate_factor(layer)
        constants = optimizer.of_layer(layer).constants
        rule["constants"][: len(constants)] = constants
    return Rules(rules, address_of(rules))


@functools.lru_cache(maxsize=64)
def no_rules(layers: int) -> Rules:
    """Return rules for `gradient`, which reads from them only that the optimiser clips, and takes no step."""
    rules = np.zeros(layers, RULE)
    rules["rate_factor"] = 1
    return Rules(rules, address_of(rules))
