"""Permutation importances and effects of columns.

Effects are partial dependences (Friedman, "Greedy function approximation", 2001): the mean prediction for
some rows of a table, all with the same value of a column.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from fastmlp.tables.columns import Array, Column
from fastmlp.tables.frames import pl
from fastmlp.tables.kinds import Date, Number, Text
from fastmlp.tables.recipe import mean_outputs
from fastmlp.tables.tasks import Classification

REPEATS = 5  # permutations of each column

MOST_SHUFFLED, LEAST_SHUFFLED, MOST_PREDICTED = 20_000, 50, 5_000_000
"""Most and fewest rows of permutations, drawn by the seed. In between, all permutations together read about
so many cells: 500 columns take half a minute."""

EFFECT_ROWS = 300  # rows of an effect

EFFECT_VALUES = 20
"""Most values of a column in an effect: evenly spread over the rows, or the most frequent levels."""

QUANTILES = (0.01, 0.99)  # quantiles of the rows below the least and the greatest value
MOST_LEVELS = 8  # most levels of a category in an effect


class Importance(NamedTuple):
    """The rise of the error if a column is shuffled: mean and deviation over some shuffles."""

    column: str
    mean: float
    deviation: float


class Effect(NamedTuple):
    """Mean predictions (k, n) for values (k,) of a column: n is 1, or the number of classes."""

    column: Column
    values: pl.Series
    means: Array


def importances(
    estimator: Any, frame: pl.DataFrame, y: Array, seed: int, repeats: int = REPEATS
) -> list[Importance]:
    """Return the permutation importances of used columns, the greatest first (Breiman 2001).

    y : (rows,) as the task has them
    """
    from sklearn.inspection import permutation_importance

    encoding, task, models = estimator.encoding_, estimator.task_, estimator.models_
    columns, slices = [*encoding.slices], [*encoding.slices.values()]
    each = MOST_PREDICTED // (repeats * len(columns) ** 2)
    count = min(len(y), MOST_SHUFFLED, max(LEAST_SHUFFLED, each))
    rows = np.sort(np.random.default_rng(seed).choice(len(y), count, replace=False))
    X, true, order = encoding.encoded(frame[rows], models[0].parameters.dtype), y[rows], np.arange(count)

    def score(_: Any, orders: Array, true: Array) -> float:
        shuffled = X
        for index in np.flatnonzero((orders != order[:, None]).any(axis=0)):
            for columns_of_x in slices[index]:
                shuffled = with_shuffled(shuffled, columns_of_x, orders[:, index])
        return -task.error(true, mean_outputs(models, shuffled))

    # Each column stands for its columns of X, by the numbers of its rows.
    orders = np.repeat(order[:, None], len(columns), axis=1)
    found = permutation_importance(
        estimator, orders, true, scoring=score, n_repeats=repeats, random_state=seed
    )
    of_each = zip(columns, found.importances_mean.tolist(), found.importances_std.tolist(), strict=True)
    return sorted((Importance(*one) for one in of_each), key=lambda one: -one.mean)


def with_shuffled(X: Any, columns: slice, rows: Array) -> Any:
    """Return X (rows, n), dense or CSR, with the rows of some columns in another order."""
    if isinstance(X, np.ndarray):
        changed = X.copy()
        changed[:, columns] = X[rows, columns]
        return changed
    from scipy.sparse import hstack

    return hstack([X[:, : columns.start], X[rows][:, columns], X[:, columns.stop :]], format="csr")


def effects(estimator: Any, frame: pl.DataFrame, names: list[str], seed: int) -> list[Effect]:
    """Return the effects of columns by name; free texts have no effect.

    Levels of a category are in the order of the output with the greatest effect.
    """
    rows = frame.sample(min(EFFECT_ROWS, len(frame)), seed=seed)
    columns = {one.name: one for one in estimator.encoding_.columns if not isinstance(one, Text)}
    found = []
    for column in (columns[name] for name in names if name in columns):
        values = _values(column, frame[column.name])
        means = _means(estimator, rows, values)
        if not isinstance(column, (Number, Date)):
            levels = means[: len(values) - values.null_count()]  # null is last
            strongest = int(np.ptp(means, axis=0).argmax())
            order = [*np.argsort(levels[:, strongest], kind="stable"), *range(len(levels), len(values))]
            values, means = values[order], means[order]
        found.append(Effect(column, values, means))
    return found


def _values(column: Column, series: pl.Series) -> pl.Series:
    """Return ascending values of a column, or the most frequent levels; null is last."""
    known = (series.fill_nan(None) if series.dtype.is_float() else series).drop_nulls()
    if len(known) and isinstance(column, (Number, Date)):
        indices = (np.linspace(*QUANTILES, EFFECT_VALUES) * (len(known) - 1)).round().astype(int)
        found = known.sort().gather(indices).unique(maintain_order=True)
    else:
        counts = known.alias("level").value_counts(name="rows")
        counts = counts.sort("rows", "level", descending=[True, False])
        found = counts["level"].alias(known.name).head(MOST_LEVELS)
    return found if len(known) == len(series) else found.extend_constant(None, 1)


def _means(estimator: Any, rows: pl.DataFrame, values: pl.Series) -> Array:
    """Return the mean predictions (values, n) of rows that all have one value of a column.

    scikit-learn's `partial_dependence` would need frames of pandas, and a prediction for each value.
    """
    repeated = rows[np.tile(np.arange(len(rows)), len(values))]
    dealt = values.gather(np.arange(len(values)).repeat(len(rows)))
    with warnings.catch_warnings():  # of levels that were not learned
        warnings.simplefilter("ignore")
        outputs = estimator.outputs(repeated.with_columns(dealt))
    if not isinstance(estimator.task_, Classification):
        outputs = estimator.task_.decoded(outputs)[:, None]
    means: Array = outputs.reshape(len(values), len(rows), -1).mean(axis=1)
    return means
