"""Kinds of columns: what each learns from a column, and what numbers it makes of one. KINDS is the table.

A kind is a frozen record of JSON's types, so that a file holds it and no code. Scaling and clipping of
numbers are those of RealMLP (Holzmueller, Grinsztajn and Steinwart, "Better by default", 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.values import clipped, labels_of, numbers, robust, seconds_of

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

MOST_LEVELS = 1000
"""Levels of a category that get a column of their own, the most frequent first."""

LEAST_COUNT = 2
"""Rows that a level must have had for a column of its own; rarer ones share one."""

MOST_WORDS = 2000
"""Words of a text that get a column of their own, the most frequent first."""

WORDS_OF = 200_000
"""Rows at most that words are counted in, evenly spread."""

DAY = 86_400.0
YEAR = 365.2425 * DAY


class Cells(NamedTuple):
    """What some rows have in the columns of X that one column of a table becomes.

    places : (k,) for the same columns in every row, or (rows, k); from 0, ascending in a row
    values : (rows, k) float64; a row has nothing where its value is 0
    """

    places: Array
    values: Array


@dataclass(frozen=True)
class Column:
    """Base of the kinds: a column by its name, with what was learned from it.

    kind : the name of the kind; words_for : what such a column holds, in words
    read_as : what texts in a file are parsed as: number, date or text
    mostly_zeros : whether most columns of X that it becomes are 0 in a row
    """

    name: str
    kind: ClassVar[str]
    words_for: ClassVar[str]
    read_as: ClassVar[str] = "text"
    mostly_zeros: ClassVar[bool] = False

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
        """Return the column as a training part has it."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for each column of X that it becomes."""
        raise NotImplementedError

    @cached_property
    def width(self) -> int:
        """How many columns of X it becomes; kept, as thousands of names are made for it."""
        return len(self.parts)

    def encoded(self, series: pl.Series) -> Cells | Any:
        """Return Cells, or a CSR matrix of SciPy's, of a column's rows."""
        raise NotImplementedError

    @property
    def told(self) -> str:
        """What it does, in words."""
        raise NotImplementedError

    @property
    def described(self) -> dict[str, Any]:
        """The column in JSON's types; `restored` takes it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Number(Column):
    """Numbers, of which the median becomes 0 and the distance between the quartiles 1; then clipped smoothly.

    center, scale : x becomes (x - center) * scale
    missing : whether values were missing; then a second column says where
    """

    kind = "number"
    words_for = "numbers"
    read_as = "number"
    center: float
    scale: float
    missing: bool

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
        """Return the column with the quantiles of the values that it has."""
        values = numbers(series)
        return cls(series.name, *robust(values), bool(np.isnan(values).any()))

    @property
    def parts(self) -> tuple[str, ...]:
        """The number, and whether there is none."""
        return (self.name, f"{self.name} is missing") if self.missing else (self.name,)

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled numbers; a missing one is the median."""
        values = numbers(series)
        absent = np.isnan(values)
        scaled = clipped(np.where(absent, 0.0, (values - self.center) * self.scale))
        columns = [scaled, absent] if self.missing else [scaled]
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def told(self) -> str:
        """Center and scale."""
        return f"median {self.center:.4g}, quartiles {1 / self.scale:.4g} apart" + _or_missing(self.missing)


@dataclass(frozen=True)
class Category(Column):
    """One of some levels: one column of X for each, of which a row has a single 1.

    levels : by falling frequency
    rest : whether rarer levels were seen, which share a column with levels that are new
    missing : whether values were missing; they have a column of their own
    """

    kind = "category"
    words_for = "categories"
    mostly_zeros = True
    levels: tuple[str, ...]
    rest: bool
    missing: bool

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
        """Return the column with the levels that are frequent enough."""
        counts = labels_of(series).drop_nulls().value_counts(sort=True, name="rows")
        counts = counts.sort(["rows", series.name], descending=[True, False])
        frequent = counts.filter(counts["rows"] >= LEAST_COUNT)[series.name].to_list()[:MOST_LEVELS]
        return cls(series.name, tuple(frequent), len(frequent) < len(counts), series.null_count() > 0)

    @property
    def parts(self) -> tuple[str, ...]:
        """The levels, and what is beside them."""
        beside = ["another"] * self.rest + ["missing"] * self.missing
        return (*(f"{self.name} = {level}" for level in self.levels), *(f"{self.name} {b}" for b in beside))

    def encoded(self, series: pl.Series) -> Cells:
        """Return a 1 in the column of each row's level; nothing for what has no column."""
        import polars as pl

        labels = labels_of(series)
        place = len(self.levels)
        codes = np.full(len(labels), place if self.rest else -1, np.int64)
        known = labels.replace_strict(self._places, default=-1, return_dtype=pl.Int64).to_numpy()
        codes[known >= 0] = known[known >= 0]
        codes[labels.is_null().to_numpy()] = place + self.rest if self.missing else -1
        return Cells(np.maximum(codes, 0)[:, None], (codes >= 0).astype(float)[:, None])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {level: place for place, level in enumerate(self.levels)}

    @property
    def told(self) -> str:
        """How many levels, and some of them."""
        shown = ", ".join(self.levels[:4]) + (", ..." if len(self.levels) > 4 else "")
        rest = ", rarer ones together" if self.rest else ""
        return f"{len(self.levels)} levels ({shown})" + rest + _or_missing(self.missing)


@dataclass(frozen=True)
class Date(Column):
    """Dates: the time as a number, and its place in the year, the week and, if there are times, the day.

    center, scale : of seconds since 1970 in UTC, as for `Number`
    times : whether any has a time of day
    """

    kind = "date"
    words_for = "dates"
    read_as = "date"
    center: float
    scale: float
    times: bool
    missing: bool

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
        """Return the column with the quantiles of the dates that it has."""
        seconds = seconds_of(series)
        known = seconds[~np.isnan(seconds)]
        return cls(
            series.name, *robust(seconds), bool((known % DAY != 0).any()), bool(np.isnan(seconds).any())
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The time, sine and cosine of each period, and whether there is none."""
        waves = [
            f"{self.name} {wave} of the {period}" for period, _ in self._periods for wave in ("sin", "cos")
        ]
        return (self.name, *waves, *([f"{self.name} is missing"] if self.missing else []))

    @property
    def _periods(self) -> list[tuple[str, float]]:
        return [("year", YEAR), ("week", 7 * DAY), *([("day", DAY)] if self.times else [])]

    def encoded(self, series: pl.Series) -> Cells:
        """Return the scaled times and their waves; of a missing one nothing."""
        seconds = seconds_of(series)
        absent = np.isnan(seconds)
        known = np.where(absent, self.center, seconds)
        columns = [clipped((known - self.center) * self.scale)]
        for _, period in self._periods:
            angle = 2 * math.pi * (known % period) / period
            columns += [np.where(absent, 0.0, np.sin(angle)), np.where(absent, 0.0, np.cos(angle))]
        columns += [absent] * self.missing
        return Cells(np.arange(len(columns)), np.column_stack(columns))

    @property
    def told(self) -> str:
        """The periods, and the middle date."""
        middle = np.datetime64(round(self.center), "s").astype("datetime64[D]")
        periods = ", ".join(period for period, _ in self._periods)
        return f"around {middle}, place in the {periods}" + _or_missing(self.missing)


@dataclass(frozen=True)
class Text(Column):
    """Free text as its words' TF-IDF (scikit-learn's TfidfVectorizer), for the most frequent words.

    words, weights : the vocabulary, and the inverse document frequency of each
    """

    kind = "text"
    words_for = "free text"
    mostly_zeros = True
    words: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
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
    def told(self) -> str:
        """How many words."""
        return f"{len(self.words)} words"


@dataclass(frozen=True)
class Dropped(Column):
    """A column that is not used, and why."""

    kind = "drop"
    words_for = "of no use"
    reason: str = "as told"

    @classmethod
    def learned(cls, series: pl.Series) -> Self:
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
    def told(self) -> str:
        """Why it is not used."""
        return self.reason


KINDS: dict[str, type[Column]] = {one.kind: one for one in (Number, Category, Date, Text, Dropped)}
"""Every kind by the name that users and files know it by."""


def restored(description: dict[str, Any]) -> Column:
    """Return the column that `described` describes; ValueError, TypeError or KeyError if it does not."""
    fields = dict(description)
    kind = KINDS[checks.choice("kind of column", fields.pop("kind"), tuple(KINDS))]
    for name, value in fields.items():
        check, wanted = _CHECKS[name]
        if not check(value):
            raise ValueError(f"{name} of a column must be {wanted}, got {checks.shown(value)}")
        fields[name] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (lambda value: isinstance(value, str), "text")
_TEXTS: _Check = (lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v), "a list of texts")
_FLAG: _Check = (lambda value: isinstance(value, bool), "true or false")
_NUMBER: _Check = (_is_finite, "a finite number")
_NUMBERS: _Check = (lambda v: isinstance(v, list) and all(map(_is_finite, v)), "a list of finite numbers")

_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("name", "reason"), _TEXT),
    **dict.fromkeys(("levels", "words"), _TEXTS),
    **dict.fromkeys(("rest", "missing", "times"), _FLAG),
    **dict.fromkeys(("center", "scale"), _NUMBER),
    "weights": _NUMBERS,
}
"""What a file may hold in the fields of columns."""


def _or_missing(missing: bool) -> str:
    return ", or missing" if missing else ""
