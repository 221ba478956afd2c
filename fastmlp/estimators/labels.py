"""Labels that are whole numbers: what scikit-learn makes of them, in a tenth of its time.

It finds out each time what kind of labels it has, which takes as long as a small network's training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer


def binarizer_of(y: Any) -> LabelBinarizer:
    """Return LabelBinarizer().fit(y)."""
    made = LabelBinarizer()
    if not _are_whole(y) or _warns(len(classes := np.unique(y)), len(y)):
        return made.fit(y)
    made.y_type_ = "binary" if len(classes) <= 2 else "multiclass"
    made.sparse_input_, made.classes_ = False, classes
    return made


def accuracy(y: Any, predicted: NDArray[Any], sample_weight: ArrayLike | None, classes: int) -> float:
    """Return the share of rows whose labels are predicted, `sklearn.metrics.accuracy_score`.

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
