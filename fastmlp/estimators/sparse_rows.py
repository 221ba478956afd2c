"""Sparse inputs: only the rows of the next steps become dense, never the whole matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from fastmlp.model.backend import Array, Backend, Chunk, Data, loss_in_parts
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState

DENSE_BYTES = 1 << 24
"""Bytes of the dense rows at a time, unless one batch takes more: 16 MiB."""


def rows_at_once(inputs: Any) -> int:
    """Return how many rows of a sparse matrix may be dense at a time."""
    return max(1, DENSE_BYTES // (inputs.shape[1] * inputs.dtype.itemsize))


def blocks(inputs: Any) -> Iterator[slice]:
    """Yield slices that cover all rows of a sparse matrix."""
    size = rows_at_once(inputs)
    for start in range(0, inputs.shape[0], size):
        yield slice(start, min(start + size, inputs.shape[0]))


def for_sparse_rows(backend: Backend) -> Backend:
    """Return the backend with functions for inputs that are a CSR matrix (rows, n_in).

    Only evaluate and train_chunk: nothing else is asked about a CSR matrix.
    """

    def evaluate(network: Network, parameters: Array, data: Data) -> float:
        if not scipy.sparse.issparse(data.inputs):  # the user gave dense validation rows
            return backend.evaluate(network, parameters, data)

        def loss_of(rows: slice) -> float:
            return backend.evaluate(network, parameters, _dense(data, rows))

        return loss_in_parts(data.weights, blocks(data.inputs), loss_of)

    def train_chunk(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        for first, last in _groups(chunk, rows_at_once(data.inputs)):
            begin = chunk.starts[first]
            rows = chunk.order[begin : chunk.stops[last - 1]]
            steps = Chunk(
                np.arange(len(rows)),
                chunk.starts[first:last] - begin,
                chunk.stops[first:last] - begin,
                chunk.totals[first:last],
                chunk.rates[first:last],
                chunk.batch_size,
            )
            part = _dense(data, rows)
            state = backend.train_chunk(
                network, optimizer, state, part, steps, key, threads, losses[first:last]
            )
        return state

    return backend._replace(evaluate=evaluate, train_chunk=train_chunk)


def _dense(data: Data, rows: Any) -> Data:
    inputs: Any = data.inputs
    return Data(inputs[rows].toarray(), data.targets[rows], data.weights[rows])


def _groups(chunk: Chunk, rows: int) -> Iterator[tuple[int, int]]:
    """Yield [first, last) of steps whose rows are adjacent in the order: at most `rows`, or a single step."""
    first = 0
    for step in range(1, len(chunk.starts)):
        apart = chunk.starts[step] != chunk.stops[step - 1]
        if apart or chunk.stops[step] - chunk.starts[first] > rows:
            yield first, step
            first = step
    yield first, len(chunk.starts)
