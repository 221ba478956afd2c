"""The training loop over windows of rows: chunks end where a window does, and nothing else differs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Chunk, counts_of, evaluated, share_of
from fastmlp.model.schedules import Since
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.system.interrupts import LeftBehind
from fastmlp.training.batches import batches_of, visited_weights
from fastmlp.training.callbacks import Callback
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.epoch_losses import HEADROOM, EpochLosses
from fastmlp.training.loop import MAX_CHUNK_STEPS, MAX_CHUNK_VISITS, Plan, Training
from fastmlp.training.sources.blocks import Source
from fastmlp.training.threads import interruptible
from fastmlp.training.windows import RowFormat, Window, Windows


@dataclass(frozen=True)
class HeldOut:
    """Rows to validate on that come block by block."""

    source: Source
    row_format: RowFormat


class OpenLosses(EpochLosses):
    """The mean over an epoch whose number of steps is known at its end."""

    def __init__(self, heads: int) -> None:
        super().__init__(0, heads)
        self._last = np.zeros(1 + heads)

    def add(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> list[list[float]]:
        """Add the next steps' objectives (steps,), each with its weight in the epoch's mean."""
        fresh = np.vstack([objectives * (counts * HEADROOM), counts])
        self.pending = np.concatenate([self.pending, fresh], axis=1)
        if counts.size:
            self._last = np.atleast_2d(objectives)[:, -1]
        return []

    def close(self) -> list[list[float]]:
        """Return the mean of the epoch as a list, with heads one for each row; its bits: `EpochLosses`."""
        steps, done = self.pending.shape[1], self.pending[:, None].sum(axis=2)[:, 0]
        self.pending = self.pending[:, :0]
        means = self._last if steps == 1 else done[:-1] / done[-1] / HEADROOM
        return means[:, None].tolist()


class Streamed(Training):
    """A training under way over windows; `plan.data` is the first of them."""

    def __init__(
        self,
        windows: Windows,
        first: Window,
        held_out: HeldOut | None,
        plan: Plan,
        state: TrainState,
        callbacks: Sequence[Callback],
        resumed: Snapshot | None,
    ) -> None:
        self.windows, self.window, self.blocks_held_out = windows, first, held_out
        self.data, self.at = plan.data, 0
        self.order = np.empty(0, np.int64)
        self.epoch_step = self.epoch_rows = self.skipped = 0
        """The epoch under way: its first step, rows visited, steps of an earlier training left to skip."""
        self.epoch_weighs = False
        """Whether one of those rows has a weight other than 0."""
        self.epoch_state: dict[str, Any] | None = None
        """What draws its orders, as it was when the epoch began; None between two epochs."""
        super().__init__(plan, state, callbacks, None)
        self.losses = self.open_losses = OpenLosses(len(plan.network.heads))
        if resumed is not None:
            self._resume(resumed)
        vars(self.run)["rows"] = windows.rows or 0
        if held_out is not None:
            for name in self.names:
                self.run.history.setdefault(f"validation_{name}", [])
        self._take_up(first)

    # --- windows ------------------------------------------------------------------------------------

    def _take_up(self, window: Window) -> None:
        """Begin with a window, and with what the one before has left over."""
        carried = 0
        if window.first:
            self.epoch_step, self.epoch_rows = self.run.step - self.skipped, 0
            self.epoch_weighs, self.epoch_state = False, self._state()
        elif carried := len(self.order) - self.at:
            window.carry(self.data.take(self.order[self.at :]))
        if window is not self.window:
            self.windows.release(self.window)
        self.window, self.data, self.at = window, window.data, 0
        order = np.arange(carried + window.rows)
        if self.plan.orders is not None:
            drawn = np.empty((1, window.rows), np.int64)
            self.plan.orders.draw(drawn)
            order[carried:] = drawn[0] + carried
        self.order = order
        self.uniform = bool((self.data.weights == 1).all())
        if (network := self.plan.network).heads:
            self.head_weights = network.head_weights(self.data.targets, self.data.weights)

    def _state(self) -> dict[str, Any]:
        return {} if self.plan.orders is None else self.plan.orders.state

    @property
    def _steps_left(self) -> int:
        """The steps that the window has rows for.

        Where a row may have to join the batch before it, one batch is left for the next window.
        """
        rows, joins = len(self.order) - self.at, self.plan.network.needs_batches
        if self.window.last:
            return batches_of(rows, self.plan.batch_size, joins)
        return max(0, rows - joins) // self.plan.batch_size

    def _wait(self) -> bool:
        """Take up the next window; return False if the training shall stop before it is there."""
        window = self.windows.next(lambda: self.run.stop_reason is not None)
        if window is not None:
            self._take_up(window)
        return window is not None

    # --- steps --------------------------------------------------------------------------------------

    def run_chunks(self) -> None:
        """Take the chunks of all epochs, as `Training` does."""
        plan, run = self.plan, self.run
        while run.stop_reason is None and run.epoch < plan.epochs:
            steps = self._steps_left
            if not steps:
                if self.window.last and self.epoch_state is not None:
                    raise ValueError(
                        f"epoch {run.epoch + 1} has only {self.epoch_rows} rows; "
                        "the training that goes on had visited them all before it stopped, or more"
                    )
                if not self._wait():
                    self._end_chunk()
                    return
                continue
            if self.skipped:
                steps = min(steps, self.skipped)
                self.skipped -= steps
                run.rows_seen += self._advance_by(steps)
                continue
            most = min(self.chunk_steps(), MAX_CHUNK_STEPS, max(1, MAX_CHUNK_VISITS // plan.batch_size))
            if not self._take_steps(min(steps, most)):
                return

    def _advance_by(self, steps: int) -> int:
        """Pass over the rows of some steps; return how many."""
        ends = self.window.last and steps == self._steps_left
        rows = len(self.order) - self.at if ends else steps * self.plan.batch_size
        if not self.epoch_weighs:
            passed = self.order[self.at : self.at + rows]
            self.epoch_weighs = self.uniform or bool(self.data.weights[passed].any())
        self.at += rows
        self.epoch_rows += rows
        return rows

    def _take_steps(self, steps: int) -> bool:
        """Take a chunk of steps; return False if the training stops in the middle of them."""
        plan, run = self.plan, self.run
        starts = self.at + plan.batch_size * np.arange(steps)
        stops = starts + plan.batch_size
        ends = self.window.last and steps == self._steps_left
        if ends:
            stops[-1] = len(self.order)
        counts = (stops - starts).astype(np.float64)
        totals = counts if self.uniform else visited_weights(self.data.weights, self.order, starts, stops)
        since = Since(self.first_step + self.epoch_step, plan.since.epoch + run.epoch)
        numbers = self.first_step + np.arange(run.step, run.step + steps)
        rates = run.rate_factor * plan.optimizer.rates(numbers, sys.maxsize, since)
        try:
            most = (plan.microbatch or plan.batch_size) + plan.network.needs_batches
            of_heads = self.head_totals(self.order, starts, stops)
            chunk = Chunk(self.order, starts, stops, totals, rates, most, of_heads, plan.microbatch)
            objectives, validation_loss = self._take(chunk, ends, int(counts.sum()))
        except LeftBehind:  # self.state is as it was
            self._end_chunk()  # a Checkpoint writes here, since the training stops
            return False
        taken = objectives.shape[-1]
        counts = counts if plan.network.convention == "sklearn" else totals
        self.losses.add(counts[:taken], objectives)
        seen = run.rows_seen + self._advance_by(taken)
        run.advance(self.state.step - self.steps_before, seen, run.epoch, self.threads.used)
        if taken < steps:
            raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
        if ends:
            self._close_epoch(validation_loss)
        self._end_chunk()
        return True

    def _close_epoch(self, validation_loss: float | None) -> None:
        run = self.run
        if not self.epoch_weighs:
            raise ValueError(f"the weights of epoch {run.epoch + 1} are all zero")
        self.write(self.open_losses.close())
        run.epoch, self.epoch_state = len(run.history["loss"]), None
        vars(run)["rows"] = self.epoch_rows
        run.rows_seen = run.epoch * self.epoch_rows  # a training that is resumed did not know that
        self._end_epoch(validation_loss)

    def advance(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        """Take the chunk's steps in place, on the window's rows."""
        return self.advance_on(self.data, state, chunk)

    # --- validation ---------------------------------------------------------------------------------

    def validation_loss(self, parameters: NDArray[Any]) -> Any:
        """Return the loss over the rows to validate on, window by window if they come in blocks."""
        held_out = self.blocks_held_out
        if held_out is None:
            return super().validation_loss(parameters)
        network, found = self.plan.network, []
        with Windows(held_out.source, held_out.row_format, 1, "validation ", self.run.epoch) as windows:
            while (window := windows.next(lambda: self.run.stop_reason is not None)) is not None:
                data = window.data
                if data.weights.any():
                    loss_of = functools.partial(self.plan.backend.evaluate, network, parameters, data)
                    found.append((counts_of(network, data), interruptible(self.run, window.rows, loss_of)))
                if window.last:
                    if not found:
                        raise ValueError("the weights of the validation blocks are all zero")
                    totals = np.sum([counts for counts, _ in found], axis=0)
                    shares = [share_of(counts, totals, loss) for counts, loss in found]
                    return evaluated(network, np.sum(shares, axis=0))
                windows.release(window)
        raise LeftBehind

    # --- snapshots ----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return all that the rest depends on; the rows of the epoch before this moment are read again."""
        state = self._state() if self.epoch_state is None else self.epoch_state
        return self.snapshot_at(np.empty(0, np.int64), state)

    def _resume(self, saved: Snapshot) -> None:
        self.take_over(saved)
        self.skipped = saved.pending.shape[1]
        if self.plan.orders is not None and saved.order_state:
            self.plan.orders.state = saved.order_state
        self.run.rows_seen = (saved.step - self.skipped) * self.plan.batch_size
