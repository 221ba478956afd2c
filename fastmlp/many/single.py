"""One model whose arguments are plain: it is prepared as `fit` does, without what several models need.

Separate from `preparing`, whose part takes a fifth of the shortest trainings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp.fitting import fit
from fastmlp.many.arguments import has_blocks, named
from fastmlp.system.notices import is_watched
from fastmlp.training.options import FitOptions
from fastmlp.training.prepared import Prepared
from fastmlp.training.trainer import prepared

SEQUENCES = (tuple, list)
"""The types of callbacks and metrics that are plain where they are empty."""

REAL = "biuf"
"""The kinds of dtypes whose arrays are numbers as they are."""


def plain_training(
    given: dict[str, Any],
    n_models: int | None,
    callbacks: Any,
    metrics: Any,
    progress: bool | None,
    threads: int | None,
) -> Prepared | None:
    """Return the training of the only model; None if there are others, or its arguments are not plain.

    given : as of `Arguments`, from which the network and the rows are taken; all else as of `fit_many`
    Errors as of `Preparation.training`.
    """
    if type(callbacks) not in SEQUENCES or callbacks or type(metrics) not in SEQUENCES or metrics:
        return None
    if not (progress is False or (progress is None and not is_watched())):
        return None
    own = _of_the_only_one(given, n_models)
    if own is None:
        return None
    network, X, y, rows = own.pop("network"), own.pop("X"), own.pop("y"), own.pop("rows")
    if rows is not None or not (type(X) is type(y) is np.ndarray) or has_blocks(network):
        return None
    if not (X.dtype.kind in REAL and y.dtype.kind in REAL):
        return None  # what all models share is no mistake of one
    if not (own["seed"] is None or (type(own["seed"]) is int and own["seed"] >= 0)):
        return None  # a wrong one is no model's
    options = FitOptions(
        **own, fit=fit, window=None, callbacks=(), progress=False, threads=threads, resume=None, metrics=()
    )
    with named(0):
        training = prepared(network, X, y, options)
    assert isinstance(training, Prepared)  # of rows in memory
    return training


def _of_the_only_one(given: dict[str, Any], n_models: int | None) -> dict[str, Any] | None:
    """Return the arguments of the only model; None if there are others, or `Arguments` has to read them."""
    is_one = type(n_models) is int and n_models == 1
    if list not in map(type, given.values()):
        return {**given} if is_one else None
    if not (is_one or n_models is None):
        return None
    own = {}
    for name, value in given.items():
        if type(value) is list:
            if len(value) != 1 or value[0] is None or type(value[0]) is list:
                return None
            value = value[0]
        own[name] = value
    return own
