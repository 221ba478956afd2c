"""Tables in memory: frames, Arrow tables, mappings of columns and arrays, as one kind of frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.system.packages import needed
from fastmlp.tables.arrays import column_of, objects
from fastmlp.tables.arrow import check_type, from_arrow
from fastmlp.tables.errors import TableError, different
from fastmlp.tables.read_options import DEFAULTS, ReadOptions
from fastmlp.tables.reading import read

if TYPE_CHECKING:
    import polars as pl


def as_frame(X: Any, read_options: ReadOptions = DEFAULTS) -> pl.DataFrame:
    """Return a table as polars' frame.

    X : a path, a frame of polars' or pandas', a table of Arrow's, a mapping of columns, or an array
    (rows, n), whose columns are named x0, x1, ..

    Raises
    ------
    TypeError
        If it is none of these.
    TableError
        If it cannot be read.
    """
    pl = needed("polars", "table", "a table")
    if isinstance(X, (str, os.PathLike)):
        return read(X, read_options)
    if isinstance(X, pl.DataFrame):
        return X
    try:
        if isinstance(X, pl.LazyFrame):
            return X.collect()
        if hasattr(X, "iloc") and hasattr(X, "columns"):
            return _from_pandas(X)
        if isinstance(X, Mapping):
            return pl.DataFrame(dict(zip(different(X), map(_plain, X, X.values()), strict=True)))
        if hasattr(X, "__arrow_c_stream__"):
            return from_arrow(X)
        if hasattr(X, "__array__") or isinstance(X, Sequence):
            array = np.asarray(X)
            if array.ndim != 2:
                raise TableError(f"an array of rows must have shape (rows, n), has {array.shape}")
            names = [f"x{place}" for place in range(array.shape[1])]
            return pl.DataFrame([column_of(n, c) for n, c in zip(names, array.T, strict=True)])
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise TableError(str(error).splitlines()[0]) from None
    raise TypeError(f"a table must be a frame of polars' or pandas', or a path, got {checks.shown(X)}")


def _plain(name: Any, column: Any) -> Any:
    """Return a column of a mapping; as polars' own, if it is an array or a list."""
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return column_of(str(name), column)
    return objects(str(name), column) if isinstance(column, (list, tuple)) else column


def _from_pandas(frame: Any) -> pl.DataFrame:
    import polars as pl

    needed("pyarrow", "table", "a frame of pandas'")
    import pyarrow

    columns = []
    different(frame.columns)
    for name in frame.columns:
        column = frame[name].reset_index(drop=True)
        try:
            columns.append(_of_pandas(str(name), column))
        except (pyarrow.ArrowException, pl.exceptions.PolarsError, TypeError, AttributeError) as error:
            raise TableError(
                f"pandas' column cannot be taken: {str(error).splitlines()[0]}", str(name)
            ) from None
    return pl.DataFrame(columns)


def _of_pandas(name: str, column: Any) -> pl.Series:
    import polars as pl

    if column.dtype == object and any(isinstance(value, Decimal) for value in column):
        return objects(name, column.tolist())
    if hasattr(column.dtype, "pyarrow_dtype"):
        check_type(name, column.dtype.pyarrow_dtype)
    return pl.Series(name, pl.from_pandas(column))


def separated(frame: pl.DataFrame, y: Any) -> tuple[pl.DataFrame, pl.Series]:
    """Return a table without its target, and the target; y is a column's name, or a column of its own."""
    pl = needed("polars", "table", "a table")
    if isinstance(y, str):
        if y not in frame.columns:
            raise TableError(f"there is no column {y!r}; there are: {', '.join(frame.columns)}")
        return frame.drop(y), frame[y]
    if isinstance(y, pl.Series):
        return frame, y
    if np.ndim(y) == 0:
        raise TypeError(f"y must be the target, or the name of its column in X, got {checks.shown(y)}")
    name = getattr(y, "name", None)
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise TableError(f"y must have shape (rows,), has {values.shape}")
    return frame, column_of("" if name is None else str(name), values)
