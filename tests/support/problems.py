"""What several tests are driven by: pairs of output and loss, targets for them, data, data with a fault."""

import functools
import itertools
from typing import NamedTuple

import numpy as np
import sklearn.datasets

from fastmlp.model.losses import LOSSES, loss_of

PAIRS = tuple(
    (output, loss)
    for loss, entry in LOSSES.items()
    for output in entry.outputs
    if entry.outputs_per_target == 1
)
"""Every valid pair of output and loss, of losses with one output a target."""

LIKELIHOODS = tuple(
    (entry.outputs[0], loss) for loss, entry in LOSSES.items() if entry.outputs_per_target > 1
)
"""Those of several outputs a target."""

COMPILED_DTYPES = (np.float32, np.float64)


def eps(dtype):
    return float(np.finfo(dtype).eps)


def y_for(loss, rng, rows, n_out):
    """A y on which the loss is defined: probabilities, counts or real numbers, (rows, targets)."""
    entry = loss_of(loss or "mse")
    shape = rows, n_out // entry.outputs_per_target
    match entry.targets:
        case "distributions":
            return rng.dirichlet(np.ones(n_out), rows)
        case "within [0, 1]":
            return rng.random(shape)
        case "at least 0":
            return rng.poisson(2.0, shape).astype(float)
        case "above 0":
            return rng.gamma(2.0, size=shape)
    return rng.standard_normal(shape)


def targets_for(loss, rng, rows, n_out):
    """What `fit` makes of `y_for`: (rows, n_out)."""
    return np.tile(y_for(loss, rng, rows, n_out), loss_of(loss or "mse").outputs_per_target)


def parameters_for(sizes, rng, scale=0.6):
    """Random weights and biases, away from 0 so that an l1 penalty has a slope."""

    def draw(*shape):
        return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.05, 1.0, shape) * scale

    return ([draw(*pair) for pair in itertools.pairwise(sizes)], [draw(n_out) for n_out in sizes[1:]])


def put(place, value):
    """A function that returns a copy of an array with this value there."""

    def change(array):
        changed = np.array(array, float)
        changed[place] = value
        return changed

    return change


class Rows(NamedTuple):
    """A data set: standardised inputs (rows, n_in), and y as users hold it."""

    X: np.ndarray
    y: np.ndarray


@functools.cache
def data_set(name, rows=None):
    """One of scikit-learn's data sets, standardised; constant columns become 0."""
    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    X, y = X[::7] if name == "digits" else X, y[::7] if name == "digits" else y
    chosen = np.random.default_rng(0).permutation(len(X))[:rows]
    X, y = X[chosen], y[chosen]
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    return Rows(X, y)
