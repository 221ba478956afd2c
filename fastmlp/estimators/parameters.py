"""The constructor's arguments of an estimator: kept as they are, and validated once."""

from __future__ import annotations

import functools
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints

from fastmlp.estimators.descriptions import ACTIVATIONS, LOSSES
from fastmlp.model.activations import Activation
from fastmlp.model.optimizers import OPTIMIZERS
from fastmlp.model.own_losses import Loss
from fastmlp.model.schedules import Schedule

FTOL = 2.220446049250313e-09
"""SciPy's default, which scikit-learn leaves as it is: 1e7 eps of float64."""

PLAIN = {bool, int, float, str, type(None), np.float64, np.int64}
"""Types of parameters that never change, and that hold no memory of a user's."""

MAY_BE_PLAIN = PLAIN | {tuple}
"""A tuple of plain values is plain, too."""


def _validate(kind: Any, *values: Any) -> None:
    """Raise InvalidParameterError unless values, in the order of a class's constraints, meet these."""
    constraints = kind._parameter_constraints
    given = sorted(zip(constraints, values, strict=True))  # the names, in scikit-learn's order
    validate_parameter_constraints(constraints, dict(given), kind.__name__)


# A search gives each fold the same values. To validate them takes a tenth of the smallest `fit`.
_validate_once = functools.lru_cache(maxsize=1000, typed=True)(_validate)


class Parameters(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The part of an estimator that keeps its parameters; the rest trains and predicts."""

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the constructor's arguments, unchanged: scikit-learn's clone relies on that."""
        self.__dict__ |= {name: value for name, value in parameters.items() if name != "self"}

    def _validate_params(self) -> None:
        values = [*map(vars(self).get, self._parameter_constraints)]
        inner = [one for value in values if type(value) is tuple for one in value]
        plain = MAY_BE_PLAIN.issuperset(map(type, values)) and PLAIN.issuperset(map(type, inner))
        kind: Any = type(self)
        (_validate_once if plain else _validate)(kind, *values)

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


# --- constraints of scikit-learn's

Constraints = dict[str, Any]

COMMON: Constraints = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions({*ACTIVATIONS}), Activation, "array-like"],
    "solver": [StrOptions({"lbfgs", "sgd", "adam"}), *OPTIMIZERS],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule, callable],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "ftol": [Interval(Real, 0, None, closed="left")],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "layers": [list, tuple, None],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "init": "no_validation",
    "input_scale": [Interval(Real, 0, None, closed="neither")],
    "validation_set": [tuple, list, None],
    "stopping_metric": [StrOptions({"loss", *get_scorer_names()}), callable, None],
    "callbacks": ["array-like"],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "progress": ["boolean"],
    "backend": [str],
    "threads": [Interval(Integral, 1, None, closed="left"), None],
    "dtype": "no_validation",
}

CLASSIFIER: Constraints = COMMON | {
    "class_weight": [dict, list, StrOptions({"balanced"}), None],
    "loss": [StrOptions({"log_loss"}), Loss],
}

REGRESSOR: Constraints = COMMON | {
    "solver": [StrOptions({"lbfgs", "lm", "sgd", "adam"}), *OPTIMIZERS],
    "loss": [StrOptions({*LOSSES}), Loss],
    "huber_delta": [Interval(Real, 0, None, closed="neither")],
    "quantile": [Interval(Real, 0, 1, closed="neither")],
    "posterior": ["boolean"],
}
