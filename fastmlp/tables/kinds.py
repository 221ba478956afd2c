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
from fastmlp.tables.columns import MOST_LEVELS, Cells, Column, Finite, Positive, or_missing
from fastmlp.tables.values import Tails, labels_of, numbers, robust, scaled, seconds_of, tails_of

if TYPE_CHECKING:
    import polars as pl

MOST_WORDS = 2000
"""Words of a text that get a column of their own, the most frequent first."""

WORDS_OF = 200_000
"""Rows at most that words are counted in, evenly spread."""

DAY = 86_400.0
YEAR = 365.2425 * DAY


def _numeric(name: str, tails: str) -> list[str]:
    """Return the names of the columns of X that `scaled` makes."""
    return [name, f"{name} as it is"] if tails == "both" else [name]


@dataclass(frozen=True)
class Number(Column):
    """Numbers, of which the median becomes 0 and the distance between the quartiles 1; then clipped smoothly.

    center, scale : x becomes (x - center) * scale
    missing : whether values were missing; then a last column says where
    tails, unit : whether a second column has the numbers as they are, in which unit, as `tails_of` says
    """

    kind = "number"
    words_for = "numbers"
    read_as = "number"
    center: Finite
    scale: Positive
    missing: bool
    tails: Tails = "clipped"
    unit: Positive = 1.0

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the values that it has."""
        values = numbers(series)
        center, scale = robust(values)
        missing = bool(np.isnan(values).any())
        return cls(series.name, center, scale, missing, *tails_of(values, center, scale))

    @property
    def parts(self) -> tuple[str, ...]:
        """The number, clipped and as it is, and whether there is none."""
        return (*_numeric(self.name, self.tails), *[f"{self.name} is missing"] * self.missing)

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled numbers; a missing one is the median."""
        values = numbers(series)
        absent = np.isnan(values)
        columns = scaled(np.where(absent, 0.0, values - self.center), self.scale, self.unit, self.tails)
        columns += [absent] * self.missing
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def linear(self) -> Self:
        """The column with its numbers as they are."""
        return replace(self, tails="kept")

    @property
    def summary(self) -> str:
        """Median and spread: of the quartiles, or half that of the extremes where the quartiles are equal."""
        spread = f"median {self.center:.4g}, spread {1 / self.scale:.4g}"
        return spread + ", heavy tails" * (self.tails == "both") + or_missing(self.missing)


@dataclass(frozen=True)
class Date(Column):
    """Dates: the time as a number, and its place in the year, the week and, if there are times, the day.

    center, scale, tails, unit : of seconds since 1970 in UTC, as for `Number`
    times : whether any has a time of day
    """

    kind = "date"
    words_for = "dates"
    read_as = "date"
    center: Finite
    scale: Positive
    times: bool
    missing: bool
    tails: Tails = "clipped"
    unit: Positive = 1.0

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the quantiles of the dates that it has."""
        seconds = seconds_of(series)
        known = seconds[~np.isnan(seconds)]
        center, scale = robust(seconds)
        times, missing = bool((known % DAY != 0).any()), len(known) < len(seconds)
        return cls(series.name, center, scale, times, missing, *tails_of(seconds, center, scale))

    @property
    def parts(self) -> tuple[str, ...]:
        """The time, sine and cosine of each period, and whether there is none."""
        waves = [
            f"{self.name} {wave} of the {period}" for period, _ in self.periods for wave in ("sin", "cos")
        ]
        return (*_numeric(self.name, self.tails), *waves, *[f"{self.name} is missing"] * self.missing)

    @property
    def periods(self) -> list[tuple[str, float]]:
        """The periods in which it has a place, with their seconds."""
        return [("year", YEAR), ("week", 7 * DAY), *([("day", DAY)] if self.times else [])]

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled times and their waves; of a missing one nothing."""
        seconds = seconds_of(series)
        absent = np.isnan(seconds)
        known = np.where(absent, self.center, seconds)
        columns = scaled(known - self.center, self.scale, self.unit, self.tails)
        for _, period in self.periods:
            angle = 2 * math.pi * (known % period) / period
            columns += [np.where(absent, 0.0, np.sin(angle)), np.where(absent, 0.0, np.cos(angle))]
        columns += [absent] * self.missing
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def linear(self) -> Self:
        """The column with its times as they are."""
        return replace(self, tails="kept")

    @property
    def summary(self) -> str:
        """The periods, and the middle date."""
        middle = np.datetime64(round(self.center), "s").astype("datetime64[D]")
        periods = ", ".join(period for period, _ in self.periods)
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
