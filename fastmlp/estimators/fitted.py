"""What a trained estimator holds: a model; coefs_ and intercepts_ are views of its parameters."""

from __future__ import annotations

import operator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import checks
from fastmlp.backend.registry import get
from fastmlp.estimators.convergence import fresh_curves
from fastmlp.estimators.descriptions import described, network_of
from fastmlp.estimators.rows import inputs_of
from fastmlp.model.layout import flatten
from fastmlp.model.losses import Loss
from fastmlp.model.sparse import Inputs
from fastmlp.training.model import Model
from fastmlp.training.sparse_data import is_sparse

Array = NDArray[Any]

SPARSE = ["csr", "csc"]
"""The sparse formats that are taken as they are."""


class Fitted(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The part of an estimator that predicts; the rest trains."""

    def _ends_in(self) -> tuple[str, str | Loss]:
        """Return the trainer's names of the output activation and of the loss."""
        raise NotImplementedError

    def _adopt(self, model: Model) -> None:
        """Make the model the estimator's; coefs_ and intercepts_ are views of its parameters."""
        self._model, self._scale = model, model.network.input_scale
        self.coefs_, self.intercepts_ = model.weights, model.biases
        self._views = [*self.coefs_, *self.intercepts_]
        self.n_layers_ = len(model.network.sizes)
        self.n_outputs_ = model.network.sizes[-1]
        self.out_activation_ = {"sigmoid": "logistic"}.get(model.network.output, model.network.output)

    @property
    def model_(self) -> Model:
        """The trained network as `fastmlp.fit` returns one; it shares its parameters with the estimator."""
        check_is_fitted(self)
        return self._current_model()

    @classmethod
    def _holding(cls, model: Model, parameters: dict[str, Any]) -> Self:
        """Return an estimator that is fitted: with the model, and with its description as parameters."""
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {checks.shown(model)}")
        made = cls(**described(model.network), **parameters)
        fresh_curves(made)
        made.loss_curve_ = list(map(np.float64, model.history["loss"]))
        made.validation_loss_curve_ = list(model.history.get("validation_loss", []))
        made.loss_ = made.loss_curve_[-1] if made.loss_curve_ else made.loss_
        made.n_iter_, made.t_, made.n_features_in_ = len(made.loss_curve_), 0, model.network.sizes[0]
        made._adopt(model)
        return made

    def _current_model(self) -> Model:
        """Return the model, or a new one if the user has replaced an array in coefs_ or intercepts_."""
        shown = [*self.coefs_, *self.intercepts_]
        if len(shown) == len(self._views) and all(map(operator.is_, shown, self._views)):
            return self._model
        sizes = [len(self.coefs_[0]), *map(len, self.intercepts_)]
        network = network_of(self, sizes, *self._ends_in())
        parameters = flatten(self.coefs_, self.intercepts_, network, self._model.parameters.dtype)
        return Model(network, parameters, {"loss": []}, get(self._model.backend), None)

    def _outputs(self, inputs: Inputs) -> Array:
        """Return the network's outputs (rows, n_out) for clean rows, dense or sparse."""
        return self._current_model().forward(inputs)

    def _outputs_for(self, X: Any) -> Array:
        """Return the network's outputs (rows, n_out) for what a user passes to predict."""
        if "_model" not in vars(self):
            check_is_fitted(self)
        dtype = self._model.parameters.dtype
        if not self._is_clean(X, dtype):
            checks.no_iterator("X", X)
            X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        return self._outputs(inputs_of(X, dtype, self._scale))

    def _is_clean(self, X: Any, dtype: Any) -> bool:
        """Whether X surely passes scikit-learn's validation, which takes longer than predicting a row."""
        array = type(X) is np.ndarray
        return (
            (array or (is_sparse(X) and X.format == "csr"))
            and X.dtype == dtype
            and X.ndim == 2
            and X.shape[0] > 0
            and X.shape[1] == self.n_features_in_
            and (not array or X.flags.c_contiguous)
            and "feature_names_in_" not in vars(self)
            and checks.finite(X if array else np.ascontiguousarray(X.data))
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_model" in state:
            state["_model"] = self._current_model()
            for views in ("coefs_", "intercepts_", "_views"):
                del state[views]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_model" in state:
            self._adopt(self._model)
