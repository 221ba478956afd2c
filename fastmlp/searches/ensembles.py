"""Bagged networks: scikit-learn's members, trained together and asked together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import BaggingClassifier, BaggingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import checks
from fastmlp.derivatives.attribution import Attribution, mean_of
from fastmlp.estimators.base import Joint
from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.parameters import SPARSE
from fastmlp.estimators.regressor import MLPRegressor
from fastmlp.exchange import c_header, onnx_graph
from fastmlp.exchange.steps import ExportGraph, mean_graph
from fastmlp.many.predicting import outputs_of, predict_many
from fastmlp.model.state import Array
from fastmlp.searches.searches import together
from fastmlp.trained.model import Model

MOST_COPIED = 1 << 23
"""Numbers of X copied at once for members that read some columns each: a call predicts such rows."""


class _Ensemble(Joint):
    """Base of bags of networks, for labels and for numbers."""

    n_jobs: int | None
    n_estimators: int
    estimators_: list[Any]
    estimators_features_: list[Array]
    n_features_in_: int

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **params: Any) -> Self:
        """Draw the rows and columns of each member, and train all members together.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers
        y : (rows,) labels or real numbers
        sample_weight : (rows,) array of at least 0, optional
            The probability of drawing a row, relative to other rows.
        **params : of the members' fit, with scikit-learn's metadata routing

        Returns
        -------
        The ensemble itself.
        """
        n_jobs = self.n_jobs
        try:
            self.n_jobs = None  # with 1 scikit-learn would train one member after another
            with together(self, self.n_estimators, n_jobs):
                given: Any = super()  # scikit-learn's
                return given.fit(X, y, sample_weight=sample_weight, **params)
        finally:
            self.n_jobs = n_jobs

    def predict_members(self, X: Any) -> Array:
        """Return the predictions of each member.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers

        Returns
        -------
        (members, rows) array, (members, rows, n_out) where a member has several outputs; of labels the
        probabilities (members, rows, classes)
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        models = [member.model_ for member in self.estimators_]
        columns, every = self.estimators_features_, np.arange(X.shape[1])
        if all(np.array_equal(features, every) for features in columns):
            return self._predictions(predict_many(models, X))
        at_once = max(1, MOST_COPIED // sum(map(len, columns)))
        parts = range(0, X.shape[0], at_once)
        outputs = [outputs_of(models, X[start : start + at_once], columns) for start in parts]
        return self._predictions(np.concatenate(outputs, axis=1))

    def predict_std(self, X: Any) -> Array:
        """Return the standard deviation over members, in the shape of a member's predictions.

        X : as for `predict_members`
        """
        return self.predict_members(X).std(axis=0)

    def predict_quantiles(self, X: Any, quantiles: ArrayLike = (0.1, 0.5, 0.9)) -> Array:
        """Return quantiles of the members' predictions.

        Parameters
        ----------
        X : as for `predict_members`
        quantiles : (k,) in [0, 1], or a single quantile

        Returns
        -------
        (k, ..) array, each in the shape of a member's predictions
        """
        return np.quantile(self.predict_members(X), np.asarray(quantiles, np.float64), axis=0)

    def jacobian(self, X: Any) -> Array:
        """Return the mean of the members' Jacobians, (rows, outputs, features).

        X : as for `predict_members`; of two classes the only output is the second one's probability
        """
        found: Array = np.mean([*self._by_members(X, lambda model, rows, _: model.jacobian(rows))], axis=0)
        return found

    def input_gradient(self, X: Any, output: int | None = None) -> Array:
        """Return the mean of the members' derivatives of one output, (rows, features)."""
        of = lambda model, rows, _: model.input_gradient(rows, output, dense=True)  # noqa: E731
        found: Array = np.mean([*self._by_members(X, of)], axis=0)
        return found

    def attribute(self, X: Any, baseline: ArrayLike | None = None, **given: Any) -> Attribution:
        """Return what each feature adds to an output of the mean of the members, as `Model.attribute` does.

        baseline : of features; given : output, method, steps, seed and logits
        """
        starts = None if baseline is None else np.atleast_2d(checks.real_array("baseline", baseline))
        if starts is not None and starts.shape[1] != self.n_features_in_:
            raise ValueError(f"baseline must have {self.n_features_in_} columns, got {starts.shape[1]}")
        parts: list[Attribution] = []

        def of(model: Model, rows: Any, features: Array) -> Array:
            parts.append(model.attribute(rows, None if starts is None else starts[:, features], **given))
            return parts[-1].values

        values = [*self._by_members(X, of)]
        return mean_of([part._replace(values=one) for part, one in zip(parts, values, strict=True)])

    def _by_members(self, X: Any, of: Callable[[Model, Any, Array], Array]) -> Iterator[Array]:
        """Yield numbers (.., features) of each member, 0 of features that the member does not read.

        of : of(model, rows, features) gives those of a member's own features
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        for member, features in zip(self.estimators_, self.estimators_features_, strict=True):
            found = of(member.model_, X[:, features], features)
            whole = np.zeros((*found.shape[:-1], X.shape[1]), found.dtype)
            np.add.at(whole, (..., features), found)  # type: ignore[arg-type]  # a feature may be drawn twice
            yield whole

    def to_onnx(self, path: str | Path) -> None:
        """Write the whole ensemble to an ONNX file: the mean of the networks' outputs.

        The input is "X" (rows, n_in), the output "output" (rows, n_out): numbers, or probabilities, of two
        classes the second probability. All are in the dtype of the networks.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        NotFittedError
            If the ensemble is not fitted.
        ImportError
            If onnx is not installed, the extra `onnx`.
        """
        onnx_graph.write(self._graph(), path)

    def to_c(self, path: str | Path, name: str | None = None) -> None:
        """Write the whole ensemble as a C99 header, with `void NAME_predict(const real *X, real *out)`.

        A row's n_in numbers go in, and the outputs of `to_onnx` come out.

        Parameters
        ----------
        path : str or path
        name : str, optional
            The prefix of names in the header, an identifier; None takes the file's name.

        Raises
        ------
        NotFittedError
            If the ensemble is not fitted.
        ValueError
            If the name is no identifier of C.
        """
        name = c_header.identifier(path, name)
        Path(path).write_text(c_header.header(self._graph(), name), encoding="ascii")

    def _graph(self) -> ExportGraph:
        """Return the graph of the members' mean, each on its columns."""
        check_is_fitted(self)
        models = [member.model_ for member in self.estimators_]
        networks = [(model.network, model.parameters) for model in models]
        return mean_graph(networks, self.estimators_features_, self.n_features_in_)

    def _mean(self, X: Any) -> Array:
        """Return the mean of the members' predictions, summed in scikit-learn's order."""
        members = self.predict_members(X)
        return np.add.reduce(members, axis=0) / len(members)

    def _predictions(self, outputs: Array) -> Array:
        """Return members' predictions, given outputs (members, rows, n_out)."""
        return outputs[:, :, 0] if outputs.shape[2] == 1 else outputs


class MLPEnsembleClassifier(_Ensemble, BaggingClassifier):  # type: ignore[misc]  # scikit-learn is untyped
    """scikit-learn's BaggingClassifier of networks; members train and predict together.

    Breiman, "Bagging predictors" (1996).

    Parameters
    ----------
    estimator : MLPClassifier or None
        A member; `MLPClassifier()` if None.
    n_jobs : int or None
        How many threads train, None for all cores.

    Notes
    -----
    All other parameters and attributes are as in `sklearn.ensemble.BaggingClassifier`: `n_estimators`,
    `max_samples`, `bootstrap`, `max_features`, `oob_score`, ..
    """

    _parameter_constraints = {  # noqa: RUF012  # as scikit-learn has it
        **BaggingClassifier._parameter_constraints, "estimator": [MLPClassifier, None],
    }  # fmt: skip

    def _get_estimator(self) -> Any:
        return MLPClassifier() if self.estimator is None else self.estimator

    def predict_proba(self, X: Any) -> Array:
        """Return the mean of the members' probabilities.

        Parameters
        ----------
        X : as for `predict_members`

        Returns
        -------
        (rows, classes) array, in the order of `classes_`

        Raises
        ------
        NotFittedError
            If the ensemble is not fitted.
        """
        return self._mean(X)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _predictions(self, outputs: Array) -> Array:
        if outputs.shape[2] == 1:
            return np.concatenate([1 - outputs, outputs], axis=2)
        return outputs


class MLPEnsembleRegressor(_Ensemble, BaggingRegressor):  # type: ignore[misc]  # scikit-learn is untyped
    """scikit-learn's BaggingRegressor of networks; members train and predict together.

    Breiman, "Bagging predictors" (1996).

    Parameters
    ----------
    estimator : MLPRegressor or None
        A member; `MLPRegressor()` if None.
    n_jobs : int or None
        How many threads train, None for all cores.

    Notes
    -----
    All other parameters and attributes are as in `sklearn.ensemble.BaggingRegressor`: `n_estimators`,
    `max_samples`, `bootstrap`, `max_features`, `oob_score`, ..
    """

    _parameter_constraints = {  # noqa: RUF012  # as scikit-learn has it
        **BaggingRegressor._parameter_constraints, "estimator": [MLPRegressor, None],
    }  # fmt: skip

    def _get_estimator(self) -> Any:
        return MLPRegressor() if self.estimator is None else self.estimator

    def predict(self, X: Any) -> Array:
        """Return the mean of the members' predictions.

        Parameters
        ----------
        X : as for `predict_members`

        Returns
        -------
        (rows,) array, or (rows, n_out) of several outputs

        Raises
        ------
        NotFittedError
            If the ensemble is not fitted.
        """
        return self._mean(X)
