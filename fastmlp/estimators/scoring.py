"""What early stopping goes by: a score of the rows held out after every epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sklearn.metrics import get_scorer

from fastmlp.estimators.rows import ValidatedRows
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.sparse import SparseRows
from fastmlp.training.callbacks import Run
from fastmlp.training.pace import interruptible


def scoring_of(estimator: Any, held_out: ValidatedRows | None) -> Callable[[Run], float] | None:
    """Return a function that scores the parameters after an epoch; None if the training loss decides.

    The function raises LeftBehind if that takes long and the training shall stop.
    """
    if not estimator.early_stopping or held_out is None:
        return None
    inputs, weights, count = unpacked(held_out.inputs), held_out.score_weights, len(held_out.targets)
    metric = estimator.stopping_metric
    if metric == "loss":
        return lambda run: -run.history["validation_loss"][-1]
    y = estimator._decoded(held_out.targets)
    if metric is None:

        def score() -> float:
            return estimator._default_score(y, estimator._decoded(estimator._outputs(inputs)), weights)

        return lambda run: interruptible(run, count, score)
    scorer = get_scorer(metric)
    # The rows held out have no feature names, and an estimator with such names would warn of that. They
    # are scaled already.
    nameless = object.__new__(type(estimator))
    named = {name: value for name, value in vars(estimator).items() if name != "feature_names_in_"}
    nameless.__dict__ = named | {"_scale": 1.0}
    X = inputs.matrix() if isinstance(inputs, SparseRows) else inputs
    takes_weights = isinstance(metric, str) or "sample_weight" in inspect.signature(metric).parameters
    options = {"sample_weight": weights} if weights is not None and takes_weights else {}
    return lambda run: interruptible(run, count, lambda: float(scorer(nameless, X, y, **options)))
