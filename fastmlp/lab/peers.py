"""The same training steps by other installed libraries: PyTorch and scikit-learn.

Each library begins from the same weights, visits the same batches, and must have the reference's losses
before the steps are timed. `python -m benchmarks` adds other libraries and ways, each in another process.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.sklearn_estimator import HIDDEN
from fastmlp.model.layout import dense_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer
from fastmlp.trained.model import Model

Run = Callable[[int], list[float]]
"""run(epochs) trains from the start, and returns the mean loss of each epoch."""


class PeerTraining(NamedTuple):
    """Training steps for another library, from the parameters of `start`; batch : a divisor of all rows

    X : (rows, n_in); y : labels (rows,), or targets (rows, n_out)
    shuffle : True for rows in another order in each epoch, False for their own
    """

    start: Model
    optimizer: Optimizer
    batch: int
    threads: int
    X: NDArray[Any]
    y: NDArray[Any]
    shuffle: bool = False

    @property
    def rate(self) -> float:
        """The learning rate, constant."""
        return float(self.optimizer.learning_rate)  # type: ignore[arg-type]


# --- PyTorch: `nn.Sequential`, autograd, and the fused optimiser, eagerly ---------------------------

LOSSES = {
    ("softmax", "cross_entropy"): ("CrossEntropyLoss", True),
    ("sigmoid", "binary_cross_entropy"): ("BCEWithLogitsLoss", True),
    ("sigmoid", "mse"): ("MSELoss", False),
    ("identity", "mse"): ("MSELoss", False),
}
"""PyTorch's loss by output and loss, and True if PyTorch's loss takes logits."""


def _torch_fits(network: Network, optimizer: Optimizer) -> bool:
    """Return True if PyTorch has the network's loss, and takes the optimiser's steps."""
    drops = any(one.dropout for one in network.operations)  # PyTorch draws other masks
    return type(optimizer) in (SGD, Adam) and (network.output, network.loss) in LOSSES and not drops


def _prepare_torch(training: PeerTraining) -> Run:
    import torch

    torch.set_num_threads(training.threads)
    network = training.start.network
    module: Any = training.start.to_torch().train()
    kind, takes_logits = LOSSES[network.output, str(network.loss)]
    if takes_logits and isinstance(module, torch.nn.Sequential):
        module = module[:-1]
    elif takes_logits:
        module = type(module)(module.steps[:-1], module.sources[:-1]).train()
    loss_of = getattr(torch.nn, kind)()
    X, y = map(torch.from_numpy, (training.X, training.y))
    if kind != "CrossEntropyLoss":
        y = y.reshape(len(y), -1).to(X.dtype)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    batches = list(zip(X.split(training.batch), y.split(training.batch), strict=True))

    def run(epochs: int) -> list[float]:
        module.load_state_dict(start)
        rule, losses = _torch_rule(torch, training, module), []
        for _ in range(epochs):
            total = torch.zeros((), dtype=torch.float64)
            for inputs, targets in batches:
                loss = loss_of(module(inputs), targets)
                rule.zero_grad(set_to_none=True)
                loss.backward()
                rule.step()
                total += loss.detach()
            losses.append(total.item() / len(batches))
        return losses

    return run


def _torch_rule(torch: Any, training: PeerTraining, module: Any) -> Any:
    rate, optimizer = training.rate, training.optimizer
    if isinstance(optimizer, Adam):
        betas = optimizer.beta1, optimizer.beta2
        return torch.optim.Adam(module.parameters(), rate, betas, optimizer.epsilon, fused=True)
    assert isinstance(optimizer, SGD)
    given = optimizer.bias_learning_rate
    bias_rate = rate if given is None else float(given)  # type: ignore[arg-type]
    named = list(module.named_parameters())
    groups = [
        {"params": [p for name, p in named if name.endswith("weight")], "lr": rate},
        {"params": [p for name, p in named if name.endswith("bias")], "lr": bias_rate},
    ]
    return torch.optim.SGD(groups, momentum=optimizer.momentum, nesterov=optimizer.nesterov, fused=True)


# --- scikit-learn as its expert sets it: one fit of many epochs, without checks ---------------------

PAIRS = {("identity", "mse"), ("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")}
"""scikit-learn's outputs with losses."""


def sklearn_fits(network: Network, optimizer: Optimizer) -> bool:
    """Return True if scikit-learn has the network, and takes the optimiser's steps."""
    if not network.is_chain or (network.output, network.loss) not in PAIRS:
        return False
    one_rate = type(optimizer) is Adam or (
        type(optimizer) is SGD and optimizer.bias_learning_rate is None and optimizer.momentum == 0
    )
    return len({*network.activations[:-1]}) == 1 and network.activations[0] in HIDDEN and one_rate


def _factors(network: Network) -> tuple[float, float]:
    """Return our loss over scikit-learn's half squared error over rows, and the inverse of gradients."""
    return (2.0, network.n_out / 2) if network.loss == "mse" else (1.0, 1.0)


def prepare_sklearn(training: PeerTraining) -> Run:
    """Return scikit-learn's run, see `Peer`."""
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
        # scikit-learn took the one-hot rows for labels that do not exclude one another.
        estimator.out_activation_ = "softmax"

    def run(epochs: int) -> list[float]:
        views = dense_views(training.start.parameters.copy(), network)
        estimator.coefs_, estimator.intercepts_ = ([*part] for part in zip(*views, strict=True))
        estimator.set_params(max_iter=epochs)
        fit(slice(None))
        return [_factors(network)[0] * loss for loss in estimator.loss_curve_[-epochs:]]

    return run


def _estimator(training: PeerTraining) -> Any:
    """Return an estimator that starts from given weights: hence `warm_start`."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    network, optimizer, rate = training.start.network, training.optimizer, training.rate
    _, factor = _factors(network)
    options: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": rate / factor}
    if isinstance(optimizer, Adam):
        options = {
            "beta_1": optimizer.beta1, "beta_2": optimizer.beta2, "epsilon": optimizer.epsilon * factor,
            "learning_rate_init": rate,
        }  # fmt: skip
    return (MLPRegressor if network.loss == "mse" else MLPClassifier)(
        hidden_layer_sizes=network.widths[1:-1], activation=HIDDEN[str(network.activations[0])], alpha=0.0,
        batch_size=training.batch, max_iter=1, shuffle=training.shuffle, random_state=0, tol=0.0,
        n_iter_no_change=np.inf, warm_start=True, **options,
    )  # fmt: skip


# --- the table --------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """A library for training networks.

    fits : fits(network, optimizer) is True if the library takes the same steps
    prepare : prepare(training) returns a run of the steps
    off_by_adam : the allowed relative difference of losses by Adam: epsilon is added at another index
    """

    fits: Callable[[Network, Optimizer], bool]
    prepare: Callable[[PeerTraining], Run]
    off_by_adam: float = 0.0


PEERS = {
    "torch": Peer(_torch_fits, _prepare_torch),
    "sklearn": Peer(sklearn_fits, prepare_sklearn, off_by_adam=1e-5),
}
"""The peers by the names of their packages."""


def peers_of(network: Network, optimizer: Optimizer) -> list[str]:
    """Return the names of the installed peers that take such steps."""
    return [
        name
        for name, peer in PEERS.items()
        if peer.fits(network, optimizer) and importlib.util.find_spec(name) is not None
    ]


def off(name: str, optimizer: Optimizer) -> float:
    """Return how far a peer's or a backend's losses may be off beyond roundings."""
    return PEERS[name].off_by_adam if name in PEERS and isinstance(optimizer, Adam) else 0.0
