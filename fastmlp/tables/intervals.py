"""Intervals and quantiles of numbers that are predicted, by the errors on rows that networks have held out.

They are those of split conformal prediction (Vovk and others 2005; Lei and others, "Distribution-free
predictive inference for regression", 2018): of n errors the one in place ceil((n + 1) * share) is exceeded by
a new one with a probability of at most 1 - share. The mean of several networks predicts, where the errors are
of one each, and each has chosen its epoch by its own rows: tests hold the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.inputs import predicted
from fastmlp.training.model import Model

Array = NDArray[Any]

MOST_ERRORS = 10_000
"""Errors that are kept of more: evenly spread over their order."""


def errors_of(models: Sequence[Model], X: Any, targets: Array, held: Sequence[Array]) -> Array:
    """Return the errors on the rows that networks have held out, ascending, in the unit of targets.

    Of several networks that have held out the same rows it is the mean that errs.

    X, targets : of all rows; held : for each network its rows, one array where they are the same
    """
    parts = {id(rows): rows for rows in held}
    outputs: dict[int, list[Array]] = {part: [] for part in parts}
    for model, rows in zip(models, held, strict=True):
        outputs[id(rows)].append(predicted(model, X[rows])[:, 0])
    found = [targets[rows] - np.mean(outputs[part], axis=0) for part, rows in parts.items()]
    errors = np.sort(np.concatenate(found).astype(float))
    if len(errors) <= MOST_ERRORS:
        return errors
    return errors[np.linspace(0, len(errors) - 1, MOST_ERRORS).round().astype(int)]


def half_width(errors: Array, coverage: float) -> float:
    """Return what is added and subtracted for an interval that holds a share of the numbers."""
    share = checks.real("coverage", coverage, 0, 1, open_low=True, open_high=True)
    return float(_at(np.sort(np.abs(errors)), "coverage", share))


def shifts(errors: Array, quantiles: Sequence[float]) -> Array:
    """Return what is added for each quantile (quantiles,)."""
    shares = [checks.real("a quantile", one, 0, 1, open_low=True, open_high=True) for one in quantiles]
    return np.array([_at(errors, "a quantile", share) for share in shares])


def _at(ascending: Array, name: str, share: float) -> float:
    """Return the number that a share is below, of one more than there are; ValueError if they are too few."""
    count = len(ascending)
    place = math.ceil((count + 1) * share)
    if place > count or (count + 1) * share < 1:
        raise ValueError(
            f"{name} must be in [1 / {count + 1}, {count} / {count + 1}] by {count} rows that were held out, "
            f"got {share:g}"
        )
    return float(ascending[place - 1])
