"""What a model makes of its columns: permutation importances, effects of columns, and pairs that interact.

Effects are partial dependences (Friedman, "Greedy function approximation", 2001): the mean prediction of some
rows of a table if one column, or two, had one value in all of them.
"""

from __future__ import annotations

import re
import warnings
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables import members
from fastmlp.tables.columns import Column
from fastmlp.tables.kinds import Date, Number, Text
from fastmlp.tables.tasks import Classification

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]
Estimator = Any
"""A TableClassifier or a TableRegressor, whose module imports this one."""

REPEATS = 5
"""Permutations of each column."""

MOST_ROWS, LEAST_ROWS, MOST_CELLS = 20_000, 50, 5_000_000
"""Rows that each permutation is measured on, drawn by the seed: so many at most and at least. In between all
permutations together read about so many cells: 500 columns take half a minute."""

EFFECT_ROWS, PAIR_ROWS = 300, 100
"""Rows that effects of one column, and of two, are means of."""

EFFECT_VALUES, PAIR_VALUES = 20, 6
"""Values of a column that have an effect, evenly spread over its rows, or its most frequent levels."""

SHARES = (0.01, 0.99)
"""Of the rows, below the least and the greatest value."""

MOST_LEVELS = 8
"""Levels of a category that are shown."""

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
"""Names of levels that have an order of their own, in lower case; a category may have some of a line."""

SIDES = {"<": -1, "under": -1, "below": -1, "less than": -1, ">": 1, "over": 1, "above": 1, "more than": 1}
"""Where a level lies beside its number."""

NUMBERED = re.compile(
    rf"(?P<side>{'|'.join(SIDES)})?[^\w-]*(?P<before>[^\W\d]+\W*)?(?P<number>-?\d[\d,]*(\.\d+)?)(\D.*)?",
    re.DOTALL,
)
"""A level with a number, as 5-10 years, grade 3, or > 65."""

PAIRED = 4
"""Columns, the most important ones, whose pairs are looked at."""


class Importance(NamedTuple):
    """How much the task's error rises if a column is shuffled: mean and deviation over some shuffles."""

    column: str
    mean: float
    deviation: float


class Effect(NamedTuple):
    """Mean predictions for values of a column.

    values : (k,) of the column, in its own dtype; null is a missing one
    means : (k, n), of a regression (k, 1), of classes the probability of each
    """

    column: Column
    values: pl.Series
    means: Array


class Pair(NamedTuple):
    """How two columns interact: what is left of mean predictions without both columns' own effects.

    It is what the H statistic is made of (Friedman and Popescu, "Predictive learning via rule ensembles",
    2008), in the unit of the predictions.

    left : (k1, k2) for values of both, of the output with the strongest interaction, which is `output`
    strength : root of its mean square
    """

    columns: tuple[Column, Column]
    values: tuple[pl.Series, pl.Series]
    left: Array
    output: int
    strength: float


def importances(
    estimator: Estimator, frame: pl.DataFrame, y: Array, seed: int, repeats: int = REPEATS
) -> list[Importance]:
    """Return the permutation importance of every column that is used, the greatest first (Breiman 2001).

    Each repeat has rows of its own, as `max_samples` of scikit-learn's permutation_importance has them.

    y : (rows,) as the task has them
    """
    rng, encoding, task = np.random.default_rng(seed), estimator.encoding_, estimator.task_
    columns, dtype = encoding.places, estimator.models_[0].parameters.dtype
    each = MOST_CELLS // (repeats * len(columns) ** 2)
    count = min(len(y), MOST_ROWS, max(LEAST_ROWS, each))
    rises = np.empty((len(columns), repeats))
    for repeat in range(repeats):
        rows = np.sort(rng.choice(len(y), count, replace=False))
        X, true = encoding.encoded(frame[rows], dtype), y[rows]
        whole = task.error(true, members.outputs(estimator.models_, X))
        for place, slices in enumerate(columns.values()):
            shuffled, order = X, rng.permutation(count)
            for own in slices:
                shuffled = with_shuffled(shuffled, own, order)
            rises[place, repeat] = task.error(true, members.outputs(estimator.models_, shuffled)) - whole
    found = [
        Importance(name, float(own.mean()), float(own.std()))
        for name, own in zip(columns, rises, strict=True)
    ]
    return sorted(found, key=lambda one: -one.mean)


def with_shuffled(X: Any, columns: slice, rows: Array) -> Any:
    """Return X (rows, n), dense or CSR, of which some columns have their rows in another order."""
    if isinstance(X, np.ndarray):
        changed = X.copy()
        changed[:, columns] = X[rows, columns]
        return changed
    from scipy.sparse import hstack

    return hstack([X[:, : columns.start], X[rows][:, columns], X[:, columns.stop :]], format="csr")


def effects(estimator: Estimator, frame: pl.DataFrame, names: list[str], seed: int) -> list[Effect]:
    """Return the effects of columns by their names; free texts have none."""
    import polars as pl

    rows = _some(frame, EFFECT_ROWS, seed)
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
    """Return the places of levels in their own order, if their names have one, else by their effects.

    means : (levels, n), or more rows
    """
    words = [level.strip().lower() for level in levels]
    for names in ORDERS:
        ranks = {name: rank for rank, name in enumerate(names)}
        if all(word in ranks for word in words):
            return sorted(range(len(words)), key=lambda place: ranks[words[place]])
    found = [NUMBERED.fullmatch(word) for word in words]
    if len({one and one["before"] for one in found}) == 1 and found[0] is not None:
        keys = [(float(one["number"].replace(",", "")), SIDES.get(one["side"], 0)) for one in found if one]
        return sorted(range(len(keys)), key=keys.__getitem__)
    strongest = int(np.ptp(means, axis=0).argmax())
    return sorted(range(len(words)), key=lambda place: float(means[place, strongest]))


def pairs(estimator: Estimator, frame: pl.DataFrame, names: list[str], seed: int) -> list[Pair]:
    """Return the pairs of the first columns by their names, the one that interacts most first.

    A column that has one value interacts with none.
    """
    rows, found = _some(frame, PAIR_ROWS, seed), []
    for columns in combinations(_columns(estimator, names)[:PAIRED], 2):
        first, second = (_values(one, frame[one.name], PAIR_VALUES) for one in columns)
        if min(len(first), len(second)) < 2:  # what is left is noise of the rounding
            continue
        means = _means(estimator, rows, [first, second]).reshape(len(first), len(second), -1)
        own = means.mean(axis=0, keepdims=True) + means.mean(axis=1, keepdims=True)
        left = means - own + means.mean(axis=(0, 1))
        strengths = np.sqrt(np.square(left).mean(axis=(0, 1)))
        output = 1 if len(strengths) == 2 else int(strengths.argmax())  # both classes' are equal
        found.append(Pair(columns, (first, second), left[..., output], output, float(strengths[output])))
    return sorted(found, key=lambda one: -one.strength)


def _columns(estimator: Estimator, names: list[str]) -> list[Column]:
    by_name = {one.name: one for one in estimator.encoding_.columns if not isinstance(one, Text)}
    return [by_name[name] for name in names if name in by_name]


def _some(frame: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    return frame.sample(min(count, len(frame)), seed=seed)


def _values(column: Column, series: pl.Series, most: int) -> pl.Series:
    """Return ascending values of a column, or its most frequent levels; null stands last."""
    known = _known(series)
    if len(known) and isinstance(column, (Number, Date)):
        places = (np.linspace(*SHARES, most) * (len(known) - 1)).round().astype(int)
        found = known.sort().gather(places).unique(maintain_order=True)
    else:
        counts = known.alias("level").value_counts(name="rows")
        counts = counts.sort("rows", "level", descending=[True, False])
        found = counts["level"].alias(known.name).head(min(most, MOST_LEVELS))
    return found if len(known) == len(series) else found.extend_constant(None, 1)


def _known(series: pl.Series) -> pl.Series:
    return (series.fill_nan(None) if series.dtype.is_float() else series).drop_nulls()


def _means(estimator: Estimator, rows: pl.DataFrame, values: list[pl.Series]) -> Array:
    """Return mean predictions (combinations, n) of rows with every combination of columns' values."""
    grid = np.indices([len(one) for one in values]).reshape(len(values), -1)
    count = len(rows)
    repeated = rows[np.tile(np.arange(count), grid.shape[1])]
    dealt = [one.gather(places.repeat(count)) for one, places in zip(values, grid, strict=True)]
    with warnings.catch_warnings():  # of levels that were not learned
        warnings.simplefilter("ignore")
        outputs = estimator.outputs(repeated.with_columns(dealt))
    if not isinstance(estimator.task_, Classification):
        outputs = estimator.task_.decoded(outputs)[:, None]
    means: Array = outputs.reshape(grid.shape[1], count, -1).mean(axis=1)
    return means
