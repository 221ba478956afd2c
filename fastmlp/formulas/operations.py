"""The table of operations that expressions are made of: each for arrays, and for numbers that write code."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.formulas import elementary, numbers


class FormulaOperation(NamedTuple):
    """An operation of expressions, on NumPy's arrays and on numbers that write machine code.

    truth : whether the result is a truth value; reduces : the units of a row, (.., units) to (.., 1)
    """

    on_arrays: Callable[..., Any]
    on_numbers: Callable[..., Any] | None
    truth: bool = False
    reduces: bool = False


def _special(name: str) -> Callable[[Any], Any]:
    # SciPy takes long to import, and few formulas need it.
    return lambda x: getattr(importlib.import_module("scipy.special"), name)(x)


def _over_row(reduce: Any) -> Callable[[Any], Any]:
    return lambda x: reduce(x, axis=-1, keepdims=True)


OPERATIONS: dict[str, FormulaOperation] = {
    "add": FormulaOperation(np.add, operator.add),
    "subtract": FormulaOperation(np.subtract, operator.sub),
    "multiply": FormulaOperation(np.multiply, operator.mul),
    "divide": FormulaOperation(np.divide, operator.truediv),
    "power": FormulaOperation(np.power, elementary.power),
    "negative": FormulaOperation(np.negative, operator.neg),
    "absolute": FormulaOperation(np.absolute, numbers.magnitude),
    "sign": FormulaOperation(np.sign, elementary.sign),
    "sqrt": FormulaOperation(np.sqrt, numbers.sqrt),
    "exp": FormulaOperation(np.exp, elementary.exp),
    "expm1": FormulaOperation(np.expm1, elementary.expm1),
    "log": FormulaOperation(np.log, elementary.log),
    "log1p": FormulaOperation(np.log1p, elementary.log1p),
    "sin": FormulaOperation(np.sin, elementary.sin),
    "cos": FormulaOperation(np.cos, elementary.cos),
    "tanh": FormulaOperation(np.tanh, elementary.tanh),
    "erf": FormulaOperation(_special("erf"), elementary.erf),
    "expit": FormulaOperation(_special("expit"), elementary.sigmoid),
    "softplus": FormulaOperation(lambda x: np.logaddexp(0.0, x), elementary.softplus),
    "maximum": FormulaOperation(np.maximum, elementary.maximum),
    "minimum": FormulaOperation(np.minimum, elementary.minimum),
    "where": FormulaOperation(np.where, numbers.where),
    "greater": FormulaOperation(np.greater, operator.gt, truth=True),
    "greater_equal": FormulaOperation(np.greater_equal, operator.ge, truth=True),
    "less": FormulaOperation(np.less, operator.lt, truth=True),
    "less_equal": FormulaOperation(np.less_equal, operator.le, truth=True),
    "equal": FormulaOperation(np.equal, numbers.equal, truth=True),
    "logical_and": FormulaOperation(np.logical_and, operator.and_, truth=True),
    "logical_or": FormulaOperation(np.logical_or, operator.or_, truth=True),
    "logical_not": FormulaOperation(np.logical_not, numbers.negated, truth=True),
    "sum": FormulaOperation(_over_row(np.sum), None, reduces=True),
    "max": FormulaOperation(_over_row(np.max), None, reduces=True),
}
"""Operations of expressions; `fastmlp.formulas.derivatives` has a derivative for each."""
