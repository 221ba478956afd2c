"""Classification and regression: a network's targets for each, and predictions from its outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.heads import Head
from fastmlp.model.loss import Loss
from fastmlp.model.losses import Quantiles
from fastmlp.tables.columns import Finite, Positive, Share, as_numbers, guessed, labels_of, parsed
from fastmlp.tables.errors import TableError

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

NORMAL_QUARTILES = 1.349
"""Deviations between the quartiles of a normal distribution."""

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


class NumberLoss(NamedTuple):
    """A loss of numbers, and what is least by it.

    network, output : the loss of the networks, and the activation of their last layer
    measure : the name of its error in reports
    predicts : what predictions are, in words
    level : of the quantile that predictions are; None of means
    """

    network: str | Loss
    measure: str
    predicts: str = "means"
    level: float | None = None
    output: str = "identity"

    @classmethod
    def named(cls, text: str) -> NumberLoss:
        """Return the loss of a name, or of quantile:0.9; ValueError for all else."""
        name, _, share = text.partition(":") if isinstance(text, str) else (text, "", "")
        if name != "quantile":
            return LOSSES[checks.choice("loss", text, (*LOSSES, "quantile:0.9"))]
        try:
            level = checks.real("the share", float(share), 0, 1, open_low=True, open_high=True)
        except ValueError:
            raise ValueError(f"loss must be like quantile:0.9, a share in (0, 1), got {text!r}") from None
        return cls(Quantiles(level), "pinball", f"{level:g} quantiles", level)


LOSSES = {
    "squared": NumberLoss("mse", "RMSE"),
    "absolute": NumberLoss("mae", "MAE", "medians", 0.5),
    "huber": NumberLoss("huber", "Huber", "means that far numbers hardly move", 0.5),
    "poisson": NumberLoss("poisson_deviance", "Poisson deviance", output="exp"),
    "gamma": NumberLoss("gamma_deviance", "gamma deviance", output="exp"),
}
"""Losses of numbers by name, besides those of quantiles."""

TRANSFORMS = ("log", "auto")

SKEWED = 1.0
"""Skewness of numbers above 0 from which on "auto" takes their logarithms, if these have less than half."""


def check_transform(loss: str, transform: str | None) -> None:
    """Raise ValueError unless there are such a loss and such a transform of targets, which go together."""
    linked = NumberLoss.named(loss).output == "exp" or loss == "huber"
    if transform is not None and checks.choice("target_transform", transform, TRANSFORMS) and linked:
        raise ValueError(
            f"target_transform goes with the losses squared, absolute and quantile, not {loss!r}"
        )


@dataclass(frozen=True)
class Regression:
    """A number, which networks learn over its deviation.

    mean, deviation : of the numbers that networks learn, of the training part: the quantile and what the
        quartiles of a normal distribution would say where the loss has a level; 0 and the mean of an exp
    objective : the name of the loss
    log : whether networks learn the logarithm
    shift : what is added to the networks' outputs, so that predictions are means where logarithms are learned
    n_out, output, loss, measure, sharpest : as of a classification
    """

    name = "regression"
    measure = "R^2"
    n_out = 1
    mean: Finite
    deviation: Positive
    objective: str = "squared"
    log: bool = False
    shift: Finite = 0.0

    @classmethod
    def learned(cls, y: Array, loss: str = "squared", transform: str | None = None) -> Regression:
        """Return the task of these targets.

        Raises
        ------
        TableError
            If targets are all equal, too large for a mean, or below what the loss or the transform takes.
        """
        of_loss = NumberLoss.named(loss)
        if y.min() == y.max():
            raise TableError(f"a regression needs different numbers, got only {y[0]:g}")
        log = transform == "log" or (transform == "auto" and _are_skewed(y))
        cls(0.0, 1.0, loss, log).check(y)
        values = np.log(y) if log else y
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(values.mean()), float(values.std())
            if of_loss.output == "exp":
                mean, deviation = 0.0, mean
            elif of_loss.level is not None:
                lower, mean, upper = map(float, np.quantile(values, (0.25, of_loss.level, 0.75)))
                deviation = (upper - lower) / NORMAL_QUARTILES or deviation
        if not (np.isfinite(mean) and 0 < deviation < np.inf):
            extreme = y[np.abs(y).argmax()]
            raise TableError(f"a regression needs numbers that have a deviation, got one of {extreme:g}")
        return cls(mean, deviation, loss, log)

    @property
    def _of_loss(self) -> NumberLoss:
        return NumberLoss.named(self.objective)

    @property
    def loss(self) -> str | Loss:
        """The loss of the networks."""
        return self._of_loss.network

    @property
    def output(self) -> str:
        """The activation of the networks' last layer."""
        return self._of_loss.output

    @property
    def sharpest(self) -> str:
        """The name of the error by the loss."""
        return self._of_loss.measure

    @property
    def summary(self) -> str:
        """The loss, and what predictions are, in words; nothing of what is usual."""
        if (self.objective, self.log) == ("squared", False):
            return ""
        of_logs = " of the logarithm" if self.log else ""
        return f" by the loss {self.objective}{of_logs}; predictions are {self._of_loss.predicts}"

    @property
    def spread(self) -> float:
        """What errors of one target are divided by to be compared with those of others."""
        return 1.0 if self.log or self.output == "exp" else self.deviation

    def check(self, y: Array, column: str | None = None) -> None:
        """Raise TableError if numbers of a column are below what the loss or the logarithm takes."""
        least, is_counted = y.min(), self.objective == "poisson"
        if (self.log or self.output == "exp") and (least < 0 or (least == 0 and not is_counted)):
            what = "the logarithm" if self.log else f"the loss {self.objective}"
            bound = "at least" if is_counted else "above"
            raise TableError(f"{what} needs targets {bound} 0, got {least:g}", column)

    def encoded(self, y: Array) -> Array:
        """Return the numbers as networks learn them."""
        return ((np.log(y) if self.log else y) - self.mean) / self.deviation

    def numbers(self, encoded: Array) -> Array:
        """Return numbers in their own unit, float64, of numbers (rows,) as networks learn them."""
        values = encoded.astype(float) * self.deviation + self.mean
        return np.exp(values) if self.log else np.maximum(values, 0) if self.output == "exp" else values

    def decoded(self, outputs: Array) -> Array:
        """Return what is predicted."""
        return self.numbers(outputs[:, 0] + self.shift)

    def placed(self, predicted: Array) -> Array:
        """Return the outputs (rows,) that predictions (rows,) are made of."""
        return self.encoded(predicted) - self.shift

    def constant(self, encoded: Array) -> Array:
        """Return the output that is best for all rows."""
        return np.array([self.offset(np.zeros(1), encoded) - self.shift])

    def offset(self, outputs: Array, encoded: Array, weights: Array | None = None) -> float:
        """Return what is added to outputs (rows,) for the least loss: a mean, or a quantile, of what is left.

        Means of exponentials have one ratio, that of their sums (Snowdon, "A ratio estimator for bias
        correction in logarithmic regressions", 1991).

        encoded, weights : (rows,) of the rows
        """
        left = encoded - outputs
        if self._of_loss.level is not None:
            return float(np.quantile(left, self._of_loss.level))
        if not self.log:
            return float(np.average(left, weights=weights))
        from scipy.special import logsumexp

        own, predicted = (
            logsumexp(self.deviation * np.broadcast_to(one, left.shape), b=weights)
            for one in (encoded, outputs)
        )
        return float(own - predicted) / self.deviation

    def with_shift(self, outputs: Array, encoded: Array, weights: Array | None) -> Regression:
        """Return the task whose predictions are means, by outputs (rows, 1) of rows that were held out."""
        needed = self.log and self._of_loss.level is None
        return replace(self, shift=self.offset(outputs[:, 0], encoded, weights)) if needed else self

    def error(self, y: Array, outputs: Array) -> float:
        """Return the error by the loss."""
        return self.measures(y, outputs)[self.sharpest]

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return the coefficient of determination, NaN where targets are all equal, and means of errors.

        The last one is that of the loss, in the unit of the target, but for deviances.
        """
        predicted = self.decoded(outputs)
        errors, spread = y - predicted, np.square(y - y.mean()).sum()
        squares = np.square(errors)
        return {
            self.measure: float(1 - squares.sum() / spread) if spread else float("nan"),
            "RMSE": float(np.sqrt(squares.mean())),
            "MAE": float(np.abs(errors).mean()),
            **self._own_measure(y, predicted),
        }

    def _own_measure(self, y: Array, predicted: Array) -> dict[str, float]:
        from scipy.special import huber, xlogy

        if self.sharpest in ("RMSE", "MAE"):
            return {}
        errors, level, losses = y - predicted, self._of_loss.level or 0.5, np.empty(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = y / np.maximum(predicted, np.finfo(np.float32).tiny)
            match self.sharpest:
                case "Huber":
                    losses = huber(self.deviation, errors) / self.deviation
                case "pinball":
                    losses = np.maximum(level * errors, (level - 1) * errors)
                case "Poisson deviance":
                    losses = 2 * (xlogy(y, ratio) - errors)
                case "gamma deviance":
                    losses = 2 * (ratio - 1 - np.log(ratio))
        return {self.sharpest: float(losses.mean())}


def _are_skewed(y: Array) -> bool:
    """Return whether numbers are skewed and above 0, and their logarithms are not."""
    from scipy.stats import skew

    return bool(y.min() > 0 and skew(y) > SKEWED and abs(skew(np.log(y))) < skew(y) / 2)


@dataclass(frozen=True)
class Several:
    """Several targets of a row, each with a task and a head of the networks; y has a field for each.

    parts : the names of the targets, and their tasks
    """

    sharpest = "mean error over the deviation"
    parts: tuple[tuple[str, Classification | Regression], ...]

    @property
    def name(self) -> str:
        """Regression if one of them is."""
        names = {task.name for _, task in self.parts}
        return Regression.name if Regression.name in names else Classification.name

    @property
    def n_out(self) -> int:
        """The units of all heads."""
        return sum(task.n_out for _, task in self.parts)

    @property
    def summary(self) -> str:
        """How many targets there are."""
        return f" of {len(self.parts)} targets"

    @property
    def heads(self) -> dict[str, Head]:
        """The heads of the networks by their names."""
        tasks = enumerate(task for _, task in self.parts)
        return {f"target{i}": Head(task.n_out, task.loss, task.output) for i, task in tasks}

    def each(self, *arrays: Array) -> Iterator[Any]:
        """Yield the name and the task of each target, and its field, or its outputs (rows, k), of arrays."""
        cuts = np.cumsum([task.n_out for _, task in self.parts])[:-1]
        columns = [[a[n] for n in a.dtype.names] if a.dtype.names else np.hsplit(a, cuts) for a in arrays]
        yield from ((name, task, *own) for (name, task), *own in zip(self.parts, *columns, strict=True))

    def encoded(self, y: Array) -> Array:
        """Return the targets as networks learn them, with a field for each head."""
        encoded = [task.encoded(own) for _, task, own in self.each(y)]
        return _side_by_side(dict(zip(self.heads, encoded, strict=True)))

    def constant(self, encoded: Array) -> Array:
        """Return the constants of all targets."""
        return np.concatenate([task.constant(own) for _, task, own in self.each(encoded)])

    def decoded(self, outputs: Array) -> Array:
        """Return what is predicted, with a field for each target."""
        return _side_by_side({name: task.decoded(own) for name, task, own in self.each(outputs)})

    def error(self, y: Array, outputs: Array) -> float:
        """Return the mean error of the targets, of numbers over their deviation."""
        errors = [
            t.error(own, found) / getattr(t, "spread", 1.0) for _, t, own, found in self.each(y, outputs)
        ]
        return float(np.mean(errors))

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return the measures of each target."""
        return {
            f"{measure} of {name}": value
            for name, task, own, found in self.each(y, outputs)
            for measure, value in task.measures(own, found).items()
        }

    def with_shift(self, outputs: Array, encoded: Array, weights: Array | None) -> Several:
        """Return the tasks as `Regression.with_shift` does."""
        return Several(
            tuple(
                (name, task.with_shift(found, own, weights) if isinstance(task, Regression) else task)
                for name, task, found, own in self.each(outputs, encoded)
            )
        )


def _side_by_side(columns: dict[str, Array]) -> Array:
    """Return an array (rows,) with a field for each column (rows,)."""
    rows = len(next(iter(columns.values())))
    found = np.empty(rows, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        found[name] = column
    return found


Task = Classification | Regression | Several
"""What was learned from a training part's target, with the same methods."""

TASKS: dict[str, type[Classification] | type[Regression]] = {
    one.name: one for one in (Classification, Regression)
}
"""Every task by the name that users and files know it by."""


def learned_task(name: str, y: Array, **of_numbers: Any) -> Task:
    """Return the task that is learned of targets (rows,); of_numbers : as for `Regression.learned`."""
    if y.dtype.names is None:
        return (
            Classification.learned(y) if name == Classification.name else Regression.learned(y, **of_numbers)
        )
    parts = []
    for target in y.dtype.names:
        own = (
            Regression.name
            if name != Classification.name and y[target].dtype == float
            else Classification.name
        )
        try:
            parts.append((target, learned_task(own, y[target], **of_numbers)))
        except TableError as error:
            raise TableError(error.reason, target) from None
    return Several(tuple(parts))  # type: ignore[arg-type]  # of single targets


def described(task: Task) -> dict[str, Any]:
    """Return a task in JSON's types; `task_of` of `storage` takes it."""
    parts = {"parts": [[n, described(t)] for n, t in task.parts]} if isinstance(task, Several) else {}
    return {"name": task.name, **vars(task), **parts}


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
    import polars as pl

    several = series.struct.unnest().get_columns() if series.dtype == pl.Struct else []
    found = pl.Series(series.name, np.ones(len(series), bool))
    for one in several or [series]:
        found &= one.is_not_null() & (one.is_not_nan() if one.dtype.is_float() else True)
    if not found.any():
        raise TableError("no row has a target", series.name)
    if not found.all():
        frame, series = frame.filter(found), series.filter(found)
    try:
        if several:
            known = dict(learned.parts) if isinstance(learned, Several) else {}
            columns = {one.name: one.filter(found) for one in several}
            tasks = {name: _task_within(one, task, known.get(name)) for name, one in columns.items()}
            arrays = {name: targets_of(columns[name], own, known.get(name)) for name, own in tasks.items()}
            whole = Regression.name if Regression.name in tasks.values() else Classification.name
            return frame, found, task or whole, _side_by_side(arrays)
        task = task or task_of(series)
        return frame, found, task, targets_of(series, task, learned)
    except TableError as error:
        row = None if error.row is None else int(found.arg_true()[error.row - 1]) + 1
        raise TableError(error.reason, error.column, row) from None


def _task_within(series: pl.Series, task: str | None, learned: Task | None) -> str:
    """Return the task of one of several targets; in a regression what holds no numbers is of classes."""
    import polars as pl

    if learned is not None:
        return learned.name
    if task != Regression.name:
        return task or task_of(series)
    is_number = series.dtype.is_numeric() or (series.dtype == pl.String and guessed(series) == "number")
    return Regression.name if is_number else Classification.name


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
