"""How good a model is on rows that it has not seen, beside a constant and a linear model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables import members
from fastmlp.tables.bars import Bar
from fastmlp.tables.encoding import TOGETHER
from fastmlp.tables.tasks import Classification, Regression

if TYPE_CHECKING:
    from fastmlp.tables.estimators import TableClassifier, TableRegressor

Array = NDArray[Any]
Outputs = Callable[[Any], Array]
"""From rows of X (rows, n) to outputs (rows, n_out)."""

LINEAR_ROWS = 50_000
"""Rows that the linear model is fitted on at most, drawn by the seed; the first of each class is one."""

LINEAR_CELLS = 1_000_000
"""Rows times classes that it is fitted on: beyond 20 classes a regression of 50 000 rows takes minutes."""


def compared(
    estimator: TableClassifier | TableRegressor,
    trained: tuple[Any, Array],
    held: tuple[Any, Array],
    seed: int,
) -> dict[str, Any]:
    """Return, in JSON's types, the scores on held-out rows of the model, of a constant and of a linear model.

    trained, held : X as the estimator's encoding has it, and the targets (rows,) as the task has them
    """
    task, shown = estimator.task_, estimator.progress
    (X, y), (held_X, held_y) = trained, held
    targets = task.encoded(y)
    rows = _drawn(task, targets, seed)
    constant = task.constant(targets)[None]
    with Bar(None, "", "linear model", shown):
        linear = _linear(task, X[rows], targets[rows])
    outputs: dict[str, Outputs] = {
        "network": lambda part: members.outputs(estimator.models_, part),
        "constant": lambda part: constant.repeat(part.shape[0], axis=0),
        "linear": linear,
    }
    judged: dict[str, list[Array]] = {name: [] for name in outputs}
    with Bar(len(held_y), "row", "scores", shown) as bar:
        for start in range(0, len(held_y), TOGETHER):
            some = slice(start, start + TOGETHER)
            for name, outputs_of in outputs.items():
                judged[name].append(task.judged(held_y[some], outputs_of(held_X[some])))
            bar.move(start + TOGETHER)
    return {
        "rows": {"trained on": len(y), "held out": len(held_y), "linear model": len(rows)},
        "scores": {name: task.measures(held_y, np.concatenate(parts)) for name, parts in judged.items()},
    }


def _drawn(task: Classification | Regression, targets: Array, seed: int) -> Array:
    """Return at most LINEAR_ROWS rows, fewer for many classes, ascending, with every class that there is."""
    most = min(LINEAR_ROWS, max(LINEAR_CELLS // task.n_out, 10 * task.n_out))
    if len(targets) <= most:
        return np.arange(len(targets))
    rows = np.random.default_rng(seed).choice(len(targets), most, replace=False)
    if isinstance(task, Regression):
        return np.sort(rows)
    firsts = np.unique(targets, return_index=True)[1]
    return np.union1d(firsts, rows[: max(0, most - len(firsts))])


def _linear(task: Classification | Regression, X: Any, targets: Array) -> Outputs:
    """Return what gives the outputs of a logistic or ridge regression with scikit-learn's settings."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    X = X.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        if isinstance(task, Regression):
            ridge = Ridge().fit(X, targets)
            return lambda part: ridge.predict(part.astype(np.float64))[:, None]
        logistic = LogisticRegression(max_iter=1000).fit(X, targets)

    def probabilities(part: Any) -> Array:
        outputs = np.zeros((part.shape[0], task.n_out))
        outputs[:, logistic.classes_] = logistic.predict_proba(part.astype(np.float64))
        return outputs

    return probabilities
