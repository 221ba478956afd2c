"""Rows held out: drawn at random, the later rows of a time, or whole groups.

Rows held out must be as new to a model as the rows to predict: rows drawn at random are too similar to
training rows if the rows to predict are later, or of new patients. `Dependence` says so for the rows of the
report, the rows that networks hold out, and the errors of intervals.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import Array, Column, guessed, labels_of, parsed
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.kinds import Date, firsts_of_copies
from fastmlp.tables.tasks import MOST_CLASSES, Classification, Several, Task

Part = tuple[Array, Array]
"""Rows to train on, and rows held out."""

FOLDS = 5  # a network holds out a fifth of the rows, or none

LATER = 0.25
"""Share of the rows that networks hold out by a time: as many rows as the report's fifth of all rows, so that
errors of intervals are of rows equally far ahead."""

LEAST_GROUPS = 3
"""Fewest groups or times: two for training, one of them held out by networks, and one for the report."""

LEAST_ROWS = 3  # fewest rows to train on

LOOKED_AT, LOOKS, LEAST_LEVELS, LOOKED_LEVELS = 2000, 3, 10, 50
"""Limits of `doubt`: most rows, most columns of a kind, fewest levels of a category, and fewest levels left
of a category with many levels."""

IDENTIFIER = re.compile(
    r"(?i:(.*[^a-z])?(id|patient|subject|person|participant|customer|client|user|household)s?([^a-z].*)?)"
    r"|.*[a-z]I[dD]"
)
"""Names of columns that identify; other categories, as a city, also describe a row."""

TREES, PARTS, BLOCKS = 10, 3, 10
"""Trees of a forest of `doubt`, its folds, and blocks of later rows that count as groups."""

CLEARLY, CERTAIN = 1.15, 3.0
"""Least ratio of errors for a doubt, and least rise of the loss in its standard errors."""


class Dependence(NamedTuple):
    """The dependence of rows on each other.

    time : (rows,) numbers, of which the greatest are held out; None without an order
    groups : (rows,) whole numbers; rows of a group are held out together; None for single rows
    named : True for groups by a column, False for copies of rows
    """

    time: Array | None = None
    groups: Array | None = None
    named: bool = False

    def of(self, rows: Array) -> Dependence:
        """Return the dependence of some rows, by indices or truth values (rows,)."""
        time, groups = (None if one is None else one[rows] for one in self[:2])
        return Dependence(time, groups, self.named)

    def independent(self, rows: Array) -> int:
        """Return the number of independent rows or groups among some rows, by indices."""
        return len(np.unique(self.groups[rows])) if self.named and self.groups is not None else len(rows)


ALONE = Dependence()  # the dependence of independent rows


def dependence_of(
    frame: pl.DataFrame, y: Array, time: str | None, group: str | None, without: Collection[str] = ()
) -> Dependence:
    """Return the dependence of a table's rows by its columns, or by copies of rows.

    With a time and groups, the groups that begin last are held out. TableError for an unknown column, a row
    without a time, or too few groups or times.

    y : (rows,) the targets; without : as for `firsts_of_copies`
    """
    for name in (time, group):
        if name is not None and name not in frame.columns:
            raise TableError(f"there is no column {name!r}; there are: {checks.listed(frame.columns)}")
    times = None if time is None else _times(frame[time])
    if group is None:
        copies = None if time is not None else firsts_of_copies(frame, y, without)
        return Dependence(times, copies)
    labels = labels_of(frame[group]).rank("dense").fill_null(0).to_numpy()
    _check_count(frame[group].name, "groups", labels)
    groups = np.unique(labels, return_inverse=True)[1]
    if times is not None:
        begins = np.full(groups.max() + 1, np.inf)
        np.minimum.at(begins, groups, times)
        times = begins.argsort(kind="stable").argsort()[groups]
    return Dependence(times, groups, named=True)


def _times(series: pl.Series) -> Array:
    """Return a column of dates or numbers as numbers (rows,); TableError otherwise, or for missing values."""
    kind = guessed(series) if series.dtype == pl.String else None
    if kind in ("number", "date"):
        series = parsed(series, kind)
    if not (series.dtype.is_numeric() or series.dtype.is_temporal()):
        raise TableError(f"a time must be dates or numbers, has dtype {series.dtype}", series.name)
    times = series.to_physical().cast(pl.Float64).fill_nan(None)
    if times.null_count():
        raise TableError("the time is missing", series.name, int(times.is_null().arg_true()[0]) + 1)
    _check_count(series.name, "times", times.to_numpy())
    return times.to_numpy()


def _check_count(name: str, what: str, labels: Array) -> None:
    count = len(np.unique(labels))
    if count < LEAST_GROUPS:
        raise TableError(f"at least {LEAST_GROUPS} different {what} are needed, got {count}", name)


def _firsts(rows: int, groups: Array | None) -> tuple[Array, Array]:
    """Return the first row of each group (groups,), and each row's group (rows,)."""
    if groups is None:
        return np.arange(rows), np.arange(rows)
    _, firsts, indices = np.unique(groups, return_index=True, return_inverse=True)
    return firsts, indices


def held_rows(y: Array, task: str, fraction: float, seed: int, dependence: Dependence = ALONE) -> Array:
    """Return truth values (rows,) for a report's rows, a fraction of every class if possible.

    y : (rows,) the targets; task : its name; ValueError if too few rows are left
    """
    from sklearn.model_selection import train_test_split

    what, least = ("groups", LEAST_GROUPS - 1) if dependence.named else ("rows", LEAST_ROWS)
    firsts, indices = _firsts(len(y), dependence.groups)
    count = int(np.ceil(fraction * len(firsts)))
    if dependence.time is not None:
        held = _later(dependence.time, fraction)
        count = len(np.unique(indices[held]))
    if (left := len(firsts) - count) < least:
        raise ValueError(
            f"--test-share {fraction:g} leaves {left} of {len(firsts)} {what} to train on; {least} are needed"
        )
    if dependence.time is not None:
        return held
    strata = None
    if task == Classification.name and y.dtype.names is None:
        strata = Classification.learned(y).encoded(y)[firsts]
        counts = np.bincount(strata)
        if counts.min() < 2 or len(counts) > min(fraction, 1 - fraction) * len(firsts):
            strata = None
    _, rows = train_test_split(np.arange(len(firsts)), test_size=fraction, random_state=seed, stratify=strata)
    return np.isin(indices, rows)


def folds(targets: Array, task: Task, seed: int, dependence: Dependence = ALONE) -> Iterator[Part]:
    """Yield (rows to train on, rows held out), ascending, with the classes' fractions in each part.

    By a time there is a single pair, with the later rows held out.

    targets : (rows,) as the task encodes them
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if dependence.time is not None:
        held = _later(dependence.time, LATER)
        yield np.flatnonzero(~held), np.flatnonzero(held)
        return
    if dependence.groups is not None:
        firsts, indices = _firsts(len(targets), dependence.groups)
        for part in folds(targets[firsts], task, seed):
            trained, held = (np.flatnonzero(np.isin(indices, groups)) for groups in part)
            yield trained, held
        return
    count = min(FOLDS, len(targets))
    is_stratified = isinstance(task, Classification) and np.bincount(targets).max() >= count
    kind = StratifiedKFold if is_stratified else KFold
    parts = kind(count, shuffle=True, random_state=seed).split(targets, targets)
    with warnings.catch_warnings():  # not around what is done with a part
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # some parts lack it
        first = next(parts)
    yield first
    yield from parts


def _later(time: Array, fraction: float) -> Array:
    """Return truth values (rows,) for about a fraction of rows, the last; rows of a time stay together."""
    times, counts = np.unique(time, return_counts=True)
    if len(times) < 2:
        raise TableError("the rows to train on have one time only, so that none of them is later")
    rows_from = counts[::-1].cumsum()[::-1]
    later: Array = time >= times[1 + np.abs(rows_from[1:] - fraction * len(time)).argmin()]
    return later


# --- doubt ----------------------------------------------------------------------------------------------


class Doubt(NamedTuple):
    """A column by which rows seem to depend on each other.

    parameter : time or group; ratio : the error of later rows, or of rows of new groups, over the usual error
    """

    parameter: str
    column: str
    ratio: float

    def sentence(self, option: str) -> str:
        """Return the doubt in words, with an option against it."""
        what = "later rows" if self.parameter == "time" else "rows of new ones"
        return (
            f"{self.column}: {what} have about {self.ratio:.2g} times the error of rows held out at random; "
            f"if such rows are to be predicted, {option} holds out such rows"
        )


def doubt(frame: pl.DataFrame, y: Array, task: Task, columns: Collection[Column]) -> Doubt | None:
    """Return the column whose later rows, or rows of new levels, are clearly predicted worst.

    Small forests on few rows look at dates, and at categories and codes with many levels. A category as an
    input is no dependence, unless the name is of an identifier.

    frame, y : a table without its target, and the targets (rows,); columns : of an encoding, codes too
    """
    if task.n_out > MOST_CLASSES or isinstance(task, Several):
        return None
    dates = [one.name for one in columns if isinstance(one, Date)][:LOOKS]
    levels = {one.name: len(one.levels) for one in columns if isinstance(one, Category)}
    names = [name for name in levels if LEAST_LEVELS <= levels[name] <= len(y) / 2]
    names = sorted(names, key=lambda name: -levels[name])[:LOOKS]
    used, found = list(dict.fromkeys(one.name for one in columns if one.width)), []
    for name in dates + names:
        is_date = name in dates
        rows = _some(frame[name], levels.get(name))
        others = [one for one in used if one != name or is_date or IDENTIFIER.fullmatch(one)]
        some, targets = frame[rows].select({*others, name}), task.encoded(y[rows])
        if isinstance(task, Classification):
            targets = np.eye(task.n_out)[targets]
        if not others:
            continue
        try:
            dependence = dependence_of(some, y[rows], *((name, None) if is_date else (None, name)))
        except TableError:  # too few of them, or a date is missing
            continue
        X = np.column_stack([some[one].rank("dense").fill_null(0).to_numpy() for one in others])
        ratio = _rise(X, targets, dependence)
        if ratio >= CLEARLY:
            found.append(Doubt("time" if is_date else "group", name, ratio))
    return max(found, key=lambda one: one.ratio, default=None)


def _some(series: pl.Series, levels: int | None) -> Array:
    """Return the indices of a few rows, ascending; of a column with many levels, of some levels."""
    indices = np.arange(len(series))
    if levels is not None:
        every = max(1, min(len(series) // LOOKED_AT, levels // LOOKED_LEVELS))
        indices = np.flatnonzero((series.hash() % every == 0).to_numpy())
    count = min(LOOKED_AT, len(indices))
    return np.sort(np.random.default_rng(0).choice(indices, count, replace=False, shuffle=False))


def _rise(X: Array, targets: Array, dependence: Dependence) -> float:
    """Return the error of dependent rows over the error of rows at random; 0 for a ratio by chance.

    X, targets : (rows, n), and (rows,) or (rows, k)
    """
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

    forest = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features="sqrt", random_state=0)
    at_random = cross_val_predict(forest, X, targets, cv=KFold(PARTS, shuffle=True, random_state=0))
    if dependence.time is not None:
        later = _later(dependence.time, LATER)
        held = np.flatnonzero(later)
        held = held[dependence.time[held].argsort(kind="stable")]
        labels: Any = np.arange(len(held)) * BLOCKS // len(held)
        depending = forest.fit(X[~later], targets[~later]).predict(X[held])
    else:
        held, labels = np.arange(len(X)), dependence.groups
        depending = cross_val_predict(forest, X, targets, groups=labels, cv=GroupKFold(PARTS))
    few, many = (
        np.square(one - targets[held]).reshape(len(held), -1).sum(axis=1)
        for one in (at_random[held], depending)
    )
    _, indices, rows = np.unique(labels, return_inverse=True, return_counts=True)
    rises = np.bincount(indices, many - few) / rows
    is_certain = rises.mean() > CERTAIN * rises.std() / np.sqrt(len(rises))
    return float(np.sqrt(many.mean() / few.mean())) if is_certain else 0.0
