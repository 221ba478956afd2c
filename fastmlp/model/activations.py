"""Activation functions: the table of built-in functions, and the class `Activation`.

Definitions and constants are PyTorch's (``torch.nn``): the exact (erf) gelu, elu with alpha 1, leaky_relu
with slope 0.01, selu with the constants of the paper. The reference repeats the formulas in NumPy.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas import elementary
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.elementary import LEAKY_SLOPE, SELU_SCALE, SELU_SLOPE
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.formulas.numbers import fma, where
from fastmlp.model.component import (
    Array,
    Component,
    Counterpart,
    Counterparts,
    Formula,
    of_one_element,
    one_number,
    restored,
    traced,
)


class Activation(Component):
    """A custom elementwise activation, for hidden layers.

    Parameters
    ----------
    name : str
        Letters, digits and _; no built-in name.
    function : callable
        function(z) returns the activation of a number, in NumPy's words: operators, comparisons, `np.exp`,
        `np.where` and more, listed in docs/custom-components.md. The function is called here, to be traced;
        outside numbers become constants.
    slope : callable, optional
        slope(z), slope(a) or slope(z, a), with these names: the derivative at z, for the activation a. None
        derives the slope from the function.

    Raises
    ------
    ValueError, TypeError
        If a function cannot be traced, in a line with the function's file and line.

    Attributes
    ----------
    counterparts : Counterparts
        The names of a built-in activation in "torch" and "onnx".
    formula : callable
        formula(z), on the numbers of `fastmlp.formulas`; None for softmax, a function of a row.
    backward : callable
        backward(delta, z, a), delta times the slope; a backward function takes by name the arguments in use.
    reads : frozenset of str
        The names of z and a in the arguments of `backward`.
    hidden : bool
        True if hidden layers may use the activation.
    output : bool
        True if the last layer may use the activation.
    short : bool
        True if the formula is a few instructions, at most, so that a register tile can end with the formula.
    short_backward : bool
        The same for `backward`.
    rises : bool
        True if the function is known never to fall.
    """

    counterparts: Counterparts
    formula: Formula | None
    backward: Formula | None
    reads: frozenset[str]
    hidden: bool
    output: bool
    short: bool
    short_backward: bool
    rises: bool = False

    def __init__(self, name: str, function: Formula, slope: Formula | None = None) -> None:
        what = f"the activation {checks.shown(name)}"
        value = one_number(what, traced(what, function, by_element=True))
        derived = gradient(value, "z")
        if slope is not None:
            from fastmlp.formulas.expressions import trace

            what = f"the slope of {what}"
            given = map(variable, _parameters(what, slope))
            derived = of_one_element(what, one_number(what, trace(what, slope, *given)))
        self._set(name, value, derived)

    def _set(self, name: str, value: Expression, slope: Expression) -> None:
        self._identify(name, ACTIVATIONS, value, slope)
        self.value, self.derivative = value, slope
        self.hidden, self.output = True, False
        self.by_delta = by_delta = times(variable("delta"), slope)
        self.reads = frozenset(slope.names())
        self.formula = lambda z: value.on_numbers({"z": z})
        # Of np.sign it is the number 0, whatever delta is.
        self.backward = lambda delta, **read: delta.number(by_delta.on_numbers({"delta": delta, **read}))
        self.short, self.short_backward = _is_short(value), _is_short(slope)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.value, self.derivative)

    def on_array(self, z: Array) -> Array:
        """Return the activation of z, an array of any shape, in the dtype of z."""
        return np.asarray(self.value.on_arrays(z.dtype, {"z": z}))

    def backward_on_array(self, delta: Array, z: Array, a: Array) -> Array:
        """Return delta times the derivative at z, for the activation a; arrays of equal shapes."""
        found = self.by_delta.on_arrays(z.dtype, {"delta": delta, "z": z, "a": a})
        return np.broadcast_to(np.asarray(found, z.dtype), z.shape)


def _parameters(what: str, slope: Formula) -> list[str]:
    if not callable(slope):
        raise TypeError(f"{what} must be a function, got {checks.shown(slope)}")
    names = list(inspect.signature(slope).parameters)
    if not names or not {*names} <= {"z", "a"}:
        raise ValueError(
            f"{what} must take z, a, or z and a, by these names, got {', '.join(names) or 'none'}"
        )
    return names


LONG = {
    *("divide", "power", "sqrt", "exp", "expm1", "log", "log1p"),
    *("sin", "cos", "tanh", "erf", "expit", "softplus"),
}
"""Operations of more than a few instructions."""


def _is_short(expression: Expression) -> bool:
    operations: list[str] = []
    expression.fold(lambda node, _: operations.append(node.operation))
    return len(operations) <= 12 and not LONG & {*operations}


def _entry(
    name: str, formula: Formula | None, backward: Formula | None, *, hidden: bool = True,
    output: bool = False, short: bool = False, short_backward: bool = True, rises: bool = False,
    **counterparts: Counterpart,
) -> Activation:  # fmt: skip
    entry = Activation.__new__(Activation)
    entry.name = entry.key = name
    entry.digest, entry.counterparts = "", counterparts
    entry.hidden, entry.output, entry.rises = hidden, output, rises
    entry.short, entry.short_backward = short, short_backward
    entry.formula, entry.backward = formula, backward
    entry.reads = frozenset(inspect.signature(backward).parameters if backward else ()) - {"delta"}
    return entry


ACTIVATIONS = {
    entry.name: entry
    for entry in (
        _entry("identity", lambda z: z, lambda delta: delta, output=True, short=True, rises=True),
        # A choice and no product: a NaN or inf that comes from above a closed unit ends there.
        _entry(
            "relu", elementary.relu, lambda delta, a: where(a > 0.0, delta, 0.0), short=True, rises=True,
            torch="ReLU", onnx="Relu",
        ),
        _entry(
            "leaky_relu", elementary.leaky_relu, lambda delta, a: where(a > 0.0, delta, LEAKY_SLOPE * delta),
            short=True, rises=True, torch=("LeakyReLU", {"negative_slope": LEAKY_SLOPE}),
            onnx=("LeakyRelu", {"alpha": LEAKY_SLOPE}),
        ),
        _entry(
            "elu", elementary.elu, lambda delta, a: delta * where(a > 0.0, 1.0, a + 1.0), rises=True,
            torch=("ELU", {"alpha": 1.0}), onnx=("Elu", {"alpha": 1.0}),
        ),
        _entry(
            "gelu", elementary.gelu, lambda delta, z: delta * elementary.gelu_derivative(z),
            torch=("GELU", {"approximate": "none"}), onnx=("Gelu", {"approximate": "none"}),
        ),
        _entry("silu", elementary.silu, lambda delta, z: delta * elementary.silu_derivative(z), torch="SiLU"),
        # Beyond the threshold PyTorch returns x: an error of e^-threshold, below 2^-53 from 37 on.
        _entry(
            "softplus", elementary.softplus, lambda delta, a: delta * -elementary.expm1_nonpositive(-a),
            short_backward=False, rises=True, torch=("Softplus", {"beta": 1.0, "threshold": 40.0}),
            onnx="Softplus",
        ),
        _entry(
            "sigmoid", elementary.sigmoid, lambda delta, a: delta * (a * (1.0 - a)), output=True, rises=True,
            torch="Sigmoid", onnx="Sigmoid",
        ),
        _entry(
            "tanh", elementary.tanh, lambda delta, a: delta * fma(-a, a, 1.0), rises=True,
            torch="Tanh", onnx="Tanh",
        ),
        _entry(
            "selu", elementary.selu, lambda delta, a: delta * where(a > 0.0, SELU_SCALE, a + SELU_SLOPE),
            rises=True, torch="SELU",
            onnx=("Selu", {"alpha": SELU_SLOPE / SELU_SCALE, "gamma": SELU_SCALE}),
        ),
        _entry(
            "mish", elementary.mish, lambda delta, z: delta * elementary.mish_derivative(z),
            torch="Mish", onnx="Mish",
        ),
        _entry(
            "hardswish", elementary.hardswish,
            lambda delta, z: where(z <= -3.0, 0.0, delta * where(z < 3.0, fma(z, 1 / 3, 0.5), 1.0)),
            short=True, torch="Hardswish", onnx="HardSwish",
        ),
        _entry(
            "softmax", None, None, hidden=False, output=True, torch=("Softmax", {"dim": -1}),
            onnx=("Softmax", {"axis": -1}),
        ),
        _entry(
            "exp", elementary.exp, lambda delta, a: delta * a, hidden=False, output=True, rises=True,
            onnx="Exp",
        ),
    )
}  # fmt: skip
"""The built-in activations by name; each formula stands here once for every kernel."""

HIDDEN = tuple(name for name, entry in ACTIVATIONS.items() if entry.hidden)
"""The names for hidden layers, besides an `Activation`."""

OUTPUTS = tuple(name for name, entry in ACTIVATIONS.items() if entry.output)
"""The names for the last layer."""


def activation_of(given: str | Activation) -> Activation:
    """Return the entry of a name; return an `Activation` unchanged."""
    return ACTIVATIONS[given] if isinstance(given, str) else given
