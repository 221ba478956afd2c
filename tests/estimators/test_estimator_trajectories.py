"""The estimators take scikit-learn's steps: the same parameters, curves and predictions over a grid."""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets
import sklearn.neural_network
from sklearn.datasets import make_multilabel_classification
from support.equal_estimators import assert_same
from support.problems import data_set
from support.selection import FEW, matrix, quick

import fastmlp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

EPOCHS = 30

TOLERANCE = 1e-10
"""Tolerance of the reference, float64, relative to an array's largest number: the same sums in another order
differ by some 1e-16, which 30 epochs and, more so, 20 iterations of lbfgs amplify."""

COMPILED_TOLERANCE = 1e-6
"""The tolerance of the compiled backends; their exp and its like are good to some ulp, too."""

COMPILED = [name for name in fastmlp.backends() if name != "reference"]


class Setting(NamedTuple):
    """An estimator's parameters, and the rows that it is fitted to."""

    estimator: str
    data: str
    options: dict[str, Any]
    weighted: bool = False
    sparse: bool = False

    def __str__(self) -> str:
        chosen = ",".join(f"{name}={value}" for name, value in self.options.items())
        more = ",weighted" * self.weighted + ",sparse" * self.sparse
        return f"{self.estimator[3:]}-{self.data}-{chosen}{more}"


SOLVERS = (
    {"solver": "adam"},
    {"solver": "adam", "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3, "learning_rate_init": 0.01},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False, "momentum": 0.7},
    {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0, "shuffle": False},
    {"solver": "sgd", "learning_rate_init": 0.2, "learning_rate": "invscaling", "power_t": 0.3},
    {
        "solver": "sgd", "learning_rate_init": 0.2, "learning_rate": "adaptive", "tol": 0.02,
        "n_iter_no_change": 1,
    },
    {"solver": "lbfgs", "max_iter": 20},
)  # fmt: skip

PROBLEMS = (
    ("MLPClassifier", "digits"),
    ("MLPClassifier", "breast_cancer"),
    ("MLPClassifier", "multilabel"),
    ("MLPRegressor", "diabetes"),
    ("MLPRegressor", "two outputs"),
    ("MLPRegressor", "counts"),
)


def settings():
    activations = itertools.cycle(("relu", "tanh", "logistic", "identity"))
    layers = itertools.cycle(((17,), (9, 5), (8,), ()))
    for (estimator, data), solver in itertools.product(PROBLEMS, SOLVERS):
        loss = {"loss": "poisson"} if data == "counts" else {}
        shape = {"activation": next(activations), "hidden_layer_sizes": next(layers)}
        if data == "two outputs" and solver["solver"] == "lbfgs":
            # Values and slopes disagree there (see MLPRegressor): from 12 iterations on scikit-learn's own
            # outcome moves by 1e-10, after 20 by 5e-4, if X moves by one rounding.
            solver = solver | {"max_iter": 8}
        yield Setting(estimator, data, {**shape, **solver, **loss})
    for estimator, data in PROBLEMS:
        early = {"hidden_layer_sizes": (11,), "early_stopping": True, "n_iter_no_change": 4}
        loss = {"loss": "poisson"} if data == "counts" else {}
        yield Setting(estimator, data, {**early, **loss})
        yield Setting(estimator, data, {"alpha": 3.0, "batch_size": 37, **loss}, weighted=True)
        yield Setting(estimator, data, {"solver": "sgd", "batch_size": 50, **early, **loss}, weighted=True)
    # Unscaled columns of up to 4000 saturate the outputs, whose probabilities scikit-learn's loss clips.
    for data in ("raw wine", "raw breast_cancer"):
        yield Setting("MLPClassifier", data, {})
        yield Setting("MLPClassifier", data, {"solver": "sgd"})
    # Not with two classes: there scikit-learn's loss subtracts from 1, which costs all digits near saturation
    yield Setting("MLPClassifier", "raw wine", {"solver": "lbfgs", "max_iter": 20})
    yield Setting("MLPClassifier", "digits", {"batch_size": 64}, sparse=True)
    yield Setting("MLPClassifier", "breast_cancer", {"early_stopping": True}, weighted=True, sparse=True)
    yield Setting("MLPRegressor", "diabetes", {"solver": "lbfgs", "max_iter": 20}, sparse=True)


SETTINGS = tuple(settings())


class Rows(NamedTuple):
    """Rows as a user has them; weights (rows,) or None."""

    X: Any
    y: np.ndarray
    weights: np.ndarray | None


@functools.cache
def raw(name):
    match name:
        case "multilabel":
            X, y = make_multilabel_classification(150, 12, n_classes=4, random_state=0)
            return X / 10, y
        case "two outputs":
            X, y = data_set("diabetes", 200)
            return X, np.column_stack([y, y**2 / 3])
        case "counts":
            X, y = data_set("diabetes", 200)
            return X, np.random.default_rng(0).poisson(np.exp(0.5 * y)).astype(float)
        case "raw wine":
            return sklearn.datasets.load_wine(return_X_y=True)
        case "raw breast_cancer":
            return sklearn.datasets.load_breast_cancer(return_X_y=True)
    return data_set(name, 200)


def rows_of(setting):
    X, y = raw(setting.data)
    weights = np.random.default_rng(1).uniform(0.2, 2.0, len(X)) if setting.weighted else None
    if setting.sparse:
        X = scipy.sparse.csr_matrix(np.where(np.abs(X) < 0.5, 0, X))
    return Rows(X, y, weights)


def build(package, setting, **more):
    options = {"max_iter": EPOCHS, "random_state": 3, "hidden_layer_sizes": (12,), **setting.options}
    return getattr(package, setting.estimator)(**options, **more)


@functools.cache
def theirs(setting_index):
    setting = SETTINGS[setting_index]
    X, y, weights = rows_of(setting)
    return build(sklearn.neural_network, setting).fit(X, y, sample_weight=weights)


@matrix
def test_the_grid_is_wide():
    assert len(SETTINGS) >= 60
    fits = [theirs(i) for i in range(len(SETTINGS))]
    assert sum(fit.n_iter_ < EPOCHS and fit.solver != "lbfgs" for fit in fits) >= 6, "some stop early"
    assert any(fit.n_iter_ > 5 and fit.learning_rate == "adaptive" for fit in fits)


@quick(8)
@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=lambda i: str(SETTINGS[i]))
def test_the_reference_takes_scikit_learns_steps(index):
    setting = SETTINGS[index]
    X, y, weights = rows_of(setting)
    ours = build(fastmlp, setting, backend="reference").fit(X, y, sample_weight=weights)
    assert_same(ours, theirs(index), X, TOLERANCE)


@pytest.mark.parametrize(
    ("backend", "every"),
    [
        *((name, 19) for name in COMPILED if name in FEW),  # adam, and sgd in both ways and rates
        *(pytest.param(name, 1, marks=matrix) for name in COMPILED if name != "specialized"),
        pytest.param("specialized", 27, marks=matrix),  # it compiles for every network: 2 s each
    ],
)
def test_the_compiled_backends_take_scikit_learns_steps(backend, every):
    """One test a backend, over every so many settings, and what clips."""
    for index, setting in enumerate(SETTINGS):
        if index % every and not (setting.data.startswith("raw") and not setting.options):
            continue
        X, y, weights = rows_of(setting)
        ours = build(fastmlp, setting, backend=backend).fit(X, y, sample_weight=weights)
        try:
            assert_same(ours, theirs(index), X, COMPILED_TOLERANCE)
        except AssertionError as error:
            raise AssertionError(f"{backend}: {setting}: {error}") from None
