"""The steps of a training by PyTorch, eagerly."""

from __future__ import annotations

from typing import Any

from fastmlp.lab.timing import Clock, Trained
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer
from fastmlp.training.model import Model

LOSSES = {
    ("softmax", "cross_entropy"): ("CrossEntropyLoss", True),
    ("sigmoid", "binary_cross_entropy"): ("BCEWithLogitsLoss", True),
    ("sigmoid", "mse"): ("MSELoss", False),
    ("identity", "mse"): ("MSELoss", False),
}
"""By output and loss: PyTorch's loss, and whether it takes logits."""


def fits(network: Network, optimizer: Optimizer) -> bool:
    """Return whether PyTorch has the network's loss, and takes the optimiser's steps."""
    return type(optimizer) in (SGD, Adam) and (network.output, network.loss) in LOSSES


def trained(
    model: Model, optimizer: Optimizer, batch: int, threads: int, data: Any, epochs: int, clock: Clock
) -> Trained:
    """Train a copy of the model; see `fastmlp.lab.peers.Peer`."""
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
