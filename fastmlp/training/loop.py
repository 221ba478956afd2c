"""The training loop: chunks of steps for the backend, and everything between two chunks."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend.choice import current_backend
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.data.batches import MIXED_BYTES, Batches, Mixing, Orders, visited_weights
from fastmlp.model.averages import swap_average
from fastmlp.model.backend import Chunk, Data, counts_of, evaluated, losses_of_part
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.state import TrainState
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import LeftBehind
from fastmlp.training.divergence import DivergenceError, Draft, last_finite, sound
from fastmlp.training.ranks import ALONE, ChunkRunner, Ranks
from fastmlp.training.snapshot import Snapshot
from fastmlp.training.threads import (
    LAYER_SECONDS,
    TRIAL_SECONDS,
    Threads,
    interruptible,
    is_long,
    most_seconds,
    rows_at_once,
    uninterruptible,
    visited_by_a_row,
)

CHUNK_SECONDS = 0.2
"""How long a chunk takes. Ctrl-C, callbacks and time limits act only between chunks."""

MAX_CHUNK_STEPS = 1 << 14
"""Bounds a chunk's rates and losses to 0.6 MiB. With four times as many a step takes 10 ns more."""

MAX_CHUNK_VISITS = 1 << 22
"""Bounds the row orders drawn for a chunk to 32 MiB, or to two epochs' orders if more."""


Kind = TypeVar("Kind", bound="TrainingLoop")


class TrainingLoop:
    """A training's steps on rows, in chunks, and everything between two chunks.

    Attributes
    ----------
    network : Network; optimizer : Optimizer
    backend : takes the steps
    data : Data, the rows of steps, in memory or of a window; held_out : validation rows, `Data` or blocks
        with a method `loss`; None for no validation
    state : TrainState, overwritten by the steps
    epochs : int
    step_rows : of a full step, of several batches with accumulated gradients; microbatch : as of `Chunk`
    orders : None visits the rows as they stand
    threads : the most threads; None leaves the number to the backend
    options : `fastmlp.fitting.FitOptions`, checked
    callbacks : list of Callback; resumed : Snapshot to go on from, or None
    stays_finite : True to raise DivergenceError for a loss or parameter that is not finite
    setting : for a `Snapshot`
    blas_threads : the limit for the BLAS; None for as many as `threads`
    calls_blas : True if the backend or a callback may call the BLAS: a limit takes as long as 200 small steps
    since : for schedules, the beginning of the training
    other_steps : earlier updates by another rule, counted by schedules and not by corrections of moments
    all_weights : (rows,) of all ranks' rows; None where data has all
    all_head_weights : (heads, rows) `Network.head_weights` of all ranks' rows, likewise
    weighed : False if all rows have the weight 1
    start() draws the first parameters (P,) once more; None for given parameters
    windows : the batches of rows in windows; None for rows in memory
    ranks : the processes of the training
    """

    network: Network
    optimizer: Optimizer
    backend: ChunkRunner
    data: Data
    held_out: Any
    state: TrainState
    epochs: int
    step_rows: int
    options: Any
    callbacks: Sequence[Callback]
    resumed: Snapshot | None
    orders: Orders | None = None
    dropout_key: int = 0
    microbatch: int = 0
    threads: int | None = None
    stays_finite: bool = True
    setting: Any = MappingProxyType({})
    blas_threads: int | None = None
    calls_blas: bool = True
    since: Since = BEGINNING
    other_steps: int = 0
    all_weights: NDArray[Any] | None = None
    all_head_weights: NDArray[np.float64] | None = None
    weighed: bool = True
    start: Callable[[], NDArray[Any]] | None = None
    windows: Any = None
    model_index: int | None = None
    ranks: Ranks = ALONE

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ = attributes

    def having(self, kind: type[Kind], **changed: Any) -> Kind:
        """Return a training of a kind, with other attributes; both share all others."""
        made = object.__new__(kind)
        made.__dict__ = vars(self) | changed
        return made

    def begin(self) -> None:
        """Make the `Run` seen by callbacks, and the unseen rest of a training under way."""
        network, state = self.network, self.state
        self.names = network.loss_curves
        """The names of the losses in the history."""
        history: dict[str, list[float]] = {name: [] for name in self.names}
        if self.held_out is not None:
            history |= {f"validation_{name}": [] for name in self.names}
        # All curves from the start: callbacks look for their keys before the first epoch.
        history |= {name: [] for name in self.optimizer.columns}
        alpha = self.options.mixup
        self.mixing = None if alpha is None else Mixing.of(alpha, self.options.seed)
        if self.windows is None:  # else the first window is taken up when steps are taken
            self._take_up(self.data)
        self.steps_before = state.step
        self.first_step = self.other_steps + state.step
        """First step of the run, as schedules count."""
        self.batches: Any = self.windows or Batches(
            len(self.weights), self.step_rows, self.orders, network.needs_batches, self.microbatch,
            self.since.epoch,
        )  # fmt: skip
        self.losses = EpochLosses(self.batches.per_epoch, len(network.heads))
        self.by_epoch = [one for one in self.callbacks if _wants_epochs(one)]
        self.ends_at_epochs = bool(self.by_epoch) or self.held_out is not None or not self.batches.per_epoch
        weights = visited_by_a_row(network, self.data)
        streamed = most_seconds(state.parameters.size, 1)  # by a step, whatever its rows have
        self.pace = most_seconds(weights, self.step_rows) + streamed
        self.pace += LAYER_SECONDS * len(network.operations)
        """Seconds a step."""
        if self.optimizer.whole:  # what a step takes is known after the first one
            self.pace = CHUNK_SECONDS
        alone = self.ranks.size == 1
        # Of several ranks all would wait for the trial of another number.
        self.thread_choice = Threads(self.threads, changes=alone)
        self.draft = Draft(self.optimizer.moment_rows, self.threads)
        most = self.step_rows
        if isinstance(self.held_out, Data):
            most = max(most, len(self.held_out.weights))
        self.drafts = self.stays_finite or is_long(most_seconds(weights, most) + streamed)
        self.can_begin_again = self._can_begin_again()
        backend = functools.partial(current_backend, self.backend)  # type: ignore[arg-type]  # Steps are, or have one
        self.run = Run(
            network, state.parameters, state.moments, self.epochs, self.batches.rows, history, backend,
            model_index=self.model_index, optimizer=self.optimizer,
            since=(self.first_step, self.since.epoch),
        )  # fmt: skip
        self.stop = self.ranks.request_stop or self.run.stop
        """Called by a signal, with the signal's name."""
        # A signal must not take a rank out of a collective.
        self.interruptible = interruptible if alone else uninterruptible
        """Makes long calls."""
        if self.resumed is not None:
            self._resume(self.resumed)

    def _take_up(self, data: Data) -> None:
        """Take steps on a window's rows from now on."""
        self.data, self.weights = data, data.weights if self.all_weights is None else self.all_weights
        self.uniform = not self.weighed or int(np.count_nonzero(self.weights == 1)) == len(self.weights)
        self.head_weights = self.all_head_weights
        if self.head_weights is None and self.network.heads:
            self.head_weights = self.network.head_weights(data.targets, data.weights)

    def _can_begin_again(self) -> bool:
        """Return True if the first chunk needs no copy: the state is unseen, and can be made once more."""
        if self.callbacks or self.held_out is not None or (self.resumed is None and self.start is None):
            return False
        return not is_long(most_seconds(self.state.parameters.size, self.step_rows))

    def _begin_again(self) -> None:
        """Reset the state's arrays to the beginning of the training."""
        self.state.moments[...] = 0
        self.optimizer.write_signs(self.network, self.state.moments)
        if self.resumed is not None:
            self._write_state(self.resumed)
        elif self.start is not None:
            self.state.parameters[...] = self.start()

    def _write_state(self, saved: Snapshot) -> None:
        self.state.parameters[...] = saved.parameters
        self.state.moments[: len(saved.moments)] = saved.moments

    def _resume(self, saved: Snapshot) -> None:
        run = self.run
        self._write_state(saved)
        self.state = self.state.at(self.steps_before + saved.step)
        self.losses.sums, self.losses.steps = saved.sums, saved.epoch_step
        run.history.update({name: [*values] for name, values in saved.history.items()})
        epoch = len(run.history["loss"])
        self.batches.resume(saved.step, saved.epoch_step, epoch)
        run.advance(saved.step, self.batches.rows_before(saved.step), epoch, None)
        run.rate_factor = saved.rate_factor

    def advance(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        """Take the chunk's steps in place; return the state and the objectives (steps,).

        A rule of the whole data takes fewer steps at the rule's end.
        """
        data, objectives = self.data, np.empty((*self.losses.parts, len(chunk.starts)))
        before = state.step
        if self.mixing is not None:
            data, chunk = self.mixing.mixed(self.network, data, chunk, state.step)
        averages = self.optimizer.rule.reads_last
        if averages:
            swap_average(self.network, self.optimizer, state.parameters, state.moments, state.step)
        threads, given = self.thread_choice.most, (self.network, self.optimizer, state, data, chunk)
        state = self.backend.train_chunk(*given, self.dropout_key, threads, objectives)
        if averages:
            swap_average(self.network, self.optimizer, state.parameters, state.moments, state.step)
        return state, objectives[..., : state.step - before]

    def chunks(self) -> Iterator[Run]:
        """Take the chunks of all epochs, and yield the run after each."""
        while steps := self.steps_now():
            self.take_chunk(self.next_chunk(steps))
            yield self.run

    def take_chunk(self, chunk: Chunk) -> None:
        """Take the steps of the last `next_chunk`, and do everything after a chunk."""
        run, batches, steps = self.run, self.batches, len(chunk.starts)
        ends = self.ends_at_epochs and batches.ends_epoch(run.step + steps)
        try:
            rows = batches.rows_before(run.step + steps) - run.rows_seen
            objectives, validation_loss = self._take(chunk, ends, rows)
        except LeftBehind:  # self.state is as it was, and the training stops
            self.end_chunk()  # a Checkpoint writes here
            return
        by_rows = self.network.convention == "sklearn"
        counts = (chunk.stops - chunk.starts).astype(np.float64) if by_rows else chunk.totals
        taken = objectives.shape[-1]
        self.write(self.losses.means(counts[:taken], objectives).tolist())
        report = self.backend.report if self.optimizer.whole else NO_REPORT  # type: ignore[attr-defined]
        for name, values in report.columns.items():
            run.history[name] += values[:taken]
        step = self.state.step - self.steps_before
        batches.advance(step)
        if ends and batches.per_epoch is None and taken == steps:
            self.write(self.losses.close())
            run.rows = batches.rows
        run.advance(step, batches.rows_before(step), len(run.history["loss"]), self.thread_choice.used)
        if report.stop_reason is not None:
            run.stop(report.stop_reason)
        elif taken < steps:
            raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
        if ends:
            self._end_epoch(validation_loss)
        self.end_chunk()

    def next_chunk(self, steps: int) -> Chunk:
        """Return the chunk of the next steps."""
        run, batches = self.run, self.batches
        constant = self.optimizer.constant_rates if run.rate_factor == 1 and self.uniform else None
        if constant and self.head_weights is None and (cached := batches.cached(run.step, steps, constant)):
            return cached
        order, starts, stops, rows = batches.visit(run.step, steps)
        totals = rows if self.uniform else visited_weights(self.weights, order, starts, stops)
        first, per_epoch, since = self.first_step + run.step, batches.per_epoch, self.since
        if per_epoch is None:
            # Blocks do not say how many steps an epoch has: schedules count by the steps of this one.
            since = Since(self.first_step + batches.epoch_step, since.epoch + run.epoch)
        rates = self.optimizer.rates(np.arange(first, first + steps), per_epoch or sys.maxsize, since)
        if run.rate_factor != 1:
            rates *= run.rate_factor
        of_heads = self.head_totals(order, starts, stops)
        return Chunk(order, starts, stops, totals, rates, batches.most, of_heads, self.microbatch)

    def head_totals(
        self, order: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        """Return the weights of each step's rows by head (heads, steps); None without heads."""
        if self.head_weights is None:
            return None
        return np.array([visited_weights(one, order, starts, stops) for one in self.head_weights])

    def write(self, means: list[list[float]], prefix: str = "") -> None:
        """Append means over epochs to the history: of the loss, and of the losses of named heads."""
        for name, values in zip(self.names, means, strict=False):
            self.run.history[prefix + name] += values

    def steps_now(self) -> int:
        """Return the number of steps of the next chunk, up to the next epoch's end for a callback.

        0 after the last epoch, or once the training is stopped.
        """
        run, batches, epochs = self.run, self.batches, self.epochs
        if run.epoch >= epochs or run.stop_reason is not None:
            return 0
        while not (left := batches.steps_left(run.step)):
            data = batches.next(lambda: run.stop_reason is not None)
            if data is None:
                self.end_chunk()  # a Checkpoint writes here
                return 0
            self._take_up(data)
            run.rows_seen = batches.rows_before(run.step)
        if batches.per_epoch is not None:
            epochs = min(epochs, self._next_epoch()) if self.ends_at_epochs else epochs
            left = epochs * batches.per_epoch - run.step
        steps = min(self.chunk_steps(), MAX_CHUNK_STEPS, batches.steps_within(MAX_CHUNK_VISITS), left)
        return self.ranks.steps(steps, run.step, batches.per_epoch or 0)

    def _next_epoch(self) -> int:
        """Return the next epoch at a chunk's end."""
        first = self.run.epoch + 1
        if self.held_out is not None:
            return first
        return min(
            checks.whole(f"{type(one).__name__}.next_epoch", one.next_epoch(self.run), first)
            for one in self.by_epoch
        )

    def chunk_steps(self) -> int:
        """Return how many steps the next chunk has time for."""
        seconds = TRIAL_SECONDS if self.thread_choice.is_trial else CHUNK_SECONDS
        steps = int(seconds / self.pace) if self.pace > 1e-9 else MAX_CHUNK_STEPS
        if self.mixing is not None:
            columns = self.network.n_in + self.network.n_out
            steps = min(steps, MIXED_BYTES // (self.step_rows * columns * self.state.parameters.itemsize))
        return max(1, steps)

    def _take(self, chunk: Chunk, ends: bool, rows: int) -> tuple[NDArray[np.float64], float | None]:
        """Take a chunk's steps; return the objectives (steps,), and the validation loss if an epoch ends.

        rows : visited by the steps
        After a divergence there are fewer objectives. Raises LeftBehind in a long step or validation once the
        training shall stop.
        """
        # Only the first chunk: later states could not be made once more.
        first, self.can_begin_again = self.can_begin_again, False
        drafts = self.drafts and not first
        state = self.draft.of(self.state, changed=bool(self.callbacks)) if drafts else self.state
        stopwatch = Stopwatch()
        running, clock = 0.0, self.thread_choice.clock

        def advance() -> tuple[TrainState, NDArray[np.float64]]:
            nonlocal running
            began = clock()
            advanced = self.advance(state, chunk)
            running = clock() - began
            return advanced

        after, objectives = self.interruptible(self.run, self.step_rows, advance)
        taken = stopwatch.lap()
        if self.thread_choice.took(after.threads, rows, taken, running):
            # After a chunk during which something compiled the next has no more steps: where another thread
            # compiled, this one worked meanwhile, and took longer than the difference.
            self.pace = max(taken.working, CHUNK_SECONDS if taken.compiling else 0.0) / len(chunk.starts)
        if self.stays_finite and not sound(objectives, after.parameters):
            if first:
                self._begin_again()
            self.state, objectives = last_finite(
                self.advance, self.state, chunk, self.draft, self.losses.parts
            )
            return objectives, None
        # Before the draft is accepted: Ctrl-C during a long validation leaves the state as it was.
        validation_loss = self.validation_loss(after.parameters) if ends else None
        self.state = self.draft.accept(after, self.state) if drafts else after
        return objectives, validation_loss

    def validation_loss(self, parameters: NDArray[Any]) -> float | None:
        """Return the validation loss, None without rows held out; LeftBehind as `interruptible`."""
        if (held_out := self.held_out) is None:
            return None

        def loss_of(data: Data) -> Any:
            rows = data.inputs.shape[0]
            return self.interruptible(self.run, rows, lambda: self._evaluate(parameters, data))

        if isinstance(held_out, Data):
            return loss_of(held_out)
        run = self.run
        loss: Any = held_out.loss(self.network, loss_of, run.epoch, lambda: run.stop_reason is not None)
        return loss

    def _evaluate(self, parameters: NDArray[Any], data: Data) -> Any:
        """Return the loss over all rows, with heads an array; LeftBehind in a long call once the training
        shall stop.
        """
        evaluate, network = self.backend.evaluate, self.network
        rows = data.inputs.shape[0]
        # In one call where that is short; else in parts, between which Ctrl-C is heard.
        if self.ranks.size > 1 or rows <= (at_once := rows_at_once(parameters.size)):
            return evaluate(network, parameters, data)

        totals = counts_of(network, data)
        losses = np.zeros(len(totals))
        for start in range(0, rows, at_once):
            if self.run.stop_reason is not None:
                raise LeftBehind
            part = data.take(slice(start, start + at_once))
            if (counts := counts_of(network, part)).any():
                losses += losses_of_part(counts, totals, evaluate(network, parameters, part))
        return evaluated(network, losses)

    def _end_epoch(self, validation_loss: float | None) -> None:
        run = self.run
        if validation_loss is not None:
            values = np.atleast_1d(validation_loss)
            if self.stays_finite and not np.isfinite(values).all():
                raise DivergenceError(run.epoch, run.step, run.parameters.copy(), run.history)
            self.write(values[:, None].tolist(), "validation_")
        for callback in self.callbacks:
            callback.on_epoch_end(run)

    def end_chunk(self) -> None:
        """Run the callbacks after a chunk, or after a stop between two chunks."""
        for callback in self.callbacks:
            callback.on_chunk_end(self.run)


class Report(NamedTuple):
    """The report of steps of the whole data, beside the objectives.

    columns : curves of the history, with a value for each step
    stop_reason : the reason for the training's end after these steps, or None
    """

    columns: dict[str, list[float]]
    stop_reason: str | None


NO_REPORT = Report({}, None)
"""The report of steps of batches."""


HEADROOM = 2.0**-64
"""Keeps the sum of an epoch's finite losses finite; a factor that is a power of two rounds nothing."""


class EpochLosses:
    """Means over epochs of the steps' objectives.

    Steps are added in order, so a sum's bits do not depend on the ends of chunks.

    per_epoch : steps of an epoch; None for epochs ended by `close`
    heads : of the network; with heads objectives are (1 + heads, steps)
    parts : the shape of a step's objectives
    """

    def __init__(self, per_epoch: int | None, heads: int = 0) -> None:
        self._per_epoch = per_epoch
        self.parts = (1 + heads,) if heads else ()
        self.sums = np.zeros(2 + heads)
        """Over the steps of the epoch under way: objectives times weights times HEADROOM, and weights."""
        self.steps = 0
        """The steps of the epoch under way."""
        self._last: NDArray[np.float64] | None = None

    def means(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add the next steps' objectives (steps,), weighted for the epoch's mean.

        Returns the means (1 + heads, epochs) of every completed epoch.
        """
        if self._per_epoch == 1:  # its own mean; the general case takes 4 ns a step, the smallest step 100
            return objectives.reshape(len(self.sums) - 1, -1)
        fresh = np.vstack([np.ascontiguousarray(objectives) * (counts * HEADROOM), counts])
        steps, done = fresh.shape[1], []
        while self._per_epoch is not None and self.steps + steps >= self._per_epoch:
            whole, end = 1, self._per_epoch - self.steps
            if not self.steps:
                whole = steps // self._per_epoch
                end = whole * self._per_epoch
            done.append(self._with_sums(fresh[:, :end].reshape(len(fresh), whole, -1)))
            fresh, steps = fresh[:, end:], steps - end
            self.sums, self.steps = np.zeros(len(fresh)), 0
        if steps:
            self.sums = self._with_sums(fresh[:, None])[:, 0]
            self.steps += steps
            self._last = np.atleast_2d(objectives)[:, -1]
        if not done:
            return np.empty((len(self.sums) - 1, 0))
        return _means(np.concatenate(done, axis=1))

    def _with_sums(self, fresh: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return sums (rows, epochs) over the steps of epochs (rows, epochs, steps), in order."""
        if self.steps:
            # The sum so far is the first term, so that the order of additions is that of an uncut epoch.
            fresh = np.concatenate([self.sums[:, None, None], fresh], axis=2)
        sums: NDArray[np.float64] = np.add.accumulate(fresh, axis=2)[..., -1]
        return sums

    def close(self) -> list[list[float]]:
        """End the epoch under way; return the mean in a list, with heads a mean for each."""
        means = self._last if self.steps == 1 and self._last is not None else _means(self.sums)
        self.sums, self.steps = np.zeros(len(self.sums)), 0
        return means[:, None].tolist()


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = sums[:-1] / sums[-1] / HEADROOM
    return means


def _wants_epochs(callback: Callback) -> bool:
    return getattr(callback.on_epoch_end, "__func__", None) is not Callback.on_epoch_end
