"""Classification and regression: a network's targets for each, and predictions from its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.calibration import calibration
from fastmlp.tables.errors import TableError
from fastmlp.tables.texts import as_numbers, guessed, parsed
from fastmlp.tables.values import labels_of

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

MOST_CLASSES = 20
"""Different whole numbers in a target that still are classes, where nobody says."""

MOST_CELLS = 1 << 31
"""Classes times rows at most: training has a float32 for each."""

TOGETHER = 1 << 16
"""Rows whose targets are Python's objects at a time."""

NO_NUMBER = "it is a target of numbers: choose the task classification, or name this as missing"
"""What to do about a text in it."""

EXACT = 2**53
"""From here on float64 leaves whole numbers out."""


@dataclass(frozen=True)
class Task:
    """Base of the tasks: what was learned from a training part's target."""

    name: ClassVar[str]
    measure: ClassVar[str]
    sharpest: ClassVar[str]
    loss: ClassVar[str]

    @property
    def n_out(self) -> int:
        """Units of the networks' last layer."""
        raise NotImplementedError

    @property
    def output(self) -> str:
        """Activation of the networks' last layer."""
        raise NotImplementedError

    def encoded(self, y: Array) -> Array:
        """Return what networks learn, (rows,): places of classes, int64, or numbers, float64."""
        raise NotImplementedError

    def constant(self, encoded: Array) -> Array:
        """Return the outputs (n_out,) of what predicts without a column, for what networks learn."""
        raise NotImplementedError

    def decoded(self, outputs: Array) -> Array:
        """Return what is predicted, (rows,), from networks' outputs (rows, n_out)."""
        raise NotImplementedError

    def judged(self, y: Array, outputs: Array) -> Array:
        """Return all that `measures` needs of outputs (rows, n_out) for targets (rows,): (rows, a few)."""
        raise NotImplementedError

    def measures(self, y: Array, judged: Array) -> dict[str, float]:
        """Return by name how good outputs are, for targets and what is `judged` of them, `measure` first."""
        raise NotImplementedError

    def error(self, y: Array, outputs: Array) -> float:
        """Return the `sharpest` measure of outputs for rows with these targets; the lower the better."""
        return self.measures(y, self.judged(y, outputs))[self.sharpest]


@dataclass(frozen=True)
class Classification(Task):
    """One of some classes, by a probability for each.

    classes : texts, numbers or truth values, ascending
    """

    name = "classification"
    measure = "accuracy"
    sharpest = "log loss"
    loss = "cross_entropy"
    output = "softmax"
    classes: tuple[Any, ...]

    @classmethod
    def learned(cls, y: Array) -> Classification:
        """Return the task of these targets; TableError if they are of one class, or of too many."""
        pieces = (y[start : start + TOGETHER].tolist() for start in range(0, len(y), TOGETHER))
        classes = sorted(set().union(*pieces))  # for texts faster than np.unique, which sorts all rows
        if len(classes) < 2:
            raise TableError(f"a classification needs two classes, got only {checks.shown(classes[0])}")
        if len(classes) > max(MOST_CLASSES, len(y) / 2):
            raise TableError(
                f"the target has {len(classes)} classes in {len(y)} rows, too many to learn: choose the task "
                "regression if they are numbers, or another target"
            )
        if len(classes) * len(y) > MOST_CELLS:
            raise TableError(
                f"the target has {len(classes)} classes in {len(y)} rows, more than fit into memory: "
                "put rare ones together"
            )
        return cls(tuple(classes))

    @property
    def n_out(self) -> int:
        """A unit for each class."""
        return len(self.classes)

    def encoded(self, y: Array) -> Array:
        """Return the classes' places; -1 for a class that was not learned."""
        known = np.array(self.classes)
        if (known.dtype.kind == "U") != (y.dtype.kind == "U"):
            return np.full(len(y), -1, np.int64)
        places = np.minimum(np.searchsorted(known, y), len(known) - 1)
        return np.where(known[places] == y, places, -1).astype(np.int64)

    def constant(self, encoded: Array) -> Array:
        """Return the shares of the classes."""
        return np.bincount(encoded, minlength=self.n_out) / len(encoded)

    def decoded(self, outputs: Array) -> Array:
        """Return the class of the highest probability."""
        return np.array(self.classes)[outputs.argmax(axis=1)]

    def judged(self, y: Array, outputs: Array) -> Array:
        """Return whether the class is the likeliest, its probability, 0 if it was not learned, the greatest
        probability, and the sum of squares.
        """
        places = self.encoded(y)
        likelihood = np.where(places < 0, 0.0, outputs[np.arange(len(y)), places])
        right = places == outputs.argmax(axis=1)
        return np.column_stack([right, likelihood, outputs.max(axis=1), np.square(outputs).sum(axis=1)])

    def measures(self, y: Array, judged: Array) -> dict[str, float]:
        """Return the accuracy, its mean over classes, log loss, Brier score, and error of calibration."""
        right, likelihood, greatest, squares = judged.T
        least, codes = np.finfo(np.float32).tiny, self.encoded(y) + 1
        counts = np.bincount(codes)
        return {
            self.measure: float(right.mean()),
            "balanced": float((np.bincount(codes, right)[counts > 0] / counts[counts > 0]).mean()),
            "log loss": float(-np.log(np.maximum(likelihood, least)).mean()),
            "Brier": float((1 - 2 * likelihood + squares).mean()),
            "ECE": calibration(greatest, right).error,
        }


@dataclass(frozen=True)
class Regression(Task):
    """A number, which networks learn with mean 0 and deviation 1.

    mean, deviation : of the training part
    """

    name = "regression"
    measure = "R^2"
    sharpest = "RMSE"
    loss = "mse"
    output = "identity"
    n_out = 1
    mean: float
    deviation: float

    @classmethod
    def learned(cls, y: Array) -> Regression:
        """Return the task of these targets; TableError if they are all equal, or too large for a mean."""
        if y.min() == y.max():
            raise TableError(f"a regression needs different numbers, got only {y[0]:g}")
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(y.mean()), float(y.std())
        if not (np.isfinite(mean) and 0 < deviation < np.inf):
            extreme = y[np.abs(y).argmax()]
            raise TableError(f"a regression needs numbers that have a deviation, got one of {extreme:g}")
        return cls(mean, deviation)

    def encoded(self, y: Array) -> Array:
        """Return the standardised numbers."""
        return (y - self.mean) / self.deviation

    def constant(self, encoded: Array) -> Array:
        """Return the mean."""
        return encoded.mean(keepdims=True)

    def decoded(self, outputs: Array) -> Array:
        """Return the numbers in their own unit, float64."""
        return outputs[:, 0].astype(float) * self.deviation + self.mean

    def judged(self, y: Array, outputs: Array) -> Array:
        """Return the errors."""
        return (y - self.decoded(outputs))[:, None]

    def measures(self, y: Array, judged: Array) -> dict[str, float]:
        """Return the coefficient of determination, NaN where targets are all equal, and means of errors."""
        (errors,), spread = judged.T, np.square(y - y.mean()).sum()
        squares = np.square(errors)
        return {
            self.measure: float(1 - squares.sum() / spread) if spread else float("nan"),
            "RMSE": float(np.sqrt(squares.mean())),
            "MAE": float(np.abs(errors).mean()),
        }


TASKS: dict[str, type[Classification] | type[Regression]] = {
    one.name: one for one in (Classification, Regression)
}
"""Every task by the name that users and files know it by."""


def task_of(series: pl.Series) -> str:
    """Return the name of the task that a target's dtype and values suggest; TableError for dates."""
    import polars as pl

    series = _usable(series)
    kinds = series.drop_nulls().n_unique()  # of texts: whole numbers that float64 takes for one are several
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
    """Return the rows of a frame that have a target, which rows have one, the task, and the targets (rows,).

    series : the target, as `separated` returns it; task : None where its values shall suggest one
    learned : the task of a model, as for `targets_of`

    Raises
    ------
    TableError
        With the row of the whole frame, if a target cannot be used; or if no row has one.
    """
    found = series.is_not_null() & (series.is_not_nan() if series.dtype.is_float() else True)
    if not found.any():
        raise TableError("no row has a target", series.name)
    if not found.all():
        frame, series = frame.filter(found), series.filter(found)
    try:
        task = task or task_of(series)
        return frame, found, task, targets_of(series, task, learned)
    except TableError as error:
        row = None if error.row is None else int(found.arg_true()[error.row - 1]) + 1
        raise TableError(error.reason, error.column, row) from None


def targets_of(series: pl.Series, task: str, learned: Task | None = None) -> Array:
    """Return a target (rows,): float64 for a regression, of its own type for classes, whole numbers as such.

    learned : the task of a model, if it has one: classes that are texts there are so here

    Raises
    ------
    TableError
        With the row of what is missing or is no number.
    """
    import polars as pl

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
    classes = series.unique()  # Python's texts are made once for a class, and not for each row
    places = series.replace_strict(classes, range(len(classes)), return_dtype=pl.UInt32)
    return np.array(classes.to_list())[places.to_numpy()]


def _usable(series: pl.Series) -> pl.Series:
    """Return a target with decimal numbers as Float64; TableError for a dtype that is no target's."""
    import polars as pl

    dtype = series.dtype
    if dtype.is_decimal():
        return series.cast(pl.Float64)
    names = pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null
    if dtype not in names and not dtype.is_numeric() and (not dtype.is_temporal() or dtype == pl.Duration):
        raise TableError(f"a target of dtype {dtype} cannot be learned; convert it", series.name)
    return series


def _as_classes(texts: pl.Series) -> pl.Series:
    """Return texts as truth values or numbers, if they are written as those are; else as they are.

    Codes like 007 and whole numbers beyond 64 bits remain texts: as numbers, two of them might be one.
    """
    import polars as pl

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
