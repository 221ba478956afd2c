"""Training steps of several ranks: gradients are summed, or parameters averaged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.distributed.ranks import SeveralRanks
from fastmlp.model.backend import (
    Backend,
    Chunk,
    Data,
    Shared,
    counts_of,
    empty_losses,
    evaluated,
    losses_of_part,
)
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import SparseRows, find_nonzero_columns, unpacked
from fastmlp.model.state import Array, TrainState

_unpenalised = functools.lru_cache(maxsize=8)(Network.unpenalised)
"""The same network object for every chunk, by which backends find their prepared programs."""


BUCKET_BYTES, MOST_BUCKETS = 1 << 20, 8
"""The least bytes, and the most buckets, of a gradient for sums during the backward pass."""


class _Spread:
    """Steps of this rank's backend. now : the backend; name : the backend's name"""

    def __init__(self, backend: Backend, ranks: SeveralRanks) -> None:
        self.now, self.name, self._ranks = backend, backend.name, ranks

    def _part(self, data: Data, chunk: Chunk) -> tuple[Chunk, NDArray[np.int64]]:
        """Return the chunk of this rank's rows, and positions (visits,) in the batches of all ranks.

        Some steps may have no row.
        """
        rows, visits = self._ranks.rank_rows(chunk.order[chunk.starts[0] : chunk.stops[-1]])
        steps, counts = len(chunk.starts), chunk.stops - chunk.starts
        step = np.repeat(np.arange(steps), counts)[visits]
        rows_per_step = np.bincount(step, minlength=steps)
        stops, most = np.cumsum(rows_per_step), chunk.most_rows
        if not chunk.microbatch:
            most = int(min(most, max(1, len(data.weights))))
        part = chunk._replace(order=rows, starts=stops - rows_per_step, stops=stops, most_rows=most)
        return part, visits - (np.cumsum(counts) - counts)[step]

    def evaluate(self, network: Network, parameters: Array, data: Data) -> Any:
        """Return the loss over all ranks' rows, with heads an array. data : of this rank"""
        counts = counts_of(network, data)
        totals = self._ranks.total(counts.copy())
        part = np.zeros(len(counts))
        if counts.any():
            part = losses_of_part(counts, totals, self.now.evaluate(network, parameters, data))
        return evaluated(network, self._ranks.total(part))


class SynchronousSteps(_Spread):
    """Steps by the sum of all ranks' gradients, each of the rank's rows of a batch."""

    def train_chunk(
        self,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        """Take a chunk's steps. chunk : rows of all ranks; data : of this rank"""
        local, positions = self._part(data, chunk)
        ranks, gradients = self._ranks, state.gradients
        begun: list[Callable[[], Any]] = []
        goes_by_columns = optimizer.rule.sparse_updates and network.takes_sparse
        nonzero_columns = np.zeros(network.sparse_in, np.bool_) if goes_by_columns else None
        marks = np.zeros(network.table_rows, np.int32) if network.updates_sparsely(optimizer) else None

        def add(s: int, first: int, last: int) -> None:
            if last < gradients.size:
                begun.append(ranks.begin_total(gradients[first:last]))
                return
            ranks.total(gradients[first:last])
            for complete in begun:
                complete()
            begun.clear()
            if nonzero_columns is not None:
                batch = data.inputs[local.order[local.starts[s] : local.stops[s]]]
                nonzero_columns[...] = ranks.total(find_nonzero_columns(unpacked(batch)).astype(np.int32)) > 0
            if marks is not None:
                ranks.total(marks)

        rows = max(1, len(data.weights) * chunk.most_rows // int(ranks.counts.sum()))
        together = gradients.size
        if ranks.overlaps:
            # By the size alone: the order of an MPI's sums may depend on how many numbers a sum is given.
            together = max(BUCKET_BYTES // gradients.itemsize, -(-gradients.size // MOST_BUCKETS))
        whole = chunk.stops - chunk.starts
        shared = Shared(
            positions, add, together, rows, ranks.total, whole, ranks.first, nonzero_columns, marks
        )
        if not ranks.first:
            network = _unpenalised(network)  # penalties count once
        given = data if len(data.weights) else _idle(data)
        state = self.now.train_chunk(
            network, optimizer, state, given, local, key, threads, losses, shared=shared
        )
        ranks.total(losses)
        return state


def _idle(data: Data) -> Data:
    """Return a row of zeros, like the rows of data."""
    inputs, targets, weights = (np.zeros((1, *array.shape[1:]), array.dtype) for array in data)
    given = data.inputs
    row = SparseRows.of(inputs, given.dense.shape[1]) if isinstance(given, SparseRows) else inputs
    return Data(row, targets, weights)


class AveragedSteps(_Spread):
    """Separate steps of each rank, on the rank's rows of a batch, with averages of parameters and moments.

    This is local SGD (Stich, "Local SGD converges fast and communicates little", 2019). Ranks count by the
    weights of all rows. A rank without a row in a batch takes no step for this batch, nor does a rank with a
    single row and a `BatchNorm`. Ranks draw different dropout masks.

    per_epoch : steps to an epoch; since : steps before the first epoch of so many
    """

    def __init__(
        self, backend: Backend, ranks: SeveralRanks, per_epoch: int, since: int, weights: Array
    ) -> None:
        super().__init__(backend, ranks)
        self._per_epoch, self._since = per_epoch, since
        local = slice(ranks.at, ranks.at + int(ranks.counts[ranks.rank]))
        self._fraction = float(weights[local].sum(dtype=np.float64) / weights.sum(dtype=np.float64))

    def train_chunk(
        self,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        """Take a chunk's steps. chunk : rows of all ranks within an epoch; data : of this rank"""
        local, _ = self._part(data, chunk)
        if local.microbatch:
            most = -(-local.microbatch // self._ranks.size)
            local = local._replace(microbatch=max(1 + network.needs_batches, most))
        steps = len(local.starts)
        step = np.repeat(np.arange(steps), local.stops - local.starts)
        alone = network.needs_batches & (local.stops - local.starts == 1)

        def visited(weights: Array) -> Array:
            return np.where(alone, 0.0, np.bincount(step, weights[local.order], steps))

        heads = network.head_weights(data.targets, data.weights) if network.heads else None
        local = local._replace(
            totals=visited(data.weights),
            head_totals=None if heads is None else np.array([*map(visited, heads)]),
            stops=np.where(alone, local.starts, local.stops),
        )
        key = (key + self._ranks.rank * 0x9E3779B9) % 2**32
        losses[...] = 0.0
        for first, last in self._windows(local, state.step):
            if local.starts[first] == local.stops[first]:
                state = state._replace(step=state.step + last - first)
            else:
                taken = empty_losses(network, last - first)
                part = local.part(first, last)
                state = self.now.train_chunk(network, optimizer, state, data, part, key, threads, taken)
                losses[..., first:last] = taken
            if self._averages_at(state.step):
                self._average(optimizer, state)
        _weigh(network, losses, local, chunk)
        if not checks.finite(state.parameters):
            losses[..., -1] = np.nan  # so that all ranks look for the diverged step together
        self._ranks.total(losses)
        return state

    def _windows(self, chunk: Chunk, done: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) of steps up to an average, all with rows or all without."""
        idle = chunk.starts == chunk.stops
        first, steps = 0, len(chunk.starts)
        for last in range(1, steps + 1):
            if last == steps or idle[last] != idle[first] or self._averages_at(done + last):
                yield first, last
                first = last

    def _averages_at(self, done: int) -> bool:
        assert self._ranks.average_every is not None
        within = (done - self._since) % self._per_epoch
        return within == 0 or within % self._ranks.average_every == 0

    def _average(self, optimizer: Optimizer, state: TrainState) -> None:
        for array in (state.parameters, state.moments[: optimizer.moment_rows]):
            if array.size:
                array *= array.dtype.type(self._fraction)
                self._ranks.total(array)


def _weigh(network: Network, losses: NDArray[np.float64], local: Chunk, whole: Chunk) -> None:
    """Multiply losses (.., steps) by the rank's fraction of each batch's weights."""

    def fractions(counts: Array, totals: Array) -> Array:
        return np.divide(counts, totals, out=np.zeros_like(totals), where=totals > 0)

    if local.head_totals is None or whole.head_totals is None:
        losses *= fractions(local.totals, whole.totals)
        return
    penalties = losses[0] - network.sum_of_heads(losses[1:])
    losses[1:] *= fractions(local.head_totals, whole.head_totals)
    losses[0] = network.sum_of_heads(losses[1:]) + penalties * fractions(local.totals, whole.totals)
