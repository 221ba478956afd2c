"""The training loop: chunks of steps for the backend, and everything that happens between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import Backend, Chunk, Data
from fastmlp.callbacks import Callback, Run
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.state import TrainState

CHUNK_SECONDS = 0.2
"""Python is heard again after so much compiled work: Ctrl-C, callbacks and clocks answer."""

MAX_CHUNK_STEPS = 1 << 14
"""Bounds what a chunk's rates and losses take, 0.6 MiB: 10 ns a step less than with four times that."""

MAX_CHUNK_VISITS = 1 << 22
"""Bounds what the row orders drawn for one chunk take: 32 MiB, or two epochs' if that is more."""


Orders = Callable[[int], NDArray[np.int64]]
"""orders(epochs) draws the row orders (epochs, rows) of the next epochs, whatever their number."""


class Plan(NamedTuple):
    """What stays the same throughout a training; orders=None visits the rows as they stand."""

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


def train(plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> Run:
    """Train in place on state.parameters and state.moments; return the finished run.

    Schedules, Adam's corrections and dropout count on from state.step.
    """
    rows = plan.data.inputs.shape[0]
    history: dict[str, list[float]] = {"loss": []}
    if plan.held_out is not None:
        history["validation_loss"] = []
    run = Run(plan.network, state.parameters, state.moments, plan.epochs, rows, history)
    begun: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_train_begin(run)
            begun.append(callback)
        with blas_threads(plan.threads):
            _run_chunks(plan, state, run, callbacks)
    finally:
        # All that began shall end, in their order, even if one of them raises.
        with ExitStack() as ends:
            for callback in reversed(begun):
                ends.callback(callback.on_train_end, run)
    return run


def blas_threads(threads: int | None) -> AbstractContextManager[object]:
    """Hold NumPy's and SciPy's BLAS to `threads`, for the backends that call it, and give it back."""
    if threads is None:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=threads, user_api="blas")


def _run_chunks(plan: Plan, state: TrainState, run: Run, callbacks: Sequence[Callback]) -> None:
    batches = Batches(run.rows, plan.batch_size, plan.orders)
    losses = EpochLosses(batches.per_epoch)
    uniform = bool((plan.data.weights == 1).all())
    hearing = [callback for callback in callbacks if _wants_epochs(callback)]
    total = plan.epochs * batches.per_epoch
    steps = _first_guess(state.parameters.size, plan.batch_size)
    while run.step < total and run.stop_reason is None:
        steps = min(steps, MAX_CHUNK_STEPS, batches.steps_within(MAX_CHUNK_VISITS), total - run.step)
        heard = [run.epoch + 1] if plan.held_out is not None else [c.hear_by(run) for c in hearing]
        if heard:
            within = run.step % batches.per_epoch
            steps = min(steps, (min(heard) - run.epoch) * batches.per_epoch - within)
        numbers = np.arange(run.step, run.step + steps)
        visits = batches.visit(numbers)
        totals = visited_weights(plan.data.weights, uniform, *visits)
        rates = run.rate_factor * plan.optimizer.rates(state.step + numbers - run.step, batches.per_epoch)
        chunk = Chunk(*visits, totals, rates, batches.batch_size)
        objectives = np.empty(steps)

        began = time.perf_counter()
        state = plan.backend.train_chunk(
            plan.network, plan.optimizer, state, plan.data, chunk, plan.dropout_key, plan.threads, objectives
        )
        seconds = time.perf_counter() - began

        run.step += steps
        run.rows_seen += int((chunk.stops - chunk.starts).sum())
        by_rows = plan.network.convention == "sklearn"
        counts = (chunk.stops - chunk.starts).astype(np.float64) if by_rows else totals
        run.history["loss"] += losses.add(objectives, counts)
        run.epoch = len(run.history["loss"])
        if heard and run.step % batches.per_epoch == 0:
            if plan.held_out is not None:
                loss = plan.backend.evaluate(plan.network, state.parameters, plan.held_out)
                run.history["validation_loss"].append(loss)
            for callback in callbacks:
                callback.on_epoch_end(run)
        for callback in callbacks:
            callback.on_chunk_end(run)
        # The first chunk may have compiled; the next one after it then starts small and recovers.
        steps = max(1, int(steps * CHUNK_SECONDS / max(seconds, 1e-9)))


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
        self._draw = orders
        self._natural = np.arange(rows)
        self._first = 0  # the epoch of the first row of _orders
        self._orders = np.empty((0, rows), np.int64)

    def steps_within(self, visits: int) -> int:
        """Return how many steps may be asked for at once so that about `visits` rows are drawn."""
        return max(1, visits // self.batch_size) if self._draw else MAX_CHUNK_STEPS

    def visit(
        self, steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (order, starts, stops) of consecutive steps: step s visits order[starts[s]:stops[s]]."""
        epochs, within = np.divmod(steps, self.per_epoch)
        starts = within * self.batch_size
        stops = np.minimum(starts + self.batch_size, self.rows)
        if self._draw is None:
            return self._natural, starts, stops
        first, last = int(epochs[0]), int(epochs[-1])
        held = self._orders[first - self._first :]
        self._orders, self._first = np.concatenate([held, self._draw(last + 1 - first - len(held))]), first
        base = (epochs - first) * self.rows
        return self._orders.reshape(-1), starts + base, stops + base


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


class EpochLosses:
    """Means over epochs of the steps' objectives, whatever the chunks' bounds."""

    def __init__(self, per_epoch: int) -> None:
        self._per_epoch = per_epoch
        self._pending = np.empty((2, 0))

    def add(self, objectives: NDArray[np.float64], counts: NDArray[np.float64]) -> list[float]:
        """Take the next steps' objectives, each of which counts so much in its epoch's mean.

        Returns the mean of every epoch that is now complete.
        """
        fresh = np.stack([objectives * counts, counts])
        self._pending = np.concatenate([self._pending, fresh], axis=1)
        complete = self._pending.shape[1] // self._per_epoch
        bound = complete * self._per_epoch
        done = self._pending[:, :bound].reshape(2, complete, self._per_epoch).sum(axis=2)
        self._pending = self._pending[:, bound:]
        return (done[0] / done[1]).tolist()
