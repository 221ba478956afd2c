"""The inputs of a network for the columns of X: numbers as they are, or embedded numbers."""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import numpy as np

from fastmlp.model.embeddings import NumberEmbedding, Periodic, PiecewiseLinear
from fastmlp.model.inputs import Blocks, Numbers, SparseNumbers, sparse_columns
from fastmlp.tables.columns import Array
from fastmlp.tables.recipe import Recipe
from fastmlp.trained.model import Model

MOST_UNITS = 512  # units of all columns of X together, about: many columns have fewer units each
LEAST_WIDTH = 2  # the least outputs of a column's linear layer
TOGETHER = 1 << 20  # numbers of X looked at together, for a small memory


def may_embed(X: Any, numbers: int) -> bool:
    """Return whether X (rows, n) has numbers to embed; numbers : as for `have_three`."""
    return bool(numbers or isinstance(X, np.ndarray))


def have_three(X: Any, numbers: int) -> Array:
    """Return for each column of X (rows, n) to embed whether there are three different numbers.

    X : dense, or CSR; of CSR the columns before the mostly empty columns may be embedded, so many numbers
    """
    columns = X.shape[1] if isinstance(X, np.ndarray) else numbers
    left, seen = np.arange(columns), np.empty((0, columns), X.dtype)
    step = max(1, TOGETHER // max(1, columns))
    for start in range(0, X.shape[0], step):
        rows = X[start : start + step, :columns]
        rows = rows if isinstance(rows, np.ndarray) else rows.toarray()
        part = np.concatenate([seen, rows[:, left]])
        differ = part[0] != part
        second = part[differ.argmax(axis=0), np.arange(len(left))]
        remains = ~(differ & (second != part)).any(axis=0)
        left, part = left[remains], part[:, remains]
        if not len(left):
            break
        seen = np.stack([part.min(axis=0), part.max(axis=0)])  # the two numbers of a column
    return ~np.isin(np.arange(columns), left)


def inputs_of(columns: int, recipe: Recipe, several: Array) -> int | Blocks:
    """Return the inputs of a network for X: blocks of columns, or the number of columns.

    Columns of three different numbers and more are embedded, other columns are inputs as they are.

    columns : of X; several : as `have_three` returns it; the columns behind are a sparse block
    """
    if not recipe.embeds or not several.any():
        return columns
    width = max(LEAST_WIDTH, min(recipe.width, MOST_UNITS // int(several.sum())))
    embedding: NumberEmbedding
    embedding = Periodic(width, recipe.sigma) if recipe.sigma else PiecewiseLinear(recipe.bins, width)
    groups = ((embedded, len(list(group))) for embedded, group in groupby(several))
    blocks = [Numbers(count, embedding if embedded else None) for embedded, count in groups]
    return (*blocks, SparseNumbers(columns - len(several))) if columns > len(several) else tuple(blocks)


def rows_for(inputs: int | Blocks, X: Any) -> Any:
    """Return X (rows, n) for a network with such inputs: a CSR matrix block by block."""
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
