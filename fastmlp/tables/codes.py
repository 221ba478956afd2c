"""Numbers that are codes: whether the targets of a number's rows follow those of the numbers next to it.

The numbers of districts or of models say which one it is, not how much. The mean target of such a number has
nothing of those of its neighbours, where one of an amount lies between them. Nor do other columns explain it
linearly: what follows from them, as the width of lots from the street, is no code. The test is one on second
differences, as von Neumann's ("Distribution of the ratio of the mean square successive difference to the
variance", 1941) is one on first differences.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.tables.categories import Category
from fastmlp.tables.columns import MOST_LEVELS, Array
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.kinds import Number
from fastmlp.tables.means import Targets, of_many_levels
from fastmlp.tables.values import numbers

if TYPE_CHECKING:
    import polars as pl

MOST_ROWS = 50_000
"""Rows that are looked at, drawn at random: evenly spread ones of a periodic table may have few codes."""

LEAST_CODES = 10
"""Different numbers that codes have at least: of fewer a network needs no column each."""

LEAST_ROWS = 5
"""Rows of those looked at that half of the codes have at least: what is learned of one holds for others."""

CERTAIN = 7.0
"""Deviations by which the mean squared jump is greater than chance makes it, of codes."""

LARGEST = 9.0
"""What a squared jump counts at most, in squared deviations, so that a single far target is no sign."""

WORTH = 0.05
"""Share of the targets' variance that codes explain beyond their neighbours at least."""

PART = 0.15
"""What part this is at least of what they explain at all."""

ALPHA = 1e-3
"""Of the ridge regression: what it shrinks of other columns' effects jumps as codes do."""

LEAST_LEFT = 0.01
"""Share of a target's variance that it leaves where X does not explain it, at least."""

CORRELATED = 35 / 9
"""Variance of the mean of n squared second differences of noise over its square, times n:
2 (1 + 2 r^2 + 2 s^2) with the correlations r = -2/3 of neighbours and s = 1/6 of the next ones."""


def with_codes(
    encoding: Encoding,
    frame: pl.DataFrame,
    targets: Targets,
    given: Collection[str] = (),
    rows: pl.Series | None = None,
    levels: int | None = None,
) -> Encoding:
    """Return an encoding with the codes that its columns of numbers are.

    Columns are judged by the targets, and by what a ridge regression on all columns leaves of them: where
    other columns say the same, linearly, there is nothing to learn of codes.

    frame, rows, levels : as for `Encoding.learned`; given : columns that are numbers only
    targets : of the rows to learn from
    """
    places = np.arange(len(frame)) if rows is None else np.flatnonzero(rows)
    some = np.arange(len(places))
    if len(some) > MOST_ROWS:
        some = np.sort(np.random.default_rng(0).choice(some, MOST_ROWS, replace=False))
    drawn = places[some]
    columns = np.column_stack([column[some] for column in targets.columns()])
    may_be = [one.name for one in encoding.columns if isinstance(one, Number) and one.name not in given]
    may_be = [name for name in may_be if are_codes(numbers(frame[name][drawn]), columns)]
    if may_be:
        left = _left(encoding.linear.encoded(frame[drawn]), columns)
        may_be = [name for name in may_be if are_codes(numbers(frame[name][drawn]), left)]
    codes = []
    for name in may_be:
        series = frame[name] if rows is None else frame[name].filter(rows)
        code = replace(Category.learned(series, levels or MOST_LEVELS), missing=False)  # the number says so
        codes.append(of_many_levels(code, series, targets, levels))
    return replace(encoding, codes=tuple(codes))


def _left(X: Any, targets: Array) -> Array:
    """Return what a ridge regression on X (rows, n) leaves of targets (rows, k); 0 of one that X explains."""
    from sklearn.linear_model import Ridge

    ridge = Ridge(ALPHA, solver="lsqr").fit(X, targets)
    left: Array = targets - ridge.predict(X).reshape(targets.shape)
    left[:, left.var(axis=0) < LEAST_LEFT] = 0
    return left


def are_codes(values: Array, targets: Array) -> bool:
    """Return whether numbers (rows,), NaN where there is none, are codes: whole, with targets that jump.

    targets : (rows, n), of which one jumps at least
    """
    known = np.isfinite(values)
    values = values[known]
    if not (values % 1 == 0).all():
        return False
    different, places, rows = np.unique(values, return_inverse=True, return_counts=True)
    if len(different) < LEAST_CODES or np.median(rows) < LEAST_ROWS:
        return False
    return any(_jump(places, rows, target) for target in targets[known].T)


def _jump(places: Array, rows: Array, target: Array) -> bool:
    """Return whether means of a target (rows,) jump from one place to the next by more than chance.

    Chance is that of independent rows: those of one group, as of a day, make a jump, too.

    places : of the rows, ascending with their numbers; rows : of each place
    """
    target = (target - target.mean()) / (target.std() or 1.0)
    sums = np.bincount(places, target)
    means = sums / rows
    within = max(1e-12, (np.square(target).sum() - (sums * means).sum()) / (len(target) - len(rows)))
    chance = within / rows
    jumps = np.square(means[1:-1] - (means[:-2] + means[2:]) / 2)
    expected = chance[1:-1] + (chance[:-2] + chance[2:]) / 4
    ratio = np.minimum(jumps / expected, LARGEST).mean()
    if ratio < 1 + CERTAIN * np.sqrt(CORRELATED / len(jumps)):
        return False
    weights = 1 / np.square(expected)
    excess = float(((jumps - expected) * weights).sum() / weights.sum())
    between = max(0.0, excess) / 1.5  # the sum of the squares of 1/2, 1 and 1/2
    beyond = float((rows * between**2 / (between + chance)).sum() / len(target))
    whole = float((rows * np.square(means)).sum() - within * len(rows)) / len(target)
    return min(beyond, whole) > WORTH and beyond > PART * whole
