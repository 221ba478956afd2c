"""Which rows each step visits, and the sum of their weights; both are known before a chunk begins."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Orders(Protocol):
    """Draws the orders in which epochs visit the rows; how many are drawn at once changes nothing."""

    state: dict[str, Any]
    """Of the generator, in JSON's types. Setting it continues from there; {} if that is not possible."""

    def draw(self, out: NDArray[np.int64]) -> None:
        """Write the orders of the next epochs to out (epochs, rows)."""


class Batches:
    """Which rows each step visits; row orders are drawn epoch by epoch as training reaches them."""

    def __init__(self, rows: int, batch_size: int, orders: Orders | None) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.per_epoch = -(-rows // batch_size)
        self._draws = orders
        self._natural = np.arange(rows)
        self._first = 0  # the epoch of the first row of _orders
        self._orders = np.empty((0, rows), np.int64)

    def rows_before(self, step: int) -> int:
        """Return how many rows are visited in the first `step` steps."""
        epochs, within = divmod(step, self.per_epoch)
        return epochs * self.rows + min(within * self.batch_size, self.rows)

    def position(self, step: int) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Return (order, order_state) of a `Snapshot` before the given step; orders are drawn up to there."""
        epoch, within = divmod(step, self.per_epoch)
        drawn = self._orders[epoch - self._first :] if within else self._orders[:0]
        return drawn.reshape(-1), {} if self._draws is None else self._draws.state

    def resume(self, step: int, order: NDArray[np.int64], order_state: dict[str, Any]) -> None:
        """Go on from a `position`."""
        self._first = step // self.per_epoch
        # A copy: a file's arrays are read-only, and a backend would compile once more for such arrays.
        self._orders = order.reshape(-1, self.rows).copy()
        if self._draws is not None and order_state:
            self._draws.state = order_state

    def steps_within(self, visits: int) -> int:
        """Return how many steps visit about `visits` rows; without a bound if no orders are drawn."""
        return max(1, visits // self.batch_size) if self._draws else sys.maxsize

    def visit(
        self, steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (order, starts, stops) of consecutive steps: step s visits order[starts[s]:stops[s]]."""
        if self.per_epoch == 1 and self._draws is None:
            starts = np.zeros(len(steps), np.int64)
            return self._natural, starts, starts + self.rows
        epochs = steps // self.per_epoch
        starts = (steps - epochs * self.per_epoch) * self.batch_size
        stops = np.minimum(starts + self.batch_size, self.rows)
        if self._draws is None:
            return self._natural, starts, stops
        first, last = int(epochs[0]), int(epochs[-1])
        orders = self._orders[first - self._first :]
        held = len(orders)
        if held <= last - first:  # else nothing is copied: an epoch of 10 million rows takes many chunks
            grown = np.empty((last + 1 - first, self.rows), np.int64)
            grown[:held] = orders
            self._draws.draw(grown[held:])
            orders = grown
        self._orders, self._first = orders, first
        base = (epochs - first) * self.rows
        return orders.reshape(-1), starts + base, stops + base


def visited_weights(
    weights: NDArray[Any],
    uniform: bool,
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the sum of weights over each step's rows; `uniform` says that all weights are 1."""
    if uniform:
        return (stops - starts).astype(np.float64)
    # reduceat sums between neighbouring bounds; every second one is a step's own rows.
    visited = np.append(weights[order].astype(np.float64), 0.0)
    sums: NDArray[np.float64] = np.add.reduceat(visited, np.stack([starts, stops], axis=1).reshape(-1))
    return sums[::2].copy()  # contiguous: a strided view would compile the whole program once more
