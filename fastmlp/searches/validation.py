"""scikit-learn's functions of cross-validation, whose networks train together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sklearn import model_selection

from fastmlp.searches.backend import together


def _together(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of scikit-learn's, whose trainings are taken together."""

    @functools.wraps(function, assigned=("__name__", "__qualname__"))
    def called(*given: Any, **named: Any) -> Any:
        with together(given[0] if given else named.get("estimator")):
            return function(*given, **named)

    called.__doc__ = (
        f"scikit-learn's {function.__name__}, whose folds train together: see `fastmlp.GridSearchCV`.\n\n"
        f"    Parameters and results are those of `sklearn.model_selection.{function.__name__}`.\n    "
    )
    return called


cross_val_predict = _together(model_selection.cross_val_predict)
cross_val_score = _together(model_selection.cross_val_score)
cross_validate = _together(model_selection.cross_validate)
learning_curve = _together(model_selection.learning_curve)
validation_curve = _together(model_selection.validation_curve)
