"""The steps that several ranks take together, in the place of a backend's (`fastmlp.training.loop.Steps`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.distributed.ranks import SeveralRanks
from fastmlp.model.backend import Backend, Chunk, Data, Shared
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import SparseRows, touched_by
from fastmlp.model.state import TrainState

Array = NDArray[Any]


class _Spread:
    """What both ways have in common. now : the backend that computes on this rank; name : its"""

    def __init__(self, backend: Backend, ranks: SeveralRanks) -> None:
        self.now, self.name, self._ranks = backend, backend.name, ranks

    def _part(self, data: Data, chunk: Chunk) -> tuple[Chunk, NDArray[np.int64]]:
        """Return the chunk of this rank's rows, some steps of which may have none, and (visits,) places.

        A place is where a row stands in the batch of all ranks.
        """
        rows, visits = self._ranks.own(chunk.order[chunk.starts[0] : chunk.stops[-1]])
        steps, counts = len(chunk.starts), chunk.stops - chunk.starts
        step = np.repeat(np.arange(steps), counts)[visits]
        own = np.bincount(step, minlength=steps)
        stops = np.cumsum(own)
        part = chunk._replace(
            order=rows,
            starts=stops - own,
            stops=stops,
            batch_size=int(min(chunk.batch_size, max(1, len(data.weights)))),
        )
        return part, visits - (np.cumsum(counts) - counts)[step]

    def evaluate(self, network: Network, parameters: Array, data: Data) -> float:
        """Return the loss over all ranks' rows; data has this rank's."""
        own = data.weights.sum(dtype=np.float64, keepdims=True)
        share = float(own[0] / self._ranks.total(own.copy())[0])
        loss = np.array([share * self.now.evaluate(network, parameters, data) if share else 0.0])
        return float(self._ranks.total(loss)[0])


class SynchronousSteps(_Spread):
    """Each rank forms the gradient of its rows of a batch; the sum is the batch's, and all take its step."""

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
        """As a backend's; chunk has the rows of all ranks, data this rank's."""
        own, places = self._part(data, chunk)
        ranks, gradients = self._ranks, state.gradients
        begun: list[Callable[[], Any]] = []
        touched = np.zeros(network.sizes[0], np.bool_) if optimizer.rule.touched_only else None

        def add(s: int, first: int, last: int) -> None:
            if last < gradients.size:
                begun.append(ranks.begin_total(gradients[first:last]))
                return
            ranks.total(gradients[first:last])
            for complete in begun:
                complete()
            begun.clear()
            if touched is not None:
                batch = data.inputs[own.order[own.starts[s] : own.stops[s]]]
                touched[...] = ranks.total(touched_by(unpacked(batch)).astype(np.int32)) > 0

        rows = max(1, len(data.weights) * chunk.batch_size // int(ranks.counts.sum()))
        together = numbers_together(gradients) if ranks.overlaps else gradients.size
        shared = Shared(places, add, together, rows, touched)
        if not ranks.first:
            network = replace(network, l1=0.0, l2=0.0)  # penalties count once
        given = data if len(data.weights) else _idle(data)
        state = self.now.train_chunk(network, optimizer, state, given, own, key, threads, losses, shared)
        ranks.total(losses)
        return state


PIECE_BYTES, MOST_PIECES = 1 << 20, 8
"""What of a gradient is summed together at least, and in how many pieces it is summed at most."""


def numbers_together(gradients: Array) -> int:
    """Return how many numbers of a gradient (P,) are summed together while others are formed.

    By its size alone: the order of an MPI's sums may depend on how many numbers it is given.
    """
    return max(PIECE_BYTES // gradients.itemsize, -(-gradients.size // MOST_PIECES))


def _idle(data: Data) -> Data:
    """Return one row of zeros, like the rows of data."""
    inputs, targets, weights = (np.zeros((1, *array.shape[1:]), array.dtype) for array in data)
    return Data(SparseRows.of(inputs) if isinstance(data.inputs, SparseRows) else inputs, targets, weights)


class AveragedSteps(_Spread):
    """Each rank takes steps by itself, on its rows of every batch; parameters and moments are averaged.

    That is local SGD (Stich, "Local SGD converges fast and communicates little", 2019). Ranks count by the
    weights of all of their rows. A rank that has no row in a batch takes no step then. Each has dropout masks
    of its own.

    per_epoch : steps to an epoch; since : steps before the first epoch of so many
    """

    def __init__(
        self, backend: Backend, ranks: SeveralRanks, per_epoch: int, since: int, weights: Array
    ) -> None:
        super().__init__(backend, ranks)
        self._per_epoch, self._since = per_epoch, since
        own = slice(ranks.at, ranks.at + int(ranks.counts[ranks.rank]))
        self._share = float(weights[own].sum(dtype=np.float64) / weights.sum(dtype=np.float64))

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
        """As a backend's; chunk has the rows of all ranks within an epoch, data this rank's."""
        own, _ = self._part(data, chunk)
        step = np.repeat(np.arange(len(losses)), own.stops - own.starts)
        weights = np.bincount(step, data.weights[own.order], len(losses))
        own = own._replace(totals=weights.astype(np.float64, copy=False))
        key = (key + self._ranks.rank * 0x9E3779B9) % 2**32
        losses[...] = 0.0
        for first, last in self._windows(own, state.step):
            some = slice(first, last)
            if own.starts[first] == own.stops[first]:
                state = state._replace(step=state.step + last - first)
            else:
                taken = own.part(first, last)
                state = self.now.train_chunk(
                    network, optimizer, state, data, taken, key, threads, losses[some]
                )
            if self._averages_at(state.step):
                self._average(optimizer, state)
        losses *= np.divide(own.totals, chunk.totals, out=np.zeros_like(losses), where=chunk.totals > 0)
        if not checks.finite(state.parameters):
            losses[-1] = np.nan  # so that all ranks learn of it, and look for the step together
        self._ranks.total(losses)
        return state

    def _windows(self, own: Chunk, done: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) of steps that end where an average is due, all with rows or all without."""
        idle = own.starts == own.stops
        first, steps = 0, len(own.starts)
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
                array *= array.dtype.type(self._share)
                self._ranks.total(array)


def steps_of_all(
    backend: Backend, ranks: SeveralRanks, per_epoch: int, data: Data, since: int
) -> SynchronousSteps | AveragedSteps:
    """Return how the ranks take steps.

    per_epoch : steps to an epoch; data : this rank's rows; since : steps before the first epoch of so many
    """
    if ranks.average_every is None:
        return SynchronousSteps(backend, ranks)
    return AveragedSteps(backend, ranks, per_epoch, since, ranks.weights(data))
