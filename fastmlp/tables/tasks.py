"""Classification and regression: the targets of networks, predictions from outputs, and scores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.model.heads import Head
from fastmlp.model.loss import Loss
from fastmlp.model.losses import Quantiles
from fastmlp.tables.columns import ROWS_AT_ONCE, Array, Finite, Positive, Share
from fastmlp.tables.frames import TableError

MOST_CLASSES = 20  # most different whole numbers in a target of classes, unless the task is given
MOST_MEMBERSHIPS = 1 << 31  # most classes times rows: a training has a float32 for each
MOST_BINS, BIN_ROWS = 10, 20  # most bins of a calibration by rising probability, and fewest rows of a bin
NORMAL_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in deviations

OutputLink = tuple[float, float, bool]
"""A prediction's factor, constant and exp: factor * output + constant, with exp the exponential of that."""


@dataclass(frozen=True)
class Classification:
    """A class, by a probability for each class.

    classes : texts, numbers or truth values, ascending
    threshold : least probability for a prediction of the second of two classes; None for a half
    measure, sharpest : the name of the first score, and of the score of `error`
    """

    name = "classification"
    measure = "accuracy"
    sharpest = "log loss"
    loss = "cross_entropy"
    output = "softmax"
    spread = 1.0
    classes: tuple[Any, ...]
    threshold: Share | None = None

    @classmethod
    def learned(cls, y: Array) -> Classification:
        """Return the task of some targets; TableError for a single class, or for too many classes."""
        batches = (y[start : start + ROWS_AT_ONCE].tolist() for start in range(0, len(y), ROWS_AT_ONCE))
        classes = sorted(set().union(*batches))  # for texts faster than np.unique, which sorts all rows
        if len(classes) < 2:
            raise TableError(f"a classification needs two classes, got only {checks.shown(classes[0])}")
        counts = f"the target has {len(classes)} classes in {len(y)} rows"
        if len(classes) > max(MOST_CLASSES, len(y) / 2):
            raise TableError(
                f"{counts}, too many to learn: choose the task regression if they are numbers, "
                "or another target"
            )
        if len(classes) * len(y) > MOST_MEMBERSHIPS:
            raise TableError(f"{counts}, more than fit into memory: put rare ones together")
        return cls(tuple(classes))

    @property
    def n_out(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def links(self) -> list[OutputLink]:
        """The links of the outputs, which are probabilities."""
        return [(1.0, 0.0, False)] * self.n_out

    def encoded(self, y: Array) -> Array:
        """Return the indices of classes; -1 for a class that was not learned."""
        known = np.array(self.classes)
        if (known.dtype.kind == "U") != (y.dtype.kind == "U"):
            return np.full(len(y), -1, np.int64)
        indices = np.minimum(np.searchsorted(known, y), len(known) - 1)
        return np.where(known[indices] == y, indices, -1).astype(np.int64)

    def constant(self, encoded: Array) -> Array:
        """Return the fractions of the classes."""
        return np.bincount(encoded, minlength=self.n_out) / len(encoded)

    def decided(self, outputs: Array) -> Array:
        """Return the indices of predicted classes, by the threshold or the greatest probability."""
        if self.threshold is not None:
            return (outputs[:, 1] >= self.threshold).astype(np.int64)
        return outputs.argmax(axis=1)

    def decoded(self, outputs: Array) -> Array:
        """Return the predicted classes."""
        return np.array(self.classes)[self.decided(outputs)]

    def score(self, y: Array, outputs: Array, weights: Array | None = None) -> float:
        """Return the accuracy."""
        return float(np.average(self.encoded(y) == self.decided(outputs), weights=weights))

    def error(self, y: Array, outputs: Array) -> float:
        """Return the log loss."""
        return float(-np.log(np.maximum(self._likelihood(y, outputs), np.finfo(np.float32).tiny)).mean())

    def _likelihood(self, y: Array, outputs: Array) -> Array:
        """Return the probabilities of true classes (rows,), 0 for a class that was not learned."""
        indices = self.encoded(y)
        return np.where(indices < 0, 0.0, outputs[np.arange(len(y)), indices])

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return scores: the accuracy, its mean over classes, and scores without a threshold.

        ROC AUC and average precision are for the second of two classes, or means over few classes.
        """
        from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

        indices, decided = self.encoded(y), self.decided(outputs)
        ranked = [1] if self.n_out == 2 else range(self.n_out)
        ranked = [index for index in ranked if 0 < (indices == index).sum() < len(y)]
        ranks = {
            name: float(np.mean([score(indices == index, outputs[:, index]) for index in ranked] or np.nan))
            for name, score in (("ROC AUC", roc_auc_score), ("average precision", average_precision_score))
            if self.n_out <= MOST_CLASSES
        }
        return {
            self.measure: self.score(y, outputs),
            "balanced": float(recall_score(indices, decided, labels=np.unique(indices), average="macro")),
            **ranks,
            self.sharpest: self.error(y, outputs),
            "Brier": float((1 - 2 * self._likelihood(y, outputs) + np.square(outputs).sum(axis=1)).mean()),
            "ECE": float(np.abs(np.subtract(*self.calibration(y, outputs))).mean()),
        }

    def calibration(self, y: Array, outputs: Array) -> tuple[Array, Array]:
        """Return means over bins of equal size: the fraction of right predictions, and their probability.

        The mean difference is the expected calibration error (Guo and others, "On calibration of modern
        neural networks", 2017).
        """
        from sklearn.calibration import calibration_curve

        right, bins = self.encoded(y) == outputs.argmax(axis=1), max(1, min(MOST_BINS, len(y) // BIN_ROWS))
        fractions: tuple[Array, Array] = calibration_curve(
            right, outputs.max(axis=1), n_bins=bins, strategy="quantile"
        )
        return fractions

    def confusion(self, y: Array, outputs: Array) -> list[list[int]]:
        """Return the number of rows by true class (rows of the matrix) and predicted class."""
        indices = self.encoded(y)
        cells = (indices * self.n_out + self.decided(outputs))[indices >= 0]
        counts: list[list[int]] = np.bincount(cells, minlength=self.n_out**2).reshape(-1, self.n_out).tolist()
        return counts

    def adjusted(
        self, outputs: Array, indices: Array, weights: Array | None, threshold: float | str | None = None
    ) -> Classification:
        """Return the task with a threshold, chosen by probabilities of rows held out.

        indices : (rows,) of the true classes; threshold : as for `TableClassifier`
        """
        if threshold is None:  # as of a model from a file, which keeps its threshold
            return self
        if not isinstance(threshold, str):
            return replace(self, threshold=float(threshold))
        from sklearn.metrics import roc_curve

        false, true, thresholds = roc_curve(indices, outputs[:, 1], sample_weight=weights)
        fraction = np.average(indices, weights=weights)
        missed, alarm = (1 / fraction, 1 / (1 - fraction)) if threshold == "balanced" else costs_of(threshold)
        best = (missed * fraction * (1 - true) + alarm * (1 - fraction) * false).argmin()
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
    """A loss of numbers.

    network, output : the loss of networks, and the activation of the last layer
    measure : the name of the error in reports
    predicts : the meaning of predictions, in words
    level : of the predicted quantile; None for means
    """

    network: str | Loss
    measure: str
    predicts: str = "means"
    level: float | None = None
    output: str = "identity"

    @classmethod
    def named(cls, text: str) -> NumberLoss:
        """Return the loss of a name, or of quantile:0.9; ValueError for another text."""
        name, _, fraction = text.partition(":") if isinstance(text, str) else (text, "", "")
        if name != "quantile":
            return LOSSES[checks.choice("loss", text, (*LOSSES, "quantile:0.9"))]
        try:
            level = checks.real("the fraction", float(fraction), 0, 1, open_low=True, open_high=True)
        except ValueError:
            raise ValueError(f"loss must be like quantile:0.9, a fraction in (0, 1), got {text!r}") from None
        return cls(Quantiles(level), "pinball", f"{level:g} quantiles", level)


LOSSES = {
    "squared": NumberLoss("mse", "RMSE"),
    "absolute": NumberLoss("mae", "MAE", "medians", 0.5),
    "huber": NumberLoss("huber", "Huber", "means that far numbers hardly move", 0.5),
    "poisson": NumberLoss("poisson_deviance", "Poisson deviance", output="exp"),
    "gamma": NumberLoss("gamma_deviance", "gamma deviance", output="exp"),
}
"""Losses of numbers by name, besides the losses of quantiles."""

TRANSFORMS = ("log", "auto")

SKEWED = 1.0
"""Least skewness of numbers above 0 for logarithms by "auto", if the logarithms have less than half."""


def check_transform(loss: str, transform: str | None) -> None:
    """Raise ValueError unless a loss and a transform of targets exist and go together."""
    linked = NumberLoss.named(loss).output == "exp" or loss == "huber"
    if transform is not None and checks.choice("target_transform", transform, TRANSFORMS) and linked:
        raise ValueError(
            f"target_transform goes with the losses squared, absolute and quantile, not {loss!r}"
        )


@dataclass(frozen=True)
class Regression:
    """A number, standardised for networks.

    mean, deviation : of the training part; for a loss with a level the quantile, and the deviation of a
        normal distribution with the same quartiles; for an exp 0 and the mean
    objective : the name of the loss
    log : True if networks learn the logarithm
    shift : added to outputs, so that exponentials of predicted logarithms are means
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
        """Return the task of some targets; TableError for targets that the loss or the transform refuse."""
        from scipy.stats import skew

        of_loss = NumberLoss.named(loss)
        if y.min() == y.max():
            raise TableError(f"a regression needs different numbers, got only {y[0]:g}")
        log = transform == "log"
        if transform == "auto" and y.min() > 0:
            log = bool(skew(y) > SKEWED and abs(skew(np.log(y))) < skew(y) / 2)
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
        """The loss and the meaning of predictions, in words; empty for the squared loss."""
        if (self.objective, self.log) == ("squared", False):
            return ""
        of_logs = " of the logarithm" if self.log else ""
        return f" by the loss {self.objective}{of_logs}; predictions are {self._of_loss.predicts}"

    @property
    def spread(self) -> float:
        """The divisor of errors, for comparisons between targets."""
        return 1.0 if self.log or self.output == "exp" else self.deviation

    @property
    def links(self) -> list[OutputLink]:
        """The link of the output."""
        return [(self.deviation, self.mean + self.shift * self.deviation, self.log)]

    def check(self, y: Array, column: str | None = None) -> None:
        """Raise TableError if numbers of a column are too small for the loss or the logarithm."""
        least, is_counted = y.min(), self.objective == "poisson"
        if (self.log or self.output == "exp") and (least < 0 or (least == 0 and not is_counted)):
            what = "the logarithm" if self.log else f"the loss {self.objective}"
            bound = "at least" if is_counted else "above"
            raise TableError(f"{what} needs targets {bound} 0, got {least:g}", column)

    def encoded(self, y: Array) -> Array:
        """Return the standardised numbers."""
        return ((np.log(y) if self.log else y) - self.mean) / self.deviation

    def numbers(self, encoded: Array) -> Array:
        """Return numbers in the target's unit, float64, of standardised numbers."""
        values = encoded.astype(float) * self.deviation + self.mean
        return np.exp(values) if self.log else np.maximum(values, 0) if self.output == "exp" else values

    def decoded(self, outputs: Array) -> Array:
        """Return the predicted numbers."""
        return self.numbers(outputs[:, 0] + self.shift)

    def placed(self, predicted: Array) -> Array:
        """Return the outputs (rows,) of predictions (rows,)."""
        return self.encoded(predicted) - self.shift

    def constant(self, encoded: Array) -> Array:
        """Return the best output for all rows."""
        return np.array([self.offset(np.zeros(1), encoded) - self.shift])

    def offset(self, outputs: Array, encoded: Array, weights: Array | None = None) -> float:
        """Return the shift of outputs (rows,) with the least loss: a mean, or a quantile, of the errors.

        For means of exponentials, the ratio of sums (Snowdon, "A ratio estimator for bias correction in
        logarithmic regressions", 1991).

        encoded, weights : (rows,)
        """
        errors = encoded - outputs
        if self._of_loss.level is not None:
            return float(np.quantile(errors, self._of_loss.level))
        if not self.log:
            return float(np.average(errors, weights=weights))
        from scipy.special import logsumexp

        true, predicted = (
            logsumexp(self.deviation * np.broadcast_to(values, errors.shape), b=weights)
            for values in (encoded, outputs)
        )
        return float(true - predicted) / self.deviation

    def adjusted(
        self, outputs: Array, encoded: Array, weights: Array | None, threshold: None = None
    ) -> Regression:
        """Return the task with predictions that are means, by outputs (rows, 1) of rows held out."""
        needed = self.log and self._of_loss.level is None
        return replace(self, shift=self.offset(outputs[:, 0], encoded, weights)) if needed else self

    def score(self, y: Array, outputs: Array, weights: Array | None = None) -> float:
        """Return the coefficient of determination."""
        from sklearn.metrics import r2_score

        return float(r2_score(y, self.decoded(outputs), sample_weight=weights))

    def error(self, y: Array, outputs: Array) -> float:
        """Return the error by the loss."""
        return self.measures(y, outputs)[self.sharpest]

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return R^2, NaN for equal targets, and mean errors, last the error by the loss.

        All but deviances are in the unit of the target.
        """
        predicted = self.decoded(outputs)
        squares, spread = np.square(y - predicted), np.square(y - y.mean()).sum()
        found = {
            self.measure: float(1 - squares.sum() / spread) if spread else float("nan"),
            "RMSE": float(np.sqrt(squares.mean())),
            "MAE": float(np.abs(y - predicted).mean()),
        }
        return found if self.sharpest in found else found | {self.sharpest: self._mean_loss(y, predicted)}

    def _mean_loss(self, y: Array, predicted: Array) -> float:
        from scipy.special import huber, xlogy

        errors, level = y - predicted, self._of_loss.level or 0.5
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = y / np.maximum(predicted, np.finfo(np.float32).tiny)
            match self.sharpest:
                case "Huber":
                    losses = huber(self.deviation, errors) / self.deviation
                case "pinball":
                    losses = np.maximum(level * errors, (level - 1) * errors)
                case "Poisson deviance":
                    losses = 2 * (xlogy(y, ratio) - errors)
                case _:
                    losses = 2 * (ratio - 1 - np.log(ratio))
        return float(losses.mean())


@dataclass(frozen=True)
class Several:
    """Several targets, with a task and a head of the networks for each; y has a field for each.

    parts : the names of the targets, and their tasks
    """

    sharpest = "mean error over the deviation"
    parts: tuple[tuple[str, Classification | Regression], ...]

    @property
    def name(self) -> str:
        """Regression if any task is a regression."""
        names = {task.name for _, task in self.parts}
        return Regression.name if Regression.name in names else Classification.name

    @property
    def n_out(self) -> int:
        """The number of units of all heads."""
        return len(self.links)

    @property
    def links(self) -> list[OutputLink]:
        """The links of all outputs."""
        return [link for _, task in self.parts for link in task.links]

    @property
    def summary(self) -> str:
        """The number of targets, in words."""
        return f" of {len(self.parts)} targets"

    @property
    def heads(self) -> dict[str, Head]:
        """The heads of the networks by name."""
        tasks = enumerate(task for _, task in self.parts)
        return {f"target{i}": Head(task.n_out, task.loss, task.output) for i, task in tasks}

    def each(self, *arrays: Array) -> Iterator[Any]:
        """Yield the name and the task of each target, with the target's field, or outputs (rows, k)."""
        cuts = np.cumsum([task.n_out for _, task in self.parts])[:-1]
        columns = [[a[n] for n in a.dtype.names] if a.dtype.names else np.hsplit(a, cuts) for a in arrays]
        yield from ((name, task, *values) for (name, task), *values in zip(self.parts, *columns, strict=True))

    def encoded(self, y: Array) -> Array:
        """Return the targets of networks, with a field for each head."""
        encoded = [task.encoded(values) for _, task, values in self.each(y)]
        return side_by_side(dict(zip(self.heads, encoded, strict=True)))

    def constant(self, encoded: Array) -> Array:
        """Return the constants of all targets."""
        return np.concatenate([task.constant(values) for _, task, values in self.each(encoded)])

    def decoded(self, outputs: Array) -> Array:
        """Return the predictions, with a field for each target."""
        return side_by_side({name: task.decoded(values) for name, task, values in self.each(outputs)})

    def score(self, y: Array, outputs: Array, weights: Array | None = None) -> float:
        """Return the mean score of the targets."""
        return float(np.mean([task.score(*values, weights) for _, task, *values in self.each(y, outputs)]))

    def error(self, y: Array, outputs: Array) -> float:
        """Return the mean error of the targets, for numbers over the deviation."""
        return float(np.mean([t.error(*values) / t.spread for _, t, *values in self.each(y, outputs)]))

    def measures(self, y: Array, outputs: Array) -> dict[str, float]:
        """Return the scores of each target."""
        return {
            f"{measure} of {name}": value
            for name, task, *values in self.each(y, outputs)
            for measure, value in task.measures(*values).items()
        }

    def adjusted(
        self, outputs: Array, encoded: Array, weights: Array | None, threshold: None = None
    ) -> Several:
        """Return the tasks with adjusted predictions of all numbers."""
        each = self.each(outputs, encoded)
        return Several(tuple((name, task.adjusted(*values, weights)) for name, task, *values in each))


def side_by_side(columns: dict[str, Array]) -> Array:
    """Return an array (rows,) with a field for each column (rows,)."""
    rows = len(next(iter(columns.values())))
    found = np.empty(rows, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        found[name] = column
    return found


Task = Classification | Regression | Several
"""A task with the facts of a training part's target."""

TASKS: dict[str, type[Classification] | type[Regression]] = {
    one.name: one for one in (Classification, Regression)
}
"""Tasks of a single target by name, for users and files."""


def learned_task(name: str, y: Array, **of_numbers: Any) -> Task:
    """Return the task of targets (rows,); of_numbers : as for `Regression.learned`"""
    if y.dtype.names is None:
        return (
            Classification.learned(y) if name == Classification.name else Regression.learned(y, **of_numbers)
        )
    parts = []
    for target in y.dtype.names:
        is_number = name != Classification.name and y[target].dtype == float
        kind = Regression.name if is_number else Classification.name
        try:
            parts.append((target, learned_task(kind, y[target], **of_numbers)))
        except TableError as error:
            raise TableError(error.reason, target) from None
    return Several(tuple(parts))  # type: ignore[arg-type]  # of single targets


def described(task: Task) -> dict[str, Any]:
    """Return a task in JSON's types; `task_of` of `storage` reads it."""
    parts = {"parts": [[n, described(t)] for n, t in task.parts]} if isinstance(task, Several) else {}
    return {"name": task.name, **vars(task), **parts}
