"""Arrays of NumPy's and Python's objects as columns of polars': dates in any unit, numbers of any width."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.errors import TableError

if TYPE_CHECKING:
    import polars as pl

UNITS = ("D", "ms", "us", "ns")
"""Units of datetime64 that polars has."""

FINER = ("ps", "fs", "as")
"""Than polars has: what is less than a microsecond is left out."""

EXACT = ("W", "D", "h", "m", "s", "ms", "us", "ns", *FINER)
"""Units of timedelta64 that are so many seconds, as months are not."""

NOTHING = ("NAType", "NaTType", "MaskedConstant")
"""Types of what pandas and NumPy have where there is no value, besides NaN."""

LONG = 1 << 63
"""Whole numbers from here on have more than 64 bits."""

NUMBERS = {int, float, Decimal}
"""Types that stand together in a column, as float64."""


def frame_of(columns: Iterable[pl.Series]) -> pl.DataFrame:
    """Return columns of different names as a frame; polars would rename a column without a name."""
    import polars as pl

    return pl.DataFrame({column.name: column for column in columns})


def column_of(name: str, array: NDArray[Any]) -> pl.Series:
    """Return an array (rows,) as a column, null where it is masked; TableError if a column cannot hold it."""
    import polars as pl

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
    """Return Python's objects as a column, null where there is none; numbers of several types are float64.

    Raises
    ------
    TableError
        If they are of several types otherwise, or of a type that no column holds.
    """
    import polars as pl

    values = [*map(_plain, values)]
    types = {type(value) for value in values if value is not None}
    if types <= NUMBERS and (len(types) > 1 or Decimal in types):
        values = [None if value is None else float(value) for value in values]
    elif types == {datetime.date, datetime.datetime}:
        midnight = datetime.time()
        values = [
            datetime.datetime.combine(value, midnight) if type(value) is datetime.date else value
            for value in values
        ]
    has_long = types == {int} and any(value is not None and not -LONG <= value < LONG for value in values)
    try:
        return pl.Series(name, values, pl.Int128 if has_long else None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise _mixed(name, values) or TableError(str(error).splitlines()[0], name) from None


def _plain(value: Any) -> Any:
    """Return a value as Python's own, None where it says that there is none."""
    if type(value) in (str, int, bool, type(None)):
        return value
    if isinstance(value, np.datetime64):
        return value.astype("M8[us]").item()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in NOTHING or (isinstance(value, Decimal) and value.is_nan()):
        return None
    return None if isinstance(value, float) and value != value else value


def _mixed(name: str, values: Sequence[Any]) -> TableError | None:
    """Return an error that names the first value of another type than those before it, if there is one."""
    known = [(row, value) for row, value in enumerate(values, 1) if value is not None]
    for row, value in known:
        if type(value) is not type(first := known[0][1]):
            types = (
                f"is of type {type(value).__name__}, {checks.shown(first)} before it {type(first).__name__}"
            )
            return TableError(
                f"{checks.shown(value)} {types}; a column holds one type: convert it", name, row
            )
    return None


def _in_units(name: str, dates: NDArray[Any]) -> NDArray[Any]:
    """Return dates in days if they are in longer units, and in microseconds if in others than polars has.

    Durations in days and longer units are in microseconds, too.
    """
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
