"""Formulas of activations and of operations as expressions, which every format writes out by walking them.

They are traced from the reference, which has them in NumPy: an activation or a row-wise operation that is
added there is in every format. Those of blocks of inputs stand in `input_blocks`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_losses import activate
from fastmlp.backend.reference_operations import operate
from fastmlp.formulas.expressions import CONSTANT, NUMBER, ONES, VARIABLE, Expression, constant, variable
from fastmlp.model.activations import ACTIVATIONS, Activation
from fastmlp.model.operations import Operation

Z = "z"
"""The variable that a formula depends on: a layer's affine output, or what an operation reads."""

OTHER = "other"
"""The variable of an operation's formula that is its second source."""

ARRAYS = ("gain", "shift", "mean", "variance")
"""The variables of an operation's formula that are its parameters and its state, in their order; a user's
layer has others."""


@functools.cache
def formula(activation: str | Activation) -> Expression:
    """Return an activation as an expression of `Z`; softmax goes over a row."""
    if isinstance(activation, Activation):
        return activation.value
    found: Expression = activate(activation, variable(Z))  # type: ignore[arg-type,assignment]
    return found


def row_formula(one: Operation, dtype: np.dtype[Any]) -> Expression:
    """Return what an operation computes of a row before its activation, as an expression.

    Its variables are `Z`, `OTHER` and those of its arrays. `dense` and `concatenate` have no such formula.
    """
    if one.kind.piece is not None:
        return _of_units(one.kind.piece.value, one.n_in)
    layer: Any = one.layer
    if getattr(layer, "epsilon", 0.0) is None:
        layer = replace(layer, epsilon=float(np.finfo(dtype).eps))
    plain = one._replace(layer=layer, activation="identity")
    z, other, gain, shift, *state = (variable(name) for name in (Z, OTHER, *ARRAYS))
    given: Any = gain, shift, state
    found: Any = operate(plain, z, other, given, None)  # type: ignore[arg-type]
    return _of_units(found, one.n_in)


def array_variables(one: Operation) -> tuple[str, ...]:
    """Return the variables of an operation's `row_formula` that are its arrays, in their order."""
    piece = one.kind.piece
    return ARRAYS if piece is None else tuple(parameter.variable for parameter in piece.parameters)


def variables_of(
    variables: Sequence[str], sources: Sequence[str], arrays: Iterable[str], of_unit: str = ""
) -> dict[str, str]:
    """Return what a format calls the variables of a formula, by what it calls sources and arrays.

    variables : those that are the arrays
    of_unit : what follows the name of an array for the number of a unit, "[j]"; empty for all of them
    """
    names = [*zip((Z, OTHER), sources, strict=False), *zip(variables, arrays, strict=False)]
    of_all = "[0]" if of_unit else ""
    return {name: text + (of_all if name.startswith(f"{NUMBER}_") else of_unit) for name, text in names}


def _of_units(expression: Expression, units: int) -> Expression:
    """Return an expression of rows of so many units: the sum of as many ones is that number."""

    def step(node: Expression, parts: list[Expression]) -> Expression:
        if node.operation in (VARIABLE, CONSTANT):
            return node
        if node.operation == "sum" and parts[0].names() == {ONES}:
            return constant(float(units))
        return Expression(node.operation, *parts)

    found: Expression = expression.fold(step)
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
