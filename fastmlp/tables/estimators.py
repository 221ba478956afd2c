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
        assert isinstance(self.task_, Classification)
        codes, found = self.task_.encoded(values), self.task_.decided(self.outputs(frame))
        return float(accuracy_score(codes, found, sample_weight=weights))


_all = inspect.signature(TableEstimator.__init__)
_own = [
    one
    for one in inspect.signature(TableClassifier.__init__).parameters.values()
    if one.kind == one.KEYWORD_ONLY
]
TableClassifier.__init__.__signature__ = _all.replace(  # type: ignore[attr-defined]  # for help and for scikit-learn
    parameters=[*_all.parameters.values(), *_own]
)


class TableRegressor(RegressorMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor of the rows of a table; its parameters and attributes are those of `TableEstimator`."""

    _task = Regression.name

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the lower and upper ends, (rows,) each, of intervals that hold a share of the numbers.

        The prediction is in the middle. The share is held over all rows, by the errors on rows that the
        members held out; the width follows the prediction where these rows say that it should.

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
        widths = half_width(self._errors, coverage) * self._error_sizes(predicted)
        return predicted - widths, predicted + widths

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Return quantiles of each row's number (rows, quantiles), by the size of its error.

        Raises
        ------
        ValueError
            As for `predict_interval`.
        """
        shares = shifts(self._errors, quantiles)
        predicted = self.predict(X)
        return predicted[:, None] + self._error_sizes(predicted)[:, None] * shares

    def _error_sizes(self, predicted: Array) -> Array:
        """Return for predictions (rows,) the sizes of errors (rows,) that intervals are multiples of."""
        return self._errors.sizes_at(self.task_.encoded(predicted)) * self._deviation

    @property
    def _errors(self) -> HeldErrors:
        check_is_fitted(self)
        if self.errors_ is None:
            raise ValueError("the model was written before there were intervals; train it again")
        return self.errors_

    @property
    def _deviation(self) -> float:
        assert isinstance(self.task_, Regression)
        return self.task_.deviation

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2 for a table and its target, which may be the name of a column."""
        from sklearn.metrics import r2_score

        frame, values, weights = self._read(X, y, sample_weight)
        return float(r2_score(values, self.predict(frame), sample_weight=weights))


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
