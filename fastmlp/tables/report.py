"""How good a model is on rows that it has not seen, beside a constant and a linear model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables.tasks import Classification, Regression

if TYPE_CHECKING:
    import polars as pl

    from fastmlp.tables.estimators import TableClassifier, TableRegressor

Array = NDArray[Any]

LINEAR_ROWS = 50_000
"""Rows that the linear model is fitted on at most, drawn by the seed; the first of each class is one."""


def scores(task: Classification | Regression, y: Array, outputs: Array) -> dict[str, float]:
    """Return the measures of outputs (rows, n_out), as networks give them, for targets (rows,)."""
    measured = {task.measure: task.score(y, outputs)}
    if isinstance(task, Classification):
        codes = task.codes(y)
        known = codes >= 0
        likelihood = outputs[known, codes[known]]
        smallest = np.finfo(np.float32).tiny
        loss = -np.log(np.maximum(likelihood, smallest)).sum() - np.log(smallest) * (~known).sum()
        return {**measured, "log loss": float(loss / len(y))}
    errors = y - task.decoded(outputs)
    return {
        **measured,
        "RMSE": float(np.sqrt(np.square(errors).mean())),
        "MAE": float(np.abs(errors).mean()),
    }


def compared(
    estimator: TableClassifier | TableRegressor,
    trained: tuple[pl.DataFrame, Array],
    held: tuple[pl.DataFrame, Array],
    seed: int,
) -> dict[str, Any]:
    """Return, in JSON's types, the scores on held-out rows of the model, of a constant and of a linear model.

    trained, held : tables without their target, and the targets (rows,) as the task has them
    """
    task = estimator.task_
    (frame, y), (held_frame, held_y) = trained, held
    rows = _drawn(task, y, seed)
    targets = task.encoded(y)
    constant = np.broadcast_to(targets.mean(axis=0), (len(held_y), task.n_out))
    X = estimator.encoding_.encoded(frame[rows], np.float64)
    linear = _linear(task, X, y[rows], estimator.encoding_.encoded(held_frame, np.float64))
    return {
        "rows": {"trained on": len(y), "held out": len(held_y), "linear model": len(rows)},
        "scores": {
            "network": scores(task, held_y, estimator.outputs(held_frame)),
            "constant": scores(task, held_y, constant),
            "linear": scores(task, held_y, linear),
        },
    }


def _drawn(task: Classification | Regression, y: Array, seed: int) -> Array:
    """Return at most LINEAR_ROWS rows, ascending, with every class that y has."""
    if len(y) <= LINEAR_ROWS:
        return np.arange(len(y))
    rows = np.random.default_rng(seed).choice(len(y), LINEAR_ROWS, replace=False)
    if isinstance(task, Regression):
        return np.sort(rows)
    firsts = np.unique(y, return_index=True)[1]
    return np.union1d(firsts, rows[: max(0, LINEAR_ROWS - len(firsts))])


def _linear(task: Classification | Regression, X: Any, y: Array, held: Any) -> Array:
    """Return the outputs of a logistic or ridge regression with scikit-learn's settings, (rows, n_out)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        if isinstance(task, Regression):
            return Ridge().fit(X, task.encoded(y)[:, 0]).predict(held)[:, None]
        codes = task.codes(y)
        outputs = np.zeros((held.shape[0], task.n_out))
        fitted = LogisticRegression(max_iter=1000).fit(X, codes)
        outputs[:, fitted.classes_] = fitted.predict_proba(held)
        return outputs
