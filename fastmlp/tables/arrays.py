"""Arrays of NumPy's as columns of polars': dates in any unit, and numbers of any width."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables.errors import TableError

if TYPE_CHECKING:
    import polars as pl

UNITS = ("D", "ms", "us", "ns")
"""Units of datetime64 that polars has."""

FINER = ("ps", "fs", "as")
"""Than polars has: what is less than a microsecond is left out."""


def column_of(name: str, array: NDArray[Any]) -> pl.Series:
    """Return an array (rows,) as a column; TableError for what a column cannot hold."""
    import polars as pl

    if array.dtype.kind == "M":
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


def objects(name: str, values: Sequence[Any]) -> pl.Series:
    """Return Python's objects as a column; float64 if decimals are among them, NaN where one is no number."""
    import polars as pl

    if any(isinstance(value, Decimal) for value in values):
        values = [float(value) if isinstance(value, (Decimal, int)) else value for value in values]
    return pl.Series(name, values)


def _in_units(name: str, dates: NDArray[Any]) -> NDArray[Any]:
    """Return dates in days if they are in longer units, and in microseconds if in others than polars has."""
    unit, count = np.datetime_data(dates.dtype)
    if unit in UNITS and count == 1:
        return np.ascontiguousarray(dates)
    target = "M8[D]" if unit in ("Y", "M", "W") else "M8[us]"
    if unit not in FINER:  # compared before: NumPy 2.5 raises where earlier releases wrap around
        most = 1 << 62  # half of what int64 holds: NumPy's own conversion wraps around near its ends
        low, high = np.array([-most, most]).view(target).astype(dates.dtype)
        outside = (dates < low) | (dates > high)  # NaT is neither
        if outside.any():
            row = int(np.argmax(outside))
            raise TableError(f"{dates[row]} is beyond the dates that can be used", name, row + 1)
    return dates.astype(target)
