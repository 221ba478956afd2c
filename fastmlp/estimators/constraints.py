"""The allowed values of every parameter, as scikit-learn's validation takes them, which words the errors."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastmlp.estimators.descriptions import ACTIVATIONS, LOSSES
from fastmlp.model.activations import Activation
from fastmlp.model.optimizers import OPTIMIZERS
from fastmlp.model.own_losses import Loss
from fastmlp.model.schedules import Schedule

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
