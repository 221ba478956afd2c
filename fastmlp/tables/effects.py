"""Permutation importances, effects of columns, and pairs of columns that interact.

Effects are partial dependences (Friedman, "Greedy function approximation", 2001): the mean prediction for
some rows of a table, all with the same value of one or two columns.
"""

from __future__ import annotations

import re
import warnings
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fastmlp.tables import members
from fastmlp.tables.columns import Array, Column
from fastmlp.tables.frames import pl
from fastmlp.tables.kinds import Date, Number, Text
from fastmlp.tables.tasks import Classification

REPEATS = 5  # permutations of each column

MOST_ROWS, LEAST_ROWS, MOST_CELLS = 20_000, 50, 5_000_000
"""Most and fewest rows of permutations, drawn by the seed. In between, all permutations together read about
so many cells: 500 columns take half a minute."""

EFFECT_ROWS, PAIR_ROWS = 300, 100  # rows of an effect of one column, and of two columns

EFFECT_VALUES, PAIR_VALUES = 20, 6
"""Most values of a column in an effect: evenly spread over the rows, or the most frequent levels."""

QUANTILES = (0.01, 0.99)  # quantiles of the rows below the least and the greatest value
MOST_LEVELS = 8  # most levels of a category in an effect

ORDERS = tuple(
    tuple(names.split(", "))
    for names in (
        "false, true",
        "no, maybe, yes",
        "january, february, march, april, may, june, july, august, september, october, november, december",
        "jan, feb, mar, apr, may, jun, jul, aug, sep, oct, nov, dec",
        "monday, tuesday, wednesday, thursday, friday, saturday, sunday",
        "mon, tue, wed, thu, fri, sat, sun",
        "none, very low, low, medium, moderate, high, very high",
        "never, rarely, sometimes, often, usually, always",
        "very poor, poor, fair, average, good, very good, excellent, ideal",
        "tiny, small, medium, large, huge",
        "xxs, xs, s, m, l, xl, xxl, xxxl",
    )
)
"""Names of levels in order, in lower case; a category has some names of a line."""

SIDES = {"<": -1, "under": -1, "below": -1, "less than": -1, ">": 1, "over": 1, "above": 1, "more than": 1}
"""The side of a level from its number."""

NUMBERED = re.compile(
    rf"(?P<side>{'|'.join(SIDES)})?[^\w-]*(?P<before>[^\W\d]+\W*)?(?P<number>-?\d[\d,]*(\.\d+)?)(\D.*)?",
    re.DOTALL,
)
"""A level with a number, as 5-10 years, grade 3, or > 65."""

PAIRED = 4  # number of the most important columns, whose pairs are computed


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


class Pair(NamedTuple):
    """The interaction of two columns: mean predictions without both columns' effects.

    The H statistic is made of such numbers (Friedman and Popescu, "Predictive learning via rule ensembles",
    2008), which have the unit of predictions.

    left : (k1, k2) for values of both columns, of the output with the strongest interaction
    strength : root mean square
    """

    columns: tuple[Column, Column]
    values: tuple[pl.Series, pl.Series]
    left: Array
    output: int
    strength: float


def importances(
    estimator: Any, frame: pl.DataFrame, y: Array, seed: int, repeats: int = REPEATS
) -> list[Importance]:
    """Return the permutation importances of used columns, the greatest first (Breiman 2001).

    y : (rows,) as the task has them
    """
    from sklearn.inspection import permutation_importance

    encoding, task, models = estimator.encoding_, estimator.task_, estimator.models_
    columns, slices = [*encoding.slices], [*encoding.slices.values()]
    each = MOST_CELLS // (repeats * len(columns) ** 2)
    count = min(len(y), MOST_ROWS, max(LEAST_ROWS, each))
    rows = np.sort(np.random.default_rng(seed).choice(len(y), count, replace=False))
    X, true, order = encoding.encoded(frame[rows], models[0].parameters.dtype), y[rows], np.arange(count)

    def score(_: Any, orders: Array, true: Array) -> float:
        shuffled = X
        for index in np.flatnonzero((orders != order[:, None]).any(axis=0)):
            for columns_of_x in slices[index]:
                shuffled = with_shuffled(shuffled, columns_of_x, orders[:, index])
        return -task.error(true, members.outputs(models, shuffled))

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
    """Return the effects of columns by name; free texts have no effect."""
    rows = frame.sample(min(EFFECT_ROWS, len(frame)), seed=seed)
    found = []
    for column in _columns(estimator, names):
        values = _values(column, frame[column.name], EFFECT_VALUES)
        means = _means(estimator, rows, [values])
        if not isinstance(column, (Number, Date)):
            order = order_of(values.drop_nulls().cast(pl.String).to_list(), means)
            order += range(len(order), len(values))  # null is last
            values, means = values[order], means[order]
        found.append(Effect(column, values, means))
    return found


def order_of(levels: list[str], means: Array) -> list[int]:
    """Return the indices of levels in the order of their names, or by their effects.

    means : (levels, n), or more rows
    """
    words = [level.strip().lower() for level in levels]
    for names in ORDERS:
        if {*words} <= {*names}:
            return sorted(range(len(words)), key=lambda index: names.index(words[index]))
    found = [NUMBERED.fullmatch(word) for word in words]
    if len({one and one["before"] for one in found}) == 1 and found[0] is not None:
        keys = [(float(one["number"].replace(",", "")), SIDES.get(one["side"], 0)) for one in found if one]
        return sorted(range(len(keys)), key=keys.__getitem__)
    strongest = int(np.ptp(means, axis=0).argmax())
    return sorted(range(len(words)), key=lambda index: float(means[index, strongest]))


def pairs(estimator: Any, frame: pl.DataFrame, names: list[str], seed: int) -> list[Pair]:
    """Return the pairs of the first columns by name, the strongest interaction first.

    A column with a single value does not interact.
    """
    rows, found = frame.sample(min(PAIR_ROWS, len(frame)), seed=seed), []
    for columns in combinations(_columns(estimator, names)[:PAIRED], 2):
        first, second = (_values(one, frame[one.name], PAIR_VALUES) for one in columns)
        if min(len(first), len(second)) < 2:  # the rest is noise of rounding
            continue
        means = _means(estimator, rows, [first, second]).reshape(len(first), len(second), -1)
        single = means.mean(axis=0, keepdims=True) + means.mean(axis=1, keepdims=True)
        left = means - single + means.mean(axis=(0, 1))
        strengths = np.sqrt(np.square(left).mean(axis=(0, 1)))
        output = 1 if len(strengths) == 2 else int(strengths.argmax())  # both classes' are equal
        found.append(Pair(columns, (first, second), left[..., output], output, float(strengths[output])))
    return sorted(found, key=lambda one: -one.strength)


def _columns(estimator: Any, names: list[str]) -> list[Column]:
    by_name = {one.name: one for one in estimator.encoding_.columns if not isinstance(one, Text)}
    return [by_name[name] for name in names if name in by_name]


def _values(column: Column, series: pl.Series, most: int) -> pl.Series:
    """Return ascending values of a column, or the most frequent levels; null is last."""
    known = (series.fill_nan(None) if series.dtype.is_float() else series).drop_nulls()
    if len(known) and isinstance(column, (Number, Date)):
        indices = (np.linspace(*QUANTILES, most) * (len(known) - 1)).round().astype(int)
        found = known.sort().gather(indices).unique(maintain_order=True)
    else:
        counts = known.alias("level").value_counts(name="rows")
        counts = counts.sort("rows", "level", descending=[True, False])
        found = counts["level"].alias(known.name).head(min(most, MOST_LEVELS))
    return found if len(known) == len(series) else found.extend_constant(None, 1)


def _means(estimator: Any, rows: pl.DataFrame, values: list[pl.Series]) -> Array:
    """Return mean predictions (combinations, n) for all combinations of columns' values.

    scikit-learn's `partial_dependence` would need frames of pandas, and a prediction for each combination.
    """
    grid = np.indices([len(one) for one in values]).reshape(len(values), -1)
    count = len(rows)
    repeated = rows[np.tile(np.arange(count), grid.shape[1])]
    dealt = [one.gather(indices.repeat(count)) for one, indices in zip(values, grid, strict=True)]
    with warnings.catch_warnings():  # of levels that were not learned
        warnings.simplefilter("ignore")
        outputs = estimator.outputs(repeated.with_columns(dealt))
    if not isinstance(estimator.task_, Classification):
        outputs = estimator.task_.decoded(outputs)[:, None]
    means: Array = outputs.reshape(grid.shape[1], count, -1).mean(axis=1)
    return means
