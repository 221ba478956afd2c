"""The class of a loss, and custom losses: of an output and a target, or of a whole row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import NUMBER, ONES, Expression, is_row, operate, variable
from fastmlp.model.activations import OUTPUTS
from fastmlp.model.component import Component, of_one_element, one_number, restored

Array = NDArray[Any]
Formula = Callable[..., Any]

CHAIN: dict[str, Callable[[Expression, Expression], Expression]] = {
    "identity": lambda by_a, a: by_a,
    "sigmoid": lambda by_a, a: times(by_a, a * (1.0 - a)),
    "exp": lambda by_a, a: times(by_a, a),
    "softmax": lambda by_a, a: a * (by_a - operate("sum", a * by_a)),
}
"""The derivative by the logit, from the derivative by the output a; by the output's activation."""

LOSSES: dict[str, Loss] = {}
"""All losses by name, with default parameters; `losses` fills the table. The outputs of a loss are the
activations within the loss's range; likelihoods take a single, canonical output, with a fused form that is
stable for logits of any size."""


class Loss(Component):
    """A custom loss: the mean over rows and outputs of a function of an output and a target.

    Parameters
    ----------
    name : str
        Letters, digits and _; no built-in name.
    function : callable
        function(output, target), or function(output, target, parameter): the loss of an element, in NumPy's
        words (see `Activation`). A first parameter named `logit` gets the number before the output's
        activation, for a loss without overflow.
    output : str
        The activation of the network's last layer: identity, sigmoid, softmax or exp.
    parameter : float or sequence of float, optional
        The function's third argument: a number, or a number for each output.

    Notes
    -----
    Rows count with sample weights, as in mse. A single column of y is the target of every output.

    Raises
    ------
    ValueError, TypeError
        If the function cannot be traced, in a line with the function's file and line; or for an unknown
        output.

    Attributes
    ----------
    outputs : the allowed output activations
    by_row : True for a mean over rows, False for a mean over rows and outputs
    outputs_per_target : int
        Outputs for each target: 1; or 2, 3, .. for a likelihood. k targets have k first outputs, then k
        second outputs, and so on
    element : callable
        element(z, a, y, parameter), on the numbers of `fastmlp.formulas`: the loss of a target, and the
        derivative by the output or, with `by_logit`, by the logit; None for a loss of a row. For several
        outputs a target z, a and the derivatives are tuples
    of_logs : bool
        True for a sum over log a, a softmax: element(log a, a, y, parameters, before) adds to the loss of the
        units before, and the derivative is by log a or, with `by_logit`, by the logit
    value : expression
        A row's loss, from logit, output, target and parameter (NUMBER, for a single number); custom losses
        only.
    delta : expression
        The derivative of `value` by each logit; custom losses only.
    """

    value: Any
    delta: Any
    outputs: tuple[str, ...]
    by_row: bool = False
    clips: bool = False
    targets: str = "any"
    sklearn_divisor: float | None = None
    element: Formula | None = None
    by_logit: bool = False
    of_logs: bool = False
    outputs_per_target: int = 1

    def __init__(
        self,
        name: str,
        function: Formula,
        output: str = "identity",
        parameter: float | Sequence[float] | None = None,
    ) -> None:
        from fastmlp.formulas.expressions import trace

        what = f"the loss {checks.shown(name)}"
        output = checks.choice("output", output, OUTPUTS)
        numbers = None if parameter is None else numbers_of(f"the parameter of {what}", parameter)
        first = _first_parameter(function)
        if first in ("target", "targets", "y_true"):
            raise ValueError(f"{what} takes the output, or the logit, before the target, got {first!r} first")
        source = "logit" if first in ("logit", "logits") else "output"
        given = [variable(source), variable("target")]
        if numbers is not None:
            given.append(variable(NUMBER if len(numbers) == 1 else "parameter"))
        value = one_number(what, trace(what, function, *given))
        if not self.by_row:
            value = of_one_element(what, value)
        if source not in value.names():
            raise ValueError(f"{what} must depend on its {source}")
        self._set(name, value, source, output, numbers)

    def _set(
        self, name: str, value: Expression, source: str, output: str, parameter: tuple[float, ...] | None
    ) -> None:
        self._identify(name, LOSSES, value, form=output, data=parameter)
        self.function, self.source, self.outputs, self.parameter = value, source, (output,), parameter
        self.value = value if self.by_row else operate("sum", value)
        derivative = gradient(self.value, source)
        a = variable("output")
        self.delta = derivative if source == "logit" else CHAIN[output](derivative, a)

        if not self.by_row and output != "softmax":
            self.element, self.by_logit = self._element, True

    def indices(self, j: Any, units: Any) -> tuple[Any, ...]:
        """Return the indices of target j's outputs among all units."""
        per_target = self.outputs_per_target
        return j, *(j + k * (units // per_target) for k in range(1, per_target))

    def of_target(self, z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
        """Return the loss of a target, and the derivatives by the target's outputs; z, a : tuples."""
        if self.outputs_per_target > 1:
            found: tuple[Any, Any] = self.element(z, a, y, parameter)  # type: ignore[misc]
            return found
        value, slope = self.element(z[0], a[0], y, parameter)  # type: ignore[misc]
        return value, (slope,)

    @property
    def takes_one_column(self) -> bool:
        """True if a single column of y may be the target of all outputs."""
        return bool(self.digest) or len(self.parameter or ()) > 1

    def _element(self, z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
        given = {"logit": z, "output": a, "target": y, "parameter": parameter, NUMBER: parameter}
        value, delta = self.function.on_numbers(given), self.delta.on_numbers(given)
        return value + (zero := z.number(0.0)), delta + zero

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.function, self.source, self.outputs[0], self.parameter)

    def on_arrays(
        self, logits: Array, output: Array, targets: Array, parameter: Array
    ) -> tuple[Array, Array]:
        """Return the rows' losses (rows, 1) and the derivative by the logits; arrays (rows, n_out).

        parameter : (n_out,)
        """
        values = {"logit": logits, "output": output, "target": targets}
        values |= {"parameter": np.broadcast_to(parameter, logits.shape), NUMBER: parameter[0]}
        values[ONES] = np.ones_like(logits)
        value = self.value.on_arrays(logits.dtype, values)
        delta = self.delta.on_arrays(logits.dtype, values)
        return np.broadcast_to(value, (len(logits), 1)), np.broadcast_to(delta, logits.shape)

    def numbers(self, n_out: int) -> tuple[float, ...]:
        """Return the parameter of each output, or zeros."""
        given = self.parameter or (0.0,)
        return given if len(given) == n_out else given * n_out


class RowLoss(Loss):
    """A custom loss: the mean over rows of a function of all outputs and targets of a row.

    Parameters
    ----------
    name, output, parameter : as for `Loss`
    function : callable
        function(output, target) or function(output, target, parameter): the loss of a row. Arguments stand
        for all outputs of the row; `np.sum` and `np.max` go over the outputs. A first parameter named
        `logits` gets the numbers before the output's activation.

    Raises
    ------
    ValueError, TypeError
        As for `Loss`; and if the function gives a value for each output, without a sum or max at the end.
    """

    by_row = True

    def _set(
        self, name: str, value: Expression, source: str, output: str, parameter: tuple[float, ...] | None
    ) -> None:
        if is_row(value):
            raise ValueError(
                f"the loss {checks.shown(name)} must be one number for a row; end it by np.sum or np.max"
            )
        super()._set(name, value, source, output, parameter)


class BuiltInLoss(checks.CheckedFields, Loss):
    """Base of the built-in losses; losses with parameters are dataclasses.

    An entry of the table has default parameters; `entry` of a class is the class's entry. The formula gets
    `_parameter`.
    """

    entry: ClassVar[Loss]
    classes: ClassVar[list[type[BuiltInLoss]]] = []

    def __init_subclass__(cls) -> None:
        cls.classes.append(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        parameter = self._parameter()
        vars(self).update(vars(self.entry) | {"parameter": parameter})

    def _parameter(self) -> tuple[float, ...] | None:
        """Return the formula's parameter: the fields' values, if any."""
        return tuple(getattr(self, field.name) for field in fields(self)) or None  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


def built_in(*outputs: str, **facts: Any) -> Callable[[Formula], Formula]:
    """Return a decorator: the formula becomes an entry of LOSSES, by the formula's name.

    outputs : allowed activations; facts : attributes of `Loss` other than the defaults
    """

    def add(element: Formula) -> Formula:
        name = element.__name__
        entry = LOSSES[name] = Loss.__new__(Loss)
        vars(entry).update(name=name, key=name, digest="", outputs=outputs, element=element, parameter=None)
        vars(entry).update(facts)
        return element

    return add


def _first_parameter(function: object) -> str:
    """Return the name of a function's first parameter; "" if unknown."""
    try:
        return next(iter(inspect.signature(function).parameters), "")  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no function, or one without a signature, as some of NumPy's
        return ""


def numbers_of(what: str, given: object, *bounds: float, **open_ends: bool) -> tuple[float, ...]:
    """Return a number, or a sequence of numbers, as floats; bounds, open_ends : as of `checks.real`"""
    given = given[()] if isinstance(given, np.ndarray) and given.ndim == 0 else given
    listed = checks.sequence(given)
    values = [given] if listed is None else listed
    found = tuple(checks.real(what, value, *bounds, **open_ends) for value in values)
    if not found:
        raise ValueError(f"{what} must hold a number, got none")
    return found
