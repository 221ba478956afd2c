"""Classification and regression: a network's targets for each, and predictions from its outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.tables.columns import Finite, Positive, Share
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

MOST_BINS, BIN_ROWS = 10, 20
"""Bins by rising probability that its calibration has at most, and rows that each has at least."""

TOGETHER = 1 << 16
"""Rows whose targets are Python's objects at a time."""

NO_NUMBER = "it is a target of numbers: choose the task classification, or name this as missing"
"""What to do about a text in it."""

EXACT = 2**53
"""From here on float64 leaves whole numbers out."""


@dataclass(frozen=True)
class Classification:
    """One of some classes, by a probability for each.

    classes : texts, numbers or truth values, ascending
    threshold : of two classes, the probability from which on the second one is predicted; None for a half
    n_out, output, loss : units of the networks' last layer, its activation, and the loss
    measure, sharpest : names of measures, the one of reports, and the one of `error`
    """

    name = "classification"
    measure = "accuracy"
    sharpest = "log loss"
    loss = "cross_entropy"
    output = "softmax"
    classes: tuple[Any, ...]
    threshold: Share | None = None

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

    def decided(self, outputs: Array) -> Array:
        """Return the place of the class that is predicted: the likeliest, or by the threshold."""
        if self.threshold is not None:
            return (outputs[:, 1] >= self.threshold).astype(np.int64)
        return outputs.argmax(axis=1)

    def decoded(self, outputs: Array) -> Array:
        """Return the class that is predicted."""
        return np.array(self.classes)[self.decided(outputs)]

    def error(self, y: Array, outputs: Array) -> float:
        """Return the log loss."""
        return float(-np.log(np.maximum(self._likelihood(y, outputs), np.finfo(np.float32).tiny)).mean())

    def _likelihood(self, y: Array, outputs: Array) -> Array:
        """Return the probability of the rows' classes (rows,), 0 of one that was not learned."""
        places = self.encoded(y)
        return np.where(places < 0, 0.0, outputs[np.arange(len(y)), places])

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return the accuracy, its mean over classes, and what does not depend on a threshold.

        ROC AUC and average precision are those of the second of two classes, or means over few classes.
        """
        from sklearn.metrics import average_precision_score, roc_auc_score

        places = self.encoded(y)
        right, counts = places == self.decided(outputs), np.bincount(places + 1)
        ranked = [1] if self.n_out == 2 else range(self.n_out)
        ranked = [place for place in ranked if 0 < (places == place).sum() < len(y)]
        ranks = {
            name: float(np.mean([score(places == place, outputs[:, place]) for place in ranked] or np.nan))
            for name, score in (("ROC AUC", roc_auc_score), ("average precision", average_precision_score))
            if self.n_out <= MOST_CLASSES
        }
        return {
            self.measure: float(right.mean()),
            "balanced": float((np.bincount(places + 1, right)[counts > 0] / counts[counts > 0]).mean()),
            **ranks,
            self.sharpest: self.error(y, outputs),
            "Brier": float((1 - 2 * self._likelihood(y, outputs) + np.square(outputs).sum(axis=1)).mean()),
            "ECE": float(np.abs(np.subtract(*self.calibration(y, outputs))).mean()),
        }

    def calibration(self, y: Array, outputs: Array) -> tuple[Array, Array]:
        """Return means over bins of about as many rows each: how many predictions are right, and how likely.

        The mean of what they differ by is the expected calibration error (Guo and others, "On calibration of
        modern neural networks", 2017).
        """
        from sklearn.calibration import calibration_curve

        right, bins = self.encoded(y) == outputs.argmax(axis=1), max(1, min(MOST_BINS, len(y) // BIN_ROWS))
        shares: tuple[Array, Array] = calibration_curve(
            right, outputs.max(axis=1), n_bins=bins, strategy="quantile"
        )
        return shares

    def confusion(self, y: Array, outputs: Array) -> list[list[int]]:
        """Return how many rows of each class (a row of the matrix) are predicted as each class."""
        places = self.encoded(y)
        cells = (places * self.n_out + self.decided(outputs))[places >= 0]
        counts: list[list[int]] = np.bincount(cells, minlength=self.n_out**2).reshape(-1, self.n_out).tolist()
        return counts

    def with_threshold(
        self, wanted: float | str, outputs: Array, places: Array, weights: Array | None
    ) -> Classification:
        """Return the task with the threshold that is wanted, by probabilities of rows that were held out.

        wanted : as for `TableClassifier`; outputs : (rows, 2); places : (rows,) of the rows' classes
        """
        if not isinstance(wanted, str):
            return replace(self, threshold=float(wanted))
        from sklearn.metrics import roc_curve

        false, true, thresholds = roc_curve(places, outputs[:, 1], sample_weight=weights)
        share = np.average(places, weights=weights)
        missed, alarm = (1 / share, 1 / (1 - share)) if wanted == "balanced" else costs_of(wanted)
        best = (missed * share * (1 - true) + alarm * (1 - share) * false).argmin()
        return replace(self, threshold=float(min(1.0, thresholds[best])))


def costs_of(text: str) -> tuple[float, float]:
    """Return the costs of a missed row of the second class, and of a false alarm; ValueError without."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text)
    if match is None or not (float(match[1]) and float(match[2])):
        raise ValueError(
            "threshold must be a number in (0, 1), balanced, or the costs of a missed row of the second "
            f"class and of a false alarm like 5:1, got {checks.shown(text)}"
        )
    return float(match[1]), float(match[2])


@dataclass(frozen=True)
class Regression:
    """A number, which networks learn with mean 0 and deviation 1.

    mean, deviation : of the training part
    n_out, output, loss, measure, sharpest : as of a classification
    """

    name = "regression"
    measure = "R^2"
    sharpest = "RMSE"
    loss = "mse"
    output = "identity"
    n_out = 1
    mean: Finite
    deviation: Positive

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

    def error(self, y: Array, outputs: Array) -> float:
        """Return the root of the mean squared error."""
        return self.measures(y, outputs)[self.sharpest]

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return the coefficient of determination, NaN where targets are all equal, and means of errors."""
        errors, spread = y - self.decoded(outputs), np.square(y - y.mean()).sum()
        squares = np.square(errors)
        return {
            self.measure: float(1 - squares.sum() / spread) if spread else float("nan"),
            "RMSE": float(np.sqrt(squares.mean())),
            "MAE": float(np.abs(errors).mean()),
        }


Task = Classification | Regression
"""What was learned from a training part's target, with the same methods."""

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
