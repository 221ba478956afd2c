"""What a training calls, before its first step: see `fastmlp.kernels.jit.rehearsal`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.rehearsal import rehearse
from fastmlp.model.backend import Chunk, Data, Predict, TrainChunk
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import initial_state

Array = NDArray[Any]

MOST_ROWS = 4096
"""Of a step that is rehearsed: enough for every way to form a product."""


def prepare(
    train_chunk: TrainChunk,
    predict: Predict,
    network: Network,
    optimizer: Optimizer,
    dtype: str,
    rows: Sequence[int],
) -> bool:
    """Have all that steps of a backend call compiled or loaded; return whether it is.

    Where another process compiles the steps' program, what predictions call is compiled meanwhile.
    rows : of the steps, each number once
    """
    inputs, targets, weights, chunk = _steps_of(network.sizes, dtype, rows)
    state = initial_state(np.zeros(parameter_count(network.sizes), dtype))
    data, out, losses = Data(inputs, targets, weights), np.empty_like(targets), np.empty(len(rows))
    return rehearse(
        lambda: train_chunk(network, optimizer, state, data, chunk, 0, 1, losses),
        lambda: predict(network, state.parameters, inputs, out),
    )


def _steps_of(sizes: Sequence[int], dtype: str, rows: Sequence[int]) -> tuple[Array, Array, Array, Chunk]:
    """Return rows of zeros, and steps on so many of them each, at a rate of 0; no more than `MOST_ROWS`.

    The rows are (most, n_in) inputs, (most, n_out) targets and (most,) weights.
    """
    stops = np.minimum(rows, MOST_ROWS)
    most = int(stops.max())
    inputs, targets, weights = (
        np.zeros(shape, dtype) for shape in ((most, sizes[0]), (most, sizes[-1]), (most,))
    )
    steps = len(stops)
    once = np.zeros(steps, np.int64)
    return (
        inputs,
        targets,
        weights,
        Chunk(np.arange(most), once, stops, np.ones(steps), np.zeros((steps, 2)), most),
    )
