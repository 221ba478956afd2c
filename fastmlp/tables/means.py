"""Categories of many levels as numbers: the mean target of a level's rows, and how many rows it has.

Separate from `categories`: what stands here is learned from the targets, too. The means are smoothed as
Micci-Barreca's ("A preprocessing scheme for high-cardinality categorical attributes", 2001). A row that is
learned from has that of the rows before it in a random order (Prokhorenkova and others, "CatBoost: unbiased
boosting with categorical features", 2018): no row sees its own target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from fastmlp.tables.categories import LEAST_COUNT, MISSING, UNKNOWN, Category, counts_of, unknown_share
from fastmlp.tables.columns import MOST_LEVELS, Array, Cells, Column, Count, Mean, Positive
from fastmlp.tables.tasks import Classification, Several, Task
from fastmlp.tables.values import clipped, labels_of

if TYPE_CHECKING:
    import polars as pl

MANY = 300
"""A category of more levels that two rows have is one of many levels; see docs/measured/tables.md."""

MOST_CLASSES = 10
"""Classes at most: a category of many levels becomes a number for each."""

MOST_MEANS = 100_000
"""Levels of which a mean is kept, the most frequent first; others are as those that were not learned."""

LEAST_PRIOR, MOST_PRIOR = 0.5, 100.0
"""Bounds of `prior_of`, as levels that are few, or of few rows, say little."""


class Targets(NamedTuple):
    """What the levels' means are of.

    y : (rows,) as the task has them
    """

    task: Task
    y: Array

    @property
    def are_few(self) -> bool:
        """Whether there are means of them: of numbers, and of few classes."""
        return self.task.n_out <= MOST_CLASSES

    def columns(self) -> Iterator[Array]:
        """Yield the targets (rows,) with mean 0 and deviation 1; of classes whether a row is of each one."""
        if isinstance(self.task, Several):
            for _, *of_one in self.task.each(self.y):
                yield from Targets(*of_one).columns()
            return
        encoded = self.task.encoded(self.y)
        if not isinstance(self.task, Classification):
            yield encoded
            return
        for place in range(1 if self.task.n_out == 2 else 0, self.task.n_out):
            is_one = encoded == place
            share = is_one.mean()
            yield (is_one - share) / np.sqrt(share * (1 - share))


@dataclass(frozen=True)
class LevelMeans(Category):
    """A category of many levels: the mean target of a level's rows, and the logarithm of how many there are.

    means : of each level, and of the rows without one if there were such, with a number for each column of
        the targets: what is the mean if `priors` rows more had 0, which is the mean of all rows
    rows : of each level
    priors : for each column of the targets
    """

    mostly_zeros = False
    means: tuple[Mean, ...] = ()
    rows: tuple[Count, ...] = ()
    priors: tuple[Positive, ...] = ()

    @classmethod
    def of(cls, column: Category, series: pl.Series, targets: Targets) -> Self:
        """Return a category with the mean targets of the rows that it was learned from."""
        counts = counts_of(labels_of(series))
        levels = tuple(counts["level"][:MOST_MEANS].to_list())
        frequent = int((counts["rows"] >= LEAST_COUNT).sum())
        unknown = unknown_share(counts["rows"], min(frequent, MOST_MEANS))
        bare = cls(column.name, levels, False, column.missing, unknown=unknown)
        places, count = bare._places_of(series), len(levels) + bare.missing
        rows = np.bincount(places, minlength=count + 1)[:count]
        means, priors = [], []
        for target in targets.columns():
            sums = np.bincount(places, target, count + 1)[:count]
            priors.append(prior_of(sums, rows, float(np.square(target).sum())))
            means.append(sums / (rows + priors[-1]))
        flat = np.column_stack(means).ravel().tolist()
        return replace(bare, means=tuple(flat), rows=tuple(rows.tolist()), priors=tuple(priors))

    @property
    def parts(self) -> tuple[str, ...]:
        """The means, and the rows."""
        count = self._known_means.shape[1]
        of_classes = [f"{self.name} mean {place}" for place in range(1, count + 1)]
        return (*(of_classes if count > 1 else [f"{self.name} mean"]), f"{self.name} rows")

    def encoded(self, series: pl.Series) -> Cells:
        """Return the means and the rows of each row's level; of one that was not learned 0 and the fewest."""
        return Cells(np.arange(self.width), self.table[self._places_of(series)])

    def encoded_in_order(self, series: pl.Series, targets: Targets) -> Array:
        """Return the numbers (rows, width) of rows to learn from: means of the rows before each one."""
        places = self._places_of(series)
        order = np.random.default_rng(0).permutation(len(places))
        order = order[np.argsort(places[order], kind="stable")]
        firsts = np.flatnonzero(np.diff(places[order], prepend=-1))
        first = np.repeat(firsts, np.diff(firsts, append=len(order)))
        before = np.arange(len(order)) - first
        means = np.empty((len(order), self._known_means.shape[1]))
        for place, target in enumerate(targets.columns()):
            sums = np.cumsum(target[order]) - target[order]
            means[order, place] = (sums - sums[first]) / (before + self.priors[place])
        means[places == len(self.rows)] = 0  # of one of too many levels
        return self._numbers(means, self._known_rows[places])

    def _places_of(self, series: pl.Series) -> Array:
        """Return each row's place (rows,) among the levels; the last ones are of none, and of a new one."""
        places, count = self.codes_of(series), len(self.levels)
        places[places == UNKNOWN] = count + self.missing
        places[places == MISSING] = count
        return places

    def _numbers(self, means: Array, rows: Array) -> Array:
        """Return columns of X: means over their root mean square, and the rows' logarithm about its mean."""
        learned, own = np.array(self.rows), self._known_means[:-1]
        center = np.average(np.log1p(learned), weights=learned)
        spread = np.sqrt(np.average(np.square(own), axis=0, weights=learned))
        return np.column_stack([clipped(means / np.where(spread > 0, spread, 1.0)), np.log1p(rows) - center])

    @cached_property
    def table(self) -> Array:
        """The numbers (levels, width) of each level, of none if there were such, and last of a new one."""
        return self._numbers(self._known_means, self._known_rows)

    @cached_property
    def _known_means(self) -> Array:
        """The means (levels, columns), with a last row of a level that was not learned."""
        means = np.reshape(self.means, (len(self.rows), -1))
        return np.vstack([means, np.zeros(means.shape[1])])

    @cached_property
    def _known_rows(self) -> Array:
        """The rows (levels,), with the fewest of a level for one that was not learned.

        A network has not learned what fewer rows mean: all levels of a balanced table have as many.
        """
        return np.array([*self.rows, min(self.rows[: len(self.levels)])])

    @property
    def linear(self) -> Category:
        """The category with a column for each level."""
        frequent = [level for level, rows in zip(self.levels, self.rows, strict=False) if rows >= LEAST_COUNT]
        levels = tuple(frequent[:MOST_LEVELS])
        return Category(self.name, levels, len(levels) < len(self.levels), self.missing)

    @property
    def summary(self) -> str:
        """How many levels, and some of them."""
        return f"mean target and rows of {super().summary}"


def of_many_levels(column: Column, series: pl.Series, targets: Targets | None, levels: int | None) -> Column:
    """Return a category of many levels with mean targets of the rows that it was learned from.

    Other columns, and all without targets or with a number of levels, are returned as they are.

    levels : of a category that get a column of their own; None if nobody says
    """
    if targets is None or levels is not None:
        return column
    if not isinstance(column, Category) or len(column.levels) <= MANY:
        return column
    return LevelMeans.of(column, series, targets)


def prior_of(sums: Array, rows: Array, squares: float) -> float:
    """Return the variance within levels over that between them: rows of mean 0 that shrink a mean best.

    It is the empirical Bayes estimate of a model of random effects (one-way analysis of variance).

    sums : (levels,) of the targets, with mean 0, of each level's rows; squares : the sum of all their squares
    """
    whole, levels = rows.sum(), len(rows)
    between = float((np.square(sums) / rows).sum())
    within = (squares - between) / max(1, whole - levels)
    each = (whole - np.square(rows).sum() / whole) / max(1, levels - 1)
    effects = (between / max(1, levels - 1) - within) / max(each, 1e-9)
    return float(np.clip(within / effects, LEAST_PRIOR, MOST_PRIOR)) if effects > 0 else MOST_PRIOR
