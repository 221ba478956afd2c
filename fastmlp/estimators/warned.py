"""Warnings in scikit-learn's name: what a program filters there stays filtered."""

from __future__ import annotations

import sys
import warnings

MODULE = "sklearn.neural_network._multilayer_perceptron"
"""Where scikit-learn's estimators warn from. Its own examples silence them by
`warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")`, which shall go on
working when only the import has changed; so a filter sees this module, and a reader the line that called."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as that module would, at the first line outside fastmlp and scikit-learn's wrapper of fit."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastmlp.", "sklearn.base")):
        frame = frame.f_back
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, MODULE)
