"""What the columns of X are to a network: inputs as they are, or numbers that are embedded.

Separate from `encoding`: what X is does not depend on it, and files of models hold it with their networks.
"""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.embeddings import NumberEmbedding, Periodic, PiecewiseLinear
from fastmlp.model.inputs import Blocks, Numbers, SparseNumbers, sparse_columns
from fastmlp.tables.recipe import Recipe
from fastmlp.trained.model import Model

Array = NDArray[Any]

MOST_UNITS = 512
"""Units of all columns of X together, about: with more columns, each has fewer of them."""

LEAST_WIDTH = 2
"""Outputs of a column's linear layer, however many columns there are."""

TOGETHER = 1 << 20
"""Numbers of X that are looked at together: what a look needs does not grow with the rows."""


def may_embed(X: Any, numbers: int) -> bool:
    """Return whether X (rows, n) is such that numbers may be embedded; numbers : as for `have_three`."""
    return bool(numbers or isinstance(X, np.ndarray))


def have_three(X: Any, numbers: int) -> Array:
    """Return for each column of X (rows, n) that may be embedded whether it has three different numbers.

    X : dense, or CSR, of which only columns before those that are mostly zeros may be embedded: numbers
    """
    columns = X.shape[1] if isinstance(X, np.ndarray) else numbers
    left, seen = np.arange(columns), np.empty((0, columns), X.dtype)
    step = max(1, TOGETHER // max(1, columns))
    for start in range(0, X.shape[0], step):
        rows = X[start : start + step, :columns]
        rows = rows if isinstance(rows, np.ndarray) else rows.toarray()
        part = np.concatenate([seen, rows[:, left]])
        remains = ~_has_three(part)
        left, part = left[remains], part[:, remains]
        if not len(left):
            break
        seen = np.stack([part.min(axis=0), part.max(axis=0)])  # the two numbers that a column may have
    return ~np.isin(np.arange(columns), left)


def inputs_of(columns: int, recipe: Recipe, several: Array) -> int | Blocks:
    """Return the inputs of a network that learns from X: blocks of columns, or only how many there are.

    Columns of three different numbers and more are embedded, others are inputs as they are.

    columns : of X; several : as `have_three` returns it; others behind are those of a sparse block
    """
    if not recipe.embeds or not several.any():
        return columns
    embedding = _embedding(recipe, MOST_UNITS // int(several.sum()))
    groups = ((embedded, len(list(group))) for embedded, group in groupby(several))
    blocks = [Numbers(count, embedding if embedded else None) for embedded, count in groups]
    return (*blocks, SparseNumbers(columns - len(several))) if columns > len(several) else tuple(blocks)


def rows_for(inputs: int | Blocks, X: Any) -> Any:
    """Return X (rows, n) as a network with such inputs takes it: a CSR matrix block by block."""
    if isinstance(inputs, int) or not inputs or isinstance(X, np.ndarray):
        return X
    numbers = X.shape[1] - sparse_columns(inputs)
    ends = [*accumulate(block.columns for block in inputs if isinstance(block, Numbers))]
    dense = np.split(X[:, :numbers].toarray(), ends[:-1], axis=1)
    return [*dense, X[:, numbers:]] if numbers < X.shape[1] else dense


def predicted(model: Model, X: Any) -> Array:
    """Return a network's outputs (rows, n_out) for X (rows, n), dense or CSR."""
    found = model.predict(rows_for(model.network.blocks, X))
    return np.hstack([*found.values()]) if isinstance(found, dict) else found


def _embedding(recipe: Recipe, most: int) -> NumberEmbedding:
    """Return what makes units of each number, at most so many, but not fewer than the least."""
    width = max(LEAST_WIDTH, min(recipe.width, most))
    return Periodic(width, recipe.sigma) if recipe.sigma else PiecewiseLinear(recipe.bins, width)


def _has_three(X: Array) -> Array:
    """Return for each column of X (rows, n) whether it has three different numbers."""
    first = X[0]
    differ = first != X
    second = X[differ.argmax(axis=0), np.arange(X.shape[1])]
    found: Array = (differ & (second != X)).any(axis=0)
    return found
