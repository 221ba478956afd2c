"""A classifier's targets: labels that are whole numbers, and rows of probabilities.

scikit-learn finds out each time what kind of labels it has, which takes as long as the training of a small
network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer

from fastmlp import checks
from fastmlp.model.state import Array


def binarizer_of(y: Any) -> LabelBinarizer:
    """Return LabelBinarizer().fit(y)."""
    made = LabelBinarizer()
    if not _are_whole(y) or _warns(len(classes := np.unique(y)), len(y)):
        return made.fit(y)
    made.y_type_ = "binary" if len(classes) <= 2 else "multiclass"
    made.sparse_input_, made.classes_ = False, classes
    return made


def accuracy(y: Any, predicted: NDArray[Any], sample_weight: ArrayLike | None, classes: int) -> float:
    """Return the share of rows with right labels, as `sklearn.metrics.accuracy_score`.

    classes : how many labels may be predicted
    """
    plain = (
        sample_weight is None and _are_whole(y) and (y.dtype, y.shape) == (predicted.dtype, predicted.shape)
    )
    if plain and not _warns(max(classes, len(np.unique(y))), len(y)):
        return float((y == predicted).mean())
    return float(accuracy_score(y, predicted, sample_weight=sample_weight))


def _are_whole(y: Any) -> bool:
    """Whether y is an array (rows,) of whole numbers."""
    return type(y) is np.ndarray and y.ndim == 1 and len(y) > 0 and y.dtype.kind == "i"


def _warns(classes: int, rows: int) -> bool:
    """Whether scikit-learn warns that so many classes may be numbers to regress."""
    return classes > max(2, rows // 2)


TOLERANCE = 1e-6
"""How far the sum of a row may be from 1: a softmax in float32 is within some 1e-7."""


def are_probabilities(y: Any) -> bool:
    """Return whether y is floats (rows, k), not all 0 or 1 as several labels a row are."""
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
