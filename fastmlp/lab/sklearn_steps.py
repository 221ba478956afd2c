"""The steps of a training by scikit-learn's `MLPClassifier`: one fit of many epochs, without its checks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastmlp.exchange.sklearn_estimator import HIDDEN
from fastmlp.lab.timing import Clock, Trained
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer
from fastmlp.training.model import Model

PAIRS = {("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")}
"""The outputs with their losses whose gradients are ours; its squared error is another multiple of ours."""


def fits(network: Network, optimizer: Optimizer) -> bool:
    """Return whether scikit-learn has the network, and takes the optimiser's steps."""
    known = (network.output, network.loss) in PAIRS and len({*network.hidden}) == 1
    known = known and network.hidden[0] in HIDDEN
    one_rate = type(optimizer) is Adam or (
        type(optimizer) is SGD and optimizer.bias_learning_rate is None and optimizer.momentum == 0
    )
    return known and one_rate


def trained(
    model: Model, optimizer: Optimizer, batch: int, threads: int, data: Any, epochs: int, clock: Clock
) -> Trained:
    """Train a copy of the model; see `fastmlp.lab.peers.Peer`."""
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    X, y = data
    network, classes = model.network, max(2, model.network.sizes[-1])
    if network.output == "softmax":
        # One-hot rows keep all outputs, whatever labels there are, and two outputs for two classes.
        y = np.eye(classes, dtype=int)[y]
    estimator = _estimator(network, optimizer, batch)
    with (
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
        threadpool_limits(threads),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, y)
        if network.output == "softmax":
            # It took the one-hot rows for labels that do not exclude one another.
            estimator.out_activation_ = "softmax"
        views = layer_views(model.parameters.copy(), network.sizes)
        estimator.coefs_, estimator.intercepts_ = ([*part] for part in zip(*views, strict=True))
        estimator.set_params(max_iter=epochs)
        began = clock()
        estimator.fit(X, y)
        seconds = clock() - began
    return estimator.loss_curve_[-epochs:], seconds


def _estimator(network: Network, optimizer: Optimizer, batch: int) -> Any:
    """Return an estimator that goes on from the weights that it is given: hence `warm_start`."""
    from sklearn.neural_network import MLPClassifier

    options: dict[str, Any] = {"solver": "sgd", "momentum": 0.0}
    if isinstance(optimizer, Adam):
        options = {"beta_1": optimizer.beta1, "beta_2": optimizer.beta2, "epsilon": optimizer.epsilon}
    return MLPClassifier(
        network.sizes[1:-1], activation=HIDDEN[str(network.hidden[0])], alpha=0.0, batch_size=batch,
        learning_rate_init=float(optimizer.learning_rate),  # type: ignore[arg-type]  # the lab's have no schedules
        max_iter=1, shuffle=False, random_state=0, tol=0.0, n_iter_no_change=np.inf, warm_start=True,
        **options,
    )  # fmt: skip
