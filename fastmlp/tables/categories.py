"""Categories: their levels, and which level a value is when it comes in another type than was learned."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from fastmlp import checks
from fastmlp.tables.columns import MOST_LEVELS, Array, Cells, Column, Share, Whole, or_missing
from fastmlp.tables.values import labels_of

if TYPE_CHECKING:
    import polars as pl

LEAST_COUNT = 2
"""Rows that a level must have had for a column of its own; rarer ones share one."""

NEVER_SEEN = 3
"""Rows that are added to those without a level of their own: where all of n rows have one, a share of 3 / n
may have none in the long run (the rule of three)."""

UNUSUAL = 0.05
"""Share of unknown levels beyond what was expected that is worth a warning, if it is not by chance."""

UNKNOWN, MISSING = -1, -2
"""What stands for a level's place: it was not learned, or there is none."""

TRUTH = {"1": "true", "0": "false"}
"""Numbers that are truth values, where truth values were learned."""

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
"""Texts that are numbers, and no codes like 007."""


@dataclass(frozen=True)
class Category(Column):
    """One of some levels: one column of X for each, of which a row has a single 1.

    levels : by falling frequency
    rest : whether rarer levels were seen, which share a column with levels that are new
    missing : whether values were missing; they have a column of their own
    beyond : levels that are not rare, and share that column because there are so many
    unknown : share of rows whose level is expected to have no column; 1 where a file does not say
    """

    kind = "category"
    words_for = "categories"
    mostly_zeros = True
    levels: tuple[str, ...]
    rest: bool
    missing: bool
    beyond: Whole = 0
    unknown: Share = 1.0

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column with the levels that are frequent enough."""
        labels = labels_of(series)
        counts = counts_of(labels)
        frequent = counts.filter(counts["rows"] >= LEAST_COUNT)["level"].to_list()
        levels = tuple(frequent[:most_levels])
        return cls(
            name=series.name,
            levels=levels,
            rest=len(levels) < len(counts),
            missing=labels.null_count() > 0,
            beyond=len(frequent) - len(levels),
            unknown=unknown_share(counts["rows"], len(levels)),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The levels, and the columns that are no level."""
        others = ["another"] * self.rest + ["missing"] * self.missing
        return (*(f"{self.name} = {level}" for level in self.levels), *(f"{self.name} {b}" for b in others))

    def encoded(self, series: pl.Series) -> Cells:
        """Return a 1 in the column of each row's level; nothing for what has no column."""
        codes, place = self.codes_of(series), len(self.levels)
        absent = codes == MISSING
        codes[codes == UNKNOWN] = place if self.rest else -1
        codes[absent] = place + self.rest if self.missing else -1
        return Cells(np.maximum(codes, 0)[:, None], (codes >= 0).astype(float)[:, None])

    def codes_of(self, series: pl.Series) -> Array:
        """Return the place of each row's level (rows,) int64; UNKNOWN or MISSING where there is none."""
        import polars as pl

        labels = labels_of(series)
        if self._is_truth:
            labels = labels.str.replace(r"\.0+$", "").replace(TRUTH)
        elif series.dtype == pl.Boolean and not {"true", "false"}.intersection(self.levels):
            labels = labels.replace({truth: number for number, truth in TRUTH.items()})
        places = self._places
        if series.dtype.is_numeric():
            places = self._places_of_numbers | places
        codes = labels.replace_strict(places, default=UNKNOWN, return_dtype=pl.Int64).to_numpy().copy()
        codes[labels.is_null().to_numpy()] = MISSING
        return codes

    @property
    def _is_truth(self) -> bool:
        return bool(self.levels) and {"true", "false"}.issuperset(self.levels)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {level: place for place, level in enumerate(self.levels)}

    @cached_property
    def _places_of_numbers(self) -> dict[str, int]:
        """Places of the levels that are numbers, as `labels_of` writes numbers: 1 for the text 1.0."""
        found: dict[str, int] = {}
        for level, place in self._places.items():
            if NUMBER.fullmatch(level):
                found.setdefault(format(Decimal(level).normalize(), "f"), place)
        return found

    def remarks(self, series: pl.Series) -> list[str]:
        """Return a line if unusually many rows have unknown levels, and one if levels cannot be held."""
        counts = series.alias("level").value_counts(name="rows")
        codes = self.codes_of(counts["level"])
        rows = int(counts["rows"].filter(codes != MISSING).sum())
        strange = counts.filter(codes == UNKNOWN)
        unknown, expected = int(strange["rows"].sum()), self.unknown
        by_chance = 1 + expected * rows + 4 * math.sqrt(expected * (1 - expected) * rows)
        lines = []
        if unknown > max(by_chance, (expected + UNUSUAL) * rows):
            example = checks.shown(strange["level"][0])
            lines.append(
                f"column {self.name!r}: {unknown} of {rows} rows have levels that were not learned, "
                f"as {example}"
            )
        if series.dtype.is_float() and (level := self._not_held(series.dtype)) is not None:
            lines.append(
                f"column {self.name!r}: {series.dtype} cannot hold the level {level} exactly; "
                "give whole numbers or texts"
            )
        return lines

    def _not_held(self, dtype: pl.DataType) -> str | None:
        """Return a level that is a whole number which floating-point numbers of a dtype leave out."""
        import polars as pl

        held = np.float32 if dtype == pl.Float32 else np.float64
        wholes = (level for level in self.levels if re.fullmatch(r"-?\d{1,38}", level))
        return next((level for level in wholes if int(held(level)) != int(level)), None)

    @property
    def summary(self) -> str:
        """How many levels, and some of them."""
        shown = ", ".join(self.levels[:4]) + (", ..." if len(self.levels) > 4 else "")
        rest = ", rarer ones together" if self.rest and not self.beyond else ""
        beyond = f", {self.beyond} more that share a column" if self.beyond else ""
        count = f"{len(self.levels)} level" + "s" * (len(self.levels) != 1)
        return f"{count} ({shown})" + beyond + rest + or_missing(self.missing)


def counts_of(labels: pl.Series) -> pl.DataFrame:
    """Return the different labels, "level", with how many "rows" each has, the most frequent first."""
    counts = labels.alias("level").drop_nulls().value_counts(name="rows")
    return counts.sort(["rows", "level"], descending=[True, False])


def unknown_share(rows: pl.Series, known: int) -> float:
    """Return the share of rows to expect without a known level, by the rows of each level.

    known : levels, the first ones
    """
    whole, rare = int(rows.sum()), int(rows[known:].sum())
    return (rare + NEVER_SEEN) / (whole + NEVER_SEEN)
