"""The constructor's arguments of an estimator: kept as they are, and validated once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
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


def _key(value: Any) -> tuple[Any, ...]:
    """Return what equal plain values have in common; 1 and True are equal."""
    return value, type(value), *(map(type, value) if type(value) is tuple else ())


_NOTHING = object()

MOST_KEYS = 1000
"""Values that are remembered at once."""

CLONED = ("_metadata_request", "_skl_callbacks", "_sklearn_output_config")
"""What scikit-learn's clone copies besides parameters."""


class PassedParameters(NamedTuple):
    """Parameters that have passed validation, by the same constraints.

    given : of the last estimator, in the order of the constraints; keys : of plain values, by name
    """

    constraints: Any
    given: Sequence[Any]
    keys: set[Any]


class Parameters(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The part of an estimator that keeps its parameters; the rest trains and predicts."""

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the constructor's arguments, unchanged: scikit-learn's clone relies on that."""
        self.__dict__ |= {name: value for name, value in parameters.items() if name != "self"}

    _passed = PassedParameters(None, (), set())
    """What passed validation last, of any estimator."""

    def _validate_params(self) -> None:
        # The very same objects pass again, as do equal plain ones: a search gives each of its candidates some
        # that others have had. To validate all takes a tenth of the smallest `fit`.
        constraints, passed = self._parameter_constraints, self._passed
        given = [*map(vars(self).get, constraints)]
        if passed.constraints is not constraints:
            passed = PassedParameters(constraints, [_NOTHING] * len(constraints), set())
        pairs = zip(constraints, given, passed.given, strict=True)
        others = {name: value for name, value, before in pairs if value is not before}
        keys = {name: (name, *_key(value)) for name, value in others.items() if _is_plain(value)}
        new = [name for name in sorted(others) if keys.get(name) not in passed.keys]
        validate_parameter_constraints(
            constraints, {name: getattr(self, name) for name in new}, type(self).__name__
        )
        if len(keys) == len(others):  # a reference to anything else would keep it alive
            if len(passed.keys) > MOST_KEYS:
                passed.keys.clear()
            passed.keys.update(keys.values())
            Parameters._passed = passed._replace(given=given)

    def __sklearn_clone__(self) -> Self:
        """Return an estimator with the same parameters: scikit-learn's clone, without copying plain ones."""
        own = vars(self)
        parameters = {name: own.get(name, _NOTHING) for name in self._get_param_names()}
        overridden = type(self).get_params is not BaseEstimator.get_params  # scikit-learn's clone goes by it
        if not overridden and all(map(_is_plain, parameters.values())) and own.keys().isdisjoint(CLONED):
            made = type(self)(**parameters)
            copied = vars(made)
            if all(copied.get(name) is value for name, value in parameters.items()):
                return made
        return super().__sklearn_clone__()

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
    "loss": [StrOptions({*LOSSES}), Loss],
    "huber_delta": [Interval(Real, 0, None, closed="neither")],
    "quantile": [Interval(Real, 0, 1, closed="neither")],
}
