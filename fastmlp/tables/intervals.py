"""Intervals and quantiles of predicted numbers, by the errors on rows held out.

Split conformal prediction (Vovk and others 2005; Lei and others, "Distribution-free predictive inference for
regression", 2018): of n errors the error in place ceil((n + 1) * fraction) is exceeded by a new error with a
probability of at most 1 - fraction. The mean of several networks predicts, and each error is of one network
with its best epoch; tests hold the coverage.

Errors are divided by their expected size, the mean size near a prediction (section 5.2 of Lei and others). A
network for the sizes gains little more; docs/measured/tables.md has both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.tables.columns import Array
from fastmlp.tables.held_out import ALONE, Dependence

MOST_ERRORS = 10_000  # most errors in a model; of more errors some, evenly spread over their order
MOST_PLACES, ROWS_OF_A_SIZE = 10, 50  # most predictions with a size of errors, and fewest rows of a mean size
LEAST_SIZE = 0.01  # least expected size over the mean size of all errors
PARTS = 5  # parts of the errors: each part is divided by sizes of the other parts, for the choice of sizes
COVERAGE = 0.9  # coverage of intervals in the choice of sizes


class HeldErrors(NamedTuple):
    """Errors on rows held out, over their expected sizes.

    scaled : (n,) ascending, without a unit
    places, sizes : (k,) predictions, ascending, and the size of errors there; linear in between
    groups : number of groups of dependent rows; None for independent rows
    """

    scaled: Array
    places: Array
    sizes: Array
    groups: int | None = None

    @classmethod
    def of_one_size(cls, errors: Array, groups: int | None = None) -> HeldErrors:
        """Return errors (n,), in the unit of targets, with one size for all predictions."""
        return cls(_some(errors), np.zeros(1), np.ones(1), groups)

    @property
    def independent(self) -> int:
        """The number of independent errors."""
        return len(self.scaled) if self.groups is None else self.groups

    def allow(self, coverage: float) -> bool:
        """Return True if the errors are enough for intervals of a coverage."""
        return (self.independent + 1) * coverage <= self.independent

    def sizes_at(self, predicted: Array) -> Array:
        """Return the expected sizes of errors (rows,) for predictions (rows,)."""
        return np.interp(predicted, self.places, self.sizes)


def out_of_fold(judged: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return mean outputs (rows, n_out) of the networks that held out a row, and the rows.

    judged : each network's outputs (rows, n_out), and rows held out, one array for equal rows
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
    """Return the errors on rows held out, in the unit of targets.

    Errors of later rows and of few groups have one size: how sizes follow the prediction is not known there.
    Errors of later rows grow as they would in the next period as long as that of the rows held out.

    means, rows : as of `out_of_fold`; targets, dependence : of all rows
    follows : False for one size for all predictions
    """
    means, errors = means[:, 0], targets[rows] - means[:, 0]
    groups = dependence.independent(rows) if dependence.named else None
    if dependence.time is not None:
        return HeldErrors.of_one_size(errors * growth(errors, dependence.time[rows]), groups)
    if not follows or (groups is not None and groups < 2 * ROWS_OF_A_SIZE):
        return HeldErrors.of_one_size(errors, groups)
    return scaled_errors(means, errors)._replace(groups=groups)


def growth(errors: Array, times: Array) -> float:
    """Return the mean size of errors in the next period as long as `times`, over the mean of these (n,).

    times : (n,) of the errors. Sizes follow a line by least squares, which does not fall.
    """
    after, size = times - times.mean(), np.abs(errors)
    slope = max(0.0, (after * size).sum() / (np.square(after).sum() or 1.0))
    return float(1 + slope * np.ptp(times) / (size.mean() or 1.0))


def scaled_errors(means: Array, errors: Array) -> HeldErrors:
    """Return errors (n,) over their sizes by predictions (n,), or of one size if that is as good.

    Better intervals have a lower mean score: the width, and 2 / (1 - fraction) for each unit outside
    (Gneiting and Raftery, "Strictly proper scoring rules", 2007).
    """
    places, sizes = _sizes(means, errors)
    expected, part = np.ones(len(errors)), np.arange(len(errors)) % PARTS
    if len(places) > 1:
        for some in (part == one for one in range(PARTS)):
            expected[some] = np.interp(means[some], *_sizes(means[~some], errors[~some]))
    if len(places) == 1 or _score(errors, expected) >= _score(errors, np.ones(len(errors))):
        return HeldErrors.of_one_size(errors)
    return HeldErrors(_some(errors / expected), places, sizes)


def _some(errors: Array) -> Array:
    ascending = np.sort(errors)
    if len(errors) <= MOST_ERRORS:
        return ascending
    return ascending[np.linspace(0, len(errors) - 1, MOST_ERRORS).round().astype(int)]


def _sizes(means: Array, errors: Array) -> tuple[Array, Array]:
    """Return mean predictions (k,), ascending, and mean sizes of errors, over bins of equal size."""
    count = max(1, min(MOST_PLACES, len(errors) // ROWS_OF_A_SIZE))
    bins = np.array_split(np.argsort(means, kind="stable"), count)
    places, firsts = np.unique([means[rows].mean() for rows in bins], return_index=True)
    sizes = np.array([np.abs(errors[bins[one]]).mean() for one in firsts])
    return places, np.maximum(sizes, LEAST_SIZE * np.abs(errors).mean() or 1.0)


def _score(errors: Array, sizes: Array) -> float:
    """Return the mean score of intervals with widths in proportion to sizes (n,); less is better."""
    widths = float(np.quantile(np.abs(errors) / sizes, COVERAGE)) * sizes
    outside = np.maximum(np.abs(errors) - widths, 0)
    return float((2 * widths + 2 / (1 - COVERAGE) * outside).mean())


def half_width(errors: HeldErrors, coverage: float) -> float:
    """Return half of an interval's width, over the errors' sizes."""
    fraction = checks.real("coverage", coverage, 0, 1, open_low=True, open_high=True)
    return _at(np.sort(np.abs(errors.scaled)), errors, "coverage", fraction)


def shifts(errors: HeldErrors, quantiles: Sequence[float]) -> Array:
    """Return the difference of each quantile (quantiles,) from a prediction, over the errors' sizes."""
    checks.instance("quantiles", quantiles, Iterable, "a list of numbers")
    fractions = [checks.real("a quantile", one, 0, 1, open_low=True, open_high=True) for one in quantiles]
    return np.array([_at(errors.scaled, errors, "a quantile", fraction) for fraction in fractions])


def _at(ascending: Array, errors: HeldErrors, name: str, fraction: float) -> float:
    """Return the bound of a fraction of errors, with a new error among them; ValueError for too few errors.

    Each group counts as if it had the same number of errors: all groups are equally likely to be greatest.
    """
    count, what = errors.independent, "rows" if errors.groups is None else "groups"
    if not 1 <= (count + 1) * fraction <= count:
        raise ValueError(
            f"{name} must be in [1/{count + 1}, {count}/{count + 1}], as the errors of {count} held-out "
            f"{what} are known, got {fraction:g}; more training {what} allow more"
        )
    each = len(ascending) / count
    return float(ascending[min(len(ascending), math.ceil((count + 1) * fraction * each)) - 1])
