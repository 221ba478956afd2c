"""TableClassifier and TableRegressor: scikit-learn's estimators for tables of mixed columns."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from fastmlp.files import archive
from fastmlp.tables.base import TableEstimator
from fastmlp.tables.intervals import HeldErrors, half_width, shifts
from fastmlp.tables.tasks import Classification, Regression

Array = NDArray[Any]


class TableClassifier(ClassifierMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of the rows of a table.

    Its parameters and attributes are those of `TableEstimator`, and:

    Parameters
    ----------
    class_weight : str, optional
        "balanced": every class counts the same, however many rows it has.
    threshold : float or str, optional
        Of two classes, the probability from which on the second one is predicted. "balanced" is that of the
        greatest balanced accuracy, and "5:1" that of the least cost where a missed row of the second class
        costs five times as much as a false alarm: both on training rows that networks have held out, as
        scikit-learn's TunedThresholdClassifierCV does. None for a half.

    Attributes
    ----------
    classes_ : (n,) array, the classes, ascending
    threshold_ : float, the probability from which on the second of two classes is predicted
    """

    _task = Classification.name

    def __init__(
        self, *, class_weight: str | None = None, threshold: float | str | None = None, **others: Any
    ) -> None:
        super().__init__(**others)
        self.class_weight, self.threshold = class_weight, threshold

    @property
    def classes_(self) -> Array:
        """The classes (n,), ascending."""
        check_is_fitted(self)
        assert isinstance(self.task_, Classification)
        return np.array(self.task_.classes)

    @property
    def threshold_(self) -> float:
        """The probability from which on the second of two classes is predicted."""
        check_is_fitted(self)
        assert isinstance(self.task_, Classification)
        return 0.5 if self.task_.threshold is None else self.task_.threshold

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class (rows, n), in the order of `classes_`."""
        return self.outputs(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy for a table and its target, which may be the name of a column."""
        from sklearn.metrics import accuracy_score

        frame, values, weights = self._read(X, y, sample_weight)
        if values.dtype.names is not None:
            return self._mean_score(frame, values)
        assert isinstance(self.task_, Classification)
        codes, found = self.task_.encoded(values), self.task_.decided(self.outputs(frame))
        return float(accuracy_score(codes, found, sample_weight=weights))


class TableRegressor(RegressorMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor of the rows of a table.

    Its parameters and attributes are those of `TableEstimator`, and:

    Parameters
    ----------
    loss : str
        What is least: squared, absolute, huber (squared up to a deviation, which the quartiles say, and
        linear beyond), poisson (of targets that are at least 0), gamma (above 0), or "quantile:0.9". It
        chooses recipes and epochs, and the report has its error. Predictions are means for squared, poisson
        and gamma, medians for absolute, quantiles for quantile.
    target_transform : str, optional
        "log": networks learn the logarithm of targets above 0, for squared, absolute or quantile. Predictions
        are what they are without: exponentials, for squared times the ratio of sums on rows held out. "auto"
        takes the logarithm if targets are above 0 and have a skewness above 1, of which the logarithms have
        less than half.
    """

    _task = Regression.name

    def __init__(self, *, loss: str = "squared", target_transform: str | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.loss, self.target_transform = loss, target_transform

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the lower and upper ends, (rows,) each, of intervals that hold a share of the numbers.

        The prediction is in the middle; not of the loss quantile, nor where logarithms are learned, whose
        middle is that of the interval. The share is held over all rows, by the errors on rows that the
        members held out; the width follows the prediction where these rows say that it should, and does not
        in a monotone model.

        Raises
        ------
        ValueError
            If fewer rows were held out than such a share needs, or the model was written before there were
            intervals.
        """
        half_width(self._errors, coverage)  # refuses a coverage before anything is read
        return self.interval_around(self.predict(X), coverage)

    def interval_around(self, predicted: Array, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the ends, (rows,) each, of intervals around predictions (rows,); errors as above."""
        errors, outputs = self._errors, self._regression.placed(predicted)
        high = half_width(errors, coverage)
        low = -high
        if self._regression.objective.startswith("quantile"):
            low, high = shifts(errors, [(1 - coverage) / 2, (1 + coverage) / 2])
        sizes = errors.sizes_at(outputs)
        low_end, high_end = (self._regression.numbers(outputs + sizes * one) for one in (low, high))
        return low_end, high_end

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Return quantiles of each row's number (rows, quantiles), by the size of its error.

        Raises
        ------
        ValueError
            As for `predict_interval`.
        """
        shares = shifts(self._errors, quantiles)
        outputs = self._regression.placed(self.predict(X))[:, None]
        return self._regression.numbers(outputs + self._errors.sizes_at(outputs) * shares)

    @property
    def _errors(self) -> HeldErrors:
        check_is_fitted(self)
        self.check_single("an interval")
        if self.errors_ is None:
            raise ValueError("the model was written before there were intervals; train it again")
        return self.errors_

    @property
    def _regression(self) -> Regression:
        assert isinstance(self.task_, Regression)
        return self.task_

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2 for a table and its target, which may be the name of a column."""
        from sklearn.metrics import r2_score

        frame, values, weights = self._read(X, y, sample_weight)
        if values.dtype.names is not None:
            return self._mean_score(frame, values)
        return float(r2_score(values, self.predict(frame), sample_weight=weights))


for _kind in (TableClassifier, TableRegressor):  # for help and for scikit-learn
    _own = inspect.signature(_kind.__init__).parameters.values()
    _all = inspect.signature(TableEstimator.__init__)
    _kind.__init__.__signature__ = _all.replace(  # type: ignore[union-attr]
        parameters=[*_all.parameters.values(), *(one for one in _own if one.kind == one.KEYWORD_ONLY)]
    )

ESTIMATORS: dict[str, type[TableClassifier] | type[TableRegressor]] = {
    one._task: one for one in (TableClassifier, TableRegressor)
}
"""The estimators by their task."""


def load(path: str | os.PathLike[str]) -> TableClassifier | TableRegressor:
    """Return the classifier or regressor in a file; errors as those of `TableClassifier.load`."""
    return opened(path, *archive.read(path))


def opened(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, Array]
) -> TableClassifier | TableRegressor:
    """Return the classifier or regressor that a file's header and arrays hold, for `fastmlp.load`."""
    from fastmlp.tables import storage

    kept = storage.parsed(path, header, arrays)
    return ESTIMATORS[kept["task_"].name].restored(kept)
