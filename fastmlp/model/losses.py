"""The losses: a table of fastmlp's own, and the classes of a user's.

Element-wise losses are means over all elements, cross_entropy and focal are means over rows, as in PyTorch,
and likelihoods with two outputs a target are means over targets. Each row counts with its sample weight, and
a mean divides by the batch's sum of them. poisson_deviance is half the Poisson deviance: poisson plus what
depends on the targets alone, so that it is 0 where the outputs are the targets. The reference has the
formulas once more, in NumPy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas import elementary
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import NUMBER, ONES, Expression, is_row, operate, variable
from fastmlp.formulas.numbers import DtypeConstant, at_least, at_most, fma, magnitude, where
from fastmlp.formulas.tracing import trace
from fastmlp.model.activations import OUTPUTS
from fastmlp.model.likelihoods import gaussian, negative_binomial
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
    element : callable
        element(z, a, y, parameter), on the numbers of `fastmlp.formulas`: the loss of one element, and its
        derivative by the output or, where `by_logit`, by the logit; None if it goes over a row
    of_logs : bool
        Whether it is a sum over log a, a softmax: element(log a, a, y, parameters, before) adds to the loss
        of the units before, and its derivative is by log a or, where `by_logit`, by the logit
    outputs_per_target : int
        1; or 2, as of `fastmlp.model.likelihoods`: element(first, second, y) takes two outputs, and gives the
        loss with its derivatives by both
    value : expression
        A row's loss, of logit, output, target and parameter (NUMBER, if it is one); of users' losses only.
    delta : expression
        The derivative of `value` by each logit; of users' losses only.
    """

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
        what = f"the loss {checks.shown(name)}"
        output = checks.choice("output", output, OUTPUTS)
        numbers = None if parameter is None else _numbers(f"the parameter of {what}", parameter)
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


def _first_parameter(function: object) -> str:
    """Return the name of what a function takes first; an empty one if that cannot be known."""
    try:
        return next(iter(inspect.signature(function).parameters), "")  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no function, or one without a signature, as some of NumPy's
        return ""


def _numbers(what: str, given: object) -> tuple[float, ...]:
    """Return a number, or a sequence of them, as floats."""
    given = given[()] if isinstance(given, np.ndarray) and given.ndim == 0 else given
    listed = isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str)
    found = tuple(checks.real(what, value) for value in (given if listed else [given]))  # type: ignore[attr-defined]
    if not found:
        raise ValueError(f"{what} must hold a number, got none")
    return found


# --- fastmlp's own: formulas of one element ------------------------------------------------------------

# Each takes the logit z, the output a, the target y and the parameter, and gives the loss and its derivative
# by the output, or by the logit where `by_logit`.


def squared(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """(a - y)^2."""
    r = a - y
    return r * r, r + r


def absolute(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """|a - y|."""
    r = a - y
    return magnitude(r), elementary.sign(r)


def huber(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """r^2 / 2 up to |r| = delta, and its tangent beyond; r = a - y."""
    r, d = a - y, parameter
    size = magnitude(r)
    near = size <= d
    beyond = where(r > 0.0, d, where(r < 0.0, -d, r))
    return where(near, 0.5 * r * r, d * (size - 0.5 * d)), where(near, r, beyond)


def pinball(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """|r|, (1 - quantile) times above 0 and quantile times below; r = a - y."""
    r = a - y
    slope = where(r > 0.0, 1.0 - parameter, where(r < 0.0, -parameter, r.number(0.0)))
    return r * slope, slope


def cross_entropy(z: Any, a: Any, y: Any, parameters: Any, before: Any) -> tuple[Any, Any]:
    """-y log(a), of targets that are smoothed: y - smoothing y + smoothing / classes.

    parameters : at 0 smoothing / classes, at 1 smoothing; below 0 where the loss is clipped
    """
    y = fma(-at_least(parameters[1], 0.0), y, y) + at_least(parameters[0], 0.0)
    return fma(y, -z, before), a - y


def focal(z: Any, a: Any, y: Any, parameters: Any, before: Any) -> tuple[Any, Any]:
    """-y (1 - a)^gamma log(a)."""
    gamma, rest = parameters[0], -elementary.expm1(z)
    some = rest > elementary.SMALLEST_NORMAL
    factor = where(gamma > 0.0, where(some, elementary.exp(gamma * elementary.log(rest)), 0.0), 1.0)
    ratio = where(some, z / where(some, rest, 1.0), -1.0)  # log(a) / (1 - a), which is -1 at a = 1
    return fma(y * factor, -z, before), -y * factor * fma(-gamma * a, ratio, 1.0)


def binary_focal(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """-y (1 - a)^gamma log(a) - (1 - y) a^gamma log(1 - a), of a logit of any size."""
    of_no, of_yes = elementary.softplus(z), elementary.softplus(-z)  # -log(1 - a), -log(a)
    yes, no = y * elementary.exp(-parameter * of_no), (1.0 - y) * elementary.exp(-parameter * of_yes)
    by_yes = fma(-parameter * a, of_yes, a - 1.0)
    by_no = fma(parameter * (1.0 - a), of_no, a)
    return fma(yes, of_yes, no * of_no), fma(yes, by_yes, no * by_no)


def binary_cross_entropy(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """log(1 + e^z) - y z, of a logit of any size."""
    return fma(-z, y, elementary.softplus(z)), a - y


def poisson(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """a - y log(a), of a logit log(a)."""
    return fma(-y, z, a), a - y


def poisson_deviance(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """`poisson`, less its value where the output is the target."""
    least = where(magnitude(y) < elementary.SMALLEST_NORMAL, 0.0, y * (1.0 - elementary.log(y)))
    return fma(-y, z, a) - least, a - y


def _own(name: str, element: Formula, outputs: tuple[str, ...], **facts: Any) -> Loss:
    """Return an entry; facts : attributes of `Loss` that are not as usual."""
    entry = Loss.__new__(Loss)
    vars(entry).update(name=name, key=name, digest="", outputs=outputs, element=element, parameter=None)
    vars(entry).update(facts)
    return entry


_RANGES = ("identity", "sigmoid", "softmax", "exp")
_CLASSES = {"of_logs": True, "by_row": True, "targets": "distributions"}
_EVENTS = {"by_logit": True, "targets": "within [0, 1]"}
_COUNTS = {"by_logit": True, "targets": "at least 0", "sklearn_divisor": 1.0}
_PAIRS = {"by_logit": True, "outputs_per_target": 2}

LOSSES = {
    entry.name: entry
    for entry in (
        _own("mse", squared, _RANGES, sklearn_divisor=2.0),
        _own("mae", absolute, _RANGES),
        _own("huber", huber, _RANGES, parameter=(1.0,)),
        _own(
            "binary_cross_entropy",
            binary_cross_entropy,
            ("sigmoid",),
            clips=True,
            sklearn_divisor=1.0,
            **_EVENTS,
        ),
        _own("cross_entropy", cross_entropy, ("softmax",), by_logit=True, clips=True, **_CLASSES),
        _own("poisson", poisson, ("exp",), **_COUNTS),
        _own("pinball", pinball, ("identity", "sigmoid", "exp"), parameter=(0.5,)),
        _own("poisson_deviance", poisson_deviance, ("exp",), **_COUNTS),
    )
}
RESERVED = frozenset(LOSSES)
"""Names that no loss of a user's may have. One may have had a younger name before; keys distinguish them."""

LOSSES |= {
    entry.name: entry
    for entry in (
        _own("focal", focal, ("softmax",), parameter=(2.0,), **_CLASSES),
        _own("binary_focal", binary_focal, ("sigmoid",), parameter=(2.0,), **_EVENTS),
        _own("gaussian", gaussian, ("identity",), **_PAIRS),
        _own("negative_binomial", negative_binomial, ("identity",), targets="at least 0", **_PAIRS),
    )
}
"""fastmlp's own by name, with their usual parameters; `fastmlp.model.own_losses` has those with others.
Outputs are those on whose range a loss is defined; the likelihoods take their canonical output only, whose
fused form is stable for logits of any size."""


def loss_of(given: str | Loss) -> Loss:
    """Return the entry of a name, a loss as it is."""
    return LOSSES[given] if isinstance(given, str) else given


# Of a probability of 1 - eps and of eps.
LEAST_CROSS_ENTROPY = DtypeConstant(-math.log1p(-(2.0**-23)), -math.log1p(-(2.0**-52)))
MOST_CROSS_ENTROPY = DtypeConstant(-math.log(2.0**-23), -math.log(2.0**-52))


def within(value: Any, least: Any, most: Any) -> Any:
    """Return the value, or the bound that it is beyond; a NaN stays one."""
    return at_most(at_least(value, least), most)
