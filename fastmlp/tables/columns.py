"""The base of all kinds of columns, and the values of a column: numbers, dates, labels, texts parsed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.frames import TableError, pl

try:
    from msgspec import Meta
except ImportError:  # without the extra no file is read
    Meta = dict  # type: ignore[misc,assignment]

Array = NDArray[Any]

Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
Size = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Numbers with the bounds for msgspec's reading of files."""

Mean = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""A mean target in deviations, small enough for a sum of all squares."""

MOST_LEVELS = 5000
"""The most levels of a category with a column of X each, by default; the most frequent come first."""

ROWS_AT_ONCE = 1 << 16  # rows of a table that are encoded, or predicted, at a time, for a small memory

MISSING = ("", "NA", "N/A", "n/a", "na", "NaN", "nan", "NULL", "Null", "null", "None", "none", "?")
"""Texts for a missing value, by default."""

MOSTLY = 0.9
"""The least fraction of numbers, or of dates, in a column of numbers or dates; other values are mistakes."""

ISO = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
)
"""Formats of dates in the order of trial; none leaves the month in doubt."""


CLIP = 3.0  # the limit of clipped numbers x: x / sqrt(1 + (x / CLIP)^2) is about x near 0


class Cells(NamedTuple):
    """The values of some rows in the columns of X made of one column of a table.

    indices : (k,) for the same columns in every row, or (rows, k); from 0, ascending in a row
    values : (rows, k) float64, with 0 for an empty cell
    """

    indices: Array
    values: Array


@dataclass(frozen=True)
class Column:
    """Base of the kinds: a column by name, with the facts learned from the training rows.

    kind : the name of the kind; words_for : the contents of such a column, in words
    read_as : the kind of the values of a text file: number, date or text
    mostly_zeros : whether most columns of X made of the column are 0 in a row
    """

    name: str
    kind: ClassVar[str]
    words_for: ClassVar[str]
    read_as: ClassVar[str] = "text"
    mostly_zeros: ClassVar[bool] = False

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column of a training part; a category has at most so many levels."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for each column of X."""
        raise NotImplementedError

    @cached_property
    def width(self) -> int:
        """The number of columns of X; cached, because `parts` may be thousands of names."""
        return len(self.parts)

    def encoded(self, series: pl.Series) -> Cells | Any:
        """Return the rows of a column as Cells, or as a CSR matrix of SciPy."""
        raise NotImplementedError

    @property
    def linear(self) -> Column:
        """The column for a linear model: numbers as they are, without a clip."""
        return self

    def remarks(self, series: pl.Series) -> list[str]:
        """Return differences between new rows and the training rows, in words."""
        return []

    @property
    def summary(self) -> str:
        """The column in words."""
        raise NotImplementedError

    @property
    def described(self) -> dict[str, Any]:
        """The column in JSON's types."""
        return {"kind": self.kind, **asdict(self)}


# --- values ---------------------------------------------------------------------------------------------


def numbers(series: pl.Series) -> Array:
    """Return a column as float64, NaN for a missing value; TableError for a column without numbers.

    Durations, and times from midnight on, are in seconds.
    """
    if series.dtype.is_numeric():  # first, as most are: the other questions take 15 us of a column
        return series.cast(pl.Float64).to_numpy()
    if series.dtype == pl.String:
        series = parsed(series, "number")
    elif series.dtype in (pl.Duration, pl.Time):
        series = series.cast(pl.Duration("us")).to_physical().cast(pl.Float64) / 1e6
    if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        raise TableError(f"it must hold numbers, has dtype {series.dtype}", series.name)
    return series.cast(pl.Float64).to_numpy()


def seconds_of(series: pl.Series) -> Array:
    """Return a column of dates as float64 seconds since 1970, NaN for a missing date."""
    if series.dtype == pl.String:
        series = parsed(series, "date")
    if series.dtype not in (pl.Date, pl.Datetime, pl.Null):
        raise TableError(f"it must hold dates, has dtype {series.dtype}", series.name)
    return (series.cast(pl.Datetime("us")).to_physical().cast(pl.Float64) / 1e6).to_numpy()


def labels_of(series: pl.Series) -> pl.Series:
    """Return a column as texts: 1 for 1.0, and true and false for truth values and their texts."""
    if series.dtype.is_float():
        known = series.fill_nan(None)
        whole = known.cast(pl.Int128, strict=False)  # as text, a float from 1e16 on is 1e+16
        return whole.cast(pl.String).zip_with(whole.cast(pl.Float64) == known, known.cast(pl.String))
    if series.dtype.is_decimal():
        return series.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.replace(r"\.$", "")
    if series.dtype.is_nested() or series.dtype in (pl.Object, pl.Binary):
        raise TableError(f"it must hold single values, has dtype {series.dtype}", series.name)
    labels = series.cast(pl.String)
    if series.dtype == pl.Boolean:
        return labels
    return labels.str.replace(r"^(?i:true)$", "true").str.replace(r"^(?i:false)$", "false")


def clipped(numbers: Array) -> Array:
    """Return scaled numbers, clipped smoothly at CLIP; a greater number is never less, also in rounding."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        return np.copysign(1 / np.sqrt(1 / np.square(numbers) + 1 / CLIP**2), numbers)


# --- texts ----------------------------------------------------------------------------------------------


def guessed(texts: pl.Series, numbers: pl.Series | None = None) -> str | None:
    """Return number, date or text for the contents of texts; None for an empty column.

    numbers : the texts as `as_numbers` returns them
    """
    least = MOSTLY * texts.count()
    if not least:
        return None
    if (as_numbers(texts) if numbers is None else numbers).count() >= least:
        return "number"
    return "date" if moments(texts).count() >= least else "text"


def as_numbers(texts: Any) -> Any:
    """Return texts, a series or an expression of polars, as Float64; null for other texts."""
    return texts.str.strip_chars().cast(pl.Float64, strict=False)


def moments(texts: pl.Series, formats: Sequence[str] = ISO) -> pl.Series:
    """Return texts as Datetime in UTC without a zone; null for texts in none of the formats."""
    texts = texts.str.strip_chars()
    found = pl.Series(texts.name, [None] * len(texts), pl.Datetime("us"))
    for format in formats:
        if found.null_count() == texts.null_count():
            break
        found = found.zip_with(found.is_not_null(), _moments(texts, format))
    return found


def _moments(texts: pl.Series, format: str) -> pl.Series:
    if format.endswith("%V"):  # of weeks the Monday
        texts, format = texts + "-1", f"{format}-%u"
    elif not re.search("%[dejuVU]", format):  # of months the first
        texts, format = "1 " + texts, f"%d {format}"
    if re.search("%[HIk]", format):
        found = texts.str.to_datetime(format, strict=False, time_unit="us")
        if re.search("%#?z", format):
            found = found.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    else:
        found = texts.str.to_date(format, strict=False).cast(pl.Datetime("us"))
    return found.set(found.dt.year() < 1000, None)  # the year of 3/4/24, where years have four digits


def parsed(texts: pl.Series, kind: str, hint: str | None = None, found: pl.Series | None = None) -> pl.Series:
    """Return a column of texts as numbers or dates.

    kind : number or date; hint : the advice of an error
    found : the texts as `as_numbers` or `moments` returns them
    TableError has the row of the first other text
    """
    if found is None:
        found = as_numbers(texts) if kind == "number" else moments(texts)
    if found.null_count() > texts.null_count():
        row = int((found.is_null() & texts.is_not_null()).arg_true()[0])
        hint = hint or f"the column is taken as {kind}s: choose another kind, or name this as missing"
        raise TableError(f"{checks.shown(texts[row])} is not a {kind}; {hint}", texts.name, row + 1)
    return found
