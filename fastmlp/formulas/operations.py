"""The table of operations that expressions are made of: each for arrays, and for numbers that write code."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.formulas import elementary, numbers


class Operation(NamedTuple):
    """One thing that an expression may do.

    on_arrays : of NumPy's; on_numbers : of `fastmlp.formulas`, for the numbers that write machine code
    truth : whether it gives a truth value
    reduces : whether it goes over the units of a row, (rows, units) to (rows, 1)
    """

    on_arrays: Callable[..., Any]
    on_numbers: Callable[..., Any] | None
    truth: bool = False
    reduces: bool = False


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


def _expit(x: Any) -> Any:
    from scipy.special import expit

    return expit(x)


def _over_row(reduce: Any) -> Callable[[Any], Any]:
    return lambda x: reduce(x, axis=1, keepdims=True)


OPERATIONS: dict[str, Operation] = {
    "add": Operation(np.add, operator.add),
    "subtract": Operation(np.subtract, operator.sub),
    "multiply": Operation(np.multiply, operator.mul),
    "divide": Operation(np.divide, operator.truediv),
    "power": Operation(np.power, elementary.power),
    "negative": Operation(np.negative, operator.neg),
    "absolute": Operation(np.absolute, numbers.magnitude),
    "sign": Operation(np.sign, elementary.sign),
    "sqrt": Operation(np.sqrt, numbers.sqrt),
    "exp": Operation(np.exp, elementary.exp),
    "expm1": Operation(np.expm1, elementary.expm1),
    "log": Operation(np.log, elementary.log),
    "log1p": Operation(np.log1p, elementary.log1p),
    "sin": Operation(np.sin, elementary.sin),
    "cos": Operation(np.cos, elementary.cos),
    "tanh": Operation(np.tanh, elementary.tanh),
    "erf": Operation(_erf, elementary.erf),
    "expit": Operation(_expit, elementary.sigmoid),
    "softplus": Operation(lambda x: np.logaddexp(0.0, x), elementary.softplus),
    "maximum": Operation(np.maximum, elementary.maximum),
    "minimum": Operation(np.minimum, elementary.minimum),
    "where": Operation(np.where, numbers.where),
    "greater": Operation(np.greater, operator.gt, truth=True),
    "greater_equal": Operation(np.greater_equal, operator.ge, truth=True),
    "less": Operation(np.less, operator.lt, truth=True),
    "less_equal": Operation(np.less_equal, operator.le, truth=True),
    "equal": Operation(np.equal, numbers.equal, truth=True),
    "logical_and": Operation(np.logical_and, operator.and_, truth=True),
    "logical_or": Operation(np.logical_or, operator.or_, truth=True),
    "logical_not": Operation(np.logical_not, numbers.negated, truth=True),
    "sum": Operation(_over_row(np.sum), None, reduces=True),
    "max": Operation(_over_row(np.max), None, reduces=True),
}
"""What an expression is made of; a derivative for each stands in `fastmlp.formulas.derivatives`."""
