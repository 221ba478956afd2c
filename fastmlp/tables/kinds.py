"""Kinds of columns: what each learns from a column, and what numbers it makes of one. KINDS is the table.

Scaling and clipping of numbers are those of RealMLP (Holzmueller, Grinsztajn and Steinwart, "Better by
default", 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastmlp.tables.categories import Category
from fastmlp.tables.columns import MOST_LEVELS, Array, Cells, Column, Finite, Positive, or_missing
from fastmlp.tables.values import (
    Tails,
    labels_of,
    numbers,
    robust,
    scaled,
    scaled_slopes,
    seconds_of,
    tails_of,
)

if TYPE_CHECKING:
    import polars as pl

MOST_WORDS = 2000
"""Words of a text that get a column of their own, the most frequent first."""

WORDS_OF = 200_000
"""Rows at most that words are counted in, evenly spread."""

DAY = 86_400.0
YEAR = 365.2425 * DAY


@dataclass(frozen=True)
class Scaled(Column):
    """Base of numbers and dates: of their amounts the median becomes 0, the distance of the quartiles 1.

    center, scale : x becomes (x - center) * scale, and is clipped smoothly
    missing : whether values were missing; then a last column says where
    tails, unit : whether a second column has the amounts as they are, in which unit, as `tails_of` says
    """

    center: Finite
    scale: Positive
    missing: bool
    tails: Tails = "clipped"
    unit: Positive = 1.0

    @staticmethod
    def amounts(series: pl.Series) -> Array:
        """Return a column's amounts (rows,) float64, NaN where there is none."""
        raise NotImplementedError

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the amounts that it has."""
        values = cls.amounts(series)
        center, scale = robust(values)
        return cls(series.name, center, scale, bool(np.isnan(values).any()), *tails_of(values, center, scale))

    @property
    def waves(self) -> list[tuple[str, float]]:
        """The periods in which an amount has a place, with their lengths."""
        return []

    @property
    def parts(self) -> tuple[str, ...]:
        """The amount, clipped and as it is, sine and cosine of each period, and whether there is none."""
        kept = [f"{self.name} as it is"] * (self.tails == "both")
        waves = [f"{self.name} {wave} of the {period}" for period, _ in self.waves for wave in ("sin", "cos")]
        return (self.name, *kept, *waves, *[f"{self.name} is missing"] * self.missing)

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled amounts and their waves; a missing one is the median, and has no place."""
        values = self.amounts(series)
        absent = np.isnan(values)
        known = np.where(absent, self.center, values)
        columns = scaled(known - self.center, self.scale, self.unit, self.tails)
        for _, period in self.waves:
            angle = 2 * math.pi * (known % period) / period
            columns += [np.where(absent, 0.0, np.sin(angle)), np.where(absent, 0.0, np.cos(angle))]
        columns += [absent] * self.missing
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def linear(self) -> Self:
        """The column with its amounts as they are."""
        return replace(self, tails="kept")


@dataclass(frozen=True)
class Number(Scaled):
    """Numbers."""

    kind = "number"
    words_for = "numbers"
    read_as = "number"
    amounts = staticmethod(numbers)

    def slopes(self, series: pl.Series) -> Array:
        """Return the derivatives (rows, width) of what `encoded` returns; NaN of a missing number."""
        values = numbers(series)
        columns = scaled_slopes(values - self.center, self.scale, self.unit, self.tails)
        columns += [np.where(np.isnan(values), np.nan, 0.0)] * self.missing
        return np.column_stack(columns)

    @property
    def summary(self) -> str:
        """Median and spread: of the quartiles, or half that of the extremes where the quartiles are equal."""
        spread = f"median {self.center:.4g}, spread {1 / self.scale:.4g}"
        return spread + ", heavy tails" * (self.tails == "both") + or_missing(self.missing)


@dataclass(frozen=True)
class Date(Scaled):
    """Dates: seconds since 1970 in UTC, and the place in the year, the week and, if there are times, the day.

    times : whether any has a time of day
    """

    kind = "date"
    words_for = "dates"
    read_as = "date"
    amounts = staticmethod(seconds_of)
    times: bool = False

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the dates that it has."""
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
        return f"around {middle}, place in the {periods}" + or_missing(self.missing)


@dataclass(frozen=True)
class Text(Column):
    """Free text as its words' TF-IDF (scikit-learn's TfidfVectorizer), for the most frequent words.

    words, weights : the vocabulary, and the inverse document frequency of each
    """

    kind = "text"
    words_for = "free text"
    mostly_zeros = True
    words: tuple[str, ...]
    weights: tuple[Positive, ...]

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the words that stand in more than one row."""
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
        """How many words."""
        return f"{len(self.words)} words"


@dataclass(frozen=True)
class Dropped(Column):
    """A column that is not used, and why."""

    kind = "drop"
    words_for = "of no use"
    reason: str = "as requested"

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column, which the user dropped."""
        return cls(series.name)

    @property
    def parts(self) -> tuple[str, ...]:
        """None."""
        return ()

    def encoded(self, series: pl.Series) -> Cells:
        """Return no columns."""
        return Cells(np.arange(0), np.empty((len(series), 0)))

    @property
    def summary(self) -> str:
        """Why it is not used."""
        return self.reason


KINDS: dict[str, type[Column]] = {one.kind: one for one in (Number, Category, Date, Text, Dropped)}
"""Every kind by the name that users and files know it by."""
