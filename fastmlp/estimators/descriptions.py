"""From scikit-learn's parameters to fastmlp's descriptions: a Network and an Optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from fastmlp.model.activations import HIDDEN, Activation
from fastmlp.model.losses import LOSSES as OWN_LOSSES
from fastmlp.model.losses import Loss
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer, check_optimizer
from fastmlp.model.schedules import Schedule

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in HIDDEN}
"""The hidden activations by the names that a user may give: scikit-learn's, and the trainer's."""

LOSSES = {"squared_error": "mse", "poisson": "poisson_deviance"} | {
    name: name for name, entry in OWN_LOSSES.items() if "identity" in entry.outputs and name != "mse"
}
"""The regression losses by the names that a user may give: scikit-learn's two, and the trainer's."""


def hidden_sizes(estimator: Any) -> list[int]:
    """Return the units of the hidden layers, which may be given as one number."""
    sizes = estimator.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    # Network refuses what is not a number, in one line.
    if any(isinstance(size, Real) and size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return sizes


def hidden_activations(estimator: Any, layers: int) -> list[str | Activation]:
    """Return every hidden layer's activation: the trainer's name of it, or the user's own."""
    names = estimator.activation
    names = [names] * layers if isinstance(names, (str, Activation)) else list(names)
    # Network refuses an unknown name, with the choices.
    return [ACTIVATIONS.get(name, name) if isinstance(name, str) else name for name in names]


def number(value: Any) -> Any:
    """Return a number as the trainer takes it: scikit-learn takes True for 1, the trainer refuses it."""
    return float(value) if isinstance(value, bool) else value


def network_of(estimator: Any, sizes: Sequence[int], output: str, loss: str | Loss) -> Network:
    """Return the network that the estimator's parameters describe; output and loss are the trainer's."""
    return Network(
        sizes,
        hidden_activations(estimator, len(sizes) - 2),
        output,
        loss,
        dropout=estimator.dropout,
        l2=number(estimator.alpha),
        huber_delta=getattr(estimator, "huber_delta", 1.0),
        quantile=getattr(estimator, "quantile", 0.5),
        input_scale=number(estimator.input_scale),
        convention="sklearn",
    )


def described(network: Network) -> dict[str, Any]:
    """Return the parameters that describe a network's hidden layers and inputs."""
    same = len(set(network.hidden)) == 1
    return {
        "hidden_layer_sizes": network.sizes[1:-1],
        "activation": network.hidden[0] if same else list(network.hidden),
        "dropout": list(network.dropout) if any(network.dropout) else 0.0,
        "alpha": network.l2,
        "input_scale": network.input_scale,
    }


def optimizer_of(estimator: Any) -> Optimizer:
    """Return the optimiser that the estimator's parameters describe."""
    if isinstance(estimator.solver, Optimizer):
        check_optimizer("solver", estimator.solver)
        return estimator.solver
    scheduled = isinstance(estimator.learning_rate, Schedule)
    rate = estimator.learning_rate if scheduled else number(estimator.learning_rate_init)
    if estimator.solver == "sgd":
        nesterov = bool(estimator.nesterovs_momentum) and estimator.momentum > 0
        return SGD(rate, number(estimator.momentum), nesterov)
    beta_1, beta_2, epsilon = map(number, (estimator.beta_1, estimator.beta_2, estimator.epsilon))
    return Adam(rate, beta_1, beta_2, epsilon, epsilon_hat=True)
