"""Rows that are held out: drawn at random, the later ones of a time, or whole groups.

What is held out must be to the rows that are learned from as rows to predict will be: where these are later,
or of new patients, rows drawn at random are too like those that are learned from. One record says how rows
depend on each other, for the report's rows, the parts that networks hold out, and the errors of intervals.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import Column, guessed, labels_of, numbers, parsed
from fastmlp.tables.deadline import Part
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import Date, Number, firsts_of_copies
from fastmlp.tables.tasks import MOST_CLASSES, Classification, Several, Task

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

FOLDS = 5
"""A member that holds out rows holds out a fifth of them."""

LATER = 0.25
"""Of the rows, the later ones that networks hold out by a time: as many as the report's fifth of all rows, so
that errors of intervals are of rows that are as far ahead."""

LEAST_GROUPS = 3
"""Groups or times: two to train on, of which one is held out by networks, and one for the report."""

LEAST_ROWS = 3
"""Rows that remain to train on."""

LOOKED_AT, LOOKS, LEAST_LEVELS, LOOKED_LEVELS = 2000, 3, 10, 50
"""Rows, and columns of a kind, that `doubt` looks at, at most; levels of a category that it looks at, and
that remain of more levels, at least."""

IDENTIFIER = re.compile(
    r"(?i:(.*[^a-z])?(id|patient|subject|person|participant|customer|client|user|household)s?([^a-z].*)?)"
    r"|.*[a-z]I[dD]"
)
"""Names of columns that say who a row is of; another category, as a city, says what a row is like, too."""

TREES, PARTS, BLOCKS = 10, 3, 10
"""Trees of its forests, parts that these hold out, and blocks of later rows that count as groups."""

CLEARLY, CERTAIN = 1.15, 3.0
"""Times that its error rises, and deviations that the rise of the loss is above 0, at least."""


class Dependence(NamedTuple):
    """How rows depend on each other: numbers that order them, and groups that belong together.

    time : (rows,) of which the greatest are held out; None where there is no order
    groups : (rows,) whole numbers, rows of one are held out together; None where each row stands alone
    named : whether groups are those of a column, and no copies of rows
    """

    time: Array | None = None
    groups: Array | None = None
    named: bool = False

    def of(self, rows: Array) -> Dependence:
        """Return the dependence of some rows, by their places or by truth values (rows,)."""
        time, groups = (None if one is None else one[rows] for one in self[:2])
        return Dependence(time, groups, self.named)

    def independent(self, rows: Array) -> int:
        """Return how many independent things some rows are of, by their places: rows, or groups."""
        return len(np.unique(self.groups[rows])) if self.named and self.groups is not None else len(rows)


ALONE = Dependence()
"""That of rows which do not depend on each other."""


def dependence_of(
    frame: pl.DataFrame, y: Array, time: str | None, group: str | None, without: Collection[str] = ()
) -> Dependence:
    """Return how the rows of a table depend on each other by its columns, or by copies of rows.

    With a time and groups, the groups that begin last are held out.

    y : (rows,) the targets; without : as for `firsts_of_copies`

    Raises
    ------
    TableError
        If there is no such column, no time in a row, or too few groups or times.
    """
    for name in (time, group):
        if name is not None and name not in frame.columns:
            raise TableError(f"there is no column {name!r}; there are: {checks.listed(frame.columns)}")
    times = None if time is None else _times(frame[time])
    if group is None:
        copies = None if time is not None else firsts_of_copies(frame, y, without)
        return Dependence(times, copies)
    labels = labels_of(frame[group]).rank("dense").fill_null(0).to_numpy()
    _enough(frame[group].name, "groups", labels)
    groups = np.unique(labels, return_inverse=True)[1]
    if times is not None:
        begins = np.full(groups.max() + 1, np.inf)
        np.minimum.at(begins, groups, times)
        times = begins.argsort(kind="stable").argsort()[groups]
    return Dependence(times, groups, named=True)


def _times(series: pl.Series) -> Array:
    """Return a column of dates or numbers as numbers (rows,); TableError if it is none, or lacks values."""
    import polars as pl

    kind = guessed(series) if series.dtype == pl.String else None
    if kind in ("number", "date"):
        series = parsed(series, kind)
    if not (series.dtype.is_numeric() or series.dtype.is_temporal()):
        raise TableError(f"a time must be dates or numbers, has dtype {series.dtype}", series.name)
    times = series.to_physical().cast(pl.Float64).fill_nan(None)
    if times.null_count():
        raise TableError("the time is missing", series.name, int(times.is_null().arg_true()[0]) + 1)
    _enough(series.name, "times", times.to_numpy())
    return times.to_numpy()


def _enough(name: str, what: str, labels: Array) -> None:
    count = len(np.unique(labels))
    if count < LEAST_GROUPS:
        raise TableError(f"at least {LEAST_GROUPS} different {what} are needed, got {count}", name)


def held_rows(y: Array, task: str, share: float, seed: int, dependence: Dependence = ALONE) -> Array:
    """Return which rows are held out for a report, (rows,), of every class as large a share, if it can be.

    y : (rows,) the targets; task : its name

    Raises
    ------
    ValueError
        If too few rows are left.
    """
    from sklearn.model_selection import train_test_split

    what, least = ("groups", LEAST_GROUPS - 1) if dependence.named else ("rows", LEAST_ROWS)
    if dependence.groups is None:
        firsts = places = np.arange(len(y))
    else:
        _, firsts, places = np.unique(dependence.groups, return_index=True, return_inverse=True)
    count = int(np.ceil(share * len(firsts)))
    if dependence.time is not None:
        held = _later(dependence.time, share)
        count = len(np.unique(places[held]))
    if (left := len(firsts) - count) < least:
        raise ValueError(
            f"--test-share {share:g} leaves {left} of {len(firsts)} {what} to train on; {least} are needed"
        )
    if dependence.time is not None:
        return held
    strata = None
    if task == Classification.name and y.dtype.names is None:
        strata = Classification.learned(y).encoded(y)[firsts]
        counts = np.bincount(strata)
        if counts.min() < 2 or len(counts) > min(share, 1 - share) * len(firsts):
            strata = None
    _, rows = train_test_split(np.arange(len(firsts)), test_size=share, random_state=seed, stratify=strata)
    return np.isin(places, rows)


def folds(targets: Array, task: Task, seed: int, dependence: Dependence = ALONE) -> Iterator[Part]:
    """Yield (rows to train on, rows held out), each ascending, with the classes' shares in each part.

    By a time there is one such part, which holds out the later rows.

    targets : (rows,) as the task encodes them
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if dependence.time is not None:
        held = _later(dependence.time, LATER)
        yield np.flatnonzero(~held), np.flatnonzero(held)
        return
    if dependence.groups is not None:
        _, firsts, places = np.unique(dependence.groups, return_index=True, return_inverse=True)
        for part in folds(targets[firsts], task, seed):
            trained, held = (np.flatnonzero(np.isin(places, groups)) for groups in part)
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


def _later(time: Array, share: float) -> Array:
    """Return which rows are the last ones (rows,), about such a share; rows of one time are on one side."""
    times, counts = np.unique(time, return_counts=True)
    if len(times) < 2:
        raise TableError("the rows to train on have one time only, so that none of them is later")
    rows_from = counts[::-1].cumsum()[::-1]
    later: Array = time >= times[1 + np.abs(rows_from[1:] - share * len(time)).argmin()]
    return later


class Doubt(NamedTuple):
    """A column by which rows seem to depend on each other: `parameter` is time or group.

    ratio : how many times as large the error is of later rows, or of rows of new groups
    """

    parameter: str
    column: str
    ratio: float

    def sentence(self, option: str) -> str:
        """Return what it means, with what to say for rows that are held out so."""
        what = "later rows" if self.parameter == "time" else "rows of new ones"
        return (
            f"{self.column}: {what} have about {self.ratio:.2g} times the error of rows held out at random; "
            f"if such rows are to be predicted, {option} holds out such rows"
        )


def doubt(
    frame: pl.DataFrame, y: Array, task: Task, columns: Collection[Column], trained: Array | None = None
) -> Doubt | None:
    """Return the column by which rows held out are clearly predicted worse than rows drawn at random.

    Dates, categories of many levels, and whole numbers with the name of an identifier are looked at with
    forests of a few trees, of few rows.
    What a category itself says of the target is no dependence, unless its name is that of an identifier.

    frame, y : a table without its target, and the targets (rows,); columns : of an encoding
    trained : (rows,) truth values, of the rows to look at; None for all
    """
    if task.n_out > MOST_CLASSES or isinstance(task, Several):
        return None
    dates = [one.name for one in columns if isinstance(one, Date)][:LOOKS]
    levels = {one.name: len(one.levels) for one in columns if isinstance(one, Category)}
    for one in columns:
        if isinstance(one, Number) and IDENTIFIER.fullmatch(one.name):
            values = numbers(frame[one.name])
            if (values == np.round(values)).all():
                levels[one.name] = len(np.unique(values))
    names = [name for name in levels if LEAST_LEVELS <= levels[name] <= len(y) / 2]
    names = sorted(names, key=lambda name: -levels[name])[:LOOKS]
    used, found = list(dict.fromkeys(one.name for one in columns if one.width)), []
    for name in dates + names:
        given = (name, None) if name in dates else (None, name)
        rows = _some(frame[name], levels.get(name), trained)
        others = [one for one in used if one != name or name in dates or IDENTIFIER.fullmatch(one)]
        some, targets = frame[rows].select({*others, name}), task.encoded(y[rows])
        if isinstance(task, Classification):
            targets = np.eye(task.n_out)[targets]
        if not others:
            continue
        try:
            dependence = dependence_of(some, y[rows], *given)
        except TableError:  # too few of them, or a date is missing
            continue
        X = np.column_stack([some[one].rank("dense").fill_null(0).to_numpy() for one in others])
        ratio = _rise(X, targets, dependence)
        if ratio >= CLEARLY:
            found.append(Doubt("time" if name in dates else "group", name, ratio))
    return max(found, key=lambda one: one.ratio, default=None)


def _some(series: pl.Series, levels: int | None, trained: Array | None) -> Array:
    """Return the places of a few rows, ascending, of a column with many levels of some levels only."""
    among = np.ones(len(series), bool) if trained is None else trained
    if levels is not None:
        every = max(1, min(len(series) // LOOKED_AT, levels // LOOKED_LEVELS))
        among = among & (series.hash() % every == 0).to_numpy()
    places = np.flatnonzero(among)
    count = min(LOOKED_AT, len(places))
    return np.sort(np.random.default_rng(0).choice(places, count, replace=False, shuffle=False))


def _rise(X: Array, targets: Array, dependence: Dependence) -> float:
    """Return how many times as large the error is if rows are held out as they depend; 0 if by chance.

    X, targets : (rows, n), and (rows,) or (rows, k)
    """
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

    forest = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features="sqrt", random_state=0)
    at_random = cross_val_predict(forest, X, targets, cv=KFold(PARTS, shuffle=True, random_state=0))
    labels: Any = dependence.groups
    held = np.arange(len(X))
    if dependence.time is not None:
        later = _later(dependence.time, LATER)
        held = np.flatnonzero(later)
        held = held[dependence.time[held].argsort(kind="stable")]
        labels = np.arange(len(held)) * BLOCKS // len(held)
        depending = forest.fit(X[~later], targets[~later]).predict(X[held])
    else:
        depending = cross_val_predict(forest, X, targets, groups=labels, cv=GroupKFold(PARTS))
    few, many = (
        np.square(one - targets[held]).reshape(len(held), -1).sum(axis=1)
        for one in (at_random[held], depending)
    )
    _, places, rows = np.unique(labels, return_inverse=True, return_counts=True)
    rises = np.bincount(places, many - few) / rows
    is_certain = rises.mean() > CERTAIN * rises.std() / np.sqrt(len(rises))
    return float(np.sqrt(many.mean() / few.mean())) if is_certain else 0.0
