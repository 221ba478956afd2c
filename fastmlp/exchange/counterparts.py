"""Counterparts in other programs: names of operations, and imported chains of layers.

A format writes an object without a name by formula; only Keras's list of weights needs names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.formulas import named
from fastmlp.exchange.steps import ExportStep, step_of
from fastmlp.formulas.expressions import Expression
from fastmlp.model import layers
from fastmlp.model.activations import ACTIVATIONS, HIDDEN, OUTPUTS, Activation
from fastmlp.model.component import LAYERS, Layer, Part
from fastmlp.model.gates import Concatenate, ReadsEarlier
from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS, Operation
from fastmlp.trained.portable import Parts

LAYER_OF = {one.kind.key: one for one in LAYERS.values() if one.counterparts}
"""The classes of layers with counterparts, with arrays in the same order, by kinds of operations."""


def native(entry: Any, format: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a layer or an activation in a format, with options; "" without a name."""
    given = entry.counterparts.get(format, "")
    return (given, {}) if isinstance(given, str) else given


def native_of(step: ExportStep, format: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a step; a custom layer or activation has none, whatever the name."""
    kind, activation = step.one.kind.key, step.one.activation
    entry: Any = LAYER_OF.get(kind)
    if kind == "activation":
        entry = ACTIVATIONS.get(activation) if isinstance(activation, str) else None
    return ("", {}) if entry is None else native(entry, format)


def sample_layers(**options: Any) -> list[Part]:
    """Return a layer of every kind with a formula, for comparison with other programs' models.

    options : of the layers with such fields
    """
    found: list[Part] = []
    for layer in LAYERS.values():
        if issubclass(layer, ReadsEarlier):
            found.append(layer(""))
        elif layer.kind.parameters and layer.lower is Part.lower:  # others are on parts of a row
            known = {field.name for field in fields(layer)}  # type: ignore[arg-type]
            found.append(layer(**{name: value for name, value in options.items() if name in known}))
    return found


def layer_step(layer: Part, units: int, dtype: np.dtype[Any]) -> ExportStep:
    """Return the step of a single layer, with arrays of ones: (units,), or (1,) of one number a layer."""
    one = Operation(layer.kind, "", (INPUTS,) * len(layer.kind.sources), units, units, layer=layer)
    arrays = {name: np.ones(place.shape, dtype) for name, place in one.arrays.items()}
    return step_of(one, arrays, dtype)


Array = NDArray[Any]


# --- models of other programs, as networks -----------------------------------------------------------------


class ImportedLayer(NamedTuple):
    """A layer, or an activation, of another program's model.

    layer : a layer without a name; or the formula of an activation, an expression of `formulas.Z`
    arrays : for `Dense` weights (n_in, n_out) floating and bias (n_out,) floating; for a custom layer the
        parameters; for other layers the `formulas.ARRAYS`, with ones for a missing gain and zeros for a
        missing shift; each (units,) or (1,) floating
    other : the index in the chain of a second source besides the layer before; INPUTS for the inputs
    """

    layer: Part | Expression
    arrays: tuple[Array, ...] = ()
    other: int | None = None


def parts_of(
    what: str, chain: Sequence[ImportedLayer], last: Expression, output: str | None, loss: str | Loss | None
) -> Parts:
    """Return a chain as a network with parameters.

    Parameters
    ----------
    chain : layers, first to last
    last : the last activation, an expression of `formulas.Z`
    output : the last activation, for a chain ending in logits; None for the chain's last activation
    loss : None for the output's default loss

    ValueError if there is no layer, if parameters are not finite, or if no network ends in the last
    activation.
    """
    known = [layer for layer in chain if layer.arrays]
    if not known:
        raise ValueError(f"{what} has no layer")
    ends_in = named(last)
    if ends_in not in OUTPUTS:
        raise ValueError(
            f"{what} ends in {ends_in or 'a formula of its own'}; choose from: {', '.join(OUTPUTS)}"
        )
    if output is not None and ends_in not in ("identity", output):
        raise ValueError(f"{what} ends in {ends_in}, got output={checks.shown(output)}")
    final = chain[-1].layer
    if not isinstance(final, layers.Dense):
        raise ValueError(f"{what} ends in {type(final).__name__}; a Network ends in a Dense and its output")
    output, inputs = output or ends_in, _checked_units(what, chain)
    for index, layer in enumerate(known):
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in layer.arrays):
            raise ValueError(f"weights and biases of layer {index} of {what} must be finite numbers")
    if output == "exp":  # the output of counts
        loss = loss or "poisson"
    network = Network(inputs=inputs, layers=_with_names(chain), output=output, loss=loss)
    return network, [layer.arrays for layer in known]


def _checked_units(what: str, chain: Sequence[ImportedLayer]) -> int:
    """Return the number of inputs; ValueError if a layer gets a wrong number of units."""
    inputs, widths, units, index = 0, {INPUTS: 1}, 1, 0
    for number, layer in enumerate(chain):
        if not inputs and _has_width(layer):  # until here widths are multiples of the number of inputs
            inputs = _takes(layer) // units
            widths, units = {at: inputs * width for at, width in widths.items()}, inputs * units
        if layer.arrays:
            takes = _takes(layer)
            if takes != units and _has_width(layer):
                raise ValueError(f"layer {index} of {what} takes {takes} units, got {units}")
            index += 1
        if isinstance(layer.layer, layers.Dense):
            units = layer.layer.units
        elif isinstance(layer.layer, Concatenate) and layer.other is not None:
            units += widths[layer.other]
        widths[number] = units
    return inputs


def _has_width(layer: ImportedLayer) -> bool:
    """Return whether a layer's arrays fix the number of units; a chain ends in such a layer."""
    return bool(layer.arrays) and (isinstance(layer.layer, layers.Dense) or _takes(layer) != 1)


def _takes(layer: ImportedLayer) -> int:
    """Return the number of units of a layer's arrays; 1 if any number fits."""
    is_product = isinstance(layer.layer, layers.Dense)
    return len(layer.arrays[0]) if is_product else max(map(len, layer.arrays))


def _with_names(chain: Sequence[ImportedLayer]) -> list[Part]:
    """Return the layers, with names for second sources of later layers."""
    read = {layer.other for layer in chain}
    names = {index: "inputs" if index == INPUTS else f"layer{index}" for index in read if index is not None}
    found: list[Part] = []
    if INPUTS in names:
        found.append(layers.Activate("identity", name=names[INPUTS]))
    for index, one in enumerate(chain):
        layer: Any = layers.Activate(_hidden(one.layer)) if isinstance(one.layer, Expression) else one.layer
        if one.other is not None:
            layer = replace(layer, layer=names[one.other])
        if index in names and isinstance(layer, layers.Dropout):  # which has no name
            found.append(layer)
            layer = layers.Activate("identity")
        if index in names:
            layer = replace(layer, name=names[index])
        below: Any = found[-1] if found else None
        activates = isinstance(layer, layers.Activate) and not isinstance(layer.activation, Layer)
        if activates and below == layers.Dense(getattr(below, "units", 1)):
            found[-1] = replace(below, activation=layer.activation, name=layer.name)
        else:
            found.append(layer)
    return found


def _hidden(expression: Expression) -> str | Activation:
    """Return an expression's activation: a built-in name, or a custom activation."""
    name = named(expression)
    if name in HIDDEN:
        return str(name)
    if name is not None:
        raise ValueError(
            f"{name} cannot be the activation of a hidden layer; choose from: {', '.join(HIDDEN)}"
        )
    return Activation(f"formula_{expression.digest[:8]}", lambda z: expression)
