"""The steps of a training by scikit-learn as its expert sets it: one fit of many epochs, without its checks.

`warm_start` gives it the common start. Its squared error is half of ours and its mean one over rows alone, so
that losses and gradients have other factors (`_factors`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastmlp.exchange.sklearn_estimator import HIDDEN
from fastmlp.lab.peer_training import PeerTraining, Run
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer

PAIRS = {("identity", "mse"), ("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")}
"""The outputs with the losses that it has."""


def fits(network: Network, optimizer: Optimizer) -> bool:
    """Return whether scikit-learn has the network, and takes the optimiser's steps."""
    if not network.is_chain or (network.output, network.loss) not in PAIRS:
        return False
    one_rate = type(optimizer) is Adam or (
        type(optimizer) is SGD and optimizer.bias_learning_rate is None and optimizer.momentum == 0
    )
    return len({*network.hidden}) == 1 and network.hidden[0] in HIDDEN and one_rate


def ways(training: PeerTraining) -> dict[str, Callable[[], Run]]:
    """Return the only way: see `fastmlp.lab.peers.Peer`."""
    return {"fit": partial(_prepare, training)}


def _factors(network: Network) -> tuple[float, float]:
    """Return our loss over scikit-learn's, and scikit-learn's gradient over ours."""
    return (2.0, network.n_out / 2) if network.loss == "mse" else (1.0, 1.0)


def _prepare(training: PeerTraining) -> Run:
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    network, X, y = training.start.network, training.X, training.y
    if network.output == "softmax":
        # One-hot rows keep all outputs, whatever labels there are, and two outputs for two classes.
        y = np.eye(network.n_out, dtype=int)[y]
    elif y.ndim == 2 and y.shape[1] == 1:
        y = y.ravel()
    estimator = _estimator(training)

    def fit(rows: slice) -> None:
        checks = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
        with checks, threadpool_limits(training.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(X[rows], y[rows])

    fit(slice(2 * training.batch))
    if network.output == "softmax":
        # It took the one-hot rows for labels that do not exclude one another.
        estimator.out_activation_ = "softmax"

    def run(epochs: int) -> list[float]:
        views = layer_views(training.start.parameters.copy(), network)
        estimator.coefs_, estimator.intercepts_ = ([*part] for part in zip(*views, strict=True))
        estimator.set_params(max_iter=epochs)
        fit(slice(None))
        return [_factors(network)[0] * loss for loss in estimator.loss_curve_[-epochs:]]

    return run


def _estimator(training: PeerTraining) -> Any:
    """Return an estimator that goes on from the weights that it is given: hence `warm_start`."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    network, optimizer = training.start.network, training.optimizer
    _, factor = _factors(network)
    rate = float(optimizer.learning_rate)  # type: ignore[arg-type]  # a peer's training has no schedules
    options: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": rate / factor}
    if isinstance(optimizer, Adam):
        options = {
            "beta_1": optimizer.beta1, "beta_2": optimizer.beta2, "epsilon": optimizer.epsilon * factor,
            "learning_rate_init": rate,
        }  # fmt: skip
    return (MLPRegressor if network.loss == "mse" else MLPClassifier)(
        hidden_layer_sizes=network.sizes[1:-1], activation=HIDDEN[str(network.hidden[0])], alpha=0.0,
        batch_size=training.batch, max_iter=1, shuffle=training.orders is not None, random_state=0, tol=0.0,
        n_iter_no_change=np.inf, warm_start=True, **options,
    )  # fmt: skip
