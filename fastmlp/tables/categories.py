"""Categories: columns of levels, with a column of X for each level, or with the mean target of many levels.

Means are smoothed (Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes",
2001). A row to learn from has the mean of earlier rows in a random order (Prokhorenkova and others,
"CatBoost: unbiased boosting with categorical features", 2018): no row sees the row's target.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from fastmlp import checks
from fastmlp.tables.columns import (
    MOST_LEVELS,
    Array,
    Cells,
    Column,
    Count,
    Mean,
    Positive,
    Share,
    Whole,
    clipped,
    labels_of,
)
from fastmlp.tables.frames import pl
from fastmlp.tables.tasks import Classification, Several, Task

LEAST_COUNT = 2  # the least rows of a level with a column of X; rarer levels share a column
NEVER_SEEN = 3  # rows without a level to expect beyond the training: the rule of three says 3 / n of n rows
UNUSUAL = 0.05  # fraction of unknown levels worth a warning, beyond the expected fraction and beyond chance
UNKNOWN, MISSING = -1, -2  # the indices of a level that was not learned, and of a missing value
TRUTH = {"1": "true", "0": "false"}  # numbers for truth values, where truth values were learned

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
"""Texts of numbers; 007 is a code."""

MOST_MEAN_CLASSES = 10  # the most classes with mean targets: every class has a column of X
MOST_MEANS = 100_000  # the most levels with a mean, the most frequent first
LEAST_PRIOR, MOST_PRIOR = 0.5, 100.0  # bounds of `prior_of`: few levels, or levels of few rows, say little


@dataclass(frozen=True)
class Category(Column):
    """A column of levels: a column of X for each level, with a 1 in the rows of the level.

    levels : by falling frequency
    rest : whether rarer levels were seen; rare and new levels share a column
    missing : whether values were missing; a column says where
    beyond : frequent levels in the shared column, because there are so many
    unknown : expected fraction of rows with a level without a column
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
        """Return the column with the frequent levels."""
        labels = labels_of(series)
        counts = counts_of(labels)
        frequent = counts.filter(counts["rows"] >= LEAST_COUNT)["level"].to_list()
        levels = tuple(frequent[:most_levels])
        rest, beyond = len(levels) < len(counts), len(frequent) - len(levels)
        unknown = unknown_fraction(counts["rows"], len(levels))
        return cls(series.name, levels, rest, labels.null_count() > 0, beyond, unknown)

    @property
    def parts(self) -> tuple[str, ...]:
        """The levels, and the columns for other levels and missing values."""
        names = [f"= {level}" for level in self.levels] + ["another"] * self.rest + ["missing"] * self.missing
        return tuple(f"{self.name} {name}" for name in names)

    def encoded(self, series: pl.Series) -> Cells:
        """Return a 1 in the column of each row's level; a level without a column has no 1."""
        codes, index = self.codes_of(series), len(self.levels)
        absent = codes == MISSING
        codes[codes == UNKNOWN] = index if self.rest else -1
        codes[absent] = index + self.rest if self.missing else -1
        return Cells(np.maximum(codes, 0)[:, None], (codes >= 0).astype(float)[:, None])

    def codes_of(self, series: pl.Series) -> Array:
        """Return the index of each row's level (rows,) int64, or UNKNOWN or MISSING."""
        labels, indices = labels_of(series), self._indices
        if self.levels and {"true", "false"}.issuperset(self.levels):
            labels = labels.str.replace(r"\.0+$", "").replace(TRUTH)
        elif series.dtype == pl.Boolean and not {"true", "false"}.intersection(self.levels):
            labels = labels.replace({truth: number for number, truth in TRUTH.items()})
        if series.dtype.is_numeric():
            indices = self._indices_of_numbers | indices
        codes = labels.replace_strict(indices, default=UNKNOWN, return_dtype=pl.Int64).to_numpy().copy()
        codes[labels.is_null().to_numpy()] = MISSING
        return codes

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {level: index for index, level in enumerate(self.levels)}

    @cached_property
    def _indices_of_numbers(self) -> dict[str, int]:
        """Indices of the levels that are numbers, as `labels_of` writes numbers: 1 for the text 1.0."""
        found: dict[str, int] = {}
        for level, index in self._indices.items():
            if NUMBER.fullmatch(level):
                found.setdefault(format(Decimal(level).normalize(), "f"), index)
        return found

    def remarks(self, series: pl.Series) -> list[str]:
        """Return a line about unusually many unknown levels, and a line about levels beyond the dtype."""
        counts = series.alias("level").value_counts(name="rows")
        codes = self.codes_of(counts["level"])
        rows = int(counts["rows"].filter(codes != MISSING).sum())
        strange = counts.filter(codes == UNKNOWN)
        unknown, expected, lines = int(strange["rows"].sum()), self.unknown, []
        by_chance = 1 + expected * rows + 4 * math.sqrt(expected * (1 - expected) * rows)
        if unknown > max(by_chance, (expected + UNUSUAL) * rows):
            lines.append(
                f"column {self.name!r}: {unknown} of {rows} rows have levels that were not learned, "
                f"as {checks.shown(strange['level'][0])}"
            )
        if series.dtype.is_float():
            held = np.float32 if series.dtype == pl.Float32 else np.float64
            wholes = (level for level in self.levels if re.fullmatch(r"-?\d{1,38}", level))
            lines += [
                f"column {self.name!r}: {series.dtype} cannot hold the level {level} exactly; "
                "give whole numbers or texts"
                for level in wholes
                if int(held(level)) != int(level)
            ][:1]
        return lines

    @property
    def summary(self) -> str:
        """The number of levels, and some levels."""
        shown = ", ".join(self.levels[:4]) + (", ..." if len(self.levels) > 4 else "")
        shared = f", {self.beyond} more that share a column" if self.beyond else ""
        shared = shared or ", rarer ones together" * self.rest
        count = f"{len(self.levels)} level" + "s" * (len(self.levels) != 1)
        return f"{count} ({shown}){shared}" + ", or missing" * self.missing


def counts_of(labels: pl.Series) -> pl.DataFrame:
    """Return the different labels, "level", with the number of "rows", the most frequent first."""
    counts = labels.alias("level").drop_nulls().value_counts(name="rows")
    return counts.sort(["rows", "level"], descending=[True, False])


def unknown_fraction(rows: pl.Series, known: int) -> float:
    """Return the expected fraction of rows without a known level.

    rows : of each level; known : the number of known levels, the first levels
    """
    return (int(rows[known:].sum()) + NEVER_SEEN) / (int(rows.sum()) + NEVER_SEEN)


# --- mean targets ---------------------------------------------------------------------------------------


class Targets(NamedTuple):
    """The targets (rows,) for the means of levels, with their task."""

    task: Task
    y: Array

    @property
    def are_few(self) -> bool:
        """Whether levels have means: for numbers, and for few classes."""
        return self.task.n_out <= MOST_MEAN_CLASSES

    def columns(self) -> Iterator[Array]:
        """Yield targets (rows,) with mean 0 and deviation 1; of classes the membership in each class."""
        if isinstance(self.task, Several):
            for _, *single in self.task.each(self.y):
                yield from Targets(*single).columns()
            return
        encoded = self.task.encoded(self.y)
        if not isinstance(self.task, Classification):
            yield encoded
            return
        for index in range(1 if self.task.n_out == 2 else 0, self.task.n_out):
            is_member = encoded == index
            fraction = is_member.mean()
            yield (is_member - fraction) / np.sqrt(fraction * (1 - fraction))


@dataclass(frozen=True)
class LevelMeans(Category):
    """A category of many levels: the mean target of a level, and the logarithm of the level's rows.

    means : (levels * columns of the targets,) of each level, and of missing values if there were such: the
        mean if `priors` rows more had 0, the mean of all rows
    rows : of each level, and of missing values
    priors : for each column of the targets
    """

    mostly_zeros = False
    means: tuple[Mean, ...] = ()
    rows: tuple[Count, ...] = ()
    priors: tuple[Positive, ...] = ()

    @classmethod
    def of(cls, column: Category, series: pl.Series, targets: Targets) -> Self:
        """Return a category with the mean targets of the rows that were learned from."""
        counts = counts_of(labels_of(series))
        levels = tuple(counts["level"][:MOST_MEANS].to_list())
        frequent = int((counts["rows"] >= LEAST_COUNT).sum())
        unknown = unknown_fraction(counts["rows"], min(frequent, MOST_MEANS))
        bare = cls(column.name, levels, False, column.missing, unknown=unknown)
        indices, count = bare._indices_in(series), len(levels) + bare.missing
        rows = np.bincount(indices, minlength=count + 1)[:count]
        means, priors = [], []
        for target in targets.columns():
            sums = np.bincount(indices, target, count + 1)[:count]
            priors.append(prior_of(sums, rows, float(np.square(target).sum())))
            means.append(sums / (rows + priors[-1]))
        flat = np.column_stack(means).ravel().tolist()
        return replace(bare, means=tuple(flat), rows=tuple(rows.tolist()), priors=tuple(priors))

    @property
    def parts(self) -> tuple[str, ...]:
        """The means, and the rows."""
        count = len(self.priors)
        means = [f"{self.name} mean {index}" for index in range(1, count + 1)]
        return (*(means if count > 1 else [f"{self.name} mean"]), f"{self.name} rows")

    def encoded(self, series: pl.Series) -> Cells:
        """Return the means and the rows of each row's level; a new level has 0 and the fewest rows."""
        return Cells(np.arange(self.width), self.table[self._indices_in(series)])

    def encoded_in_order(self, series: pl.Series, targets: Targets) -> Array:
        """Return the numbers (rows, width) of rows to learn from: means of the rows before each row."""
        indices = self._indices_in(series)
        order = np.random.default_rng(0).permutation(len(indices))
        order = order[np.argsort(indices[order], kind="stable")]
        firsts = np.flatnonzero(np.diff(indices[order], prepend=-1))
        first = np.repeat(firsts, np.diff(firsts, append=len(order)))
        before = np.arange(len(order)) - first
        means = np.empty((len(order), len(self.priors)))
        for index, target in enumerate(targets.columns()):
            sums = np.cumsum(target[order]) - target[order]
            means[order, index] = (sums - sums[first]) / (before + self.priors[index])
        means[indices == len(self.rows)] = 0  # a level beyond MOST_MEANS
        return self._numbers(means, self._known_rows[indices])

    def _indices_in(self, series: pl.Series) -> Array:
        """Return each row's index (rows,) in `table`."""
        indices, count = self.codes_of(series), len(self.levels)
        indices[indices == UNKNOWN] = count + self.missing
        indices[indices == MISSING] = count
        return indices

    def _numbers(self, means: Array, rows: Array) -> Array:
        """Return columns of X: means over their root mean square, and the rows' logarithm less the mean."""
        learned, known = np.array(self.rows), self._known_means[:-1]
        center = np.average(np.log1p(learned), weights=learned)
        spread = np.sqrt(np.average(np.square(known), axis=0, weights=learned))
        return np.column_stack([clipped(means / np.where(spread > 0, spread, 1.0)), np.log1p(rows) - center])

    @cached_property
    def table(self) -> Array:
        """The numbers (levels, width) of each level, of missing values if there were such, of new levels."""
        return self._numbers(self._known_means, self._known_rows)

    @cached_property
    def _known_means(self) -> Array:
        """The means (levels, columns), with a last row for new levels."""
        means = np.reshape(self.means, (len(self.rows), -1))
        return np.vstack([means, np.zeros(means.shape[1])])

    @cached_property
    def _known_rows(self) -> Array:
        """The rows (levels,), with the fewest rows of a level for new levels."""
        # A network has not learned what fewer rows mean: all levels of a balanced table have as many.
        return np.array([*self.rows, min(self.rows[: len(self.levels)])])

    @property
    def linear(self) -> Category:
        """The category with a column for each level."""
        frequent = [level for level, rows in zip(self.levels, self.rows, strict=False) if rows >= LEAST_COUNT]
        levels = tuple(frequent[:MOST_LEVELS])
        return Category(self.name, levels, len(levels) < len(self.levels), self.missing)

    @property
    def summary(self) -> str:
        """The number of levels, and some levels."""
        return f"mean target and rows of {super().summary}"


def prior_of(sums: Array, rows: Array, squares: float) -> float:
    """Return the variance within levels over the variance between levels.

    So many rows of mean 0 shrink a mean best: the empirical Bayes estimate of a model of random effects
    (one-way analysis of variance).

    sums : (levels,) sums of the targets, with mean 0, of each level's rows; squares : the sum of all squares
    """
    whole, levels = rows.sum(), len(rows)
    between = float((np.square(sums) / rows).sum())
    within = (squares - between) / max(1, whole - levels)
    each = (whole - np.square(rows).sum() / whole) / max(1, levels - 1)
    effects = (between / max(1, levels - 1) - within) / max(each, 1e-9)
    return float(np.clip(within / effects, LEAST_PRIOR, MOST_PRIOR)) if effects > 0 else MOST_PRIOR
