"""The constructor's arguments of an estimator: kept as they are, and validated once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import validate_parameter_constraints

PLAIN = {bool, int, float, str, type(None)}
"""Types of parameters that never change, and that hold no memory of a user's."""


def partial_fit_context(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `partial_fit` whose first call is in scikit-learn's `_fit_context`, and validates parameters.

    That is for estimators within this one in later calls, and takes 25 us: they go without.
    """
    first = _fit_context(prefer_skip_nested_validation=True)(method)

    @functools.wraps(method)
    def partial_fit(estimator: Any, *given: Any, **options: Any) -> Any:
        return (method if "_model" in vars(estimator) else first)(estimator, *given, **options)

    return partial_fit


def _is_plain(value: Any) -> bool:
    return type(value) in PLAIN or (type(value) is tuple and PLAIN.issuperset(map(type, value)))


class Parameters(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The part of an estimator that keeps its parameters; the rest trains and predicts."""

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the constructor's arguments, unchanged: scikit-learn's clone relies on that."""
        self.__dict__ |= {name: value for name, value in parameters.items() if name != "self"}

    _passed: tuple[Any, ...] = ()
    """The constraints and parameters that passed validation last, of any estimator."""

    def _validate_params(self) -> None:
        # The very same objects pass again. To validate all takes a tenth of the smallest `fit`.
        constraints, passed = self._parameter_constraints, self._passed
        given = constraints, *map(vars(self).get, constraints)
        before = passed[1:] if passed and passed[0] is constraints else (object(),) * len(constraints)
        pairs = zip(constraints, map(operator.is_, given[1:], before), strict=True)
        others = sorted(name for name, passes in pairs if not passes)
        values = {name: getattr(self, name) for name in others}
        validate_parameter_constraints(constraints, values, type(self).__name__)
        if all(map(_is_plain, given[1:])):  # a reference to anything else would keep it alive
            Parameters._passed = given

    @classmethod
    @functools.cache  # they are read from its signature in 0.2 ms, and a search asks ten times a fit
    def _get_param_names(cls) -> list[str]:
        names: list[str] = super()._get_param_names()
        return names

    def _check_solver(self) -> bool:
        """Return True, or raise AttributeError, for which hasattr(self, "partial_fit") is False."""
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
            )
        return True
