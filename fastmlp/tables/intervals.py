"""Intervals and quantiles of numbers that are predicted, by the errors on rows that networks have held out.

They are those of split conformal prediction (Vovk and others 2005; Lei and others, "Distribution-free
predictive inference for regression", 2018): of n errors the one in place ceil((n + 1) * share) is exceeded by
a new one with a probability of at most 1 - share. The mean of several networks predicts, where the errors are
of one each, and each has chosen its epoch by its own rows: tests hold the coverage.

The errors are divided by the size that is expected of them, as in section 5.2 of Lei and others: their mean
size near a prediction. It costs nothing, and has most of what a network for the sizes gains;
docs/measured/tables.md has both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.held_out import ALONE, Dependence

Array = NDArray[Any]

MOST_ERRORS = 10_000
"""Errors that are kept of more: evenly spread over their order."""

MOST_PLACES, LEAST_ROWS = 10, 50
"""Predictions that have a size of errors at most, and rows that each mean is of at least."""

LEAST_SIZE = 0.01
"""Of errors that are expected near a prediction, as a share of their mean size."""

PARTS = 5
"""Of the errors: each part is divided by the sizes of the others."""

SHARE = 0.9
"""Of the intervals by whose scores sizes are chosen."""


class HeldErrors(NamedTuple):
    """Errors on rows that networks have held out, over the sizes that are expected of them.

    scaled : (n,) ascending, without a unit
    places, sizes : (k,) predictions, ascending, and the size of errors there, which is linear between them
    groups : how many groups of rows the errors are of, if rows of one depend on each other; None if not
    """

    scaled: Array
    places: Array
    sizes: Array
    groups: int | None = None

    @classmethod
    def of_one_size(cls, errors: Array, groups: int | None = None) -> HeldErrors:
        """Return errors (n,), in the unit of the targets, that do not depend on predictions."""
        return cls(_kept(errors), np.zeros(1), np.ones(1), groups)

    @property
    def independent(self) -> int:
        """How many independent errors there are."""
        return len(self.scaled) if self.groups is None else self.groups

    def allow(self, coverage: float) -> bool:
        """Return whether there are errors enough for intervals of such a coverage."""
        return (self.independent + 1) * coverage <= self.independent

    def sizes_at(self, predicted: Array) -> Array:
        """Return the expected sizes of errors (rows,) for predictions (rows,)."""
        return np.interp(predicted, self.places, self.sizes)


def out_of_fold(judged: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return the mean outputs (rows, n_out) of the networks that have held out a row, and these rows.

    judged : for each network what it predicts, (rows, n_out), and the rows that it held out, one array where
        they are the same
    """
    parts = {id(rows): rows for _, rows in judged}
    outputs: dict[int, list[Array]] = {part: [] for part in parts}
    for predicted, rows in judged:
        outputs[id(rows)].append(predicted)
    means = np.concatenate([np.mean(one, axis=0) for one in outputs.values()]).astype(float)
    return means, np.concatenate([*parts.values()])


def errors_of(
    means: Array, rows: Array, targets: Array, dependence: Dependence = ALONE, follows: bool = True
) -> HeldErrors:
    """Return the errors on rows that networks have held out, in the unit of targets.

    Errors of later rows and of few groups have one size: how sizes follow the prediction is not known there.

    means, rows : as `out_of_fold` returns them; targets : of all rows; dependence : of all rows
    follows : whether sizes may follow the prediction
    """
    means, errors = means[:, 0], targets[rows] - means[:, 0]
    groups = dependence.independent(rows) if dependence.named else None
    if not follows or dependence.time is not None or (groups is not None and groups < 2 * LEAST_ROWS):
        return HeldErrors.of_one_size(errors, groups)
    return scaled_errors(means, errors)._replace(groups=groups)


def scaled_errors(means: Array, errors: Array) -> HeldErrors:
    """Return errors (n,) over their sizes by predictions (n,), or as they are where intervals gain nothing.

    What intervals gain is the fall of their mean score: their width, and 2 / (1 - share) for what lies
    outside (Gneiting and Raftery, "Strictly proper scoring rules", 2007).
    """
    places, sizes = _sizes(means, errors)
    part = np.arange(len(errors)) % PARTS
    expected = np.ones(len(errors))
    if len(places) > 1:
        for own in (part == one for one in range(PARTS)):
            expected[own] = np.interp(means[own], *_sizes(means[~own], errors[~own]))
    if len(places) == 1 or _score(errors, expected) >= _score(errors, np.ones(len(errors))):
        return HeldErrors.of_one_size(errors)
    return HeldErrors(_kept(errors / expected), places, sizes)


def _kept(errors: Array) -> Array:
    """Return errors (n,) ascending, of many only some."""
    ascending = np.sort(errors)
    if len(errors) <= MOST_ERRORS:
        return ascending
    return ascending[np.linspace(0, len(errors) - 1, MOST_ERRORS).round().astype(int)]


def _sizes(means: Array, errors: Array) -> tuple[Array, Array]:
    """Return means of predictions (k,), ascending, and of sizes of errors, of as many rows each."""
    count = max(1, min(MOST_PLACES, len(errors) // LEAST_ROWS))
    bins = np.array_split(np.argsort(means, kind="stable"), count)
    places, firsts = np.unique([means[rows].mean() for rows in bins], return_index=True)
    sizes = np.array([np.abs(errors[bins[one]]).mean() for one in firsts])
    return places, np.maximum(sizes, LEAST_SIZE * np.abs(errors).mean() or 1.0)


def _score(errors: Array, sizes: Array) -> float:
    """Return the mean score of intervals of sizes (n,), the lower the better."""
    widths = float(np.quantile(np.abs(errors) / sizes, SHARE)) * sizes
    outside = np.maximum(np.abs(errors) - widths, 0)
    return float((2 * widths + 2 / (1 - SHARE) * outside).mean())


def half_width(errors: HeldErrors, coverage: float) -> float:
    """Return what is added and subtracted for an interval that holds a share, over the errors' sizes."""
    share = checks.real("coverage", coverage, 0, 1, open_low=True, open_high=True)
    return _at(np.sort(np.abs(errors.scaled)), errors, "coverage", share)


def shifts(errors: HeldErrors, quantiles: Sequence[float]) -> Array:
    """Return what is added for each quantile (quantiles,), over the errors' sizes."""
    checks.instance("quantiles", quantiles, Iterable, "a list of numbers")
    shares = [checks.real("a quantile", one, 0, 1, open_low=True, open_high=True) for one in quantiles]
    return np.array([_at(errors.scaled, errors, "a quantile", share) for share in shares])


def _at(ascending: Array, errors: HeldErrors, name: str, share: float) -> float:
    """Return the number that a share is below, of one more than there are; ValueError if they are too few.

    Of groups, it is as if each had as many errors: those of a new group are as likely the greatest ones.
    """
    count, what = errors.independent, "rows" if errors.groups is None else "groups"
    if not 1 <= (count + 1) * share <= count:
        raise ValueError(
            f"{name} must be in [1/{count + 1}, {count}/{count + 1}], as the errors of {count} held-out "
            f"{what} are known, got {share:g}; more training {what} allow more"
        )
    each = len(ascending) / count
    return float(ascending[min(len(ascending), math.ceil((count + 1) * share * each)) - 1])
