"""What a loss is, and the losses of a user's own: of one output and its target, or of a whole row."""

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
from fastmlp.model.pieces import Piece, of_one_element, one_number, restored

Array = NDArray[Any]
Formula = Callable[..., Any]

CHAIN: dict[str, Callable[[Expression, Expression], Expression]] = {
    "identity": lambda by_a, a: by_a,
    "sigmoid": lambda by_a, a: times(by_a, a * (1.0 - a)),
    "exp": lambda by_a, a: times(by_a, a),
    "softmax": lambda by_a, a: a * (by_a - operate("sum", a * by_a)),
}
"""The derivative by the logit, from that by the output, whose value is a; by the output's activation."""

RESERVED = {
    *("mse", "mae", "huber", "binary_cross_entropy", "cross_entropy", "poisson", "pinball"),
    "poisson_deviance",
}
"""Names that no loss of a user's may have. One may have had a younger name before; keys distinguish them."""


class Loss(Piece):
    """A loss of a user's own, the mean over rows and outputs of a function of one output and its target.

    Parameters
    ----------
    name : str
        Letters, digits and _; none of fastmlp's own names.
    function : callable
        function(output, target), or function(output, target, parameter): the loss of one element, in
        NumPy's words (see `Activation`). If its first parameter is named `logit`, it gets what the
        output's activation is applied to, where a loss may be computed without overflow.
    output : str
        The activation of the network's last layer: identity, sigmoid, softmax or exp.
    parameter : float or sequence of float, optional
        What the function gets as its third argument: a number, or one for each output.

    Notes
    -----
    Rows count with their sample weights, as they do in mse. One column of y is the target of every output.

    Raises
    ------
    ValueError, TypeError
        If the function cannot be traced, in one line that names its line; or for an unknown output.

    Attributes
    ----------
    outputs : the outputs that it goes with
    by_row : whether it is a mean over rows, and not over rows and outputs
    outputs_per_target : int
        How many outputs belong to one target: 1; or 2, 3, .. of a likelihood. k targets have k first outputs,
        then k second ones, and so on
    element : callable
        element(z, a, y, parameter), on the numbers of `fastmlp.formulas`: the loss of one target, and its
        derivative by the output or, where `by_logit`, by the logit; None if it goes over a row. Of several
        outputs a target z, a and the derivatives are tuples of as many
    of_logs : bool
        Whether it is a sum over log a, a softmax: element(log a, a, y, parameters, before) adds to the loss
        of the units before, and its derivative is by log a or, where `by_logit`, by the logit
    value : expression
        A row's loss, of logit, output, target and parameter (NUMBER, if it is one); of users' losses only.
    delta : expression
        The derivative of `value` by each logit; of users' losses only.
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
        from fastmlp.formulas.tracing import trace

        what = f"the loss {checks.shown(name)}"
        output = checks.choice("output", output, OUTPUTS)
        numbers = None if parameter is None else numbers_of(f"the parameter of {what}", parameter)
        source = "logit" if _first_parameter(function) in ("logit", "logits") else "output"
        given = [variable(source), variable("target")]
        if numbers is not None:
            given.append(variable(NUMBER if len(numbers) == 1 else "parameter"))
        value = one_number(what, trace(what, function, *given))
        if source not in value.names():
            raise ValueError(f"{what} must depend on its {source}")
        if not self.by_row:
            value = of_one_element(what, value)
        self._set(name, value, source, output, numbers)

    def _set(
        self, name: str, value: Expression, source: str, output: str, parameter: tuple[float, ...] | None
    ) -> None:
        self._identify(name, RESERVED, value, form=output, data=parameter)
        self.function, self.source, self.outputs, self.parameter = value, source, (output,), parameter
        self.value = value if self.by_row else operate("sum", value)
        derivative = gradient(self.value, source)
        a = variable("output")
        self.delta = derivative if source == "logit" else CHAIN[output](derivative, a)

        if not self.by_row and output != "softmax":
            self.element, self.by_logit = self._element, True

    def places(self, j: Any, units: Any) -> tuple[Any, ...]:
        """Return the places of the outputs of target j among all units."""
        per_target = self.outputs_per_target
        return j, *(j + k * (units // per_target) for k in range(1, per_target))

    def of_target(self, z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
        """Return the loss of a target, and its derivatives by the target's outputs; z, a : one of each."""
        if self.outputs_per_target > 1:
            found: tuple[Any, Any] = self.element(z, a, y, parameter)  # type: ignore[misc]
            return found
        value, slope = self.element(z[0], a[0], y, parameter)  # type: ignore[misc]
        return value, (slope,)

    @property
    def takes_one_column(self) -> bool:
        """Whether one column of y may be the target of all outputs."""
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
        """Return the rows' losses (rows, 1) and their derivative by the logits; all (rows, n_out).

        parameter : (n_out,)
        """
        values = {"logit": logits, "output": output, "target": targets}
        values |= {"parameter": np.broadcast_to(parameter, logits.shape), NUMBER: parameter[0]}
        values[ONES] = np.ones_like(logits)
        value = self.value.on_arrays(logits.dtype, values)
        delta = self.delta.on_arrays(logits.dtype, values)
        return np.broadcast_to(value, (len(logits), 1)), np.broadcast_to(delta, logits.shape)

    def numbers(self, n_out: int) -> tuple[float, ...]:
        """Return the parameter of each output, 0 without one."""
        given = self.parameter or (0.0,)
        return given if len(given) == n_out else given * n_out


class RowLoss(Loss):
    """A loss of a user's own, the mean over rows of a function of all of a row's outputs and targets.

    Parameters
    ----------
    name, output, parameter : as for `Loss`
    function : callable
        function(output, target) or function(output, target, parameter): the loss of a row. What it
        gets stands for all outputs of the row; `np.sum` and `np.max` go over them. If its first
        parameter is named `logits`, it gets what the output's activation is applied to.

    Raises
    ------
    ValueError, TypeError
        As for `Loss`; and if the function gives a value for each output, which no sum or max ends.
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


class BuiltInLoss(Loss):
    """Base of fastmlp's losses; those with parameters are dataclasses.

    An entry of a table has the usual parameters, and `entry` of a class is that; its formula gets
    `_parameter`.
    """

    entry: ClassVar[Loss]
    classes: ClassVar[list[type[BuiltInLoss]]] = []

    def __init_subclass__(cls) -> None:
        cls.classes.append(cls)

    def __post_init__(self) -> None:
        parameter = self._parameter()
        vars(self).update(vars(self.entry) | {"parameter": parameter})

    def _parameter(self) -> tuple[float, ...] | None:
        """Return what the formula gets, checked; None if that is nothing."""
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


def built_in(table: dict[str, Loss], *outputs: str, **facts: Any) -> Callable[[Formula], Formula]:
    """Return a decorator that makes an entry of a table of a formula, under the formula's name.

    outputs : that it goes with; facts : attributes of `Loss` that are not as usual
    """

    def add(element: Formula) -> Formula:
        name = element.__name__
        entry = table[name] = Loss.__new__(Loss)
        vars(entry).update(name=name, key=name, digest="", outputs=outputs, element=element, parameter=None)
        vars(entry).update(facts)
        return element

    return add


def _first_parameter(function: object) -> str:
    """Return the name of what a function takes first; an empty one if that cannot be known."""
    try:
        return next(iter(inspect.signature(function).parameters), "")  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no function, or one without a signature, as some of NumPy's
        return ""


def numbers_of(what: str, given: object, *bounds: float, **open_ends: bool) -> tuple[float, ...]:
    """Return a number, or a sequence of them, as floats; bounds, open_ends : as of `checks.real`"""
    given = given[()] if isinstance(given, np.ndarray) and given.ndim == 0 else given
    listed = isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str)
    values: Any = given if listed else [given]
    found = tuple(checks.real(what, value, *bounds, **open_ends) for value in values)
    if not found:
        raise ValueError(f"{what} must hold a number, got none")
    return found
