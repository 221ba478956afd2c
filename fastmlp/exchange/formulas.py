"""Formulas of activations and operations as expressions, for every format.

Formulas of activations are traced from the reference, and layers have formulas: a new activation or layer is
in every format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_losses import activate
from fastmlp.backend.reference_operations import operate
from fastmlp.formulas.elementary import ERF, MILLS, MILLS_RATE, SQRT_TWO
from fastmlp.formulas.expressions import CONSTANT, ONES, VARIABLE, Expression, constant, variable
from fastmlp.formulas.numbers import Polynomial
from fastmlp.model.activations import ACTIVATIONS, Activation
from fastmlp.model.component import number_variable
from fastmlp.model.operations import Operation

Z = "z"
"""The variable of a formula: a layer's linear output, or an operation's first source."""

OTHER = "other"
"""The variable of an operation's second source."""

ARRAYS = ("gain", "shift", "mean", "variance")
"""The variables of an operation's parameters and state, in order; a custom layer has other variables."""


@functools.cache
def formula(activation: str | Activation) -> Expression:
    """Return an activation's expression of `Z`; softmax goes over a row."""
    if isinstance(activation, Activation):
        return activation.value
    found: Expression = activate(activation, variable(Z))  # type: ignore[arg-type,assignment]
    return found


def row_formula(one: Operation, dtype: np.dtype[Any]) -> Expression:
    """Return an operation's expression of a row, before the activation.

    The variables are `Z`, `OTHER` and `array_variables`. A batch norm, without a row formula, is traced from
    the reference.
    """
    kind = one.kind
    if kind.value is None:
        z, other, gain, shift, *state = (variable(name) for name in (Z, OTHER, *ARRAYS))
        given: Any = gain, shift, state
        plain = one._replace(activation="identity")
        traced: Any = operate(plain, z, other, given, None)  # type: ignore[arg-type]
        return of_units(traced, one.n_in, {})
    epsilon = float(np.finfo(dtype).eps)
    known = {
        number_variable(name): constant(epsilon if value is None else value)
        for name, value in zip(kind.numbers, one.numbers, strict=True)
    }
    names = zip(kind.parameters, array_variables(one), strict=True)
    known |= {parameter.variable: variable(name) for parameter, name in names}
    return of_units(kind.value, one.n_in, known)


def array_variables(one: Operation) -> tuple[str, ...]:
    """Return the variables of an operation's arrays in `row_formula`, in order."""
    if one.kind.value is None:
        return ARRAYS
    traced = bool(one.kind.digest)  # a user's parameter of one number keeps the name that says so
    return tuple(each.variable if traced or not each.by_unit else each.name for each in one.kind.parameters)


def of_units(expression: Expression, units: int, known: Mapping[str, Expression]) -> Expression:
    """Return an expression for rows of so many units, with a constant for the sum of ones.

    known : expressions in place of variables
    """

    def step(node: Expression, parts: list[Expression]) -> Expression:
        if node.operation == VARIABLE:
            return known.get(node.operands[0], node)
        if node.operation == CONSTANT:
            return node
        if node.operation == "sum" and parts[0].names() == {ONES}:
            return constant(float(units))
        return Expression(node.operation, *parts)

    found: Expression = expression.fold(step)
    return found


def named(expression: Expression) -> str | None:
    """Return the name of the built-in activation with this expression, or None."""
    return next((name for name in ACTIVATIONS if formula(name).digest == expression.digest), None)


def on_array(activation: str | Activation, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the activation of z, an array of any shape; softmax takes (rows, units)."""
    with np.errstate(all="ignore"):
        return np.broadcast_to(formula(activation).on_arrays(z.dtype, {Z: z}), z.shape)


# --- operations that a format lacks --------------------------------------------------------------------


def _polynomial(polynomial: Polynomial, x: Any) -> Any:
    """Return a polynomial of x, by Horner's rule."""
    *rest, total = polynomial.double
    for coefficient in reversed(rest):
        total = total * x + coefficient
    return total


def _erf(x: Any) -> Any:
    """The two polynomials of `elementary.erf`."""
    square = np.minimum(x * x, 1.0)
    near = x * _polynomial(ERF, square)
    a = np.minimum(np.abs(x) * SQRT_TWO, 39.0)
    e = np.exp(a * a * -0.5)
    t = 1.0 / (a * MILLS_RATE + 1.0)
    tail = e * t * _polynomial(MILLS, t - 0.5)
    return np.where(square < 1.0, near, np.sign(x) * (1.0 - tail * 2.0))


def _log1p(x: Any) -> Any:
    """log(u) x / (u - 1) of the rounded u = 1 + x, and x where u is 1 (Goldberg 1991, theorem 4)."""
    u = 1.0 + x
    same = np.equal(u, 1.0)
    return np.where(same, x, np.log(u) * (x / np.where(same, 1.0, u - 1.0)))


COMPOSED: dict[str, Callable[..., Any]] = {
    "cos": lambda x: np.sin(x + np.pi / 2),
    "erf": _erf,
    "expit": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "expm1": lambda x: np.tanh(x * 0.5) * (np.exp(x) + 1.0),  # which loses no digits near 0
    "log1p": _log1p,
    "maximum": lambda a, b: np.where(a >= b, a, np.where(a < b, b, a + b)),
    "minimum": lambda a, b: np.where(a <= b, a, np.where(a > b, b, a + b)),
    "sign": lambda x: np.where(x > 0.0, 1.0, np.where(x < 0.0, -1.0, x)),
    # `np.log1p` of an expression that is an exponential is this softplus.
    "softplus": lambda x: np.maximum(x, 0.0) + Expression("log1p", np.exp(-np.abs(x))),
}
"""Operations of an element composed of other operations, for formats without them."""


@functools.cache
def composed(operation: str) -> tuple[tuple[str, ...], Expression]:
    """Return the variables and the expression of an operation of `COMPOSED`."""
    function = COMPOSED[operation]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return names, function(*map(variable, names))
