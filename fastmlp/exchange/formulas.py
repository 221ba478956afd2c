"""An activation's formula as an expression, which every format writes out by walking it.

The formulas of fastmlp's own are traced from the reference, which has them in NumPy: an activation that is
added there is in every format.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference import activate
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.activations import ACTIVATIONS, Activation

Z = "z"
"""The variable that a formula depends on: a layer's affine output."""


@functools.cache
def formula(activation: str | Activation) -> Expression:
    """Return an activation as an expression of `Z`; softmax goes over a row."""
    if isinstance(activation, Activation):
        return activation.value
    found: Expression = activate(activation, variable(Z))  # type: ignore[arg-type,assignment]
    return found


def named(expression: Expression) -> str | None:
    """Return the name of fastmlp's own activation that is this expression, None if none is."""
    return next((name for name in ACTIVATIONS if formula(name).digest == expression.digest), None)


def on_array(activation: str | Activation, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the activation of z, an array of any shape; softmax takes (rows, units)."""
    with np.errstate(all="ignore"):
        return np.broadcast_to(formula(activation).on_arrays(z.dtype, {Z: z}), z.shape)


def label(activation: str | Activation) -> str:
    """Return the activation's name, which is an identifier."""
    return activation if isinstance(activation, str) else activation.name


def functions(activations: tuple[str | Activation, ...]) -> dict[str | Activation, str]:
    """Return a name of its own for each activation that occurs; two of a user's may share theirs."""
    names: dict[str | Activation, str] = {}
    for activation in activations:
        name, number = label(activation), 1
        while activation not in names and name in names.values():
            number += 1
            name = f"{label(activation)}_{number}"
        names.setdefault(activation, name)
    return names
