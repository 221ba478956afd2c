"""Other libraries that take the same training steps, where they are installed, as rows of the same table.

Each begins from the same weights, visits the same batches, and is held to the reference's losses before it is
timed. `python -m benchmarks.peers` adds others, and other ways of these, each in a process of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastmlp.lab import sklearn_steps, torch_steps
from fastmlp.lab.peer_training import PeerTraining, Run
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer


class Peer(NamedTuple):
    """A library that trains networks.

    title : its name in tables
    fits : fits(network, optimizer) says whether it takes the same steps
    ways : ways(training) returns by name the ways to take them: functions that prepare and return a `Run`
    off_by_adam : how far its losses may be off by Adam beyond roundings, relatively: where epsilon is added
    """

    title: str
    fits: Callable[[Network, Optimizer], bool]
    ways: Callable[[PeerTraining], Mapping[str, Callable[[], Run]]]
    off_by_adam: float = 0.0


PEERS = {
    "torch": Peer("PyTorch", torch_steps.fits, torch_steps.ways),
    "sklearn": Peer("scikit-learn", sklearn_steps.fits, sklearn_steps.ways, off_by_adam=1e-5),
}
"""The peers by the names of their packages."""


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
