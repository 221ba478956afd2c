"""Warnings that look like scikit-learn's, so that a program's filters for those apply."""

from __future__ import annotations

import sys
import warnings

MODULE = "sklearn.neural_network._multilayer_perceptron"
"""The module that scikit-learn's estimators warn from. Its own examples silence their warnings by
`warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")`. That must still work when
only the import has changed. So a filter sees this module, and the message shows the line of the caller."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as that module would, at the first line outside fastmlp and scikit-learn's wrapper of fit."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastmlp.", "sklearn.base")):
        frame = frame.f_back
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, MODULE)
