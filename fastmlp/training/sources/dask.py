"""Dask's arrays and data frames, chunk by chunk of their rows. Only imported where Dask is."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import dask
import numpy as np

from fastmlp import checks
from fastmlp.training.sources.blocks import chosen_columns, of_each_head


class DaskRows:
    """Collections whose chunks or partitions have the same rows.

    parts : parts[i] of each is its i-th chunk of rows; count : of chunks
    """

    def __init__(self, collections: tuple[Any, ...], count: int, rows: int | None) -> None:
        self._collections, self._count, self.rows = collections, count, rows

    def __iter__(self) -> Iterator[Any]:
        for number in range(self._count):
            part = functools.partial(_part, number)
            X, *others = dask.compute(*(of_each_head(one, part) for one in self._collections))
            yield (X, *(of_each_head(other, np.asarray) for other in others))


def _part(number: int, collection: Any) -> Any:
    return (collection.partitions if _is_frame(collection) else collection.blocks)[number]


def _is_frame(collection: Any) -> bool:
    return type(collection).__module__.startswith("dask.dataframe")


def dask_source(what: str, X: Any, y: Any, weights: Any) -> DaskRows:
    """Return the rows of a Dask array, or of a Dask data frame of which y and weights name columns.

    Of an array, y and weights are arrays of Dask's or NumPy's; y of a data frame may be a series, too.
    """
    import dask.array

    if _is_frame(X) and hasattr(X, "columns"):
        return _frame_rows(what, X, y, weights)
    if not isinstance(X, dask.array.Array) or X.ndim != 2:
        raise TypeError(
            f"{what} must be an array (rows, columns) or a data frame of Dask's, got {checks.shown(X)}"
        )
    if y is None:
        raise TypeError(f"y must be given for {what}, an array of Dask's")
    targets = of_each_head(y, functools.partial(_like, X, "y"))
    parts = [X, targets, *([] if weights is None else [_like(X, "sample_weight", weights)])]
    rows = X.shape[0]
    return DaskRows(tuple(parts), X.numblocks[0], None if math.isnan(rows) else int(rows))


def _like(X: Any, name: str, array: Any) -> Any:
    """Return an array in chunks of X's rows."""
    import dask.array

    known = not math.isnan(X.shape[0])
    if _is_frame(array):
        array = array.to_dask_array()
    if not isinstance(array, dask.array.Array):
        array = np.asarray(array)
        if not known:
            raise ValueError(
                f"X has chunks of unknown sizes, so {name} must be an array of Dask's in such chunks"
            )
        if array.shape[:1] != X.shape[:1]:
            raise ValueError(f"{name} must have {X.shape[0]} rows, as X has, got shape {array.shape}")
        return dask.array.from_array(array, chunks=(X.chunks[0], *array.shape[1:]))
    if not known or math.isnan(array.shape[0]):
        if array.numblocks[0] != X.numblocks[0]:
            raise ValueError(
                f"{name} must have {X.numblocks[0]} chunks of rows, as X has, got {array.numblocks[0]}"
            )
        return array
    if array.shape[0] != X.shape[0]:
        raise ValueError(f"{name} must have {X.shape[0]} rows, as X has, got shape {array.shape}")
    return array.rechunk({0: X.chunks[0]})


def _frame_rows(what: str, X: Any, y: Any, weights: Any) -> DaskRows:
    if _is_frame(y):
        if y.npartitions != X.npartitions:
            raise ValueError(f"y must have {X.npartitions} partitions, as {what} has, got {y.npartitions}")
        inputs, target = list(X.columns), y
        if weights is not None:
            raise TypeError("sample_weight with a data frame must name a column, as y must then")
    else:
        inputs, targets = chosen_columns(what, list(X.columns), y, weights)
        target = of_each_head(targets, lambda names: X[names[0] if len(names) == 1 else names])
    for name in inputs:
        kind = X.dtypes[name]
        if getattr(kind, "kind", "O") not in "buif":
            raise TypeError(f"column {name!r} is of dtype {kind}; inputs must be numbers")
    parts = [X[inputs], target, *([] if weights is None else [X[weights]])]
    return DaskRows(tuple(parts), X.npartitions, None)
