"""The attributes of a trained estimator: the model, and coefs_ and intercepts_ as views of the parameters."""

from __future__ import annotations

import inspect
import operator
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import checks
from fastmlp.backend.registry import get
from fastmlp.data.sparse import is_sparse
from fastmlp.estimators.convergence import fresh_curves
from fastmlp.estimators.parameters import described, network_of
from fastmlp.estimators.rows import inputs_of
from fastmlp.model.layout import dense_views, flatten
from fastmlp.model.loss import Loss
from fastmlp.model.rows import Inputs
from fastmlp.model.state import FLOATS, Array
from fastmlp.trained.model import Model

SPARSE = ["csr", "csc"]
"""The sparse formats taken unchanged."""


class Fitted(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Base of estimators: the predicting part."""

    def _ends_in(self) -> tuple[str, str | Loss]:
        """Return the trainer's names of the output activation and of the loss."""
        raise NotImplementedError

    def _adopt(self, model: Model) -> None:
        """Take over a model; coefs_ and intercepts_ are views of the model's parameters."""
        held = vars(self).get("_model")
        self._model, self._scale = model, model.network.input_scale
        if held is not None and held.network is model.network and held.parameters is model.parameters:
            return  # it is trained on
        dense = dense_views(model.parameters, model.network)
        self.coefs_, self.intercepts_ = map(list, zip(*dense, strict=True))
        self._views = [*self.coefs_, *self.intercepts_]
        self.n_layers_ = len(model.network.widths)
        self.n_outputs_ = model.network.n_out
        self.out_activation_ = {"sigmoid": "logistic"}.get(model.network.output, model.network.output)

    @property
    def model_(self) -> Model:
        """The trained network, a `Model` with the estimator's parameters."""
        check_is_fitted(self)
        return self._current_model()

    @classmethod
    def _holding(cls, model: Model, parameters: dict[str, Any]) -> Self:
        """Return a fitted estimator with the model, and with the model's description as parameters."""
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {checks.shown(model)}")
        made = cls(**described(model.network), **parameters)
        fresh_curves(made)
        made.loss_curve_ = list(map(np.float64, model.history["loss"]))
        made.validation_loss_curve_ = list(model.history.get("validation_loss", []))
        made.loss_ = made.loss_curve_[-1] if made.loss_curve_ else made.loss_
        made.n_iter_, made.t_, made.n_features_in_ = len(made.loss_curve_), 0, model.network.n_in
        made._adopt(model)
        return made

    def _current_model(self) -> Model:
        """Return the model, a new model after changes of the lists coefs_ or intercepts_."""
        shown = [*self.coefs_, *self.intercepts_]
        if len(shown) == len(self._views) and all(map(operator.is_, shown, self._views)):
            return self._model
        sizes = [len(self.coefs_[0]), *map(len, self.intercepts_)]
        network = network_of(self, sizes, *self._ends_in())
        if network.is_chain:
            parameters = flatten(self.coefs_, self.intercepts_, network, self._model.parameters.dtype)
        else:
            parameters = self._model.parameters.copy()
            for views, own in zip(
                dense_views(parameters, network), zip(self.coefs_, self.intercepts_, strict=True), strict=True
            ):
                for view, array in zip(views, own, strict=True):
                    view[...] = array
        return Model(network, parameters, {"loss": []}, get(self._model.backend), None)

    def jacobian(self, X: Any, *, logits: bool = False) -> Array:
        """Return the derivatives of all outputs by all features, (rows, outputs, features).

        X : as for `predict`; the outputs are the outputs of `model_`, of two classes the second probability
        logits : as for `Model.jacobian`
        """
        return self.model_.jacobian(self._rows_for(X), logits=logits)

    def input_gradient(
        self, X: Any, output: int | None = None, *, logits: bool = False, dense: bool = False
    ) -> Any:
        """Return the derivatives (rows, features) of one output, as `Model.input_gradient` does."""
        return self.model_.input_gradient(self._rows_for(X), output, logits=logits, dense=dense)

    def attribute(self, X: Any, baseline: Any = None, **given: Any) -> Any:
        """Return what each feature adds to an output, as `Model.attribute` does.

        baseline : features as for `predict`; given : output, method, steps, seed and logits
        """
        found = self.model_.attribute(self._rows_for(X), baseline, **given)
        names = getattr(self, "feature_names_in_", None)
        return found if names is None else found._replace(names=tuple(names))

    def _rows_for(self, X: Any) -> Any:
        """Return a user's rows, validated by scikit-learn."""
        check_is_fitted(self)
        checks.no_iterator("X", X)
        return validate_data(self, X, accept_sparse=SPARSE, reset=False)

    def _outputs(self, inputs: Inputs) -> Array:
        """Return the network's outputs (rows, n_out) for clean rows, dense or sparse."""
        return self._current_model().forward(inputs)

    def _outputs_for(self, X: Any) -> Array:
        """Return the network's outputs (rows, n_out) for a user's rows."""
        if "_model" not in vars(self):
            check_is_fitted(self)
        dtype = self._model.parameters.dtype
        if not self._is_clean(X, dtype):
            X = self._rows_for(X)
        return self._outputs(inputs_of(X, dtype, self._scale))

    def __sklearn_is_fitted__(self) -> bool:
        return "_model" in vars(self)

    def _is_clean(self, X: Any, dtypes: Any, y: Any = None, reset: bool = False) -> bool:
        """Return True if X, and y if given, surely pass scikit-learn's validation.

        scikit-learn's validation takes longer than to predict a row, or than a step on 32 rows.
        dtypes : a dtype or several dtypes of X; reset : True to allow other columns than before
        """
        array, names = type(X) is np.ndarray, vars(self)
        return (
            (array or (not reset and is_sparse(X) and X.format == "csr"))
            and (X.dtype in dtypes if isinstance(dtypes, tuple) else X.dtype == dtypes)
            and X.ndim == 2
            and X.size > 0
            and (reset or ("feature_names_in_" not in names and X.shape[1] == self.n_features_in_))
            and (not array or X.flags.c_contiguous)
            and checks.finite(X if array else np.ascontiguousarray(X.data))
            and (y is None or (type(y) is np.ndarray and y.shape == X.shape[:1]))
            and (y is None or y.dtype.kind in "bui" or (y.dtype in FLOATS and checks.finite(y)))
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_model" in state:
            state["_model"] = self._current_model()
            for views in ("coefs_", "intercepts_", "_views"):
                del state[views]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        usual = inspect.signature(type(self).__init__).parameters.values()
        given = {one.name: one.default for one in usual if one.default is not one.empty}
        super().__setstate__({**given, **state})  # an earlier version had fewer parameters
        if "_model" in state:
            self._adopt(self.__dict__.pop("_model"))
