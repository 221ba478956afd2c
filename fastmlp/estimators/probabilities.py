"""A classifier's targets from rows of probabilities, which it takes in the place of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

Array = NDArray[Any]

TOLERANCE = 1e-6
"""How far the sum of a row may be from 1: a softmax in float32 is within some 1e-7."""


def are_probabilities(y: Any) -> bool:
    """Return whether y is floats (rows, k) that are not all 0 or 1; those are several labels a row."""
    several = isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind == "f"
    return several and not np.isin(y, (0, 1)).all()


def check_probabilities(y: Array, classes: Array) -> None:
    """Raise ValueError unless y (rows, k) has a column for each class, and rows that each sum to 1."""
    if y.ndim != 2 or y.shape[1] != len(classes):
        raise ValueError(
            f"y must be labels, or rows of probabilities (rows, {len(classes)}), one for each of `classes_`, "
            f"got shape {y.shape}"
        )
    sums = y.sum(axis=1, dtype=np.float64)
    wrong = (y < 0).any(axis=1) | ~(np.abs(sums - 1) <= TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            "y is neither labels nor probabilities: rows of probabilities are at least 0 and each sums to 1 "
            f"within {TOLERANCE:g}, got {checks.shown(y[row].tolist())} in row {row}, sum {sums[row]:.7g}"
        )


def targets_of(y: Array) -> Array:
    """Return what the network is to learn: of two classes the probability of the second, (rows, 1)."""
    return y[:, 1:] if y.shape[1] == 2 else y
