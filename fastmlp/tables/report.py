"""Scores of a model on rows held out, beside a constant and a linear model."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.system.notices import Bar
from fastmlp.tables.columns import ROWS_AT_ONCE, Array
from fastmlp.tables.frames import pl
from fastmlp.tables.recipe import mean_outputs
from fastmlp.tables.search import Deadline
from fastmlp.tables.tasks import MOST_CLASSES, Classification, Several, Task

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Outputs = Callable[[Any], Array]
"""Gives outputs (rows, n_out) for rows of X (rows, n)."""

LINEAR_ROWS = 50_000  # most rows of a linear model, drawn by the seed, with a row of each class

COVERAGES, LEAST_ERRORS = (0.5, 0.8, 0.9), 20
"""Coverages of intervals in a report, and fewest errors for intervals."""

MOST_ITERATIONS, ITERATIONS = 1000, 20
"""Iterations of a logistic regression, and iterations between looks at the time."""

LINEAR_CELLS = 1_000_000
"""Most rows times classes of a linear model: with more than 20 classes, 50 000 rows take minutes."""


def simpler(
    estimator: Any, frame: pl.DataFrame, y: Array, held_frame: pl.DataFrame, held_y: Array, seed: int,
    deadline: Deadline,
) -> dict[str, Any]:  # fmt: skip
    """Return, in JSON's types, the scores of a constant and of a linear model on rows held out.

    The linear model has the columns of the estimator, with unclipped numbers, and a quarter of the time left.

    frame, y : rows to learn from without their target, and the targets (rows,) as the task has them
    held_frame, held_y : the rows held out
    """
    task, shown = estimator.task_, estimator.progress
    targets = task.encoded(y)
    drawn = drawn_rows(task, targets, seed)
    encoding = estimator.encoding_.linear
    with Bar(None, "", "linear model", shown):
        X = encoding.encoded(frame[drawn], np.float64)
        linear = _linear(task, X, targets[drawn], deadline.left / 4)
    outputs = {
        "constant": task.constant(targets)[None].repeat(len(held_y), axis=0),
        "linear": in_parts(linear, encoding.batches(held_frame, np.float64), len(held_y), "scores", shown),
    }
    return {
        "rows": {"trained on": len(y), "held out": len(held_y), "linear model": len(drawn)},
        "scores": {name: task.measures(held_y, found) for name, found in outputs.items()},
    }


def compared(estimator: Any, outputs: Array, y: Array, others: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of an estimator before the scores of simpler models on the same rows.

    outputs, y : as of `outputs_in_parts`, and the targets (rows,), of rows held out; others : of `simpler`
    """
    task = estimator.task_
    found = others | {"scores": {"network": task.measures(y, outputs)} | others["scores"]}
    if isinstance(task, Classification) and task.n_out <= MOST_CLASSES:
        found["confusion"] = task.confusion(y, outputs)
    if has_intervals(estimator):
        found["intervals"] = held_fractions(estimator, task.decoded(outputs), y)
    return found


def in_parts(outputs: Outputs, parts: Iterable[Any], rows: int, what: str, shown: bool | None) -> Array:
    """Return the outputs (rows, n_out), float32 or float64, for parts of the rows of X, with a bar."""
    found: list[Array] = []
    with Bar(rows, "row", what, shown) as bar:
        for part in parts:
            found.append(outputs(part))
            bar.move(sum(map(len, found)))
    return np.concatenate(found)


def outputs_in_parts(estimator: Any, X: Any) -> Array:
    """Return the outputs (rows, n_out) of an estimator for encoded rows, with a bar."""
    rows, models = X.shape[0], estimator.models_
    parts = (X[start : start + ROWS_AT_ONCE] for start in range(0, rows, ROWS_AT_ONCE))
    return in_parts(lambda part: mean_outputs(models, part), parts, rows, "scores", estimator.progress)


def has_intervals(estimator: Any) -> bool:
    """Return True if a report has intervals: for a regression with enough errors."""
    return estimator.errors_ is not None and len(estimator.errors_.scaled) >= LEAST_ERRORS


def held_fractions(
    estimator: Any, predicted: Array, y: Array, coverages: Sequence[float] = COVERAGES
) -> list[dict[str, float]]:
    """Return the fraction of numbers (rows,) in a regressor's intervals, and the mean width, for each
    coverage.

    Coverages that need more errors are left out.
    """
    found = []
    for coverage in filter(estimator.errors_.allow, coverages):
        low, high = estimator.interval_around(predicted, coverage)
        hold = float(((low <= y) & (y <= high)).mean())
        found.append({"of": coverage, "hold": hold, "wide": float((high - low).mean())})
    return found


def drawn_rows(task: Task, targets: Array, seed: int) -> Array:
    """Return the rows of a linear model, ascending: at most LINEAR_ROWS, with all classes."""
    most = min(LINEAR_ROWS, max(LINEAR_CELLS // task.n_out, 10 * task.n_out))
    if len(targets) <= most:
        return np.arange(len(targets))
    rows = np.random.default_rng(seed).choice(len(targets), most, replace=False)
    if not isinstance(task, Classification):
        return np.sort(rows)
    firsts = np.unique(targets, return_index=True)[1]
    return np.union1d(firsts, rows[: max(0, most - len(firsts))])


def _linear(task: Task, X: Any, targets: Array, seconds: float) -> Outputs:
    """Return the outputs of a linear model with the loss of the task; X : (rows, n) float64"""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import GammaRegressor, PoissonRegressor, Ridge

    if isinstance(task, Several):
        each = [_linear(each_task, X, y, seconds / len(task.parts)) for _, each_task, y in task.each(targets)]
        return lambda part: np.hstack([outputs(part) for outputs in each])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        if isinstance(task, Classification):
            logistic = _logistic(X, targets, seconds)
            return lambda part: logistic.predict_proba(part).astype(np.float32)
        linked = {"poisson": PoissonRegressor, "gamma": GammaRegressor}.get(task.objective)
        model = linked(alpha=1 / len(targets), max_iter=MOST_ITERATIONS) if linked else Ridge()
        model.fit(X, targets)
    # moved to the least loss
    offset = 0.0 if linked else task.offset(model.predict(X), targets) - task.shift
    return lambda part: (model.predict(part)[:, None] + offset).astype(np.float32)


def _logistic(X: Any, targets: Array, seconds: float) -> LogisticRegression:
    """Return a logistic regression, unfinished at the end of the time."""
    from sklearn.linear_model import LogisticRegression

    if seconds == math.inf:
        return LogisticRegression(max_iter=MOST_ITERATIONS).fit(X, targets)
    end, model = time.monotonic() + seconds, LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for _ in range(MOST_ITERATIONS // ITERATIONS):
        if model.fit(X, targets).n_iter_.max() < ITERATIONS or time.monotonic() >= end:
            break
    return model
