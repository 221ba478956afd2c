"""How well probabilities are calibrated: how often a predicted class is right, by its probability."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_BINS, LEAST_ROWS = 10, 20
"""Bins by rising probability at most, and rows that each has at least."""


class Calibration(NamedTuple):
    """Means over bins of about as many rows each (bins,): probability, share that is right, and rows.

    Rows of one probability are in one bin.
    """

    probability: Array
    right: Array
    rows: Array

    @property
    def error(self) -> float:
        """Expected calibration error (Guo and others, "On calibration of modern neural networks", 2017)."""
        return float((np.abs(self.probability - self.right) * self.rows).sum() / self.rows.sum())


def calibration(probability: Array, right: Array) -> Calibration:
    """Return the calibration of predictions.

    probability : (rows,) of the predicted class; right : (rows,) whether it is the true one
    """
    count = max(1, min(MOST_BINS, len(right) // LEAST_ROWS))
    edges = np.quantile(probability, np.linspace(0, 1, count + 1)[1:-1])
    bins = np.searchsorted(edges, probability, side="right")
    rows = np.bincount(bins)
    sums = [np.bincount(bins, values)[rows > 0] for values in (probability, right)]
    rows = rows[rows > 0]
    return Calibration(sums[0] / rows, sums[1] / rows, rows)
