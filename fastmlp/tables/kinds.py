"""The kinds of columns: each kind learns from a column and encodes the values; `inferred` guesses the kind.

Scaling and clipping of numbers follow RealMLP (Holzmueller, Grinsztajn and Steinwart, "Better by default",
2024).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from fastmlp import checks
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import (
    CLIP,
    MOST_LEVELS,
    Array,
    Cells,
    Column,
    Finite,
    Positive,
    clipped,
    labels_of,
    numbers,
    seconds_of,
)
from fastmlp.tables.frames import TableError, pl

HEAVY = 0.25
"""The fraction of variance lost by clipping from which on tails are heavy; see docs/measured/tables.md."""

Tails = Literal["clipped", "both", "kept"]
"""Which columns of X a number has: clipped, as it is, or both."""

FARTHEST = 1e3  # the bound of numbers as they are, infinite numbers too, in root mean squares from the center
MOST_WORDS = 2000  # the most words of a text with a column of X, the most frequent first
WORDS_OF = 200_000  # the most rows whose words are counted, evenly spread

DAY = 86_400.0
YEAR = 365.2425 * DAY


@dataclass(frozen=True)
class Scaled(Column):
    """Base of numbers and dates: amounts with median 0 and a distance of the quartiles of 1.

    center, scale : x becomes (x - center) * scale, clipped smoothly
    missing : whether values were missing; then a last column says where
    tails, unit : which columns the amounts become; one over the root mean square of amounts as they are
    """

    center: Finite
    scale: Positive
    missing: bool
    tails: Tails = "clipped"
    unit: Positive = 1.0

    @staticmethod
    def amounts(series: pl.Series) -> Array:
        """Return a column's amounts (rows,) float64, NaN for a missing value."""
        raise NotImplementedError

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the amounts."""
        values = cls.amounts(series)
        center, scale = robust(values)
        distances = values[~np.isnan(values)] - center
        most, unit = np.abs(distances).max(initial=0.0), scale
        tails: Tails = "clipped"
        if np.isfinite(most) and most * scale >= CLIP:
            scaled = distances / most
            unit = float(1 / (most * np.sqrt(np.square(scaled).mean())))
            lost = 1 - np.square(np.corrcoef(scaled, clipped(distances * scale))[0, 1])
            if lost > HEAVY:
                tails = "both"
        return cls(series.name, center, scale, bool(np.isnan(values).any()), tails, unit)

    @property
    def waves(self) -> list[tuple[str, float]]:
        """The periods of an amount's places, with their lengths."""
        return []

    @property
    def parts(self) -> tuple[str, ...]:
        """The amount, clipped and as it is, sine and cosine of each period, and missing values."""
        kept = [f"{self.name} as it is"] * (self.tails == "both")
        waves = [f"{self.name} {wave} of the {period}" for period, _ in self.waves for wave in ("sin", "cos")]
        return (self.name, *kept, *waves, *[f"{self.name} is missing"] * self.missing)

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled amounts and their waves; a missing amount is the median, without waves."""
        values = self.amounts(series)
        absent = np.isnan(values)
        known = np.where(absent, self.center, values)
        distances, columns = known - self.center, []
        if self.tails != "kept":
            columns.append(clipped(distances * self.scale))
        if self.tails != "clipped":
            columns.append(np.clip(distances * self.unit, -FARTHEST, FARTHEST))
        for _, period in self.waves:
            angle = 2 * math.pi * (known % period) / period
            columns += [np.where(absent, 0.0, np.sin(angle)), np.where(absent, 0.0, np.cos(angle))]
        columns += [absent] * self.missing
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def linear(self) -> Self:
        """The column with amounts as they are."""
        return replace(self, tails="kept")


@dataclass(frozen=True)
class Number(Scaled):
    """Numbers."""

    kind = "number"
    words_for = "numbers"
    read_as = "number"
    amounts = staticmethod(numbers)

    @property
    def summary(self) -> str:
        """The median and the spread: of the quartiles, or else half the distance of the extremes."""
        spread = f"median {self.center:.4g}, spread {1 / self.scale:.4g}"
        return spread + ", heavy tails" * (self.tails == "both") + ", or missing" * self.missing


@dataclass(frozen=True)
class Date(Scaled):
    """Dates: seconds since 1970 in UTC, and the place in the year, the week and the day.

    times : whether any date has a time of day; else there is no place in the day
    """

    kind = "date"
    words_for = "dates"
    read_as = "date"
    amounts = staticmethod(seconds_of)
    times: bool = False

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the dates."""
        seconds = seconds_of(series)
        times = bool((seconds[~np.isnan(seconds)] % DAY != 0).any())
        return replace(super().learned(series), times=times)

    @property
    def waves(self) -> list[tuple[str, float]]:
        """The year, the week and the day, with their seconds."""
        return [("year", YEAR), ("week", 7 * DAY), *([("day", DAY)] if self.times else [])]

    @property
    def summary(self) -> str:
        """The periods, and the middle date."""
        middle = np.datetime64(round(self.center), "s").astype("datetime64[D]")
        periods = ", ".join(period for period, _ in self.waves)
        return f"around {middle}, place in the {periods}" + ", or missing" * self.missing


@dataclass(frozen=True)
class Text(Column):
    """Free text as the TF-IDF of the most frequent words (scikit-learn's TfidfVectorizer).

    words, weights : the vocabulary, and the inverse document frequency of each word
    """

    kind = "text"
    words_for = "free text"
    mostly_zeros = True
    words: tuple[str, ...]
    weights: tuple[Positive, ...]

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the words of at least two rows."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if len(series) > WORDS_OF:
            series = series.gather_every(-(-len(series) // WORDS_OF))
        vectorizer = TfidfVectorizer(max_features=MOST_WORDS, min_df=min(2, len(series)), sublinear_tf=True)
        try:
            vectorizer.fit(labels_of(series).fill_null("").to_list())
        except ValueError:  # no word stands in two rows
            return cls(series.name, (), ())
        words = vectorizer.get_feature_names_out().tolist()
        return cls(series.name, tuple(words), tuple(vectorizer.idf_.tolist()))

    @property
    def parts(self) -> tuple[str, ...]:
        """The words."""
        return tuple(f"{self.name} has {word}" for word in self.words)

    def encoded(self, series: pl.Series) -> Any:
        """Return the words' weights (rows, words) as CSR."""
        from scipy.sparse import csr_array

        if not self.words:
            return csr_array((len(series), 0))
        return csr_array(self._vectorizer.transform(labels_of(series).fill_null("").to_list()))

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(vocabulary=list(self.words), sublinear_tf=True)
        vectorizer.idf_ = np.array(self.weights)
        return vectorizer

    @property
    def summary(self) -> str:
        """The number of words."""
        return f"{len(self.words)} words"


@dataclass(frozen=True)
class Dropped(Column):
    """An unused column, and the reason."""

    kind = "drop"
    words_for = "of no use"
    parts = ()
    reason: str = "as requested"

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column, dropped by the user."""
        return cls(series.name)

    @property
    def summary(self) -> str:
        """The reason."""
        return self.reason


COLUMN_KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Number, Category, Date, Text, Dropped)}
"""Every kind by name, for users and files."""


def robust(values: Array) -> tuple[float, float]:
    """Return the median, and one over the distance of the quartiles, or of the extremes if that is 0."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, lower, center, upper, high = np.quantile(known, (0.0, 0.25, 0.5, 0.75, 1.0))
    distance = upper - lower or (high - low) / 2 or 1.0
    return float(center), float(1 / max(distance, np.finfo(float).tiny * 4))


# --- guesses --------------------------------------------------------------------------------------------

ROW_NUMBERS = "it numbers the rows"  # the reason to drop such a column
FEW = 50  # the most different texts of a category, however few the rows are
HEAD_ROWS = 1000  # rows at the head of a column, looked at before all rows
WORDS = 3  # the least words of free text in the mean; fewer words are a name

TOLD_APART = 0.5
"""The least fraction of different values, of the different rows, in a column of numbers that shows copies."""

ALIKE = 0.95  # the least fraction of copies with the target of the first copy
LEAST_DIFFERENT = 20  # the least different rows of a table with copies; fewer rows are too few to hold out


def inferred(series: pl.Series, most_levels: int = MOST_LEVELS) -> Column:
    """Return the column by dtype and values; TableError for a dtype of no kind."""
    dtype, distinct, rows = series.dtype, _distinct(series), len(series) - series.null_count()
    if not distinct:
        return Dropped(series.name, "it holds nothing")
    if distinct == 1 and not series.null_count():
        return Dropped(series.name, f"it holds one value only, {checks.shown(series[0])}")
    if dtype.is_numeric() and _numbers_the_rows(series):
        return Dropped(series.name, ROW_NUMBERS)
    if dtype.is_numeric() or dtype in (pl.Duration, pl.Time):
        return Number.learned(series)
    if dtype in (pl.Date, pl.Datetime):
        return Date.learned(series)
    if dtype == pl.String:
        words = float(series.str.count_matches(r"\s+").mean() or 0) + 1
        if distinct > max(FEW, rows / 5) and words >= WORDS:
            return Text.learned(series)
        if distinct > max(FEW, rows / 2):
            example = checks.shown(series.drop_nulls()[0])
            return Dropped(series.name, f"{distinct} different texts in {rows} rows, as {example}")
    elif dtype not in (pl.Boolean, pl.Categorical, pl.Enum):
        reason = f"columns of dtype {dtype} cannot be learned from; drop it or convert it"
        raise TableError(reason, series.name)
    return Category.learned(series, most_levels)


def row_numbers(frame: pl.DataFrame) -> list[str]:
    """Return the columns that number the rows; a part of a table may not show them."""
    numeric = (series for series in frame.get_columns() if series.dtype.is_numeric())
    return [series.name for series in numeric if _numbers_the_rows(series)]


def _distinct(series: pl.Series) -> int:
    """Return the number of different values, or a bound where the count takes long.

    The bound is 2 for numbers that differ at the head, and the number of rows for lists and objects.
    """
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return len(series)
    if series.dtype.is_numeric():  # by NumPy, as polars takes 60 us for an expression of few rows
        at_head = numbers(series[:HEAD_ROWS])
        known = at_head[~np.isnan(at_head)]
        if (known != known[:1]).any():
            return 2
    return series.drop_nulls().n_unique()


def _numbers_the_rows(series: pl.Series) -> bool:
    """Return whether numbers count up from about 0 or 1, with few gaps: the rows may be a part of a table."""
    if len(series) < 3 or series.null_count() or not 0 <= series[0] <= 10:
        return False
    for part in (series[:HEAD_ROWS], series):  # the head of a long column mostly shows it
        with np.errstate(invalid="ignore"):  # of infinite numbers
            steps = np.diff(numbers(part))
            if not ((steps >= 1) & (steps % 1 == 0)).all():
                return False
    return bool(steps.mean() < 2)


def firsts_of_copies(frame: pl.DataFrame, y: Array, without: Collection[str] = ()) -> Array | None:
    """Return for each row the place of the first equal row (rows,); None without copies.

    Copies have equal values and targets, in a table whose numbers or dates tell different rows apart: rows of
    a few categories are equal by chance.

    y : the targets (rows,); without : columns to ignore, as numbers of the rows
    """
    columns = frame.drop(without, strict=False)
    _, firsts, places = np.unique(columns.hash_rows().to_numpy(), return_index=True, return_inverse=True)
    is_later = firsts[places] != np.arange(len(y))
    if len(firsts) < LEAST_DIFFERENT or not is_later.any():
        return None
    if (y == y[firsts[places]])[is_later].mean() < ALIKE:
        return None
    measured = (one for one in columns.get_columns() if one.dtype.is_numeric() or one.dtype.is_temporal())
    tells_apart = any(series.n_unique() >= TOLD_APART * len(firsts) for series in measured)
    return firsts[places] if tells_apart else None
