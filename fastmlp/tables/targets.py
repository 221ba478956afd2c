"""Targets of a table: the task by the values, rows without a target, and targets as arrays."""

from __future__ import annotations

import numpy as np

from fastmlp.tables.columns import Array, as_numbers, guessed, labels_of, parsed
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.tasks import MOST_CLASSES, Classification, Regression, Several, Task, side_by_side

NO_NUMBER = "it is a target of numbers: choose the task classification, or name this as missing"
"""The advice for a text in a target of numbers."""

EXACT = 2**53  # float64 lacks whole numbers from here on


def task_of(series: pl.Series) -> str:
    """Return the name of the task by a target's dtype and values; TableError for dates."""
    series = _usable(series)
    kinds = series.drop_nulls().n_unique()  # of texts: float64 takes several large whole numbers for one
    kind = guessed(series) if series.dtype == pl.String else None
    if kind == "date" or series.dtype in (pl.Date, pl.Datetime):
        raise TableError(
            "the target holds dates: make numbers of them, or choose the task classification", series.name
        )
    if kind == "number":
        series = parsed(series, "number", NO_NUMBER)
    if not series.dtype.is_numeric():
        return Classification.name
    values = series.drop_nulls()
    whole = bool((values == values.round()).all()) if series.dtype.is_float() else True
    return Classification.name if whole and kinds <= MOST_CLASSES else Regression.name


def with_targets(
    frame: pl.DataFrame, series: pl.Series, task: str | None = None, learned: Task | None = None
) -> tuple[pl.DataFrame, pl.Series, str, Array]:
    """Return the rows of a frame with a target, a truth value for every row, the task, and targets (rows,).

    TableError, with the row of the whole frame, for a target that cannot be used, or if no row has a target.

    series : as of `separated`; task : None for the task by the values; learned : as for `targets_of`
    """
    several = series.struct.unnest().get_columns() if series.dtype == pl.Struct else []
    found = pl.Series(series.name, np.ones(len(series), bool))
    for one in several or [series]:
        found &= one.is_not_null() & (one.is_not_nan() if one.dtype.is_float() else True)
    if not found.any():
        raise TableError("no row has a target", series.name)
    if not found.all():
        frame, series = frame.filter(found), series.filter(found)
    try:
        if not several:
            task = task or task_of(series)
            return frame, found, task, targets_of(series, task, learned)
        known = dict(learned.parts) if isinstance(learned, Several) else {}
        arrays, tasks = {}, set()
        for one in several:
            column = one.filter(found)
            tasks.add(each_task := _task_within(column, task, known.get(one.name)))
            arrays[one.name] = targets_of(column, each_task, known.get(one.name))
        whole = Regression.name if Regression.name in tasks else Classification.name
        return frame, found, task or whole, side_by_side(arrays)
    except TableError as error:
        row = None if error.row is None else int(found.arg_true()[error.row - 1]) + 1
        raise TableError(error.reason, error.column, row) from None


def _task_within(series: pl.Series, task: str | None, learned: Task | None) -> str:
    """Return the task of one of several targets; texts of a regression are classes."""
    if learned is not None:
        return learned.name
    if task != Regression.name:
        return task or task_of(series)
    is_number = series.dtype.is_numeric() or (series.dtype == pl.String and guessed(series) == "number")
    return Regression.name if is_number else Classification.name


def targets_of(series: pl.Series, task: str, learned: Task | None = None) -> Array:
    """Return a target (rows,): float64 for a regression; classes in their type, whole numbers as ints.

    learned : the task of a model, whose classes may be texts; TableError with the row of a mistake
    """
    series = _usable(series)
    if task == Regression.name and series.dtype == pl.String:
        series = parsed(series, "number", NO_NUMBER)
    elif isinstance(learned, Classification) and isinstance(learned.classes[0], str):
        texts, series = series.cast(pl.String), labels_of(series)
        series = texts.zip_with(texts.is_in(learned.classes), series)
    elif series.dtype == pl.String:
        series = _as_classes(series)
    if series.dtype.is_float():
        series = series.fill_nan(None)
    if series.null_count():
        row = int(series.is_null().arg_true()[0])
        raise TableError("the target is missing", series.name, row + 1)
    if task == Regression.name:
        if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
            raise TableError(
                f"the target of a regression must be numbers, has dtype {series.dtype}", series.name
            )
        series = series.cast(pl.Float64)
    if series.dtype.is_float() and not (finite := series.is_finite()).all():
        row = int((~finite).arg_true()[0])
        raise TableError(f"the target is {series[row]}", series.name, row + 1)
    if task == Regression.name:
        return series.to_numpy()
    if series.dtype.is_float() and bool(((series == series.round()) & (series.abs() < EXACT)).all()):
        series = series.cast(pl.Int64)
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        series = series.cast(pl.String)
    if series.dtype != pl.String:
        return np.array(series.to_list())
    classes = series.unique()  # a Python text for each class, and not for each row
    indices = series.replace_strict(classes, range(len(classes)), return_dtype=pl.UInt32)
    return np.array(classes.to_list())[indices.to_numpy()]


def _usable(series: pl.Series) -> pl.Series:
    """Return a target with decimal numbers as Float64; TableError for another dtype."""
    dtype = series.dtype
    if dtype.is_decimal():
        return series.cast(pl.Float64)
    names = pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null
    if dtype not in names and not dtype.is_numeric() and (not dtype.is_temporal() or dtype == pl.Duration):
        raise TableError(f"a target of dtype {dtype} cannot be learned; convert it", series.name)
    return series


def _as_classes(texts: pl.Series) -> pl.Series:
    """Return texts of truth values or of numbers as such; other texts unchanged.

    Codes like 007 and whole numbers beyond 64 bits remain texts: as numbers, two texts might be equal.
    """
    labels = labels_of(texts)
    if labels.is_in(["true", "false"]).all():
        return labels == "true"
    plain = texts.str.strip_chars().str.replace(r"\.0+$", "")
    whole = plain.cast(pl.Int64, strict=False)
    changed = whole.cast(pl.String).ne_missing(plain)
    if not changed.any():
        return whole
    numbers = as_numbers(texts)
    are_codes = (changed & plain.str.contains(r"^[+-]?\d+$")).any()
    return texts if are_codes or numbers.null_count() > texts.null_count() else numbers
