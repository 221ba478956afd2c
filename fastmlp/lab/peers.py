"""Other programs that take the same training steps, where they are installed, as rows beside the backends.

Each begins from the same weights, visits the same batches, and is held to the reference's losses before it is
timed.
`python -m benchmarks.peers` compares more of them, over more works.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from fastmlp.lab.timing import Clock
from fastmlp.model.optimizers import SGD, Adam, Optimizer
from fastmlp.training.model import Model

Trained = tuple[list[float], float]
"""The mean loss of each epoch, and the seconds of all steps."""

LOSSES = {
    ("softmax", "cross_entropy"): ("CrossEntropyLoss", True),
    ("sigmoid", "binary_cross_entropy"): ("BCEWithLogitsLoss", True),
    ("sigmoid", "mse"): ("MSELoss", False),
    ("identity", "mse"): ("MSELoss", False),
}
"""By output and loss: PyTorch's loss, and whether it takes logits."""


def installed() -> list[str]:
    """Return the names of the peers that are there."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def fits(described: tuple[str, Any], optimizer: Optimizer) -> bool:
    """Return whether a peer can take such steps; described : the output and the loss."""
    return type(optimizer) in (SGD, Adam) and described in LOSSES


def torch_trained(
    model: Model, optimizer: Optimizer, batch: int, threads: int, data: Any, epochs: int, clock: Clock
) -> Trained:
    """Train by PyTorch, eagerly."""
    import torch

    torch.set_num_threads(threads)
    network = model.network
    module = model.to_torch().train()
    kind, takes_logits = LOSSES[network.output, str(network.loss)]
    module = module[:-1] if takes_logits else module
    loss_of = getattr(torch.nn, kind)()
    X, y = map(torch.from_numpy, data)
    if kind != "CrossEntropyLoss":
        y = y.reshape(len(y), -1).to(X.dtype)
    rule = _torch_rule(torch, optimizer, module)
    losses = []
    began = clock()
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch):
            rule.zero_grad()
            loss = loss_of(module(X[start : start + batch]), y[start : start + batch])
            loss.backward()
            rule.step()
            total += loss.item() * batch
        losses.append(total / len(X))
    return losses, clock() - began


def _torch_rule(torch: Any, optimizer: Optimizer, module: Any) -> Any:
    rate = float(optimizer.learning_rate)  # type: ignore[arg-type]  # the lab's have no schedules
    if isinstance(optimizer, Adam):
        betas = optimizer.beta1, optimizer.beta2
        return torch.optim.Adam(module.parameters(), rate, betas, optimizer.epsilon)
    assert isinstance(optimizer, SGD)
    given = optimizer.bias_learning_rate
    bias_rate = rate if given is None else float(given)  # type: ignore[arg-type]
    named = list(module.named_parameters())
    groups = [
        {"params": [p for name, p in named if name.endswith("weight")], "lr": rate},
        {"params": [p for name, p in named if name.endswith("bias")], "lr": bias_rate},
    ]
    return torch.optim.SGD(groups, momentum=optimizer.momentum, nesterov=optimizer.nesterov)


PEERS: dict[str, Callable[..., Trained]] = {"torch": torch_trained}
"""By the name of their package."""
