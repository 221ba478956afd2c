"""Batches: the rows of each step, and the sum of their weights; both are known before a chunk begins.

With `fit(mixup=)` each row of a batch is mixed with another row before the backend sees the batch, so all
backends, on any number of threads, train on the same numbers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.seeding import words
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.network import Network
from fastmlp.model.rows import SparseRows, unpacked


class Orders(Protocol):
    """Orders of the rows of epochs; how many are drawn at once changes nothing."""

    def draw(self, epoch: int, out: NDArray[np.int64], window: int = 0) -> None:
        """Write the orders of epochs from `epoch` on to out (epochs, rows).

        epoch : at least the last drawn epoch; window : number of the window with these rows
        """


Steps = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""(order, starts, stops, rows) of steps: step s visits order[starts[s]:stops[s]], rows[s] of them."""


def batches_of(rows: int, batch_size: int, joins: bool) -> int:
    """Return the batches of an epoch. joins : True for a single last row to join the batch before"""
    whole, left = divmod(rows, batch_size)
    return whole + (left > (1 if joins and whole else 0))


class Batches:
    """The rows in memory of each step; orders are drawn as training reaches the epochs.

    Rows in memory are a single window with all steps; `fastmlp.blocks` has several windows.

    orders : None for rows in natural order; window : the window's number in the epoch, for orders
    before : earlier epochs, not counted here
    joins : see `batches_of`; microbatch : see `Chunk`; most : the most rows taken together
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        orders: Orders | None,
        joins: bool = False,
        microbatch: int = 0,
        before: int = 0,
        window: int = 0,
    ) -> None:
        self.rows, self.epoch_step = rows, 0
        self.batch_size, self.microbatch = batch_size, microbatch
        self.per_epoch = batches_of(rows, batch_size, joins)
        self.most = max(batch_size, rows - (self.per_epoch - 1) * batch_size)
        if microbatch:
            self.most = microbatch + joins
        self.orders, self._before, self._window = orders, before, window
        self._first = 0  # the epoch of the first row of _orders
        if orders is not None:
            self._orders = np.empty((0, rows), np.int64)

    @functools.cached_property
    def _natural(self) -> NDArray[np.int64]:
        """Rows in natural order."""
        return np.arange(self.rows)

    def steps_left(self, step: int) -> int:
        """Return the window's steps from a step on: all later steps."""
        return sys.maxsize

    def next(self, stopped: Callable[[], bool]) -> Data | None:
        """Return None: there is no other window."""
        return None

    def ends_epoch(self, step: int) -> bool:
        """Return True if a step begins an epoch."""
        return step % self.per_epoch == 0

    def advance(self, step: int) -> None:
        """Go on to a step."""

    def rows_before(self, step: int) -> int:
        """Return how many rows are visited in the first `step` steps."""
        within = step % self.per_epoch * self.batch_size  # divmod and min are calls, and this asks thrice
        return step // self.per_epoch * self.rows + (within if within < self.rows else self.rows)

    def resume(self, step: int, epoch_step: int, epochs: int) -> None:
        """Go on from a snapshot: the step alone says which rows are next."""

    def steps_within(self, visits: int) -> int:
        """Return how many steps visit about `visits` rows; without a bound if no orders are drawn."""
        return max(1, visits // self.batch_size) if self.orders else sys.maxsize

    def visit(self, step: int, count: int) -> Steps:
        """Return the rows of `count` steps from `step` on; nothing may write to these arrays."""
        first, within = divmod(step, self.per_epoch)
        bounds_of = cached_bounds if count <= CACHED_STEPS else bounds
        steps = bounds_of(self.rows, self.batch_size, self.per_epoch, within, count, self.orders is not None)
        if self.orders is None:
            return self._natural, *steps
        last = (step + count - 1) // self.per_epoch
        orders = self._orders[first - self._first :]
        held = len(orders)
        if held <= last - first:  # else nothing is copied: an epoch of 10 million rows takes many chunks
            grown = np.empty((last + 1 - first, self.rows), np.int64)
            grown[:held] = orders
            self.orders.draw(self._before + first + held, grown[held:], self._window)
            orders = grown
        self._orders, self._first = orders, first
        return orders.reshape(-1), *steps

    def cached(self, step: int, count: int, rates: tuple[float, float]) -> Chunk | None:
        """Return the recurring chunk of `count` steps from `step` on, see `cached_chunk`; else None."""
        if self.orders is not None or max(self.rows, count) > CACHED_STEPS:
            return None
        within = step % self.per_epoch
        sizes = self.rows, self.batch_size, self.per_epoch, self.most, self.microbatch
        return cached_chunk(*sizes, within, count, rates)


def bounds(
    rows: int, batch_size: int, per_epoch: int, within: int, count: int, drawn: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return (starts, stops, rows) of `count` steps, from step `within` of an epoch.

    An epoch's last batch has all rows left. drawn : True for an order of several epochs, False for `arange`
    """
    if per_epoch == 1 and not drawn:  # else 10 ns a step: a tenth of the smallest one
        starts, stops = np.zeros(count, np.int64), np.full(count, rows)
    else:
        numbers = np.arange(within, within + count)
        epochs = numbers // per_epoch
        indices = numbers - epochs * per_epoch
        starts = indices * batch_size
        stops = np.where(indices == per_epoch - 1, rows, starts + batch_size)
        if drawn:
            starts, stops = starts + epochs * rows, stops + epochs * rows
    return starts, stops, (stops - starts).astype(np.float64)


CACHED_STEPS = 1 << 10
"""The most steps, or rows, of a cached chunk: 48 KiB."""

cached_bounds = functools.lru_cache(maxsize=32)(bounds)


@functools.lru_cache(maxsize=32)
def cached_chunk(
    rows: int,
    batch_size: int,
    per_epoch: int,
    most: int,
    microbatch: int,
    within: int,
    count: int,
    rates: tuple[float, float],
) -> Chunk:
    """Return a read-only chunk at constant rates, of unweighted rows in natural order.

    most, microbatch : as of `Batches`; the others as in `bounds`
    """
    starts, stops, counts = bounds(rows, batch_size, per_epoch, within, count, drawn=False)
    both = np.full((count, 2), rates)
    chunk = Chunk(np.arange(rows), starts, stops, counts, both, most, microbatch=microbatch)
    for array in chunk[:5]:
        array.flags.writeable = False
    return chunk


def visited_weights(
    weights: NDArray[Any], order: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the sum of weights over each step's rows."""
    # reduceat sums between neighbouring bounds; every second one is a step's own rows.
    visited = np.append(weights[order].astype(np.float64), 0.0)
    sums: NDArray[np.float64] = np.add.reduceat(visited, np.stack([starts, stops], axis=1).reshape(-1))
    return sums[::2].copy()  # contiguous: a strided view would compile the whole program once more


MIXED_BYTES = 1 << 24
"""Bytes of mixed rows in memory together, or the bytes of a step if more."""


class Mixing(NamedTuple):
    """Mixing of rows (Zhang and others, "mixup: beyond empirical risk minimization", 2018).

    alpha : of the distribution Beta(alpha, alpha) of a step's fraction
    key : (2,) uint64; key and step determine fraction and pairs
    """

    alpha: float
    key: NDArray[Any]

    @classmethod
    def of(cls, alpha: float, seed: int) -> Self:
        """Return the mixing of a training with this seed."""
        return cls(alpha, words(seed, "mixup")[:2])

    def mixed(self, network: Network, data: Data, chunk: Chunk, step: int) -> tuple[Data, Chunk]:
        """Return the mixed rows of a chunk, step after step, and the chunk on these rows.

        step : updates before the chunk. ValueError for sparse or weighted rows
        """
        if isinstance(data.inputs, SparseRows):
            raise ValueError("mixup mixes dense rows, and X is sparse: give it as an array")
        bits = np.random.Philox(key=self.key)
        rng, state, fractions, others = np.random.Generator(bits), bits.state, [], []
        visited = [chunk.order[start:stop] for start, stop in zip(chunk.starts, chunk.stops, strict=True)]
        for number, rows in enumerate(visited, step):
            state["state"]["counter"][1] = number  # 2^64 blocks of random bits for each step
            bits.state = state
            fractions.append(rng.beta(self.alpha, self.alpha))
            others.append(rng.permutation(rows))
        first, second, counts = np.concatenate(visited), np.concatenate(others), chunk.stops - chunk.starts
        if not (data.weights[first] == 1).all():
            raise ValueError("mixup takes no sample_weight, of which a mixed row would have two")
        fraction = np.repeat(np.array(fractions, data.targets.dtype), counts)[:, None]

        def mix(rows: Any) -> NDArray[Any]:
            first_rows, other = (np.asarray(unpacked(rows[some])) for some in (first, second))
            return fraction * first_rows + (1 - fraction) * other

        targets, stops = mix(data.targets), np.cumsum(counts)
        weights = np.ones(len(first), targets.dtype)
        steps = {"order": np.arange(len(first)), "starts": stops - counts, "stops": stops}
        if network.heads:  # an entry that one of two rows lacks is missing
            counted = network.head_weights(targets, weights)
            steps["head_totals"] = np.add.reduceat(counted, steps["starts"], axis=1)
        return Data(mix(data.inputs), targets, weights), chunk._replace(**steps)
