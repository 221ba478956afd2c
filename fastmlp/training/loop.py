"""The training loop: it gives chunks of steps to the backend, and does all that happens between them."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.files.archive import CheckpointError
from fastmlp.model.backend import Chunk, Data, Evaluate, TrainChunk, loss_in_parts
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.system import budget
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import LeftBehind, deferred, until_stopped
from fastmlp.training.batches import Batches, Orders, visited_weights
from fastmlp.training.callbacks import Callback, Progress, Run, no_snapshot
from fastmlp.training.divergence import DivergenceError, last_finite, sound
from fastmlp.training.draft import Draft

Result = TypeVar("Result")

CHUNK_SECONDS = 0.2
"""How long a chunk takes. Ctrl-C, callbacks and time limits act only between chunks."""

LONG_SECONDS = 0.5
"""A step that may take so long runs in a thread that Ctrl-C can leave behind; the thread takes 0.1 ms."""

LAYER_SECONDS = 8e-5
"""What the reference takes for a layer in a step, however small: without it a first chunk is too long."""

MAX_CHUNK_STEPS = 1 << 14
"""Bounds a chunk's rates and losses to 0.6 MiB. With four times as many a step takes 10 ns more."""

MAX_CHUNK_VISITS = 1 << 22
"""Bounds the row orders that are drawn for one chunk to 32 MiB, or to two epochs' if that is more."""


class Steps(Protocol):
    """What a training asks of a backend: see `fastmlp.model.backend.Backend`."""

    @property
    def train_chunk(self) -> TrainChunk:
        """Take the steps of a chunk."""

    @property
    def evaluate(self) -> Evaluate:
        """Return the loss over all rows."""


class Plan(NamedTuple):
    """What stays the same throughout a training.

    orders : None visits the rows as they stand
    stays_finite : whether a loss or parameter that is not finite raises DivergenceError
    setting : for a `Snapshot`
    blas_threads : the limit for the BLAS; None for as many as `threads`
    since : for schedules, where the training begins
    weights : (rows,) of all rows that steps visit, where data has some of them; None where it has all
    """

    network: Network
    optimizer: Optimizer
    backend: Steps
    data: Data
    held_out: Data | None
    epochs: int
    batch_size: int
    orders: Orders | None
    dropout_key: int
    threads: int | None
    stays_finite: bool
    setting: dict[str, Any]
    blas_threads: int | None = None
    since: Since = BEGINNING
    weights: NDArray[Any] | None = None


def train(
    plan: Plan,
    state: TrainState,
    callbacks: Sequence[Callback],
    resumed: Snapshot | None = None,
    begin: Callable[..., Training] | None = None,
) -> Run:
    """Train in place on state.parameters and state.moments; return the finished run.

    Schedules, Adam's corrections and dropout count on from state.step; the run counts from 0. What a later
    training needs to go on from here is in run.left. begin : makes another kind of `Training`
    Raises DivergenceError if a loss or a parameter is no longer finite, unless the plan allows that.
    """
    training = (begin or Training)(plan, state, callbacks, resumed)
    run = training.run
    begun: list[Callback] = []
    with deferred(training.stop) as signals:
        try:
            for callback in callbacks:
                callback.on_train_begin(run)
                begun.append(callback)
            if resumed is not None:
                for callback, (_, saved) in zip(with_state(callbacks), resumed.callbacks, strict=True):
                    if saved:
                        _take_over(callback, run, saved)
            with budget.training(), budget.blas_threads(plan.blas_threads or plan.threads):
                training.run_chunks()
            run.left = training.left()
        finally:
            try:
                if begun:
                    _end(begun, run)
            finally:
                # At the very end the run drops its reference to the training. The cycle would keep every
                # array until the garbage collector runs, which goes by numbers of objects and not by bytes.
                run.snapshot = no_snapshot
    run.interrupted = run.interrupted or signal.SIGINT in signals
    return run


def _end(begun: Sequence[Callback], run: Run) -> None:
    """End every callback that began, in order, even if one of them raises."""
    with ExitStack() as ends:
        for callback in reversed(begun):
            ends.callback(callback.on_train_end, run)


def _take_over(callback: Callback, run: Run, saved: dict[str, Any]) -> None:
    try:
        callback.load_state_dict(run, copy.deepcopy(saved))  # it may change what another model keeps
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the checkpoint's state of {type(callback).__name__} is not sound: {reason}"
        ) from error


class Training:
    """A training under way: the run that callbacks see, and what they do not see."""

    def __init__(
        self, plan: Plan, state: TrainState, callbacks: Sequence[Callback], resumed: Snapshot | None
    ) -> None:
        self.weights = plan.data.weights if plan.weights is None else plan.weights
        rows = len(self.weights)
        history: dict[str, list[float]] = {"loss": []}
        if plan.held_out is not None:
            history["validation_loss"] = []
        self.plan, self.state, self.callbacks = plan, state, callbacks
        self.steps_before = state.step
        self.batches = Batches(rows, plan.batch_size, plan.orders)
        self.losses = EpochLosses(self.batches.per_epoch)
        self.hearing = [callback for callback in callbacks if _wants_epochs(callback)]
        self.heard = bool(self.hearing) or plan.held_out is not None
        layers = len(plan.network.sizes) - 1
        weights = visited_by_a_row(plan.network, plan.data)
        streamed = most_seconds(state.parameters.size, 1)  # by a step, whatever its rows have
        self.pace = most_seconds(weights, plan.batch_size) + streamed + LAYER_SECONDS * layers
        """Seconds a step."""
        self.draft = Draft(plan.optimizer.moment_rows, plan.threads)
        held_out = 0 if plan.held_out is None else plan.held_out.inputs.shape[0]
        longest = most_seconds(weights, max(plan.batch_size, held_out)) + streamed
        self.drafts = plan.stays_finite or longest >= LONG_SECONDS
        self.run = Run(
            plan.network, state.parameters, state.moments, plan.epochs, rows, history, self.snapshot
        )
        self.stop, self.heed = self.run.stop, heeding
        """What a signal calls, with its name; what makes long calls."""
        if resumed is not None:
            self._resume(resumed)

    def _resume(self, saved: Snapshot) -> None:
        self.take_over(saved)
        self.batches.resume(saved.step, saved.order, saved.order_state)
        self.run.rows_seen = self.batches.rows_before(saved.step)

    def take_over(self, saved: Snapshot) -> None:
        """Take over what does not depend on which rows the steps visit."""
        state, run = self.state, self.run
        state.parameters[...] = saved.parameters
        state.moments[: len(saved.moments)] = saved.moments
        self.state = state._replace(step=self.steps_before + saved.step)
        self.losses.pending = saved.pending
        run.step = saved.step
        run.history.update(saved.history)
        run.epoch = len(run.history["loss"])

    def snapshot(self) -> Snapshot:
        """Return all that the rest of the training depends on."""
        return self.snapshot_at(*self.batches.position(self.run.step))

    def snapshot_at(self, order: NDArray[np.int64], order_state: dict[str, Any]) -> Snapshot:
        """Return a snapshot. order, order_state : of the epoch under way, and of what draws later ones"""
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

    def left(self) -> Snapshot:
        """Return a snapshot that stays as it is when callbacks change parameters at the training's end."""
        snapshot = self.snapshot()
        if snapshot.callbacks:
            snapshot = snapshot._replace(callbacks=copy.deepcopy(snapshot.callbacks))
        if all(type(callback).on_train_end in HARMLESS for callback in self.callbacks):
            return snapshot
        return snapshot._replace(parameters=snapshot.parameters.copy())

    def advance(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        """Take the chunk's steps in place; return the state and the objectives (steps,)."""
        return self.advance_on(self.plan.data, state, chunk)

    def advance_on(
        self, data: Data, state: TrainState, chunk: Chunk
    ) -> tuple[TrainState, NDArray[np.float64]]:
        """Take a chunk's steps on some rows."""
        plan, objectives = self.plan, np.empty(len(chunk.starts))
        state = plan.backend.train_chunk(
            plan.network, plan.optimizer, state, data, chunk, plan.dropout_key, plan.threads, objectives
        )
        return state, objectives

    def run_chunks(self) -> None:
        """Take the chunks of all epochs, until one of the callbacks stops the training."""
        plan, run, batches = self.plan, self.run, self.batches
        weights = self.weights
        uniform = int(np.count_nonzero(weights == 1)) == len(weights)
        by_rows = plan.network.convention == "sklearn"
        total = plan.epochs * batches.per_epoch
        while run.step < total and run.stop_reason is None:
            numbers = np.arange(run.step, run.step + self.steps_now(total))
            before = batches.position(run.step)
            visits = batches.visit(numbers)
            totals = visited_weights(weights, uniform, *visits)
            rates = plan.optimizer.rates(self.steps_before + numbers, batches.per_epoch, plan.since)
            if run.rate_factor != 1:
                rates *= run.rate_factor
            chunk = Chunk(*visits, totals, rates, batches.batch_size)
            ends = self.heard and (run.step + len(numbers)) % batches.per_epoch == 0
            try:
                objectives, validation_loss = self._take(chunk, ends)
            except LeftBehind:  # self.state is as it was
                batches.resume(run.step, *before)
                self._end_chunk()  # a Checkpoint writes here, since the training stops
                break
            run.step = self.state.step - self.steps_before
            run.rows_seen = batches.rows_before(run.step)
            counts = (chunk.stops - chunk.starts).astype(np.float64) if by_rows else totals
            run.history["loss"] += self.losses.add(counts[: len(objectives)], objectives)
            run.epoch = len(run.history["loss"])
            if len(objectives) < len(numbers):
                raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
            if ends:
                self._end_epoch(validation_loss)
            self._end_chunk()

    def steps_now(self, total: int) -> int:
        """Return how many steps the next chunk takes: up to the epoch's end that a callback asks for."""
        run, batches = self.run, self.batches
        steps = min(
            chunk_steps(self.pace),
            MAX_CHUNK_STEPS, batches.steps_within(MAX_CHUNK_VISITS), total - run.step,
        )  # fmt: skip
        if not self.heard:
            return steps
        epochs = [c.hear_by(run) for c in self.hearing] if self.plan.held_out is None else [run.epoch + 1]
        return min(steps, (min(epochs) - run.epoch) * batches.per_epoch - run.step % batches.per_epoch)

    def _take(self, chunk: Chunk, ends: bool) -> tuple[NDArray[np.float64], float | None]:
        """Take a chunk's steps; return the objectives (steps,), and the validation loss if an epoch ends.

        There are fewer objectives if a loss or a parameter is not finite after them. Raises LeftBehind if a
        step or the validation takes long and the training has been asked to stop.
        """
        plan = self.plan
        state = self.draft.of(self.state, changed=bool(self.callbacks)) if self.drafts else self.state
        stopwatch = Stopwatch()
        after, objectives = self.heed(self.run, plan.batch_size, lambda: self.advance(state, chunk))
        taken = stopwatch.lap()
        # After a chunk beside which something compiled the next has no more steps: where another thread
        # compiled, this one worked meanwhile, and took longer than the difference.
        self.pace = max(taken.working, CHUNK_SECONDS if taken.compiling else 0.0) / len(chunk.starts)
        if plan.stays_finite and not sound(objectives, after.parameters):
            self.state, objectives = last_finite(self.advance, self.state, chunk, self.draft)
            return objectives, None
        validation_loss = self.validation_loss(after.parameters) if ends else None
        self.state = self.draft.accept(after, self.state) if self.drafts else after
        return objectives, validation_loss

    def validation_loss(self, parameters: NDArray[Any]) -> float | None:
        """Return the loss over the rows held out, None if there are none; LeftBehind as `heeding`."""
        if (held_out := self.plan.held_out) is None:
            return None
        rows = held_out.inputs.shape[0]
        return self.heed(self.run, rows, lambda: self._evaluate(parameters, held_out))

    def _evaluate(self, parameters: NDArray[Any], data: Data) -> float:
        """Return the loss over all rows; LeftBehind if they are many and the training shall stop."""
        evaluate, network = self.plan.backend.evaluate, self.plan.network
        rows = data.inputs.shape[0]
        at_once = max(256, int(LONG_SECONDS / most_seconds(parameters.size, 1)))
        if rows <= at_once:
            return evaluate(network, parameters, data)

        def parts() -> Iterator[slice]:
            for start in range(0, rows, at_once):
                if self.run.stop_reason is not None:
                    raise LeftBehind
                yield slice(start, start + at_once)

        def loss_of(some: slice) -> float:
            return evaluate(network, parameters, data.take(some))

        return loss_in_parts(data.weights, parts(), loss_of)

    def _end_epoch(self, validation_loss: float | None) -> None:
        plan, run = self.plan, self.run
        if validation_loss is not None:
            if plan.stays_finite and not math.isfinite(validation_loss):
                raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
            run.history["validation_loss"].append(validation_loss)
        for callback in self.callbacks:
            callback.on_epoch_end(run)

    def _end_chunk(self) -> None:
        for callback in self.callbacks:
            callback.on_chunk_end(self.run)


HARMLESS = (Callback.on_train_end, Progress.on_train_end)
"""They change no parameters."""


def heeding(run: Run, rows: int, call: Callable[[], Result]) -> Result:
    """Return call(), which works on so many rows; LeftBehind if that is long and the training shall stop."""
    if most_seconds(run.parameters.size, rows) < LONG_SECONDS:
        return call()
    return until_stopped(call, lambda: run.stop_reason is not None)


def with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks that have a state to save."""
    return [c for c in callbacks if type(c).state_dict is not Callback.state_dict]


def _wants_epochs(callback: Callback) -> bool:
    return getattr(callback.on_epoch_end, "__func__", None) is not Callback.on_epoch_end


def chunk_steps(pace: float) -> int:
    """Return how many steps a chunk has time for, of `pace` seconds each."""
    return max(1, int(CHUNK_SECONDS / max(pace, 1e-9)))


def visited_by_a_row(network: Network, data: Data) -> int:
    """Return how many parameters a row is multiplied with: of sparse ones, for its non-zeros."""
    inputs, count = data.inputs, parameter_count(network.sizes)
    if not isinstance(inputs, SparseRows):
        return count
    return count + (len(inputs.values) // max(1, len(inputs)) - inputs.n_in) * network.sizes[1]


def most_seconds(parameters: int, rows: int) -> float:
    """Return a bound on the time of so many rows: 6 flops a weight and 200 a row, at 2 GF/s."""
    return rows * (6 * parameters + 200) / 2e9


HEADROOM = 2.0**-64
"""A factor that keeps the sum of an epoch's finite losses finite; a power of two rounds nothing."""


class EpochLosses:
    """Means over epochs of the steps' objectives, whatever the chunks' bounds."""

    def __init__(self, per_epoch: int) -> None:
        self._per_epoch = per_epoch
        self.pending = np.empty((2, 0))
        """(2, steps) of the epoch under way: objectives times weights times HEADROOM, and weights."""

    def add(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> list[float]:
        """Add the next steps' objectives (steps,), each with its weight in its epoch's mean.

        Returns the mean of every epoch that is now complete.
        """
        if self._per_epoch == 1:  # its own mean; the general case takes 4 ns a step, the smallest step 100
            return objectives.tolist()
        fresh = np.stack([objectives * (counts * HEADROOM), counts])
        self.pending = np.concatenate([self.pending, fresh], axis=1)
        complete = self.pending.shape[1] // self._per_epoch
        bound = complete * self._per_epoch
        done = self.pending[:, :bound].reshape(2, complete, self._per_epoch).sum(axis=2)
        self.pending = self.pending[:, bound:]
        return (done[0] / done[1] / HEADROOM).tolist()
