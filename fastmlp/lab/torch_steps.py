"""The steps of a training by PyTorch, eagerly: `nn.Sequential`, autograd, and the fused optimiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastmlp.lab.peer_training import PeerTraining, Run
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer

LOSSES = {
    ("softmax", "cross_entropy"): ("CrossEntropyLoss", True),
    ("sigmoid", "binary_cross_entropy"): ("BCEWithLogitsLoss", True),
    ("sigmoid", "mse"): ("MSELoss", False),
    ("identity", "mse"): ("MSELoss", False),
}
"""PyTorch's loss, and whether it takes logits, by output and loss."""


def fits(network: Network, optimizer: Optimizer) -> bool:
    """Return whether PyTorch has the network's loss, and takes the optimiser's steps."""
    drops = any(one.dropout for one in network.operations)  # by masks of its own
    return type(optimizer) in (SGD, Adam) and (network.output, network.loss) in LOSSES and not drops


def ways(training: PeerTraining) -> dict[str, Callable[[], Run]]:
    """Return the only way: see `fastmlp.lab.peers.Peer`."""
    return {"eager": partial(_prepare, training)}


def _prepare(training: PeerTraining) -> Run:
    import torch

    torch.set_num_threads(training.threads)
    network = training.start.network
    module = training.start.to_torch().train()
    kind, takes_logits = LOSSES[network.output, str(network.loss)]
    module = _without_its_last(torch, module) if takes_logits else module
    loss_of = getattr(torch.nn, kind)()
    X, y = map(torch.from_numpy, (training.X, training.y))
    if kind != "CrossEntropyLoss":
        y = y.reshape(len(y), -1).to(X.dtype)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    steps, batch = len(X) // training.batch, training.batch

    def batches(epoch: Any) -> Any:
        """Yield the rows of each step of an epoch."""
        for step in range(steps):
            if epoch is None:
                yield X[step * batch : (step + 1) * batch], y[step * batch : (step + 1) * batch]
            else:
                yield X.index_select(0, epoch[step]), y.index_select(0, epoch[step])

    def run(epochs: int) -> list[float]:
        module.load_state_dict(start)
        rule, losses = _torch_rule(torch, training.optimizer, module), []
        for _ in range(epochs):
            total = torch.zeros((), dtype=torch.float64)
            for inputs, targets in batches(training.orders and torch.from_numpy(training.orders(1)[0])):
                loss = loss_of(module(inputs), targets)
                rule.zero_grad(set_to_none=True)
                loss.backward()
                rule.step()
                total += loss.detach()
            losses.append(total.item() / steps)
        return losses

    return run


def _without_its_last(torch: Any, module: Any) -> Any:
    """Return the module of the logits, of one that ends with their activation."""
    if isinstance(module, torch.nn.Sequential):
        return module[:-1]
    return type(module)(module.steps[:-1], module.sources[:-1]).train()


def _torch_rule(torch: Any, optimizer: Optimizer, module: Any) -> Any:
    rate = float(optimizer.learning_rate)  # type: ignore[arg-type]  # a peer's training has no schedules
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
