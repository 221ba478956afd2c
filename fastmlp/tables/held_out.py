"""Rows held out: drawn at random, the later rows of a time, or whole groups.

Rows held out must be as new to a model as the rows to predict: rows drawn at random are too similar to
training rows if the rows to predict are later, or of new patients. `Dependence` says so for the rows of the
report, the rows that networks hold out, and the errors of intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.tables.columns import Array, guessed, labels_of, parsed
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.kinds import firsts_of_copies
from fastmlp.tables.tasks import Classification, Task

Part = tuple[Array, Array]
"""Rows to train on, and rows held out."""

FOLDS = 5  # a network holds out a fifth of the rows, or none

LATER = 0.25
"""Share of the rows that networks hold out by a time: as many rows as the report's fifth of all rows, so that
errors of intervals are of rows equally far ahead."""

LEAST_GROUPS = 3
"""Fewest groups or times: two for training, one of them held out by networks, and one for the report."""

LEAST_ROWS = 3  # fewest rows to train on


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
            f"a test share of {fraction:g} leaves {left} of {len(firsts)} {what}; {least} are needed"
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
