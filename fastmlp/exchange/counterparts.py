"""What other programs call operations and activations: a row for each that has a counterpart there.

What has none in a format is written there by its formula, but for Keras's weights, which need a name.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from fastmlp.exchange.steps import ExportStep, step_of
from fastmlp.formulas.elementary import LEAKY_SLOPE, SELU_SCALE, SELU_SLOPE
from fastmlp.model.gates import ReadsEarlier
from fastmlp.model.norms import GroupNorm
from fastmlp.model.operations import INPUTS, KINDS, Operation
from fastmlp.model.part import LAYERS, Part

Named = tuple[str, dict[str, Any]]
"""A name, and the options that make it ours."""

NONE: Named = "", {}


class Counterpart(NamedTuple):
    """The names of an operation or an activation; empty where a format has none.

    torch : a class of torch.nn; onnx : an operator; keras : a layer
    """

    torch: Named = NONE
    onnx: Named = NONE
    keras: str = ""


ATTRIBUTES: dict[str, dict[str, Any]] = {"LayerNormalization": {"axis": -1}, "Concat": {"axis": 1}}
"""Of operators of ONNX."""

OPERATIONS = {
    one.kind: Counterpart(
        (one.counterparts.get("torch", ""), {}),
        (onnx := one.counterparts.get("onnx", ""), ATTRIBUTES.get(onnx, {})),
        one.counterparts.get("keras", ""),
    )
    for one in LAYERS.values()
    if one.counterparts
}
"""By kinds of operations, as their layers say. Their arrays are there in the order that they have here."""

ACTIVATIONS = {
    "relu": Counterpart(("ReLU", {}), ("Relu", {})),
    "leaky_relu": Counterpart(
        ("LeakyReLU", {"negative_slope": LEAKY_SLOPE}), ("LeakyRelu", {"alpha": LEAKY_SLOPE})
    ),
    "elu": Counterpart(("ELU", {"alpha": 1.0}), ("Elu", {"alpha": 1.0})),
    "gelu": Counterpart(("GELU", {"approximate": "none"}), ("Gelu", {"approximate": "none"})),
    "silu": Counterpart(("SiLU", {})),
    # Beyond the threshold PyTorch takes x for softplus(x), which costs e^-threshold: below 2^-53 from 37 on.
    "softplus": Counterpart(("Softplus", {"beta": 1.0, "threshold": 40.0}), ("Softplus", {})),
    "sigmoid": Counterpart(("Sigmoid", {}), ("Sigmoid", {})),
    "tanh": Counterpart(("Tanh", {}), ("Tanh", {})),
    "selu": Counterpart(("SELU", {}), ("Selu", {"alpha": SELU_SLOPE / SELU_SCALE, "gamma": SELU_SCALE})),
    "mish": Counterpart(("Mish", {}), ("Mish", {})),
    "hardswish": Counterpart(("Hardswish", {}), ("HardSwish", {})),
    "softmax": Counterpart(("Softmax", {"dim": -1}), ("Softmax", {"axis": -1})),
    "exp": Counterpart(onnx=("Exp", {})),
}
"""By names of activations."""


def counterpart_of(step: ExportStep) -> Counterpart:
    """Return the names of a step; a user's own layer or activation has none, whatever its name."""
    kind, activation = step.one.kind.name, step.one.activation
    if kind != "activation":
        return OPERATIONS.get(kind, Counterpart())
    return ACTIVATIONS.get(activation, Counterpart()) if isinstance(activation, str) else Counterpart()


def layer_of(kind: str) -> type[Part]:
    """Return the class of the layers that are a kind of operation."""
    return next(layer for layer in LAYERS.values() if layer.kind == kind)


def sample_layers(**options: Any) -> list[Part]:
    """Return a layer of every kind that has a formula, by which it is found in other programs' models.

    options : of the layers that have them
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
    """Return the step of a layer by itself, whose arrays (units,) are ones."""
    kind, sources = KINDS[layer.kind], (INPUTS,) * (1 + isinstance(layer, ReadsEarlier))
    arrays = {name: np.ones(units, dtype) for name in (*layer.parameters, *layer.state)}
    return step_of(Operation(kind, "", sources, units, units, layer=layer), arrays, dtype)
