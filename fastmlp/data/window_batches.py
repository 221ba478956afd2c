"""Batches of rows in windows, and validation rows in windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.batches import Orders, Steps, batches_of
from fastmlp.data.sources import Source
from fastmlp.data.windows import RowFormat, Window, Windows
from fastmlp.model.backend import Chunk, Data, counts_of, evaluated, share_of
from fastmlp.model.network import Network
from fastmlp.model.state import NO_ORDER, Snapshot
from fastmlp.system.interrupts import LeftBehind


@dataclass(frozen=True)
class HeldOutBlocks:
    """Rows to validate on that come block by block."""

    source: Source
    row_format: RowFormat

    def loss(
        self, network: Network, loss_of: Callable[[Data], Any], epoch: int, stopped: Callable[[], bool]
    ) -> Any:
        """Return the loss over all rows, given that of a window's; LeftBehind once stopped()."""
        found = []
        with Windows(self.source, self.row_format, 1, "validation ", epoch) as windows:
            while (window := windows.next(stopped)) is not None:
                if (data := window.data).weights.any():
                    found.append((counts_of(network, data), loss_of(data)))
                if window.last:
                    if not found:
                        raise ValueError("the weights of the validation blocks are all zero")
                    totals = np.sum([counts for counts, _ in found], axis=0)
                    shares = [share_of(counts, totals, loss) for counts, loss in found]
                    return evaluated(network, np.sum(shares, axis=0))
                windows.release(window)
        raise LeftBehind


class WindowBatches:
    """The rows of each step in windows; `fastmlp.data.batches.Batches` has rows in memory.

    first : the first window, which has been filled; rows : of an epoch, 0 before that is known
    orders, joins, microbatch, before : as of `Batches`
    """

    per_epoch = None

    def __init__(
        self,
        windows: Windows,
        first: Window,
        rows: int,
        batch_size: int,
        orders: Orders | None,
        joins: bool,
        microbatch: int,
        before: int,
    ) -> None:
        self._windows, self._window, self._first = windows, first, True
        self.batch_size, self._orders, self._joins, self._before = batch_size, orders, joins, before
        self.most = (microbatch or batch_size) + joins
        self.rows = rows
        """Rows of an epoch, 0 before that is known."""
        self.data = first.data
        self._order, self._at, self._step, self._rows_before = NO_ORDER, 0, 0, 0
        self._epochs = 0
        self._skipped = self.epoch_step = self._epoch_rows = self._number = 0
        """Steps of an earlier training left to pass over; of the epoch its first step, its rows visited, and
        the window's number."""
        self._weighs = False
        """Whether one of those rows has a weight other than 0."""
        self._earlier: tuple[dict[str, Any], np.random.Generator] | None = None
        """Of an epoch that a version before 1.0 began: what draws its orders, and its state at first."""

    def resume(self, saved: Snapshot) -> None:
        """Go on from a snapshot; the rows of its epoch before it are read again."""
        self._epochs, self._skipped = len(saved.history["loss"]), saved.epoch_step
        self._step = saved.step - saved.epoch_step
        self._rows_before = self._epochs * self.rows if self.rows else self._step * self.batch_size
        if self._orders is not None and saved.order_state:
            rng = np.random.default_rng()
            rng.bit_generator.state = saved.order_state
            self._earlier = saved.order_state, rng

    def earlier(self, step: int) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Return (order, order_state) of a `Snapshot`."""
        return NO_ORDER, {} if self._earlier is None else self._earlier[0]

    # --- windows ------------------------------------------------------------------------------------

    def steps_left(self, step: int) -> int:
        """Return the steps that the window has rows for.

        Where a row may have to join the batch before it, one batch is left for the next window.
        """
        rows = len(self._order) - self._at
        if self._window.last:
            return batches_of(rows, self.batch_size, self._joins)
        return max(0, rows - self._joins) // self.batch_size

    def next(self, stopped: Callable[[], bool]) -> Data | None:
        """Take up the next window with a step to take; return its rows, None once stopped()."""
        while True:
            if self._epoch_rows and self._window.last:
                raise ValueError(
                    f"epoch {self._epochs + 1} has only {self._epoch_rows} rows; "
                    "the training that goes on had visited them all before it stopped, or more"
                )
            window = self._window if self._first else self._windows.next(stopped)
            if window is None:
                return None
            self._take_up(window)
            if passed := min(self._skipped, self.steps_left(self._step)):
                self._skipped -= passed
                self._pass_over(self._step + passed)
            if self.steps_left(self._step):
                return self.data

    def _take_up(self, window: Window) -> None:
        """Begin a window, behind the rows left over from the window before."""
        carried = 0
        if window.first:
            self.epoch_step, self._epoch_rows, self._weighs, self._number = self._step, 0, False, 0
        else:
            self._number += 1
            if carried := len(self._order) - self._at:
                window.carry(self.data.take(self._order[self._at :]))
        if window is not self._window:
            self._windows.release(self._window)
        self._window, self.data, self._at, self._first = window, window.data, 0, False
        self._order = np.arange(carried + window.rows)
        if self._orders is not None:
            self._order[carried:] = self._drawn(self._orders, window.rows) + carried

    def _drawn(self, orders: Orders, rows: int) -> NDArray[np.int64]:
        """Return the order of the window's rows."""
        drawn = np.arange(rows)[None]
        if self._earlier is not None:
            return self._earlier[1].permuted(drawn, axis=1)[0]
        orders.draw(self._before + self._epochs, drawn, self._number)
        return drawn[0]

    # --- steps --------------------------------------------------------------------------------------

    def steps_within(self, visits: int) -> int:
        """Return how many steps visit about `visits` rows."""
        return max(1, visits // self.batch_size)

    def ends_epoch(self, step: int) -> bool:
        """Return whether a later step begins an epoch."""
        return self._window.last and step - self._step == self.steps_left(self._step)

    def rows_before(self, step: int) -> int:
        """Return the rows visited before a step of the window, or before the step after the window."""
        if step > self._step and self.ends_epoch(step):
            return self._rows_before + len(self._order) - self._at
        return self._rows_before + (step - self._step) * self.batch_size

    def visit(self, step: int, count: int) -> Steps:
        """Return (order, starts, stops, rows) of the next `count` steps, from `step` on."""
        starts = self._at + self.batch_size * np.arange(count)
        stops = starts + self.batch_size
        if self.ends_epoch(step + count):
            stops[-1] = len(self._order)
        return self._order, starts, stops, (stops - starts).astype(np.float64)

    def kept(self, step: int, count: int, rates: tuple[float, float]) -> Chunk | None:
        """Return no chunk: none recurs."""
        return None

    def advance(self, step: int) -> None:
        """Go on to a step of the window, or to the step after the window.

        ValueError where an epoch ends of which all rows have weight 0.
        """
        ends = self.ends_epoch(step)
        self._pass_over(step)
        if ends:
            self._epochs += 1
            if not self._weighs:
                raise ValueError(f"the weights of epoch {self._epochs} are all zero")
            self.rows, self._epoch_rows, self._earlier = self._epoch_rows, 0, None
            self._rows_before = self._epochs * self.rows  # a training that is resumed did not know that

    def _pass_over(self, step: int) -> None:
        rows = self.rows_before(step) - self._rows_before
        if not self._weighs:
            self._weighs = bool(self.data.weights[self._order[self._at : self._at + rows]].any())
        self._at, self._step = self._at + rows, step
        self._rows_before, self._epoch_rows = self._rows_before + rows, self._epoch_rows + rows
