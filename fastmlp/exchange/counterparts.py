"""Names of operations and activations in other programs, from their table entries.

A format writes an object without a name by formula; only Keras's list of weights needs names.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from fastmlp.exchange.steps import ExportStep, step_of
from fastmlp.model import activations
from fastmlp.model.custom import Counterparts
from fastmlp.model.gates import ReadsEarlier
from fastmlp.model.norms import GroupNorm
from fastmlp.model.operations import INPUTS, KINDS, Operation
from fastmlp.model.part import LAYERS, Part

NONE: tuple[str, dict[str, Any]] = "", {}


class Counterpart(NamedTuple):
    """The names of an operation or an activation, with options; "" for a format without a name.

    torch : a class of torch.nn; onnx : an operator; keras : a layer
    """

    torch: tuple[str, dict[str, Any]] = NONE
    onnx: tuple[str, dict[str, Any]] = NONE
    keras: tuple[str, dict[str, Any]] = NONE


def _names(counterparts: Counterparts) -> Counterpart:
    pairs = {
        format: (given, {}) if isinstance(given, str) else given for format, given in counterparts.items()
    }
    return Counterpart(**pairs)


OPERATIONS = {one.kind: _names(one.counterparts) for one in LAYERS.values() if one.counterparts}
"""Counterparts by kinds of operations, with arrays in the same order."""

ACTIVATIONS = {name: _names(one.counterparts) for name, one in activations.ACTIVATIONS.items()}
"""Counterparts by names of activations."""


def counterpart_of(step: ExportStep) -> Counterpart:
    """Return the names of a step; a custom layer or activation has none, whatever the name."""
    kind, activation = step.one.kind.name, step.one.activation
    if kind != "activation":
        return OPERATIONS.get(kind, Counterpart())
    return ACTIVATIONS.get(activation, Counterpart()) if isinstance(activation, str) else Counterpart()


def layer_of(kind: str) -> type[Part]:
    """Return the layer class of a kind of operation."""
    return next(layer for layer in LAYERS.values() if layer.kind == kind)


def sample_layers(**options: Any) -> list[Part]:
    """Return a layer of every kind with a formula, for comparison with other programs' models.

    options : of the layers with such fields
    """
    found: list[Part] = []
    for layer in LAYERS.values():
        if issubclass(layer, ReadsEarlier):
            found.append(layer(""))  # type: ignore[call-arg]
        elif layer.parameters and not issubclass(layer, GroupNorm):  # whose groups are rows of another norm
            known = {field.name for field in fields(layer)}  # type: ignore[arg-type]
            found.append(layer(**{name: value for name, value in options.items() if name in known}))
    return found


def layer_step(layer: Part, units: int, dtype: np.dtype[Any]) -> ExportStep:
    """Return the step of a single layer, with arrays (units,) of ones."""
    kind, sources = KINDS[layer.kind], (INPUTS,) * (1 + isinstance(layer, ReadsEarlier))
    arrays = {name: np.ones(units, dtype) for name in (*layer.parameters, *layer.state)}
    return step_of(Operation(kind, "", sources, units, units, layer=layer), arrays, dtype)
