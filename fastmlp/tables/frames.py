"""Tables in memory as polars' frames: frames, Arrow tables, mappings, arrays and objects; their errors."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import Deferred, needed

if TYPE_CHECKING:
    import polars as pl
else:
    pl = Deferred("polars", "table", "a table")

__all__ = ["pl"]  # for mypy: the other files of tables import polars from here

UNITS = ("D", "ms", "us", "ns")  # units of datetime64 in polars
FINER = ("ps", "fs", "as")  # finer units than polars has; less than a microsecond is left out

EXACT = ("W", "D", "h", "m", "s", "ms", "us", "ns", *FINER)
"""Units of timedelta64 with a fixed number of seconds; months have none."""

NOTHING = ("NAType", "NaTType", "MaskedConstant")  # types of a missing value in pandas and NumPy, besides NaN
LONG = 1 << 63  # whole numbers from here on have more than 64 bits


class TableError(ValueError):
    """The contents of a table cannot be used.

    reason : str, in words
    column : str or None, the column's name
    row : int or None, from 1, without the header
    source : str or None, the file
    """

    def __init__(
        self, reason: str, column: str | None = None, row: int | None = None, source: str | None = None
    ) -> None:
        self.reason, self.column, self.row, self.source = reason, column, row, source
        super().__init__(reason, column, row, source)

    def within(self, source: str | None, rows_before: int = 0) -> TableError:
        """Return the error for a part of a file, behind so many rows."""
        row = None if self.row is None else self.row + rows_before
        return TableError(self.reason, self.column, row, self.source or source)

    def __str__(self) -> str:
        row = None if self.row is None else f"row {self.row}"
        column = f"column {self.column!r}" if self.column else None  # a target beside X has no name
        where = ", ".join(part for part in (self.source, row, column) if part)
        return f"{where}: {self.reason}" if where else self.reason


def name_of(given: object) -> str:
    """Return a column's name as text; TableError for half a character, which no table holds."""
    name = str(given)
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise TableError(f"a column's name must be text of whole characters, got {name!r}")
    return name


def different(names: Iterable[object], hint: str = "") -> list[str]:
    """Return the names of columns as texts; TableError, with a hint, for two equal names."""
    seen: dict[str, None] = {}
    for name in map(name_of, names):
        if name in seen:
            raise TableError(f"two columns have the name {name!r}{hint}")
        seen[name] = None
    return list(seen)


def as_given(X: Any, content: Any) -> Any:
    """Return columns, or rows, as a frame of the library of X: pandas, or else polars."""
    frame = pl.DataFrame(content)
    return frame.to_pandas() if hasattr(X, "iloc") else frame


def frame_of(columns: Iterable[pl.Series]) -> pl.DataFrame:
    """Return columns of different names as a frame; polars would rename a column without a name."""
    return pl.DataFrame({column.name: column for column in columns})


def frame_in_memory(X: Any) -> pl.DataFrame:
    """Return a table in memory as polars' frame; `reading.as_frame` has the errors.

    X : a frame, a table of Arrow, a mapping of columns, or an array (rows, n) with columns x0, x1, ..
    """
    try:
        if isinstance(X, pl.DataFrame):
            return X
        if isinstance(X, pl.LazyFrame):
            return X.collect()
        if hasattr(X, "iloc") and hasattr(X, "columns"):
            different(X.columns)
            return frame_of(_of_pandas(str(name), X[name]) for name in X.columns)
        if isinstance(X, Mapping):
            return pl.DataFrame(dict(zip(different(X), map(_column, map(str, X), X.values()), strict=True)))
        if hasattr(X, "__arrow_c_stream__"):
            return _from_arrow(X)
        if hasattr(X, "__array__") or isinstance(X, Sequence):
            array = _array(X)
            if array.ndim != 2:
                raise TableError(f"an array of rows must have shape (rows, n), has {array.shape}")
            return pl.DataFrame([column_of(f"x{index}", column) for index, column in enumerate(array.T)])
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise TableError(str(error).splitlines()[0]) from None
    raise TypeError(f"a table must be a frame of polars' or pandas', or a path, got {checks.shown(X)}")


def _array(values: Any) -> NDArray[Any]:
    """Return rows as an array with a mask; a list as objects, which have types."""
    if isinstance(values, np.ma.MaskedArray):
        return values
    return np.asarray(values) if hasattr(values, "__array__") else np.asarray(values, object)


def _column(name: str, values: Any) -> Any:
    """Return values (rows,) of any library as a column; other values as they are, for polars to judge."""
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


def _of_pandas(name: str, column: Any) -> pl.Series:
    """Return a series, an index or an array of pandas as a column."""
    import pandas

    dtype = column.dtype
    if isinstance(dtype, (np.dtype, pandas.SparseDtype)):
        return column_of(name, np.asarray(column))
    pyarrow = needed("pyarrow", "table", f"pandas' dtype {dtype}")
    if hasattr(dtype, "pyarrow_dtype"):
        check_type(name, dtype.pyarrow_dtype)
    try:
        return pl.Series(name, pl.from_pandas(pandas.Series(column).reset_index(drop=True)))
    except (pyarrow.ArrowException, pl.exceptions.PolarsError, TypeError, AttributeError) as error:
        raise TableError(f"pandas' column cannot be taken: {str(error).splitlines()[0]}", name) from None


# --- targets --------------------------------------------------------------------------------------------


def separated(frame: pl.DataFrame, y: Any) -> tuple[pl.DataFrame, pl.Series]:
    """Return a table without the target, and the target; several targets are a series of structs.

    y : a column's name, a list of names, a column, or a table of several columns
    """
    pl = needed("polars", "table", "a table")
    if not frame.width:
        raise TableError("there are no columns to learn from")
    if isinstance(y, str):
        if y not in frame.columns:
            raise TableError(f"there is no column {y!r}; there are: {checks.listed(frame.columns)}")
        return _rest(frame, [y]), frame[y]
    if hasattr(y, "columns") or hasattr(y, "column_names"):  # a frame, or a table of Arrow
        return frame, _joined(frame_in_memory(y))
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
        return frame, _joined(frame_in_memory(values).rename(lambda column: column.replace("x", "y")))
    if len(shape) != 1:
        raise TableError(f"y must have shape (rows,) or (rows, targets), has {shape}")
    if 0 < len(values) != len(frame) and all(isinstance(one, str) for one in values):
        there = {*frame.columns}
        if missing := [one for one in values if one not in there]:
            lengths = f"y has {len(values)} texts, and X {len(frame)} rows"  # y may be a target cut short
            listed = checks.listed(frame.columns)
            raise TableError(f"there is no column {checks.shown(missing[0])}; there are: {listed}; {lengths}")
        names = different(values)
        return _rest(frame, names), _joined(frame.select(names))
    return frame, _column("" if name is None else name_of(name), values)


def _rest(frame: pl.DataFrame, targets: list[str]) -> pl.DataFrame:
    """Return a table without its targets; TableError for a table of targets alone."""
    if len(targets) == frame.width:  # the targets are different columns of the table
        raise TableError(f"there are no columns to learn from beside the target{'s' * (len(targets) > 1)}")
    return frame.drop(targets)


def _joined(targets: pl.DataFrame) -> pl.Series:
    """Return a single target as it is, several targets as a series of structs with all names."""
    if targets.width == 1:
        return targets.to_series()
    if not targets.width:
        raise TableError("y has no column")
    return targets.to_struct(", ".join(targets.columns))


# --- arrays and objects ---------------------------------------------------------------------------------


def column_of(name: str, array: NDArray[Any]) -> pl.Series:
    """Return an array (rows,) as a column, null for a mask; TableError for a dtype of no column."""
    if isinstance(array, np.ma.MaskedArray):
        masked = pl.Series(np.ma.getmaskarray(array))
        return column_of(name, np.asarray(array)).to_frame().select(pl.when(~masked).then(name)).to_series()
    if array.dtype.kind == "M" or (array.dtype.kind == "m" and np.datetime_data(array.dtype)[0] in EXACT):
        return pl.Series(name, _in_units(name, array))
    if array.dtype.kind == "O":
        return objects(name, array.tolist())
    if array.dtype.kind in "cmV":
        raise TableError(f"arrays of dtype {array.dtype} cannot be learned from; convert it", name)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind not in "buifT":
        array = array.astype(str)
    return pl.Series(name, np.ascontiguousarray(array))


def objects(name: str, values: Iterable[Any]) -> pl.Series:
    """Return Python's objects as a column, null for a missing value; numbers of several types are float64.

    TableError names the row of a second type.
    """
    values = [*map(_plain, values)]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float, Decimal} and (len(kinds) > 1 or Decimal in kinds):
        values = [None if value is None else float(value) for value in values]
    elif kinds == {datetime.date, datetime.datetime}:
        midnight = datetime.time()
        values = [
            datetime.datetime.combine(value, midnight) if type(value) is datetime.date else value
            for value in values
        ]
    has_long = kinds == {int} and any(value is not None and not -LONG <= value < LONG for value in values)
    try:
        return pl.Series(name, values, pl.Int128 if has_long else None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        known = [(row, value) for row, value in enumerate(values, 1) if value is not None]
        for row, value in known:
            if type(value) is not type(first := known[0][1]):
                types = f"{type(value).__name__}, {checks.shown(first)} before it {type(first).__name__}"
                reason = f"{checks.shown(value)} is of type {types}; a column holds one type: convert it"
                raise TableError(reason, name, row) from None
        raise TableError(str(error).splitlines()[0], name) from None


def _plain(value: Any) -> Any:
    """Return a value of Python's types, None for a missing value."""
    if type(value) in (str, int, bool, type(None)):
        return value
    if isinstance(value, np.datetime64):
        return value.astype("M8[us]").item()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in NOTHING or (isinstance(value, Decimal) and value.is_nan()):
        return None
    return None if isinstance(value, float) and value != value else value


def _in_units(name: str, dates: NDArray[Any]) -> NDArray[Any]:
    """Return dates or durations in a unit of polars: days for longer units of dates, else microseconds."""
    unit, count = np.datetime_data(dates.dtype)
    kind = f"{dates.dtype.kind}8"
    if unit in UNITS[kind == "m8" :] and count == 1:
        return np.ascontiguousarray(dates)
    target = "M8[D]" if kind == "M8" and unit in ("Y", "M", "W") else f"{kind}[us]"
    if unit not in FINER:  # compared before: NumPy 2.5 raises where earlier releases wrap around
        most = 1 << 62  # half of what int64 holds: NumPy's own conversion wraps around near its ends
        low, high = np.array([-most, most]).view(target).astype(dates.dtype)
        outside = (dates < low) | (dates > high)  # NaT is neither
        if outside.any():
            row = int(np.argmax(outside))
            raise TableError(f"{dates[row]} is beyond the dates that can be used", name, row + 1)
    return dates.astype(target)


# --- Arrow ----------------------------------------------------------------------------------------------

# polars ends the process's thread with a trace of Rust, and no error, where two columns have one name; older
# releases of polars read one of two such columns of a Parquet file. So schemas are checked before.


def _from_arrow(table: Any) -> pl.DataFrame:
    """Return a table of Arrow, or of a library with `__arrow_c_stream__`; errors are as of `check_schema`."""
    pyarrow = needed("pyarrow", "table", "a table of Arrow's")
    try:
        table = pyarrow.table(table)
    except pyarrow.ArrowInvalid:  # a series exports its values
        raise TableError(f"a table has columns with names, got one {type(table).__name__}") from None
    check_schema(table.schema)
    frame: pl.DataFrame = pl.from_arrow(table)
    return frame


def check_schema(schema: Any) -> None:
    """Raise TableError for two columns of one name, or for a type of Arrow that polars has not."""
    different(schema.names)
    for field in schema:
        check_type(field.name, field.type)


def check_type(name: str, kind: Any) -> None:
    """Raise TableError if polars has not the Arrow type of a column."""
    import pyarrow

    if pyarrow.types.is_decimal256(kind):
        raise TableError(f"{kind} has more digits than can be read; make it float64", name)
