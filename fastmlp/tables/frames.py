"""Tables in memory: frames, Arrow tables, mappings of columns and arrays, as one kind of frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.tables.arrays import column_of, frame_of, objects
from fastmlp.tables.arrow import check_type, from_arrow
from fastmlp.tables.errors import TableError, different, name_of
from fastmlp.tables.read_options import DEFAULTS, ReadOptions
from fastmlp.tables.reading import read

if TYPE_CHECKING:
    import polars as pl


def as_given(X: Any, content: Any) -> Any:
    """Return columns, or rows, as a frame of the library that a table is of: pandas' or else polars'."""
    import polars as pl

    frame = pl.DataFrame(content)
    return frame.to_pandas() if hasattr(X, "iloc") else frame


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
            return pl.DataFrame(dict(zip(different(X), map(_column, map(str, X), X.values()), strict=True)))
        if hasattr(X, "__arrow_c_stream__"):
            return from_arrow(X)
        if hasattr(X, "__array__") or isinstance(X, Sequence):
            array = _array(X)
            if array.ndim != 2:
                raise TableError(f"an array of rows must have shape (rows, n), has {array.shape}")
            names = [f"x{place}" for place in range(array.shape[1])]
            return pl.DataFrame([column_of(n, c) for n, c in zip(names, array.T, strict=True)])
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise TableError(str(error).splitlines()[0]) from None
    raise TypeError(f"a table must be a frame of polars' or pandas', or a path, got {checks.shown(X)}")


def _array(values: Any) -> NDArray[Any]:
    """Return what has rows as an array, with its mask; a list as one of objects, which have their types."""
    if isinstance(values, np.ma.MaskedArray):
        return values
    return np.asarray(values) if hasattr(values, "__array__") else np.asarray(values, object)


def _column(name: str, values: Any) -> Any:
    """Return values (rows,) of any library as a column; anything else as it is, for polars to judge."""
    import polars as pl

    if isinstance(values, pl.Series):
        return values.alias(name)
    if type(values).__module__.partition(".")[0] == "pandas":
        return _of_pandas(name, values)
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        check_type(name, getattr(values, "type", None))
        return pl.Series(name, values)
    if hasattr(values, "__array__") and np.ndim(values) == 1:
        return column_of(name, _array(values))
    return objects(name, values) if isinstance(values, (list, tuple)) else values


def _from_pandas(frame: Any) -> pl.DataFrame:

    different(frame.columns)
    return frame_of(_of_pandas(str(name), frame[name]) for name in frame.columns)


def _of_pandas(name: str, column: Any) -> pl.Series:
    """Return a series, an index or an array of pandas' as a column."""
    import pandas
    import polars as pl

    dtype = column.dtype
    if isinstance(dtype, (np.dtype, pandas.SparseDtype)):
        return column_of(name, np.asarray(column))
    needed("pyarrow", "table", f"pandas' dtype {dtype}")
    import pyarrow

    if hasattr(dtype, "pyarrow_dtype"):
        check_type(name, dtype.pyarrow_dtype)
    try:
        return pl.Series(name, pl.from_pandas(pandas.Series(column).reset_index(drop=True)))
    except (pyarrow.ArrowException, pl.exceptions.PolarsError, TypeError, AttributeError) as error:
        raise TableError(f"pandas' column cannot be taken: {str(error).splitlines()[0]}", name) from None


def separated(frame: pl.DataFrame, y: Any) -> tuple[pl.DataFrame, pl.Series]:
    """Return a table without its target, and the target, or several of them as a series of structs.

    y : a column's name, a list of names, a column of its own, or a table of several
    """
    pl = needed("polars", "table", "a table")
    if isinstance(y, str):
        if y not in frame.columns:
            raise TableError(f"there is no column {y!r}; there are: {checks.listed(frame.columns)}")
        return frame.drop(y), frame[y]
    if hasattr(y, "columns") or hasattr(y, "column_names"):  # a frame, or a table of Arrow's
        return frame, _together(as_frame(y))
    if isinstance(y, pl.Series):
        return frame, y
    name = getattr(y, "name", None)
    values = y if hasattr(y, "dtype") or hasattr(y, "type") else np.asarray(y, object)
    shape = tuple(values.shape if hasattr(values, "shape") else (len(values),))
    if shape == ():
        raise TypeError(f"y must be the target, or the name of its column in X, got {checks.shown(y)}")
    if len(shape) == 2 and shape[1] == 1:
        values, shape = values[:, 0], shape[:1]
    if len(shape) == 2:
        return frame, _together(as_frame(values).rename(lambda column: column.replace("x", "y")))
    if len(shape) != 1:
        raise TableError(f"y must have shape (rows,) or (rows, targets), has {shape}")
    there = {*frame.columns}
    if 0 < len(values) != len(frame) and all(isinstance(one, str) and one in there for one in values):
        names = different(values)
        return frame.drop(names), _together(frame.select(names))
    return frame, _column("" if name is None else name_of(name), values)


def _together(targets: pl.DataFrame) -> pl.Series:
    """Return a single target as it is, several as a series of structs that is named after all."""
    if targets.width == 1:
        return targets.to_series()
    if not targets.width:
        raise TableError("y has no column")
    return targets.to_struct(", ".join(targets.columns))
