"""Validated rows in the form that training takes, and the split of them for early stopping."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight

from fastmlp import checks
from fastmlp.data.arrays import clean
from fastmlp.data.sparse import clean_rows, is_sparse
from fastmlp.model.backend import Array, Data
from fastmlp.model.byte_rows import ByteRows
from fastmlp.model.sparse import Inputs
from fastmlp.model.state import FLOATS

AUTO_BATCH = 200
"""What batch_size="auto" is where rows are as many."""


class ValidatedRows(NamedTuple):
    """Rows to train on or to score.

    inputs : (rows, n_in) floating, a C-contiguous array or `SparseRows`; of a window, also `ByteRows`
    targets : (rows, n_out) of the same dtype, what the network is to learn
    weights : (rows,) of the same dtype, how much a row counts in the loss
    score_weights : (rows,) floating or None, how much a row counts in a score
    """

    inputs: Inputs | ByteRows
    targets: Array
    weights: Array
    score_weights: Array | None

    @property
    def data(self) -> Data:
        """The rows for a backend."""
        return Data(self.inputs, self.targets, self.weights)

    def take(self, which: NDArray[np.int64]) -> ValidatedRows:
        """Return copies of some rows."""
        scores = None if self.score_weights is None else self.score_weights[which]
        return ValidatedRows(self.inputs[which], self.targets[which], self.weights[which], scores)


def rows_of(
    X: Any, targets: Array, sample_weight: Any, class_weights: Array | None, scale: float = 1.0
) -> ValidatedRows:
    """Return rows in the form for training.

    Parameters
    ----------
    X : validated (rows, n_in), dense or sparse, of the dtype to train in
    sample_weight : (rows,) or None, as the user passed it
    class_weights : (rows,) or None; they count in the loss and not in scores
    scale : what X is multiplied with

    Raises ValueError if a sample weight is not finite or below 0, or if all are 0.
    """
    score_weights = None
    weights = np.ones(X.shape[0], X.dtype)
    if sample_weight is not None:
        score_weights = _checked_weights(sample_weight, X)
        if not score_weights.any():  # scikit-learn 1.9 says so in the line above, 1.7 does not
            raise ValueError("Sample weights must contain at least one non-zero number.")
        weights = score_weights.astype(X.dtype)
    if class_weights is not None:
        weights *= class_weights.astype(X.dtype)
    return ValidatedRows(
        inputs_of(X, X.dtype, scale), np.ascontiguousarray(targets, X.dtype), weights, score_weights
    )


def _checked_weights(given: Any, X: Any) -> Array:
    """Return weights (rows,), checked as by scikit-learn, in a tenth of the time for arrays."""
    if type(given) is np.ndarray and given.shape == (X.shape[0],):
        whole = given.dtype.kind in "iu"
        if whole or given.dtype in FLOATS:
            weights = np.ascontiguousarray(given, np.float64 if whole else given.dtype)
            if checks.finite(weights) and weights.min() >= 0:
                return weights
    checked: Array = _check_sample_weight(given, X, ensure_non_negative=True)
    return checked


def inputs_of(X: Any, dtype: np.dtype[Any], scale: float = 1.0) -> Inputs:
    """Return validated X (rows, n_in) times `scale` for training, of `dtype`."""
    if is_sparse(X):
        return clean_rows("X", X, dtype, scale)
    return np.ascontiguousarray(X, dtype) if scale == 1 else clean("X", X, dtype, scale)


def split(
    rows: ValidatedRows, fraction: float, stratify: bool, rng: np.random.RandomState
) -> tuple[ValidatedRows, ValidatedRows]:
    """Return the training rows and the rows held out, by scikit-learn's draw."""
    chosen = train_test_split(
        np.arange(len(rows.targets)),
        test_size=fraction,
        random_state=rng,
        # scikit-learn's message for a class that is too small contains these words.
        stratify=np.where(rows.targets[:, 0] > 0.5, "True", "False") if stratify else None,
    )
    trained, held = (rows.take(which) for which in chosen)
    if len(held.targets) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    return trained, held
