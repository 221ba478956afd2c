"""MLPClassifier: class labels to targets, the network's outputs to labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastmlp import checks
from fastmlp.estimators.base import Perceptron
from fastmlp.estimators.constraints import CLASSIFIER
from fastmlp.estimators.fitted import SPARSE
from fastmlp.estimators.rows import Rows

Array = NDArray[Any]


class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]  # scikit-learn is untyped
    """TODO."""

    _parameter_constraints = CLASSIFIER

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        dropout: Any = 0.0,
        init: Any = None,
        validation_set: Any = None,
        stopping_metric: Any = None,
        callbacks: Any = (),
        max_time: float | None = None,
        progress: bool = False,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
    ) -> None:
        self._keep(locals())

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> MLPClassifier:
        """Train from a new start, or on from where the last fit ended if warm_start is set.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers
        y : (rows,) class labels, or (rows, n_out) of 0 and 1 for several labels a row
        sample_weight : (rows,) array of at least 0, optional

        Returns
        -------
        The estimator itself.
        """
        self._train(X, y, sample_weight)
        return self

    @available_if(Perceptron._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        epochs: int = 1,
    ) -> MLPClassifier:
        """Train on for some epochs over these rows.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        classes : (k,) labels, all that later calls may bring; needed in the first call
        epochs : int, at least 1

        Returns
        -------
        The estimator itself.
        """
        epochs = checks.whole("epochs", epochs, 1)
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
        self._train(X, y, sample_weight, epochs)
        return self

    def predict(self, X: Any) -> Array:
        """Return the most probable label of every row.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers

        Returns
        -------
        (rows,) array of labels, or (rows, n_out) of 0 and 1 for several labels a row
        """
        return self._decoded(self._outputs_for(X))

    def predict_proba(self, X: Any) -> Array:
        """Return every class's probability, (rows, classes), in the order of `classes_`."""
        outputs = self._outputs_for(X)
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- what y means -------------------------------------------------------------------------------

    def _validated(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(self, X, y, accept_sparse=SPARSE, multi_output=True, dtype=dtype, reset=reset)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _learn_targets(self, y: Array, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        elif self.warm_start:
            classes = unique_labels(y)
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to"
                    f" fit. Previously got {self.classes_}, `y` has {classes}"
                )
        else:
            self._check_targets(y)

    def _check_targets(self, y: Array) -> None:
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {classes}."
            )

    def _targets(self, y: Array) -> Array:
        targets: Array = self._label_binarizer.transform(y)
        return targets

    def _class_weights(self, y: Array, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return None
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all rows;"
                " pass a dict of weights"
            )
        weights: Array = compute_sample_weight(self.class_weight, y)
        return weights

    def _stratifies(self, rows: Rows) -> bool:
        return rows.targets.shape[1] == 1

    def _ends_in(self) -> tuple[str, str]:
        if self._label_binarizer.y_type_ == "multiclass":
            return "softmax", "cross_entropy"
        return "sigmoid", "binary_cross_entropy"

    def _decoded(self, outputs: Array) -> Array:
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "multiclass":
            return self.classes_[outputs.argmax(axis=1)]
        likely = outputs > 0.5
        if binarizer.y_type_.startswith("multilabel"):
            labels = likely.astype(int)
            return scipy.sparse.csr_matrix(labels) if binarizer.sparse_input_ else labels
        # One class only, if y had no other: its unit learns 0 throughout.
        return self.classes_[likely[:, 0] * (len(self.classes_) - 1)]

    def _default_score(self, y: Array, predicted: Array, sample_weight: Array | None) -> float:
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))
