"""Tables in memory: frames of polars' and pandas', mappings of columns and arrays, as one kind of frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.exchange.packages import needed
from fastmlp.tables.arrays import column_of
from fastmlp.tables.asked import ASKED, Asked
from fastmlp.tables.errors import TableError
from fastmlp.tables.reading import read

if TYPE_CHECKING:
    import polars as pl


def as_frame(X: Any, asked: Asked = ASKED) -> pl.DataFrame:
    """Return a table as polars' frame.

    X : a path, a frame of polars' or pandas', a mapping of columns, or an array (rows, n), whose columns are
    named x0, x1, ..

    Raises
    ------
    TypeError
        If it is none of these.
    TableError
        If it cannot be read.
    """
    pl = needed("polars", "table", "a table")
    if isinstance(X, (str, os.PathLike)):
        return read(X, asked)
    if isinstance(X, pl.DataFrame):
        return X
    try:
        if isinstance(X, pl.LazyFrame):
            return X.collect()
        if hasattr(X, "iloc"):
            return _from_pandas(X)
        if isinstance(X, Mapping):
            return pl.DataFrame({str(name): _plain(name, column) for name, column in X.items()})
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
    """Return a column of a mapping; as polars' own, if it is an array."""
    return column_of(str(name), column) if isinstance(column, np.ndarray) and column.ndim == 1 else column


def _from_pandas(frame: Any) -> pl.DataFrame:
    import polars as pl

    needed("pyarrow", "table", "a frame of pandas'")
    import pyarrow

    columns = []
    for name in frame.columns:
        try:
            columns.append(pl.Series(str(name), pl.from_pandas(frame[name].reset_index(drop=True))))
        except (pyarrow.ArrowException, pl.exceptions.PolarsError, TypeError, AttributeError) as error:
            raise TableError(
                f"pandas' column cannot be taken: {str(error).splitlines()[0]}", str(name)
            ) from None
    return pl.DataFrame(columns)


def separated(frame: pl.DataFrame, y: Any) -> tuple[pl.DataFrame, pl.Series]:
    """Return a table without its target, and the target; y is a column's name, or a column of its own."""
    pl = needed("polars", "table", "a table")
    if isinstance(y, str):
        if y not in frame.columns:
            raise TableError(f"there is no column {y!r}; there are: {', '.join(frame.columns)}")
        return frame.drop(y), frame[y]
    if y is None:
        raise TypeError("y must be the target, or the name of its column in X, got None")
    if isinstance(y, pl.Series):
        return frame, y
    name = getattr(y, "name", None)
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise TableError(f"y must have shape (rows,), has {values.shape}")
    return frame, column_of("" if name is None else str(name), values)
