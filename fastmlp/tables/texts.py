"""Columns of text parsed as plain numbers and dates of ISO 8601; a value that is neither is named.

`writings` knows how else people write them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.tables.errors import TableError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "n/a", "na", "NaN", "nan", "NULL", "Null", "null", "None", "none", "?")
"""Texts that say that there is no value, by default."""

MOSTLY = 0.9
"""A column of which so many values are numbers (or dates) is one of numbers; the others are mistakes."""

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
"""Formats of dates in the order in which they are tried; none leaves the month in doubt."""


def guessed(texts: pl.Series, numbers: pl.Series | None = None) -> str | None:
    """Return number, date or text for what a column of texts holds; None if it holds nothing.

    numbers : the texts as `as_numbers` returns them
    """
    there = texts.count()
    if not there:
        return None
    if (as_numbers(texts) if numbers is None else numbers).count() >= MOSTLY * there:
        return "number"
    if moments(texts).count() >= MOSTLY * there:
        return "date"
    return "text"


def as_numbers(texts: Any) -> Any:
    """Return texts, a series or an expression of polars', as Float64, null where they are no numbers."""
    import polars as pl

    return texts.str.strip_chars().cast(pl.Float64, strict=False)


def moments(texts: pl.Series, formats: Sequence[str] = ISO) -> pl.Series:
    """Return texts as Datetime in UTC without a zone, null where they are in none of the formats."""
    import polars as pl

    texts = texts.str.strip_chars()
    found = pl.Series(texts.name, [None] * len(texts), pl.Datetime("us"))
    for format in formats:
        if found.null_count() == texts.null_count():
            break
        found = found.zip_with(found.is_not_null(), _moments(texts, format))
    return found


def _moments(texts: pl.Series, format: str) -> pl.Series:
    import polars as pl

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
    return found.set(found.dt.year() < 1000, None)  # as that of 3/4/24, where years have four digits


def parsed(texts: pl.Series, kind: str, hint: str | None = None, found: pl.Series | None = None) -> pl.Series:
    """Return a column of texts as numbers or dates.

    kind : number or date; hint : what to do about a text that is none
    found : the texts as `as_numbers` or `moments` returns them

    Raises
    ------
    TableError
        With the row of the first text that is no number, or no date.
    """
    if found is None:
        found = as_numbers(texts) if kind == "number" else moments(texts)
    if found.null_count() > texts.null_count():
        row = int((found.is_null() & texts.is_not_null()).arg_true()[0])
        text = checks.shown(texts[row])
        hint = hint or f"the column is taken as {kind}s: choose another kind, or name this as missing"
        raise TableError(f"{text} is not a {kind}; {hint}", texts.name, row + 1)
    return found
