"""A training as peers take it: what `fastmlp.lab.peers` hands to another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastmlp.model.optimizers import Optimizer
from fastmlp.training.model import Model

Run = Callable[[int], list[float]]
"""run(epochs) trains from the start, and returns the mean loss of each epoch."""


class PeerTraining(NamedTuple):
    """A training that peers take: steps of one network from one start, on the same batches.

    start : the network with its first parameters
    batch : rows of a step, a divisor of all rows
    X : (rows, n_in); y : labels (rows,), or targets (rows, n_out)
    orders : orders(epochs) returns (epochs, steps, batch) int, the rows of each step; None for all in order
    """

    start: Model
    optimizer: Optimizer
    batch: int
    threads: int
    X: NDArray[Any]
    y: NDArray[Any]
    orders: Callable[[int], NDArray[Any]] | None = None
