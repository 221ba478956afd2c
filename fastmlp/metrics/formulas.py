"""Metrics by formulas of this package, with scikit-learn's values.

The checks of scikit-learn take longer than a prediction. Of 2 000 rows of 10 classes scikit-learn's
accuracy_score takes 440 us and `accuracy` 13, where a prediction of 64-128-10 takes 200. The targets of a
training's rows are checked once, before the first epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastmlp.model.heads import Objective
from fastmlp.model.losses import loss_of
from fastmlp.model.state import Array

Measure = Callable[[Array], float]
"""The value of a metric of outputs; y and weights are known."""


def truth(objective: Objective, targets: Array) -> Array:
    """Return targets (rows, n_out) in the form of metrics.

    Class labels (rows,) where softmax has one-hot rows; each column of y once, and (rows,) for a single
    column.
    """
    if objective.output == "softmax" and (np.count_nonzero(targets, axis=1) == 1).all():
        return targets.argmax(axis=1)
    loss = loss_of(objective.loss)
    if len(loss.parameter or ()) > 1 and (targets == targets[:, :1]).all():
        targets = targets[:, :1]  # of several quantiles
    targets = targets[:, : targets.shape[1] // loss.outputs_per_target]
    return targets[:, 0] if targets.shape[1] == 1 else targets


def likely(objective: Objective, outputs: Array) -> Array:
    """Return scores that rank rows: of two classes the probability of the second."""
    return outputs[:, 1] if objective.output == "softmax" and objective.n_out == 2 else outputs


def chosen(objective: Objective, outputs: Array) -> Array:
    """Return labels where outputs are probabilities, else the outputs."""
    if objective.output == "softmax":
        return outputs.argmax(axis=1)
    return (outputs > 0.5).astype(np.int64) if _of_events(objective) else outputs


def _of_events(objective: Objective) -> bool:
    """Return True if each output is the probability of an event."""
    return objective.output == "sigmoid" and loss_of(objective.loss).targets == "within [0, 1]"


def accuracy(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Share of the rows with all labels right."""
    if not _are_labels(objective, y):
        return None

    def measure(outputs: Array) -> float:
        right = chosen(objective, outputs) == y
        right = right.all(axis=1) if right.ndim == 2 else right
        if weights is None:
            return np.count_nonzero(right) / len(right)
        return float(np.average(right, weights=weights))

    return measure


def log_loss(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Mean of -log p of the right classes."""
    if y.ndim == 2 or not _are_labels(objective, y):
        return None
    rows, y = np.arange(len(y)), y.astype(np.int64)

    def measure(outputs: Array) -> float:
        given = likely(objective, outputs)  # one number a row is the second class's
        p = given[rows, y] if given.ndim == 2 else np.where(y == 1, given, 1 - given)
        least = np.finfo(p.dtype).eps
        return float(np.average(-np.log(p.clip(least, 1 - least)), weights=weights))

    return measure


def mean_squared_error(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Mean of (y - outputs)^2."""
    return _mean(objective, y, weights, lambda r: r**2)


def mean_absolute_error(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Mean of |y - outputs|."""
    return _mean(objective, y, weights, np.abs)


def root_mean_squared_error(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Root of the mean of (y - outputs)^2; of several outputs the mean of the roots."""
    return _mean(objective, y, weights, lambda r: r**2, np.sqrt)


def _mean(
    objective: Objective,
    y: Array,
    weights: Array | None,
    of: Callable[[Array], Array],
    then: Callable[[Array], Array] = lambda means: means,
) -> Measure | None:
    """Mean over the outputs of `then` of means over the rows of `of` y - outputs."""
    if not _are_real(objective, y):
        return None
    return lambda outputs: float(np.average(then(np.average(of(_columns(y - outputs)), 0, weights))))


def r2_score(objective: Objective, y: Array, weights: Array | None) -> Measure | None:
    """Share of the variance explained; the mean over the outputs."""
    if not _are_real(objective, y) or (weights is not None and not weights.any()):
        return None
    factor = 1.0 if weights is None else weights[:, None]
    y = _columns(y)
    whole = (factor * (y - np.average(y, axis=0, weights=weights)) ** 2).sum(axis=0)
    if not whole.all():
        return None  # of a constant column it is defined in a way of its own

    def measure(outputs: Array) -> float:
        return float(np.average(1 - (factor * (y - _columns(outputs)) ** 2).sum(axis=0) / whole))

    return measure


def _columns(array: Array) -> Array:
    """Return an array (rows,) or (rows, columns) as (rows, columns)."""
    return array[:, None] if array.ndim == 1 else array


def _are_labels(objective: Objective, y: Array) -> bool:
    """Return True if y has labels like `chosen`."""
    if not len(y):
        return False
    if objective.output == "softmax":
        return y.ndim == 1 and y.dtype.kind == "i"
    return _of_events(objective) and bool(((y == 0) | (y == 1)).all())


def _are_real(objective: Objective, y: Array) -> bool:
    """Return True if y and the outputs are real numbers in equal columns."""
    columns = 1 if y.ndim == 1 else y.shape[1]
    is_real = objective.output != "softmax" and not _of_events(objective)
    return len(y) > 1 and is_real and columns == objective.n_out


class OwnMetric(NamedTuple):
    """An entry of the table of formulas.

    sign : -1 of a loss, for the score of a scorer of scikit-learn
    make(objective, y, weights) gives the measure; None for another kind of y
    """

    sign: int
    make: Callable[[Objective, Array, Array | None], Measure | None]


_LOSSES = (log_loss, mean_squared_error, mean_absolute_error, root_mean_squared_error)

FORMULAS = {
    "accuracy": OwnMetric(1, accuracy),
    "accuracy_score": OwnMetric(1, accuracy),
    "r2": OwnMetric(1, r2_score),
    "r2_score": OwnMetric(1, r2_score),
    **{loss.__name__: OwnMetric(1, loss) for loss in _LOSSES},
    **{f"neg_{loss.__name__}": OwnMetric(-1, loss) for loss in _LOSSES},
}
"""Measures by the names of scorers and of functions of scikit-learn's."""
