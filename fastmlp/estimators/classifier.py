"""MLPClassifier: labels become targets, and outputs become labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from fastmlp import checks
from fastmlp.estimators.base import Perceptron, refuse_others
from fastmlp.estimators.parameters import CLASSIFIER, FTOL
from fastmlp.model.activations import HIDDEN
from fastmlp.model.loss import Loss
from fastmlp.model.losses import BinaryFocal, Focal
from fastmlp.model.state import Array
from fastmlp.trained.model import Model


@checks.listing(hidden=HIDDEN)
class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]  # scikit-learn is untyped
    """scikit-learn's MLPClassifier, trained by fastmlp: the same steps from the same random_state.

    Every parameter of `sklearn.neural_network.MLPClassifier` is here, with the same place, default and
    meaning; see scikit-learn's documentation. Further parameters follow, and change nothing unless set.

    Parameters
    ----------
    activation : str or sequence of str
        Also a sequence, a name for each hidden layer; also the trainer's names, where sigmoid is logistic:
        {hidden}.
    solver : str or Optimizer
        Also an optimiser of the trainer's, with its rate or schedule.
    learning_rate : str, Schedule or function
        Also a schedule of the trainer's, or a function of the epochs done, with its first rate, for "sgd" and
        "adam".
    ftol : float
        "lbfgs" ends where an iteration lowers the loss by less than this fraction; at least 0. The default is
        SciPy's, as in scikit-learn: with a smaller fraction the search goes on.
    loss : "log_loss", Loss or RowLoss
        A custom loss in place of the cross-entropy, with the output for the labels: "softmax"
        for several classes, "sigmoid" for two, or for several labels.
    class_weight : dict, "balanced", list of dicts or None
        The weight of each class in the loss, as in `sklearn.utils.class_weight.compute_sample_weight`,
        multiplied with sample_weight. Scores do not use class weights. partial_fit does not take "balanced".
    dropout : float or sequence of float
        Probability in [0, 1) of dropping a hidden unit, for all layers or for each layer.
    layers : list of layers, optional
        The hidden layers, as in `Network(layers=)`: `fastmlp.Dense`, `LayerNorm`, `Residual`, .. `layers`
        replaces hidden_layer_sizes, activation, dropout and init; the last `Dense` is added.
    init : str, Normal, (coefs, intercepts) or None
        The start: a scheme of `Network.weight_init`, with biases of 0 unless the scheme sets biases, or
        arrays, which are copied. None draws as scikit-learn does.
    validation_set : (X, y) or (X, y, sample_weight), optional
        Rows to validate on in place of a split, for `validation_loss_curve_`, and for early_stopping if set.
        A pipeline does not transform these rows: pass rows as fit sees X.
    stopping_metric : str, callable or None
        What early_stopping maximises: the name of a scorer (`sklearn.metrics.get_scorer_names`),
        a scorer, or "loss" for the least validation loss. None is accuracy.
    callbacks : list of Callback
        As for `fastmlp.fit`. With "lbfgs" an iteration counts as an epoch.
    max_time : float, optional
        Seconds after which training ends, within 0.2 s, with the current parameters. Before the
        first epoch is complete `loss_` is NaN.
    progress : bool
        A progress bar on stderr.
    backend : str
        A name of `fastmlp.backends()`, or "auto" for the fastest backend.
    threads : int, optional
        Upper bound for the worker threads; None takes a single thread for epochs of less than about 1 ms,
        else the cores granted by affinity and a container's CPU quota, or NUMBA_NUM_THREADS or
        OMP_NUM_THREADS if less (set by joblib, Dask and Ray in their processes); trainings of a process share
        the threads.
    dtype : float32, float64, "bfloat16" or None
        To train in; None keeps a float32 X and makes all else float64. "bfloat16" as for `fastmlp.fit`.
    input_scale : float
        The factor of every number of X, in training and in predictions; above 0.

    Attributes
    ----------
    coefs_ : list of (n_in, n_out) arrays
        Live views of a vector: to write to a view, or to replace an array, changes predictions. With `layers`
        the views are of the dense layers; `model_.layers` has all arrays.
    intercepts_ : list of (n_out,) arrays
        Views of the same vector.
    validation_loss_curve_ : list of float
        The loss of the validation rows, without penalty, after every epoch; empty if there are none.

    Notes
    -----
    All other attributes of scikit-learn's are there: `classes_`, `loss_`, `best_loss_`, `loss_curve_`,
    `validation_scores_`, `best_validation_score_`, `n_iter_`, `t_`, `n_layers_`, `n_outputs_`,
    `out_activation_`, `n_features_in_`, `feature_names_in_`.

    Steps and losses agree with scikit-learn 1.9 up to rounding. Where two classes are predicted with
    near certainty, scikit-learn's loss loses digits in 1 - p, kept by the logits: on unscaled rows
    `loss_curve_` may differ by some 1e-4, and "lbfgs", which goes by the loss, takes other steps. A training
    may end by `tol` some epochs earlier or later, as in scikit-learn after changes of X by a rounding. A
    second `partial_fit` after early stopping goes on. Negative sample weights are refused; a batch whose
    weights are all 0 takes a step without a gradient, where scikit-learn raises ZeroDivisionError. NumPy's
    warnings of an overflow are not given. Parameters set after fit count from the next fit on, where
    scikit-learn's predict reads `activation`. Predictions have the dtype of the training. A float32 "lbfgs"
    runs in float64 and is rounded at its end. A CSR matrix goes into the kernels unchanged; a sparse matrix
    of another format becomes CSR once.
    """

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
        layers: Any = None,
        init: Any = None,
        validation_set: Any = None,
        stopping_metric: Any = None,
        callbacks: Any = (),
        max_time: float | None = None,
        progress: bool = False,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
        input_scale: float = 1.0,
        loss: Any = "log_loss",
        ftol: float = FTOL,
    ) -> None:
        self._keep(locals())

    @classmethod
    def from_model(cls, model: Model, classes: ArrayLike | None = None) -> MLPClassifier:
        """Return a fitted classifier of a model.

        Training goes on from the model's parameters with `partial_fit`, by the rules of the estimator:
        scikit-learn's scaling of the penalty, and no l1.

        Parameters
        ----------
        model : Model, whose output is softmax, or sigmoid for two classes or several labels a row
        classes : (k,) labels in the order of the outputs, ascending; None for whole numbers from 0

        Raises
        ------
        ValueError, TypeError
            If the model's output is no probabilities of classes, or classes are not as many.
        """
        from fastmlp.exchange.sklearn_estimator import binarizer

        known: Any = model.network.loss if isinstance(model, Model) else None
        known = {"focal": Focal(), "binary_focal": BinaryFocal()}.get(known, known)  # without a name here
        made = cls._holding(model, {"loss": known} if isinstance(known, Loss) else {})
        made._label_binarizer = binarizer(model.network, classes)
        made.classes_ = made._label_binarizer.classes_
        return made

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
        classes : (k,) labels, all labels of later calls; needed in the first call
        epochs : int, at least 1

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError, TypeError
            As `fit`; ValueError also without classes in the first call, and for other labels.
        """
        epochs = checks.whole("epochs", epochs, 1)
        if _check_partial_fit_first_call(self, classes):
            refuse_others(X, y)
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
        (rows,) array of labels, or (rows, n_out) of 0 and 1 for several labels a row, sparse if y was

        Raises
        ------
        NotFittedError
            Before the first fit.
        ValueError, TypeError
            If X is not such rows.
        """
        return self._decoded(self._outputs_for(X))

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the fraction of rows with right labels.

        Parameters
        ----------
        X : as for `predict`
        y : (rows,) labels, or (rows, n_out) of 0 and 1, of which all of a row must be right
        sample_weight : (rows,) array, optional
            How much each row counts.

        Returns
        -------
        float, scikit-learn's accuracy_score
        """
        return self._default_score(y, self.predict(X), sample_weight)

    def predict_proba(self, X: Any) -> Array:
        """Return every class's probability.

        Parameters
        ----------
        X : as for `predict`

        Returns
        -------
        (rows, classes) array of the training's dtype, in the order of `classes_`; of several labels
        a row the probability of each

        Raises
        ------
        NotFittedError, ValueError, TypeError
            As `predict`.
        """
        outputs = self._outputs_for(X)
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`; arguments and errors are equal."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- what y means -------------------------------------------------------------------------------

    def _learn_targets(self, y: Array, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            labels = y
            if are_probabilities(y):
                labels = np.arange(y.shape[1])
                self._check_probabilities(y, labels)
            self._label_binarizer = binarizer_of(labels)
            self.classes_ = self._label_binarizer.classes_
        elif self.warm_start and not self._gives_probabilities(y):
            classes = unique_labels(y)
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to"
                    f" fit. Previously got {self.classes_}, `y` has {classes}"
                )
        else:
            self._check_targets(y)

    def _gives_probabilities(self, y: Array) -> bool:
        """Return True for rows of probabilities; for a label a row, floats of 0 and 1 count, too."""
        if self._label_binarizer.y_type_.startswith("multilabel"):
            return False
        return are_probabilities(y) or (isinstance(y, np.ndarray) and y.ndim == 2 and y.dtype.kind == "f")

    def _check_probabilities(self, y: Array, classes: Array) -> None:
        check_probabilities(y, classes)
        if self.class_weight is not None:
            raise ValueError("class_weight is for labels, and y has rows of probabilities; use sample_weight")

    def _check_targets(self, y: Array) -> None:
        if self._indices(y) is not None:
            return None
        if self._gives_probabilities(y):
            return self._check_probabilities(y, self.classes_)
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {classes}."
            )

    def _indices(self, y: Array) -> Array | None:
        """Return the index of each label in `classes_`; None where scikit-learn must find the indices.

        scikit-learn takes twenty times as long for 32 labels; here all are known integers.
        """
        classes = self.classes_
        whole = type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind == "i" and y.dtype == classes.dtype
        if not whole or self._label_binarizer.y_type_ not in ("binary", "multiclass"):
            return None
        indices = classes[:-1].searchsorted(y)
        return indices if (classes[indices] == y).all() else None

    def _targets(self, y: Array) -> Array:
        if (indices := self._indices(y)) is not None:
            if self._label_binarizer.y_type_ == "binary":
                return indices[:, None]
            targets = np.zeros((len(y), len(self.classes_)), y.dtype)
            targets[np.arange(len(y)), indices] = 1
            return targets
        if self._gives_probabilities(y):
            self._check_probabilities(y, self.classes_)
            return targets_of(y)
        targets = self._label_binarizer.transform(y)
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
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise ValueError(
                "class_weight must be finite, at least 0, and above 0 for a class that is there, got"
                f" {checks.shown(self.class_weight)}"
            )
        return weights

    def _ends_in(self) -> tuple[str, str | Loss]:
        several = self._label_binarizer.y_type_ == "multiclass"
        output, loss = ("softmax", "cross_entropy") if several else ("sigmoid", "binary_cross_entropy")
        return output, self.loss if isinstance(self.loss, Loss) else loss

    def _decoded(self, outputs: Array) -> Array:
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "multiclass":
            return self.classes_[outputs.argmax(axis=1)]
        likely = outputs > 0.5
        if binarizer.y_type_.startswith("multilabel"):
            labels = likely.astype(int)
            return scipy.sparse.csr_matrix(labels) if binarizer.sparse_input_ else labels
        # If y has a single class, the unit learns 0 for every row.
        return self.classes_[likely[:, 0] * (len(self.classes_) - 1)]

    def _default_score(self, y: Any, predicted: Array, sample_weight: ArrayLike | None) -> float:
        return accuracy(y, predicted, sample_weight, len(self.classes_))


# --- labels and rows of probabilities -----------------------------------------------------------------


def binarizer_of(y: Any) -> LabelBinarizer:
    """Return LabelBinarizer().fit(y)."""
    made = LabelBinarizer()
    if not _are_whole(y) or _warns(len(classes := np.unique(y)), len(y)):
        return made.fit(y)
    made.y_type_ = "binary" if len(classes) <= 2 else "multiclass"
    made.sparse_input_, made.classes_ = False, classes
    return made


def accuracy(y: Any, predicted: NDArray[Any], sample_weight: ArrayLike | None, classes: int) -> float:
    """Return the fraction of rows with right labels, as `sklearn.metrics.accuracy_score`.

    classes : how many labels may be predicted
    """
    plain = (
        sample_weight is None and _are_whole(y) and (y.dtype, y.shape) == (predicted.dtype, predicted.shape)
    )
    if plain and not _warns(max(classes, len(np.unique(y))), len(y)):
        return float((y == predicted).mean())
    return float(accuracy_score(y, predicted, sample_weight=sample_weight))


def _are_whole(y: Any) -> bool:
    """Return True if y is an array (rows,) of whole numbers."""
    return type(y) is np.ndarray and y.ndim == 1 and len(y) > 0 and y.dtype.kind == "i"


def _warns(classes: int, rows: int) -> bool:
    """Return True if scikit-learn warns of numbers to regress for so many classes."""
    return classes > max(2, rows // 2)


TOLERANCE = 1e-6
"""How far the sum of a row may be from 1: a softmax in float32 is within some 1e-7."""


def are_probabilities(y: Any) -> bool:
    """Return True if y is floats (rows, k), not all 0 or 1 as with several labels a row."""
    several = isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind == "f"
    return several and not np.isin(y, (0, 1)).all()


def check_probabilities(y: Array, classes: Array) -> None:
    """Raise ValueError unless y (rows, classes) has rows that sum to 1."""
    if y.ndim != 2 or y.shape[1] != len(classes):
        raise ValueError(
            f"y must be labels, or rows of probabilities (rows, {len(classes)}), one for each of `classes_`, "
            f"got shape {y.shape}"
        )
    sums = y.sum(axis=1, dtype=np.float64)
    wrong = (y < 0).any(axis=1) | ~(np.abs(sums - 1) <= TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            "y is neither labels nor probabilities: rows of probabilities are at least 0 and each sums to 1 "
            f"within {TOLERANCE:g}, got {checks.shown(y[row].tolist())} in row {row}, sum {sums[row]:.7g}"
        )


def targets_of(y: Array) -> Array:
    """Return the targets of probabilities: of two classes the second column, (rows, 1)."""
    return y[:, 1:] if y.shape[1] == 2 else y
