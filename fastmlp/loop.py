"""The training loop: chunks of steps for the backend, and everything that happens between them."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp.archive import CheckpointError
from fastmlp.backend import Backend, Chunk, Data
from fastmlp.budget import blas_threads
from fastmlp.callbacks import Callback, Run
from fastmlp.divergence import Backup, DivergenceError, last_finite, sound
from fastmlp.interrupts import deferred
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.state import Snapshot, TrainState

CHUNK_SECONDS = 0.2
"""Python is heard again after so much compiled work: Ctrl-C, callbacks and clocks answer."""

MAX_CHUNK_STEPS = 1 << 14
"""Bounds what a chunk's rates and losses take, 0.6 MiB: 10 ns a step less than with four times that."""

MAX_CHUNK_VISITS = 1 << 22
"""Bounds what the row orders drawn for one chunk take: 32 MiB, or two epochs' if that is more."""


class Orders(Protocol):
    """Draws the orders in which epochs visit the rows; how many are drawn at once changes nothing."""

    state: dict[str, Any]
    """Of the generator, in what JSON can write; setting it goes back to there. Empty: cannot be resumed."""

    def draw(self, out: NDArray[np.int64]) -> None:
        """Write the orders of the next epochs to out (epochs, rows)."""


class Plan(NamedTuple):
    """What stays the same throughout a training.

    orders : None visits the rows as they stand
    stays_finite : whether a loss or parameter that is not finite raises DivergenceError
    setting : for a `Snapshot`
    """

    network: Network
    optimizer: Optimizer
    backend: Backend
    data: Data
    held_out: Data | None
    epochs: int
    batch_size: int
    orders: Orders | None
    dropout_key: int
    threads: int | None
    stays_finite: bool
    setting: dict[str, Any]


def train(
    plan: Plan, state: TrainState, callbacks: Sequence[Callback], resumed: Snapshot | None = None
) -> Run:
    """Train in place on state.parameters and state.moments; return the finished run.

    Schedules, Adam's corrections and dropout count on from state.step; the run counts from 0.
    Raises DivergenceError if a loss or a parameter becomes something that is not finite and shall not.
    """
    training = _Training(plan, state, callbacks, resumed)
    run = training.run
    begun: list[Callback] = []
    with deferred(run.stop) as signals:
        try:
            for callback in callbacks:
                callback.on_train_begin(run)
                begun.append(callback)
            if resumed is not None:
                for callback, (_, saved) in zip(with_state(callbacks), resumed.callbacks, strict=True):
                    _take_over(callback, run, saved)
            with blas_threads(plan.threads):
                training.run_chunks()
        finally:
            # All that began shall end, in their order, even if one of them raises.
            with ExitStack() as ends:
                for callback in reversed(begun):
                    ends.callback(callback.on_train_end, run)
    run.interrupted = signal.SIGINT in signals
    return run


def _take_over(callback: Callback, run: Run, saved: dict[str, Any]) -> None:
    try:
        callback.load_state_dict(run, saved)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the checkpoint's state of {type(callback).__name__} is not sound: {reason}"
        ) from error


class _Training:
    """A training under way: the run that callbacks see, and what they do not."""

    def __init__(
        self, plan: Plan, state: TrainState, callbacks: Sequence[Callback], resumed: Snapshot | None
    ) -> None:
        rows = plan.data.inputs.shape[0]
        history: dict[str, list[float]] = {"loss": []}
        if plan.held_out is not None:
            history["validation_loss"] = []
        self.plan, self.state, self.callbacks = plan, state, callbacks
        self.steps_before = state.step
        self.batches = Batches(rows, plan.batch_size, plan.orders)
        self.losses = EpochLosses(self.batches.per_epoch)
        self.run = Run(
            plan.network, state.parameters, state.moments, plan.epochs, rows, history, self.snapshot
        )
        if resumed is not None:
            self._resume(resumed)

    def _resume(self, saved: Snapshot) -> None:
        state, run = self.state, self.run
        state.parameters[...] = saved.parameters
        state.moments[: len(saved.moments)] = saved.moments
        self.state = state._replace(step=saved.step)
        self.batches.resume(saved.step, saved.order, saved.order_state)
        self.losses.pending = saved.pending
        run.step = saved.step
        run.rows_seen = self.batches.rows_before(saved.step)
        run.history.update(saved.history)
        run.epoch = len(run.history["loss"])

    def snapshot(self) -> Snapshot:
        order, order_state = self.batches.position(self.run.step)
        return Snapshot(
            setting=self.plan.setting,
            parameters=self.state.parameters,
            moments=self.state.moments[: self.plan.optimizer.moment_rows],
            step=self.run.step,
            order=order,
            order_state=order_state,
            pending=self.losses.pending,
            history=self.run.history,
            callbacks=[(type(c).__name__, c.state_dict()) for c in with_state(self.callbacks)],
        )

    def advance(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        """Take the chunk's steps in place; return the state and the objectives (steps,)."""
        plan, objectives = self.plan, np.empty(len(chunk.starts))
        state = plan.backend.train_chunk(
            plan.network, plan.optimizer, state, plan.data, chunk, plan.dropout_key, plan.threads, objectives
        )
        return state, objectives

    def run_chunks(self) -> None:
        plan, run, batches = self.plan, self.run, self.batches
        backup = Backup(self.state, plan.optimizer.moment_rows)
        uniform = bool((plan.data.weights == 1).all())
        hearing = [callback for callback in self.callbacks if _wants_epochs(callback)]
        total = plan.epochs * batches.per_epoch
        steps = _first_guess(self.state.parameters.size, plan.batch_size)
        while run.step < total and run.stop_reason is None:
            steps = min(steps, MAX_CHUNK_STEPS, batches.steps_within(MAX_CHUNK_VISITS), total - run.step)
            heard = [run.epoch + 1] if plan.held_out is not None else [c.hear_by(run) for c in hearing]
            if heard:
                within = run.step % batches.per_epoch
                steps = min(steps, (min(heard) - run.epoch) * batches.per_epoch - within)
            numbers = np.arange(run.step, run.step + steps)
            visits = batches.visit(numbers)
            totals = visited_weights(plan.data.weights, uniform, *visits)
            rates = plan.optimizer.rates(self.steps_before + numbers, batches.per_epoch)
            chunk = Chunk(*visits, totals, run.rate_factor * rates, batches.batch_size)

            if plan.stays_finite:
                backup.keep(self.state)
            began = time.perf_counter()
            self.state, objectives = self.advance(self.state, chunk)
            seconds = time.perf_counter() - began
            if plan.stays_finite and not sound(objectives, run.parameters):
                self.state, objectives = last_finite(self.advance, self.state, chunk, backup)

            run.step = self.state.step - self.steps_before
            run.rows_seen = batches.rows_before(run.step)
            by_rows = plan.network.convention == "sklearn"
            counts = (chunk.stops - chunk.starts).astype(np.float64) if by_rows else totals
            run.history["loss"] += self.losses.add(counts[: len(objectives)], objectives)
            run.epoch = len(run.history["loss"])
            if len(objectives) < steps:
                raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
            if heard and run.step % batches.per_epoch == 0:
                self._end_epoch()
            for callback in self.callbacks:
                callback.on_chunk_end(run)
            # The first chunk may have compiled; the next one after it then starts small and recovers.
            steps = max(1, int(steps * CHUNK_SECONDS / max(seconds, 1e-9)))

    def _end_epoch(self) -> None:
        plan, run = self.plan, self.run
        if plan.held_out is not None:
            loss = plan.backend.evaluate(plan.network, run.parameters, plan.held_out)
            if plan.stays_finite and not math.isfinite(loss):
                raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
            run.history["validation_loss"].append(loss)
        for callback in self.callbacks:
            callback.on_epoch_end(run)


def with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks that have a state to save."""
    return [c for c in callbacks if type(c).state_dict is not Callback.state_dict]


def _wants_epochs(callback: Callback) -> bool:
    return getattr(callback.on_epoch_end, "__func__", None) is not Callback.on_epoch_end


def _first_guess(parameters: int, batch_size: int) -> int:
    """Return how many steps surely fit into a chunk: 6 flops a weight and row at 2 GF/s."""
    return max(1, int(CHUNK_SECONDS * 2e9 / (6 * parameters * batch_size)))


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
        """Return (order, order_state) of a `Snapshot` before the given step, to which orders are drawn."""
        epoch, within = divmod(step, self.per_epoch)
        drawn = self._orders[epoch - self._first :] if within else self._orders[:0]
        return drawn.reshape(-1), {} if self._draws is None else self._draws.state

    def resume(self, step: int, order: NDArray[np.int64], order_state: dict[str, Any]) -> None:
        """Go on from a `position`."""
        self._first = step // self.per_epoch
        self._orders = order.reshape(-1, self.rows)
        if self._draws is not None:
            self._draws.state = order_state

    def steps_within(self, visits: int) -> int:
        """Return how many steps may be asked for at once so that about `visits` rows are drawn."""
        return max(1, visits // self.batch_size) if self._draws else MAX_CHUNK_STEPS

    def visit(
        self, steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (order, starts, stops) of consecutive steps: step s visits order[starts[s]:stops[s]]."""
        epochs, within = np.divmod(steps, self.per_epoch)
        starts = within * self.batch_size
        stops = np.minimum(starts + self.batch_size, self.rows)
        if self._draws is None:
            return self._natural, starts, stops
        first, last = int(epochs[0]), int(epochs[-1])
        orders = self._orders[first - self._first :]
        held = len(orders)
        if held <= last - first:  # else no copy: an epoch of 10 million rows may take many chunks
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


HEADROOM = 2.0**-64
"""Keeps the sum of an epoch's finite losses finite; a power of two rounds nothing."""


class EpochLosses:
    """Means over epochs of the steps' objectives, whatever the chunks' bounds."""

    def __init__(self, per_epoch: int) -> None:
        self._per_epoch = per_epoch
        self.pending = np.empty((2, 0))
        """(2, steps) of the epoch under way: objectives times weights times HEADROOM, and weights."""

    def add(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> list[float]:
        """Take the next steps' objectives (steps,), and what each counts in its epoch's mean.

        Returns the mean of every epoch that is now complete.
        """
        if self._per_epoch == 1:  # its own mean: what follows would take 4 ns a step, of 100 in the smallest
            return objectives.tolist()
        fresh = np.stack([objectives * (counts * HEADROOM), counts])
        self.pending = np.concatenate([self.pending, fresh], axis=1)
        complete = self.pending.shape[1] // self._per_epoch
        bound = complete * self._per_epoch
        done = self.pending[:, :bound].reshape(2, complete, self._per_epoch).sum(axis=2)
        self.pending = self.pending[:, bound:]
        return (done[0] / done[1] / HEADROOM).tolist()
