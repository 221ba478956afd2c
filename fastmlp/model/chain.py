"""Chains of dense layers: the arguments `sizes`, `hidden` and `dropout` of `Network`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.model.activations import Activation
from fastmlp.model.heads import Head
from fastmlp.model.initializers import checked_inits
from fastmlp.model.inputs import Blocks, checked_inputs
from fastmlp.model.layers import Dense, Dropout, checked_activation, checked_dropout, checked_layers
from fastmlp.model.lowering import lowered
from fastmlp.model.operations import Operation
from fastmlp.model.part import Part

MAX_PARAMETERS = 2**31
"""The most parameters of a network: 8 GiB in float32, and the same again for gradients and each moment.
Larger networks are refused before any allocation."""


USUAL = "relu", 0.0, "glorot_uniform", "zeros"
"""The defaults of hidden, dropout, weight_init and bias_init."""


def chain_layers(
    sizes: Sequence[int], hidden: Sequence[Any], dropout: Sequence[float], **inits: Any
) -> tuple[Part, ...]:
    """Return the layers of a chain; inits : weight_init and bias_init of all layers."""
    layers: list[Part] = []
    for units, activation, rate in zip(sizes[1:-1], hidden, dropout, strict=True):
        layers.append(Dense(units, activation, **inits))
        if rate:
            layers.append(Dropout(rate))
    return (*layers, Dense(sizes[-1], **inits))


class Chain(NamedTuple):
    """A chain of dense layers: sizes, hidden activations, dropout, initialisers."""

    sizes: tuple[int, ...]
    hidden: tuple[str | Activation, ...]
    dropout: tuple[float, ...]
    weight_init: Any
    bias_init: Any


def as_chain(inputs: int | Blocks, operations: Sequence[Operation]) -> Chain | None:
    """Return the chain of a network of equal dense layers; None for other networks."""
    if not isinstance(inputs, int) or not all(one.is_dense for one in operations):
        return None
    dense: list[Any] = [one.layer for one in operations]
    plain = {replace(one, units=1, activation="identity") for one in dense}
    first = Dense(1, weight_init=dense[0].weight_init, bias_init=dense[0].bias_init)
    if plain != {first}:
        return None
    *hidden, _ = operations
    return Chain(
        (inputs, *(one.n_out for one in operations)), tuple(one.activation for one in hidden),
        tuple(one.dropout for one in hidden), first.weight_init, first.bias_init,
    )  # fmt: skip


def checked_chain(sizes: Any, hidden: Any, dropout: Any, weight_init: Any, bias_init: Any) -> Chain:
    """Return the chain of these arguments of `Network`."""
    sizes = _check_sizes(sizes)
    depth = len(sizes) - 2
    if isinstance(hidden, str):  # even if there is no hidden layer that would take it
        checked_activation("hidden activation", hidden)
    if isinstance(dropout, Real):
        checked_dropout(dropout)
    hidden = _one_per_layer("hidden", hidden, (str, Activation), depth)
    dropout = _one_per_layer("dropout", dropout, Real, depth)
    return Chain(
        sizes, tuple(checked_activation("hidden activation", one) for one in hidden),
        tuple(map(checked_dropout, dropout)), *checked_inits(weight_init, bias_init),
    )  # fmt: skip


def checked_list(
    inputs: Any,
    layers: Any,
    given: tuple[Any, ...],
    l1: float,
    l2: float,
    heads: Mapping[str, Head] | None = None,
) -> tuple[Chain | dict[str, Any], tuple[Operation, ...]]:
    """Return the chain, or the facts of another network, for a list of layers; and the operations."""
    if not all(
        type(one) in (type(other), int) and one == other for one, other in zip(given, USUAL, strict=True)
    ):
        raise TypeError(
            "hidden, dropout, weight_init and bias_init go with sizes; with layers each layer has its own"
        )
    inputs, layers = checked_inputs(inputs, MAX_PARAMETERS), checked_layers(layers)
    try:
        operations = lowered(inputs, layers, "identity", l1, l2, heads)
    except RecursionError:
        raise ValueError("the layers are nested too deeply") from None
    if operations[-1].end > MAX_PARAMETERS:
        raise ValueError("the layers have more parameters than 2^31")
    chain = None if heads else as_chain(inputs, operations)
    return chain or {"inputs": inputs, "layers": layers}, operations


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    listed = isinstance(sizes, Sequence) and not isinstance(sizes, (str, bytes))
    if not listed and not (isinstance(sizes, np.ndarray) and sizes.ndim == 1):
        raise TypeError(f"sizes must be a sequence like [n_in, hidden, n_out], got {checks.shown(sizes)}")
    checked = tuple(checks.whole("every one of sizes", size, 1, MAX_PARAMETERS) for size in sizes)
    if len(checked) < 2:
        raise ValueError(f"sizes must hold at least n_in and n_out, got {checks.shown(list(checked))}")
    count = sum((n_in + 1) * n_out for n_in, n_out in pairwise(checked))
    if count > MAX_PARAMETERS:
        raise ValueError(f"sizes {checks.shown(list(checked))} make {count:.3g} parameters; at most 2^31 fit")
    return checked


def _one_per_layer(what: str, value: object, one: type | tuple[type, ...], depth: int) -> tuple[Any, ...]:
    if isinstance(value, one):
        return (value,) * depth
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence):
        raise TypeError(f"{what} must be one value or one for each hidden layer, got {checks.shown(value)}")
    if len(value) != depth:
        raise ValueError(f"{what} must hold one value for each of {depth} hidden layers, got {len(value)}")
    return tuple(value)
