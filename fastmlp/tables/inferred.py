"""Which kind a column is, where nobody says, and which rows are copies, by dtypes and values.

Separate from `kinds`: what a kind makes of a column does not depend on why it is of that kind.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from fastmlp import checks
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import MOST_LEVELS, Array, Column
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import Date, Dropped, Number, Text
from fastmlp.tables.values import numbers

if TYPE_CHECKING:
    import polars as pl

ROW_NUMBERS = "it numbers the rows"
"""Why such a column is dropped."""

FEW = 50
"""Different texts that are a category, however few rows there are."""

HEAD = 1000
"""Rows of a column that are looked at before all of them."""

WORDS = 3
"""Words of a mean text from which on it is a text, and no name."""


TOLD_APART = 0.5
"""Values of some column of numbers, as a share of the different rows, from which on others are copies."""

ALIKE = 0.95
"""Share of the rows that are like an earlier one and have its target, too, if they are copies."""

LEAST_DIFFERENT = 20
"""Different rows of a table with copies; fewer are no table to hold rows out of by themselves."""


def inferred(series: pl.Series, most_levels: int = MOST_LEVELS) -> Column:
    """Return the column by what its dtype and its values suggest; TableError if they suggest nothing."""
    import polars as pl

    dtype = series.dtype
    distinct = _distinct(series)
    if distinct <= 1 and not (distinct == 1 and series.null_count()):
        if not distinct:
            return Dropped(series.name, "it holds nothing")
        return Dropped(series.name, f"it holds one value only, {checks.shown(series.drop_nulls()[0])}")
    if dtype.is_numeric() and _numbers_the_rows(series):
        return Dropped(series.name, ROW_NUMBERS)
    if dtype.is_numeric() or dtype in (pl.Duration, pl.Time):
        return Number.learned(series)
    if dtype in (pl.Date, pl.Datetime):
        return Date.learned(series)
    if dtype == pl.String:
        return _of_texts(series, distinct, most_levels)
    if dtype == pl.Boolean or dtype in (pl.Categorical, pl.Enum):
        return Category.learned(series, most_levels)
    raise TableError(f"columns of dtype {dtype} cannot be learned from; drop it or convert it", series.name)


def row_numbers(frame: pl.DataFrame) -> list[str]:
    """Return the columns that number the rows; of a part of a table that can no longer be seen."""
    return [one.name for one in frame.get_columns() if one.dtype.is_numeric() and _numbers_the_rows(one)]


def _of_texts(series: pl.Series, distinct: int, most_levels: int) -> Column:
    rows = len(series) - series.null_count()
    words = float(series.str.count_matches(r"\s+").mean() or 0) + 1
    if distinct > max(FEW, rows / 5) and words >= WORDS:
        return Text.learned(series)
    if distinct > max(FEW, rows / 2):
        example = checks.shown(series.drop_nulls()[0])
        return Dropped(series.name, f"{distinct} different texts in {rows} rows, as {example}")
    return Category.learned(series, most_levels)


def _distinct(series: pl.Series) -> int:
    """Return how many different values there are, or a bound where counting takes long.

    It is 2 for numbers that differ at the head, and the number of rows of lists and objects.
    """
    import polars as pl

    if series.dtype.is_nested() or series.dtype == pl.Object:
        return len(series)
    if series.dtype.is_numeric():  # by NumPy, as polars takes 60 us for an expression of few rows
        at_head = numbers(series[:HEAD])
        known = at_head[~np.isnan(at_head)]
        if (known != known[:1]).any():
            return 2
    return series.drop_nulls().n_unique()


def _numbers_the_rows(series: pl.Series) -> bool:
    """Whether it counts up from about 0 or 1, with few numbers left out: it may be a part of a table."""
    if len(series) < 3 or series.null_count() or not 0 <= series[0] <= 10:
        return False
    for part in (series[:HEAD], series):  # a long column that does not is found at its head
        with np.errstate(invalid="ignore"):  # of infinite numbers
            steps = np.diff(numbers(part))
            if not ((steps >= 1) & (steps % 1 == 0)).all():
                return False
    return bool(steps.mean() < 2)


def firsts_of_copies(frame: pl.DataFrame, y: Array, without: Collection[str] = ()) -> Array | None:
    """Return for each row the place of the first row that is the same (rows,); None if there are no copies.

    Rows are copies if values and targets are the same, where numbers or dates tell different rows apart: rows
    of a few categories are the same by chance.

    y : the targets (rows,); without : columns that do not count, as numbers of the rows
    """
    columns = frame.drop(without, strict=False)
    _, firsts, places = np.unique(columns.hash_rows().to_numpy(), return_index=True, return_inverse=True)
    is_later = firsts[places] != np.arange(len(y))
    if len(firsts) < LEAST_DIFFERENT or not is_later.any():
        return None
    if (y == y[firsts[places]])[is_later].mean() < ALIKE:
        return None
    measured = (one for one in columns.get_columns() if one.dtype.is_numeric() or one.dtype.is_temporal())
    tells_apart = any(one.n_unique() >= TOLD_APART * len(firsts) for one in measured)
    return firsts[places] if tells_apart else None
