"""An estimator's constructor arguments, validated, the network of these, and fitted attributes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import checks
from fastmlp.backend.registry import get
from fastmlp.data.sparse import is_sparse
from fastmlp.estimators.convergence import fresh_curves
from fastmlp.estimators.rows import inputs_of
from fastmlp.model.activations import HIDDEN, Activation
from fastmlp.model.layers import Dense, checked_layers
from fastmlp.model.layout import dense_views, flatten
from fastmlp.model.loss import Loss
from fastmlp.model.losses import LOSSES as BUILT_IN
from fastmlp.model.network import Network
from fastmlp.model.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, check_optimizer
from fastmlp.model.rows import Inputs
from fastmlp.model.schedules import Schedule
from fastmlp.model.second_order import LevenbergMarquardt
from fastmlp.model.state import FLOATS, Array
from fastmlp.trained.model import Model

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in HIDDEN}
"""The hidden activations by a user's names: scikit-learn's, and the trainer's."""

LOSSES = {"squared_error": "mse", "poisson": "poisson_deviance"} | {
    name: name
    for name, entry in BUILT_IN.items()
    if "identity" in entry.outputs and name != "mse" and entry.outputs_per_target == 1
}
"""The regression losses by a user's names: scikit-learn's two, and the trainer's."""


def hidden_sizes(estimator: Any) -> list[int]:
    """Return the units of the hidden layers as a list."""
    sizes = estimator.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    # Network refuses what is not a number, in one line.
    if any(isinstance(size, Real) and size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return sizes


def hidden_activations(estimator: Any, layers: int) -> list[str | Activation]:
    """Return every hidden layer's activation: the trainer's name, or a custom activation."""
    names = estimator.activation
    names = [names] * layers if isinstance(names, (str, Activation)) else list(names)
    # Network refuses an unknown name, with the choices.
    return [ACTIVATIONS.get(name, name) if isinstance(name, str) else name for name in names]


def number(value: Any) -> Any:
    """Return a number for the trainer, which refuses True; scikit-learn takes True for 1."""
    return float(value) if isinstance(value, bool) else value


REPLACED: dict[str, Any] = {"hidden_layer_sizes": (100,), "activation": "relu", "dropout": 0.0, "init": None}
"""Parameters replaced by `layers`, with defaults."""


def network_of(estimator: Any, sizes: Sequence[int], output: str, loss: str | Loss) -> Network:
    """Return the network of the estimator's parameters; output and loss are the trainer's.

    sizes : columns of X, units of hidden layers, outputs; units of hidden layers do not count with `layers`
    """
    ends = {
        "output": output,
        "loss": loss,
        "l2": number(estimator.alpha),
        "input_scale": number(estimator.input_scale),
        "convention": "sklearn",
    }
    given: dict[str, Any]
    if estimator.layers is None:
        activations = tuple(hidden_activations(estimator, len(sizes) - 2))
        given = {"sizes": tuple(sizes), "hidden": activations, "dropout": estimator.dropout}
    else:
        for name, default in REPLACED.items():
            if not np.array_equal(getattr(estimator, name), default):
                raise ValueError(f"layers replaces {name}; leave that at {default!r}")
        hidden = [*estimator.layers] if hasattr(estimator.layers, "__iter__") else estimator.layers
        given = {"inputs": sizes[0], "layers": [*checked_layers(hidden), Dense(sizes[-1])]}
    network: Network = known(Network, **given, **ends)
    return network


def known(make: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Return make(*given, **named), the very same for the same plain values.

    So trainings find the preparations of earlier trainings; and to make a Network takes 60 us.
    """
    plain = all(map(_is_plain, (*given, *named.values())))
    return _cached(make, *given, **named) if plain else make(*given, **named)


def _is_plain(value: Any) -> bool:
    return type(value) in (bool, int, float, str) or (
        type(value) is tuple and {int, str}.issuperset(map(type, value))
    )


@functools.lru_cache(maxsize=64, typed=True)  # what is refused, as True for a number, equals what is not
def _cached(make: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return make(*given, **named)


def described(network: Network) -> dict[str, Any]:
    """Return the parameters for a network's hidden layers and inputs."""
    if network.heads or network.blocks:
        raise ValueError(
            f"an estimator has one output, and columns of X; this network has {network.unlike_a_chain}"
        )
    if not network.is_chain:
        *layers, last = network.layers
        if last != Dense(network.n_out):
            raise ValueError(f"the last layer of an estimator's network is a plain Dense, got {last}")
        return {"layers": layers, "alpha": network.l2, "input_scale": network.input_scale}
    hidden, dropout = network.activations[:-1], [one.dropout for one in network.operations[:-1]]
    return {
        "hidden_layer_sizes": network.widths[1:-1],
        "activation": hidden[0] if len(set(hidden)) == 1 else list(hidden),
        "dropout": dropout if any(dropout) else 0.0,
        "alpha": network.l2,
        "input_scale": network.input_scale,
    }


def optimizer_of(estimator: Any) -> Optimizer:
    """Return the optimiser of the estimator's parameters."""
    if isinstance(estimator.solver, Optimizer):
        check_optimizer("solver", estimator.solver)
        return estimator.solver
    if estimator.solver == "lm":  # Convergence stops it
        steps: LevenbergMarquardt = known(LevenbergMarquardt, min_gradient=number(estimator.tol))
        return steps
    scheduled = not isinstance(estimator.learning_rate, str)
    rate = estimator.learning_rate if scheduled else number(estimator.learning_rate_init)
    if estimator.solver == "sgd":
        nesterov = bool(estimator.nesterovs_momentum) and estimator.momentum > 0
        sgd: SGD = known(SGD, rate, number(estimator.momentum), nesterov)
        return sgd
    beta_1, beta_2, epsilon = map(number, (estimator.beta_1, estimator.beta_2, estimator.epsilon))
    adam: Adam = known(Adam, rate, beta_1, beta_2, epsilon, epsilon_hat=True)
    return adam


# --- validation ---------------------------------------------------------------------------------------

FTOL = 2.220446049250313e-09
"""SciPy's default, unchanged by scikit-learn: 1e7 eps of float64."""

PLAIN = {bool, int, float, str, type(None), np.float64, np.int64}
"""Types of immutable parameters, which hold no memory of a user's."""

MAY_BE_PLAIN = PLAIN | {tuple}
"""A tuple of plain values is plain, too."""


def _validate(kind: Any, *values: Any) -> None:
    """Raise InvalidParameterError unless values meet a class's constraints, in order."""
    constraints = kind._parameter_constraints
    given = sorted(zip(constraints, values, strict=True))  # the names, in scikit-learn's order
    validate_parameter_constraints(constraints, dict(given), kind.__name__)


# A search gives each fold the same values. To validate them takes a tenth of the smallest `fit`.
_validate_once = functools.lru_cache(maxsize=1000, typed=True)(_validate)


class Parameters(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Base of estimators: keeps and validates parameters."""

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the constructor's arguments, unchanged, as scikit-learn's clone requires."""
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
    "posterior": ["boolean"],
}


# --- the attributes of a trained estimator ---------------------------------------------------------

SPARSE = ["csr", "csc"]
"""The sparse formats taken unchanged."""


class Fitted(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Base of estimators: the predicting part."""

    def _ends_in(self) -> tuple[str, str | Loss]:
        """Return the trainer's names of the output activation and of the loss."""
        raise NotImplementedError

    def _adopt(self, model: Model) -> None:
        """Take over a model; coefs_ and intercepts_ are views of the model's parameters."""
        held = vars(self).get("_model")
        self._model, self._scale = model, model.network.input_scale
        if held is not None and held.network is model.network and held.parameters is model.parameters:
            return  # it is trained on
        dense = dense_views(model.parameters, model.network)
        self.coefs_, self.intercepts_ = map(list, zip(*dense, strict=True))
        self._views = [*self.coefs_, *self.intercepts_]
        self.n_layers_ = len(model.network.widths)
        self.n_outputs_ = model.network.n_out
        self.out_activation_ = {"sigmoid": "logistic"}.get(model.network.output, model.network.output)

    @property
    def model_(self) -> Model:
        """The trained network, a `Model` with the estimator's parameters."""
        check_is_fitted(self)
        return self._current_model()

    @classmethod
    def _holding(cls, model: Model, parameters: dict[str, Any]) -> Self:
        """Return a fitted estimator with the model, and with the model's description as parameters."""
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {checks.shown(model)}")
        made = cls(**described(model.network), **parameters)
        fresh_curves(made)
        made.loss_curve_ = list(map(np.float64, model.history["loss"]))
        made.validation_loss_curve_ = list(model.history.get("validation_loss", []))
        made.loss_ = made.loss_curve_[-1] if made.loss_curve_ else made.loss_
        made.n_iter_, made.t_, made.n_features_in_ = len(made.loss_curve_), 0, model.network.n_in
        made._adopt(model)
        return made

    def _current_model(self) -> Model:
        """Return the model, a new model after changes of the lists coefs_ or intercepts_."""
        shown = [*self.coefs_, *self.intercepts_]
        if len(shown) == len(self._views) and all(map(operator.is_, shown, self._views)):
            return self._model
        sizes = [len(self.coefs_[0]), *map(len, self.intercepts_)]
        network = network_of(self, sizes, *self._ends_in())
        if network.is_chain:
            parameters = flatten(self.coefs_, self.intercepts_, network, self._model.parameters.dtype)
        else:
            parameters = self._model.parameters.copy()
            for views, arrays in zip(
                dense_views(parameters, network), zip(self.coefs_, self.intercepts_, strict=True), strict=True
            ):
                for view, array in zip(views, arrays, strict=True):
                    view[...] = array
        return Model(network, parameters, {"loss": []}, get(self._model.backend), None)

    def jacobian(self, X: Any, *, logits: bool = False) -> Array:
        """Return the derivatives of all outputs by all features, (rows, outputs, features).

        X : as for `predict`; the outputs are the outputs of `model_`, of two classes the second probability
        logits : as for `Model.jacobian`
        """
        return self.model_.jacobian(self._rows_for(X), logits=logits)

    def input_gradient(
        self, X: Any, output: int | None = None, *, logits: bool = False, dense: bool = False
    ) -> Any:
        """Return the derivatives (rows, features) of one output, as `Model.input_gradient` does."""
        return self.model_.input_gradient(self._rows_for(X), output, logits=logits, dense=dense)

    def attribute(self, X: Any, baseline: Any = None, **given: Any) -> Any:
        """Return what each feature adds to an output, as `Model.attribute` does.

        baseline : features as for `predict`; given : output, method, steps, seed and logits
        """
        found = self.model_.attribute(self._rows_for(X), baseline, **given)
        names = getattr(self, "feature_names_in_", None)
        return found if names is None else found._replace(names=tuple(names))

    def _rows_for(self, X: Any) -> Any:
        """Return a user's rows, validated by scikit-learn."""
        check_is_fitted(self)
        checks.no_iterator("X", X)
        return validate_data(self, X, accept_sparse=SPARSE, reset=False)

    def _outputs(self, inputs: Inputs) -> Array:
        """Return the network's outputs (rows, n_out) for clean rows, dense or sparse."""
        return self._current_model().forward(inputs)

    def _outputs_for(self, X: Any) -> Array:
        """Return the network's outputs (rows, n_out) for a user's rows."""
        if "_model" not in vars(self):
            check_is_fitted(self)
        dtype = self._model.parameters.dtype
        if not self._is_clean(X, dtype):
            X = self._rows_for(X)
        return self._outputs(inputs_of(X, dtype, self._scale))

    def __sklearn_is_fitted__(self) -> bool:
        return "_model" in vars(self)

    def _is_clean(self, X: Any, dtypes: Any, y: Any = None, reset: bool = False) -> bool:
        """Return True if X, and y if given, surely pass scikit-learn's validation.

        scikit-learn's validation takes longer than to predict a row, or than a step on 32 rows.
        dtypes : a dtype or several dtypes of X; reset : True to allow other columns than before
        """
        array, names = type(X) is np.ndarray, vars(self)
        return (
            (array or (not reset and is_sparse(X) and X.format == "csr"))
            and (X.dtype in dtypes if isinstance(dtypes, tuple) else X.dtype == dtypes)
            and X.ndim == 2
            and X.size > 0
            and (reset or ("feature_names_in_" not in names and X.shape[1] == self.n_features_in_))
            and (not array or X.flags.c_contiguous)
            and checks.finite(X if array else np.ascontiguousarray(X.data))
            and (y is None or (type(y) is np.ndarray and y.shape == X.shape[:1]))
            and (y is None or y.dtype.kind in "bui" or (y.dtype in FLOATS and checks.finite(y)))
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_model" in state:
            state["_model"] = self._current_model()
            for views in ("coefs_", "intercepts_", "_views"):
                del state[views]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_model" in state:
            self._adopt(self.__dict__.pop("_model"))
