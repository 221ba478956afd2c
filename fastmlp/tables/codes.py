"""Codes: columns of whole numbers with targets that jump from number to number, as numbers of districts.

The mean target of a code says nothing about the codes next to it; that of an amount lies between the
neighbours' means. The test is about second differences, as von Neumann's ("Distribution of the ratio of the
mean square successive difference to the variance", 1941) is about first differences.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from fastmlp.tables.categories import Category, Targets
from fastmlp.tables.columns import MOST_LEVELS, Array, numbers
from fastmlp.tables.encoding import Encoding, with_means
from fastmlp.tables.frames import pl
from fastmlp.tables.kinds import Number

MOST_ROWS = 50_000  # rows of the test, drawn at random: even spaces in a periodic table may miss codes
LEAST_CODES, LEAST_ROWS = 10, 5  # fewest codes of a column, and fewest rows of half of the codes
CERTAIN = 7.0  # deviations of chance that the mean squared jump must exceed
LARGEST = 9.0  # most of a squared jump in squared deviations: a single far target is no sign
WORTH, PART = 0.05, 0.15  # least explained variance, of the targets and of all that the numbers explain
ALPHA = 1e-3  # of the ridge regression: a large penalty would leave jumps of other columns in the residuals
LEAST_LEFT = 0.01  # least fraction of a target's variance in the residuals

CORRELATED = 35 / 9
"""Variance of the mean of n squared second differences of noise over the mean's square, times n:
2 (1 + 2 r^2 + 2 s^2) with the correlations r = -2/3 of neighbours and s = 1/6 of the next ones."""


def with_codes(
    encoding: Encoding,
    frame: pl.DataFrame,
    targets: Targets,
    given: Collection[str] = (),
    rows: pl.Series | None = None,
    levels: int | None = None,
) -> Encoding:
    """Return an encoding with categories beside the columns of numbers that are codes.

    The targets must jump, and so must the residuals of a ridge regression on all columns: other columns may
    say the same linearly, as the width of lots says the street.

    frame, rows, levels : as for `Encoding.learned`; given : names of columns that are numbers only
    targets : of the rows to learn from
    """
    indices = np.arange(len(frame)) if rows is None else np.flatnonzero(rows)
    some = np.arange(len(indices))
    if len(some) > MOST_ROWS:
        some = np.sort(np.random.default_rng(0).choice(some, MOST_ROWS, replace=False))
    drawn, left = frame[indices[some]], np.column_stack([column[some] for column in targets.columns()])
    names = [one.name for one in encoding.columns if isinstance(one, Number) and one.name not in given]
    names = [name for name in names if are_codes(numbers(drawn[name]), left)]
    if names:
        from sklearn.linear_model import Ridge

        X = encoding.linear.encoded(drawn)
        left = left - Ridge(ALPHA, solver="lsqr").fit(X, left).predict(X).reshape(left.shape)
        left[:, left.var(axis=0) < LEAST_LEFT] = 0
    codes = []
    for name in names:
        if are_codes(numbers(drawn[name]), left):
            series = frame[name] if rows is None else frame[name].filter(rows)
            # The number itself is missing already where a code is missing.
            code = replace(Category.learned(series, levels or MOST_LEVELS), missing=False)
            codes.append(code if levels else with_means(code, series, targets))
    return replace(encoding, codes=tuple(codes))


def are_codes(values: Array, targets: Array) -> bool:
    """Return True for whole numbers (rows,) with jumps of a target; NaN are left out.

    targets : (rows, n), at least one with jumps
    """
    known = np.isfinite(values)
    different, indices, rows = np.unique(values[known], return_inverse=True, return_counts=True)
    if (different % 1).any() or len(different) < LEAST_CODES or np.median(rows) < LEAST_ROWS:
        return False
    return any(_jumps(indices, rows, target) for target in targets[known].T)


def _jumps(indices: Array, rows: Array, target: Array) -> bool:
    """Return True if a target's mean jumps from number to number by more than chance.

    Chance is that of independent rows; rows of a group, as of a day, make jumps, too.

    indices : of the rows of target, ascending with the numbers; rows : of each index
    """
    target = (target - target.mean()) / (target.std() or 1.0)
    sums = np.bincount(indices, target)
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
