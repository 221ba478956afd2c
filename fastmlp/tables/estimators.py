"""TableClassifier and TableRegressor: scikit-learn's estimators for tables of mixed columns."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from fastmlp.files import archive
from fastmlp.tables.base import TableEstimator
from fastmlp.tables.columns import Array
from fastmlp.tables.intervals import HeldErrors, half_width, shifts
from fastmlp.tables.tasks import Classification, Regression


class TableClassifier(ClassifierMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of the rows of a table.

    The parameters and attributes are as of `TableEstimator`, and:

    Parameters
    ----------
    class_weight : str, optional
        "balanced" for equal weights of all classes, whatever their numbers of rows.
    threshold : float or str, optional
        Least probability for a prediction of the second of two classes. "balanced" has the greatest balanced
        accuracy, and "5:1" the least cost if a missed row of the second class costs five times as much as a
        false alarm: both on training rows that networks held out, as in scikit-learn's
        TunedThresholdClassifierCV. None for a half.

    Attributes
    ----------
    classes_ : (n,) array, the classes, ascending
    threshold_ : float, the least probability for a prediction of the second of two classes
    """

    _task = Classification.name
    score = TableEstimator.score

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
        """The least probability for a prediction of the second of two classes."""
        check_is_fitted(self)
        assert isinstance(self.task_, Classification)
        return 0.5 if self.task_.threshold is None else self.task_.threshold

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class (rows, n), in the order of `classes_`."""
        return self.outputs(X)


class TableRegressor(RegressorMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor of the rows of a table.

    The parameters and attributes are as of `TableEstimator`, and:

    Parameters
    ----------
    loss : str
        The minimised loss: squared, absolute, huber (squared up to a deviation by the quartiles, and linear
        beyond), poisson (for targets of at least 0), gamma (above 0), or "quantile:0.9". The loss chooses
        recipes and epochs, and is in the report. Predictions are means for squared, poisson and gamma,
        medians for absolute, quantiles for quantile.
    target_transform : str, optional
        "log" for networks of the logarithm of targets above 0, with squared, absolute or quantile.
        Predictions keep their meaning: exponentials, for squared times the ratio of sums on rows held out.
        "auto" takes the logarithm if targets are above 0 and have a skewness above 1, and logarithms less
        than half of it.
    """

    _task = Regression.name
    score = TableEstimator.score

    def __init__(self, *, loss: str = "squared", target_transform: str | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.loss, self.target_transform = loss, target_transform

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the lower and upper ends, (rows,) each, of intervals with a fraction of the numbers.

        The prediction is in the middle, but for the loss quantile, and for logarithms, where the middle is of
        the logarithms. The fraction is over all rows, by the errors on rows held out; the width follows the
        prediction if these rows show so, and is constant in a monotone model.

        Raises
        ------
        ValueError
            For a fraction that needs more rows held out.
        """
        half_width(self._errors, coverage)  # refuses a coverage before anything is read
        return self.interval_around(self.predict(X), coverage)

    def interval_around(self, predicted: Array, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the ends, (rows,) each, of intervals around predictions (rows,); errors as above."""
        errors, task = self._errors, self._regression
        outputs, high = task.placed(predicted), half_width(errors, coverage)
        low = -high
        if task.objective.startswith("quantile"):
            low, high = shifts(errors, [(1 - coverage) / 2, (1 + coverage) / 2])
        sizes = errors.sizes_at(outputs)
        return task.numbers(outputs + sizes * low), task.numbers(outputs + sizes * high)

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Return quantiles of each row's number (rows, quantiles); errors as of `predict_interval`."""
        fractions = shifts(self._errors, quantiles)
        outputs = self._regression.placed(self.predict(X))[:, None]
        return self._regression.numbers(outputs + self._errors.sizes_at(outputs) * fractions)

    @property
    def _errors(self) -> HeldErrors:
        check_is_fitted(self)
        self.check_single("an interval")
        assert self.errors_ is not None
        return self.errors_

    @property
    def _regression(self) -> Regression:
        assert isinstance(self.task_, Regression)
        return self.task_


for _kind in (TableClassifier, TableRegressor):  # for help and for scikit-learn
    _own = inspect.signature(_kind.__init__).parameters.values()
    _all = inspect.signature(TableEstimator.__init__)
    _kind.__init__.__signature__ = _all.replace(  # type: ignore[union-attr]
        parameters=[*_all.parameters.values(), *(one for one in _own if one.kind == one.KEYWORD_ONLY)]
    )

ESTIMATORS: dict[str, type[TableClassifier] | type[TableRegressor]] = {
    one._task: one for one in (TableClassifier, TableRegressor)
}
"""The estimators by the name of the task."""


def load(path: str | os.PathLike[str]) -> TableClassifier | TableRegressor:
    """Return the classifier or regressor in a file; errors as of `TableClassifier.load`."""
    return opened(path, *archive.read(path))


def opened(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, Array]
) -> TableClassifier | TableRegressor:
    """Return the classifier or regressor in a file's header and arrays, for `fastmlp.load`."""
    from fastmlp.tables import storage

    state = storage.parsed(path, header, arrays)
    return ESTIMATORS[state["task_"].name].restored(state)
