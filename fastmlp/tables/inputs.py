"""What the columns of X are to a network: inputs as they are, or numbers whose places in bins are inputs.

Separate from `encoding`: what X is does not depend on it, and files of models hold it with their networks.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.embeddings import PiecewiseLinear
from fastmlp.model.inputs import Blocks, Numbers

Array = NDArray[Any]

MOST_UNITS = 512
"""Places in bins of all columns of X together, about: with more columns, each has fewer bins."""

LEAST_BINS = 8
"""Bins of a column, however many there are."""

MOST_ROWS = 200_000
"""Rows of X up to which numbers may have bins: beyond, what they cost and gain was not measured."""


def may_have_bins(X: Any) -> bool:
    """Return whether X (rows, n), dense or CSR, is such that numbers may have bins."""
    return isinstance(X, np.ndarray) and len(X) <= MOST_ROWS


def inputs_of(X: Any, bins: int) -> int | Blocks:
    """Return the inputs of a network that learns from X: blocks of columns, or only how many there are.

    Columns of three different numbers and more have bins, others are inputs as they are.

    X : (rows, n), dense if there are bins; bins : of each column at most; 0 for none
    """
    if not bins:
        return int(X.shape[1])
    several = _has_three(X)
    if not several.any():
        return int(X.shape[1])
    place = PiecewiseLinear(max(LEAST_BINS, min(bins, MOST_UNITS // int(several.sum()))))
    groups = ((binned, len(list(group))) for binned, group in groupby(several))
    return tuple(Numbers(count, place if binned else None) for binned, count in groups)


def _has_three(X: Array) -> Array:
    """Return for each column of X (rows, n) whether it has three different numbers."""
    first = X[0]
    differ = first != X
    second = X[differ.argmax(axis=0), np.arange(X.shape[1])]
    found: Array = (differ & (second != X)).any(axis=0)
    return found
