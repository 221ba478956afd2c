"""Scores of a model on held-out rows, compared with a constant and a linear model."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.system.notices import Bar
from fastmlp.tables import members
from fastmlp.tables.deadline import Deadline
from fastmlp.tables.encoding import TOGETHER
from fastmlp.tables.tasks import MOST_CLASSES, Classification, Regression, Several, Task

if TYPE_CHECKING:
    import polars as pl
    from sklearn.linear_model import LogisticRegression

Array = NDArray[Any]
Estimator = Any
"""A TableClassifier or a TableRegressor, whose module imports this one."""
Outputs = Callable[[Any], Array]
"""From rows of X (rows, n) to outputs (rows, n_out)."""

LINEAR_ROWS = 50_000
"""Rows that the linear model is fitted on at most, drawn by the seed; the first of each class is one."""

COVERAGES, LEAST_ERRORS = (0.5, 0.8, 0.9), 20
"""Of the intervals that the report has, and errors without which it has none."""

MOST_ITERATIONS, ITERATIONS = 1000, 20
"""Of the logistic regression; and those after which it goes on anew where the time is limited."""

LINEAR_CELLS = 1_000_000
"""Rows times classes that it is fitted on: beyond 20 classes a regression of 50 000 rows takes minutes."""


def simpler(
    estimator: Estimator, frame: pl.DataFrame, y: Array, held: Array | None, seed: int, deadline: Deadline,
    test: tuple[pl.DataFrame, Array] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return, in JSON's types, the scores on held-out rows of a constant and of a linear model.

    The linear model has the columns that the estimator has learned, with numbers as they are.

    frame, y : a table without its target, and the targets (rows,) as the task has them
    held : (rows,) truth values, of the rows that are held out; None for those of `test`, a table and targets
    deadline : of all; the linear model has a quarter of what is left
    """
    task, shown = estimator.task_, estimator.progress
    trained = np.arange(len(y)) if held is None else np.flatnonzero(~held)
    targets = task.encoded(y[trained])
    drawn = drawn_rows(task, targets, seed)
    encoding, constant = estimator.encoding_.linear, task.constant(targets)[None]
    with Bar(None, "", "linear model", shown):
        X = encoding.encoded(frame[trained[drawn]], np.float64)
        linear = _linear(task, X, targets[drawn], deadline.left / 4)
    held_frame, held_y = (frame.filter(held), y[held]) if test is None else test
    parts = []
    with Bar(len(held_y), "row", "scores", shown) as bar:
        for part in encoding.pieces(held_frame, np.float64):
            parts.append(linear(part).astype(np.float32))
            bar.move(len(parts) * TOGETHER)
    outputs = {"constant": constant.repeat(len(held_y), axis=0), "linear": np.concatenate(parts)}
    return {
        "rows": {"trained on": len(trained), "held out": len(held_y), "linear model": len(drawn)},
        "scores": {name: task.measures(held_y, own) for name, own in outputs.items()},
    }


def compared(estimator: Estimator, outputs: Array, y: Array, others: dict[str, Any]) -> dict[str, Any]:
    """Return what is found of simpler models, with the scores of the estimator before them.

    outputs, y : of the rows held out, as `outputs_in_parts` returns them, and the targets (rows,)
    others : of the same rows, as `simpler` returns it
    """
    task = estimator.task_
    found = others | {"scores": {"network": task.measures(y, outputs)} | others["scores"]}
    if isinstance(task, Classification) and task.n_out <= MOST_CLASSES:
        found["confusion"] = task.confusion(y, outputs)
    if estimator.errors_ is not None and len(estimator.errors_.scaled) >= LEAST_ERRORS:
        assert isinstance(task, Regression)
        found["intervals"] = held_shares(estimator, task.decoded(outputs), y)
    return found


def outputs_in_parts(estimator: Estimator, X: Any) -> Array:
    """Return the outputs (rows, n_out) of an estimator for rows as its encoding has them, with a bar."""
    found = []
    with Bar(X.shape[0], "row", "scores", estimator.progress) as bar:
        for start in range(0, X.shape[0], TOGETHER):
            found.append(members.outputs(estimator.models_, X[start : start + TOGETHER]))
            bar.move(start + TOGETHER)
    return np.concatenate(found)


def held_shares(
    estimator: Estimator, predicted: Array, y: Array, coverages: Sequence[float] = COVERAGES
) -> list[dict[str, float]]:
    """Return how many of a regressor's intervals hold their numbers, and how wide they are in the mean.

    Coverages that its errors are too few for are left out.

    predicted, y : (rows,)
    """
    found = []
    assert estimator.errors_ is not None
    for coverage in filter(estimator.errors_.allow, coverages):
        low, high = estimator.interval_around(predicted, coverage)
        hold = float(((low <= y) & (y <= high)).mean())
        found.append({"of": coverage, "hold": hold, "wide": float((high - low).mean())})
    return found


def drawn_rows(task: Task, targets: Array, seed: int) -> Array:
    """Return at most LINEAR_ROWS rows, fewer for many classes, ascending, with every class that there is."""
    most = min(LINEAR_ROWS, max(LINEAR_CELLS // task.n_out, 10 * task.n_out))
    if len(targets) <= most:
        return np.arange(len(targets))
    rows = np.random.default_rng(seed).choice(len(targets), most, replace=False)
    if not isinstance(task, Classification):
        return np.sort(rows)
    firsts = np.unique(targets, return_index=True)[1]
    return np.union1d(firsts, rows[: max(0, most - len(firsts))])


def _linear(task: Task, X: Any, targets: Array, seconds: float) -> Outputs:
    """Return what gives the outputs of a logistic or ridge regression with scikit-learn's settings.

    X : (rows, n) float64
    seconds : after which a logistic regression ends as it is
    """
    from sklearn.exceptions import ConvergenceWarning

    if isinstance(task, Several):
        each = [_linear(own, X, y, seconds / len(task.parts)) for _, own, y in task.each(targets)]
        return lambda part: np.hstack([outputs(part) for outputs in each])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        if isinstance(task, Regression):
            return _regression(task, X, targets)
        logistic = _logistic(X, targets, seconds)

    def probabilities(part: Any) -> Array:
        outputs = np.zeros((part.shape[0], task.n_out))
        outputs[:, logistic.classes_] = logistic.predict_proba(part)
        return outputs

    return probabilities


def _regression(task: Regression, X: Any, targets: Array) -> Outputs:
    """Return what gives the outputs of a ridge regression, or of one with the link and the loss of the task.

    A ridge regression is moved so that its errors have the least loss.
    """
    from sklearn.linear_model import GammaRegressor, PoissonRegressor, Ridge

    linked = {"poisson": PoissonRegressor, "gamma": GammaRegressor}.get(task.objective)
    if linked is not None:
        regression = linked(alpha=1 / len(targets), max_iter=MOST_ITERATIONS).fit(X, targets)
        return lambda part: regression.predict(part)[:, None]
    ridge = Ridge().fit(X, targets)
    offset = task.offset(ridge.predict(X), targets) - task.shift
    return lambda part: ridge.predict(part)[:, None] + offset


def _logistic(X: Any, targets: Array, seconds: float) -> LogisticRegression:
    """Return a logistic regression; one that has ended by then, if it may take only some seconds."""
    from sklearn.linear_model import LogisticRegression

    if seconds == math.inf:
        return LogisticRegression(max_iter=MOST_ITERATIONS).fit(X, targets)
    end, model = time.monotonic() + seconds, LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for _ in range(MOST_ITERATIONS // ITERATIONS):
        if model.fit(X, targets).n_iter_.max() < ITERATIONS or time.monotonic() >= end:
            break
    return model
