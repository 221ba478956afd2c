"""The activation functions: a table of fastmlp's own, and what a user's is.

Definitions and constants are PyTorch's (``torch.nn``): the exact (erf) gelu, elu with alpha 1,
leaky_relu with slope 0.01. The reference has their formulas once more, in NumPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas import elementary
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.elementary import LEAKY_SLOPE
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.formulas.numbers import fma, where
from fastmlp.formulas.tracing import trace
from fastmlp.model.pieces import Piece, one_number, refuse_reductions, restored

Array = NDArray[Any]
Formula = Callable[..., Any]


class Activation(Piece):
    """An elementwise activation of a user's own, for hidden layers.

    Parameters
    ----------
    name : str
        Letters, digits and _; none of fastmlp's own names.
    function : callable
        function(z) returns the activation of one number, in NumPy's words: operators, comparisons,
        `np.exp`, `np.where` and the others that docs/pieces.md lists. It is called here, to be
        traced; numbers from around it are constants from then on.
    slope : callable, optional
        slope(z), slope(a) or slope(z, a), with these names: the derivative at z, where the activation
        is a. If None it is derived from the function.

    Raises
    ------
    ValueError
        If a function cannot be traced, in one line that names its line.

    Attributes
    ----------
    formula : callable
        formula(z), on the numbers of `fastmlp.formulas`; None for softmax, which goes over a row.
    backward : callable
        backward(delta, z, a), delta times the slope; it takes what it reads of them, by name.
    reads : frozenset of str
        What of z and a `backward` reads.
    hidden : bool
        Whether hidden layers may use it.
    output : bool
        Whether the last layer may.
    short : bool
        Whether the formula is a few instructions, which a tile can end in.
    short_backward : bool
        Whether `backward` is.
    """

    formula: Formula | None
    backward: Formula | None
    reads: frozenset[str]
    hidden: bool
    output: bool
    short: bool
    short_backward: bool

    def __init__(self, name: str, function: Formula, slope: Formula | None = None) -> None:
        what = f"the activation {checks.shown(name)}"
        value = one_number(what, trace(what, function, variable("z")))
        if "z" not in value.names():
            raise ValueError(f"{what} must depend on its argument")
        refuse_reductions(what, value)
        derived = gradient(value, "z")
        if slope is not None:
            what = f"the slope of {what}"
            derived = one_number(what, trace(what, slope, *map(variable, _parameters(what, slope))))
        self._set(name, value, derived)

    def _set(self, name: str, value: Expression, slope: Expression) -> None:
        self._identify(name, ACTIVATIONS, value, slope)
        self.value, self.derivative = value, slope
        self.by_delta = by_delta = times(variable("delta"), slope)
        self.reads = frozenset(slope.names())
        self.formula = lambda z: value.on_numbers({"z": z})
        # Of np.sign it is the number 0, whatever delta is.
        self.backward = lambda delta, **read: delta.number(by_delta.on_numbers({"delta": delta, **read}))
        self.hidden, self.output = True, False
        self.short, self.short_backward = _is_short(value), _is_short(slope)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.value, self.derivative)

    def digested(self) -> list[Any]:
        """Return what machine code that is made of it depends on."""
        said = [self.key, self.digest, sorted(self.reads), self.short, self.short_backward]
        own = [self.formula, self.backward]
        return [*said, *([self.by_delta.digest, Expression.digested()] if self.digest else own)]

    def on_array(self, z: Array) -> Array:
        """Return the activation of z, an array of any shape, in its dtype."""
        return np.asarray(self.value.on_arrays(z.dtype, {"z": z}))

    def backward_on_array(self, delta: Array, z: Array, a: Array) -> Array:
        """Return delta times the derivative at z, where the activation is a; arrays of one shape."""
        found = self.by_delta.on_arrays(z.dtype, {"delta": delta, "z": z, "a": a})
        return np.broadcast_to(np.asarray(found, z.dtype), z.shape)


def _parameters(what: str, slope: Formula) -> list[str]:
    if not callable(slope):
        raise TypeError(f"{what} must be a function, got {checks.shown(slope)}")
    wanted = list(inspect.signature(slope).parameters)
    if not wanted or not {*wanted} <= {"z", "a"}:
        raise ValueError(f"{what} must take z, a, or z and a, by these names, got {', '.join(wanted)}")
    return wanted


LONG = {
    "divide",
    "power",
    "sqrt",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "erf",
    "expit",
    "softplus",
}


def _is_short(expression: Expression) -> bool:
    operations: list[str] = []
    expression.fold(lambda node, _: operations.append(node.operation))
    return len(operations) <= 12 and not LONG & {*operations}


def _own(
    name: str,
    formula: Formula | None,
    backward: Formula | None,
    hidden: bool = True,
    output: bool = False,
    short: bool = False,
    short_backward: bool = True,
) -> Activation:
    entry = Activation.__new__(Activation)
    entry.name = entry.key = name
    entry.digest, entry.hidden, entry.output = "", hidden, output
    entry.short, entry.short_backward = short, short_backward
    entry.formula, entry.backward = formula, backward
    entry.reads = frozenset(inspect.signature(backward).parameters if backward else ()) - {"delta"}
    return entry


ACTIVATIONS = {
    entry.name: entry
    for entry in (
        _own("identity", lambda z: z, lambda delta: delta, output=True, short=True),
        # A choice and no product: a NaN or inf that comes from above a closed unit ends there.
        _own("relu", elementary.relu, lambda delta, a: where(a > 0.0, delta, 0.0), short=True),
        _own(
            "leaky_relu",
            elementary.leaky_relu,
            lambda delta, a: where(a > 0.0, delta, LEAKY_SLOPE * delta),
            short=True,
        ),
        _own("elu", elementary.elu, lambda delta, a: delta * where(a > 0.0, 1.0, a + 1.0)),
        _own("gelu", elementary.gelu, lambda delta, z: delta * elementary.gelu_derivative(z)),
        _own("silu", elementary.silu, lambda delta, z: delta * elementary.silu_derivative(z)),
        _own(
            "softplus",
            elementary.softplus,
            lambda delta, a: delta * -elementary.expm1_nonpositive(-a),
            short_backward=False,
        ),
        _own("sigmoid", elementary.sigmoid, lambda delta, a: delta * (a * (1.0 - a)), output=True),
        _own("tanh", elementary.tanh, lambda delta, a: delta * fma(-a, a, 1.0)),
        _own("softmax", None, None, hidden=False, output=True),
        _own("exp", elementary.exp, lambda delta, a: delta * a, hidden=False, output=True),
    )
}
"""fastmlp's own by name. Each formula stands here once for every kernel."""

HIDDEN = tuple(name for name, entry in ACTIVATIONS.items() if entry.hidden)
"""The names that a hidden layer may use; so may an `Activation`."""

OUTPUTS = tuple(name for name, entry in ACTIVATIONS.items() if entry.output)
"""The names that the last layer may use."""


def activation_of(given: str | Activation) -> Activation:
    """Return the entry of a name, a user's activation as it is."""
    return ACTIVATIONS[given] if isinstance(given, str) else given
