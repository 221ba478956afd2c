"""TableClassifier and TableRegressor: scikit-learn's estimators for tables of mixed columns."""

from __future__ import annotations

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
from fastmlp.tables.settings import ClassificationSettings, RegressionSettings
from fastmlp.tables.tasks import Classification, Regression


class TableClassifier(ClassificationSettings, ClassifierMixin, TableEstimator):  # type: ignore[misc]
    """A classifier of the rows of a table.

    The parameters are those of `ClassificationSettings`; the attributes are those of `TableEstimator`, and:

    Attributes
    ----------
    classes_ : (n,) array, the classes, ascending
    threshold_ : float, the least probability for a prediction of the second of two classes
    """

    _task = Classification.name
    score = TableEstimator.score

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


class TableRegressor(RegressionSettings, RegressorMixin, TableEstimator):  # type: ignore[misc]
    """A regressor of the rows of a table.

    The parameters are those of `RegressionSettings`, and the attributes those of `TableEstimator`.
    """

    _task = Regression.name
    score = TableEstimator.score

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
