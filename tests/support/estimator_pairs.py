"""scikit-learn's estimators and ours with the same parameters, and what they are fitted to."""

import pytest
import sklearn.neural_network

import fastmlp
from support.problems import data_set

X, Y = data_set("iris", 120)
_, TARGETS = data_set("diabetes", 120)
BINARY = (Y > 0).astype(int)

NAMES = ("MLPClassifier", "MLPRegressor")
each = pytest.mark.parametrize("name", NAMES)
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(package, name, **options):
    if package is fastmlp:
        options = {"backend": "reference", **options}
    return getattr(package, name)(**{"max_iter": 6, "random_state": 0, "hidden_layer_sizes": (7,), **options})


def pair(name, **options):
    """scikit-learn's estimator and ours."""
    return make(sklearn.neural_network, name, **options), make(fastmlp, name, **options)


def y_for(name):
    return Y if name == "MLPClassifier" else TARGETS
