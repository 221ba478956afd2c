"""Other programs that take the same training steps, where they are installed, as rows beside the backends.

Each begins from the same weights, visits the same batches, and is held to the reference's losses before it is
timed.
`python -m benchmarks.peers` compares more of them, over more works.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from fastmlp.lab import sklearn_steps, torch_steps
from fastmlp.lab.timing import Trained
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer


class Peer(NamedTuple):
    """A program that trains networks.

    fits : fits(network, optimizer) says whether it takes the same steps
    trained : trained(model, optimizer, batch, threads, data, epochs, clock) trains a copy of the model
    off_by_adam : how far its losses may be off by Adam beyond roundings, relatively: where epsilon is added
    """

    fits: Callable[[Network, Optimizer], bool]
    trained: Callable[..., Trained]
    off_by_adam: float = 0.0


PEERS = {
    "torch": Peer(torch_steps.fits, torch_steps.trained),
    "sklearn": Peer(sklearn_steps.fits, sklearn_steps.trained, off_by_adam=1e-5),
}
"""By the name of their package."""


def peers_of(network: Network, optimizer: Optimizer) -> list[str]:
    """Return the names of the peers that are installed and take such steps."""
    return [
        name
        for name, peer in PEERS.items()
        if peer.fits(network, optimizer) and importlib.util.find_spec(name) is not None
    ]


def off(name: str, optimizer: Optimizer) -> float:
    """Return how far the losses of a peer, or of a backend, may be off beyond roundings."""
    return PEERS[name].off_by_adam if name in PEERS and isinstance(optimizer, Adam) else 0.0
