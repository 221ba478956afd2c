"""The error of a model that has diverged in a block, found without a training of its own.

What the chunk began with is kept, so that only its steps are taken again, up to the one that went wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.averages import exchange
from fastmlp.model.backend import Backend, Chunk, Data
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState
from fastmlp.training.divergence import DivergenceError, last_finite
from fastmlp.training.draft import Draft
from fastmlp.training.epoch_losses import EpochLosses


def up_to_the_worst(chunk: Chunk, objectives: NDArray[np.float64]) -> Chunk:
    """Return the chunk up to its first step whose objective is not finite; all of it if there is none."""
    wrong = np.flatnonzero(~np.isfinite(objectives))
    return chunk.part(0, int(wrong[0]) + 1) if len(wrong) else chunk


def divergence_of(
    backend: Backend,
    network: Network,
    optimizer: Optimizer,
    key: int,
    data: Data,
    state: TrainState,
    chunk: Chunk,
    losses: EpochLosses,
    curve: list[float],
) -> DivergenceError:
    """Return the error that the model's own training raises.

    key : of the dropout masks; state : before the chunk, which is written to
    losses, curve : of the epoch under way then, and of those before it
    """

    def advance(state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        objectives = np.empty(len(chunk.starts))
        exchange(network, optimizer, state.parameters, state.moments, state.step)
        after = backend.train_chunk(network, optimizer, state, data, chunk, key, 1, objectives)
        exchange(network, optimizer, after.parameters, after.moments, after.step)
        return after, objectives

    state, objectives = last_finite(advance, state, chunk, Draft(optimizer.moment_rows, 1))
    means: list[Any] = losses.means(chunk.totals[: len(objectives)], objectives).reshape(-1).tolist()
    history = {"loss": [*curve, *means]}
    return DivergenceError(len(history["loss"]), state.step, state.parameters, history)
