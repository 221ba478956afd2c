"""Preparation of a training, from options and rows to a plan and a first state; its beginning and end.

All randomness comes from independent streams, so every backend sees the same start, split, row orders and
dropout masks. With several processes each step here may fail on one of the ranks alone, and all ranks learn
of the failure (`fastmlp.training.ranks`).
"""

from __future__ import annotations

import copy
import functools
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.choice import calls_blas, current_backend
from fastmlp.callbacks.callback import Callback, Pause, Run, no_snapshot, with_state
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.checks import CheckpointError
from fastmlp.data.arrays import checked_weights, clean_rows_of, clean_targets, scaled_weights
from fastmlp.data.batches import batches_of
from fastmlp.data.seeding import RowOrders
from fastmlp.data.sparse import inputs_of_steps, may_become_sparse
from fastmlp.model.backend import Array, Data
from fastmlp.model.layout import aligned, aligned_copy, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.schedules import BEGINNING
from fastmlp.model.state import TrainState, initial_state
from fastmlp.system import budget
from fastmlp.system.interrupts import Interrupted, deferred
from fastmlp.trained import format_of
from fastmlp.trained.model import Model
from fastmlp.training.loop import Plan, Training, of_all_rows
from fastmlp.training.options import Choices, FitOptions, choice_of
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.snapshot import Snapshot, fingerprint, sample_of
from fastmlp.training.start import dropout_key, initial_parameters


class Prepared(NamedTuple):
    """A training before the first step.

    plan : the constant part; state : overwritten by the steps
    resumed : the snapshot to go on from, or None
    data : the rows as given, where steps visit a sparse form
    rows, sample : as of `Snapshot`, "" for an unknown sample
    """

    plan: Plan
    state: TrainState
    callbacks: list[Callback]
    resumed: Snapshot | None
    data: Data
    rows: int | None
    sample: str

    def train(self, batches: Any = None) -> Model:
        """Take all steps; return the model. Errors as of `fit`; batches : of rows in windows"""
        return self.ended(finished(self.begun(batches)))

    def begun(self, batches: Any = None, kind: type[Training] = Training) -> Training:
        """Return the training before the first step; kind : of training; batches : of rows in windows"""
        training = kind(self.plan, self.state, self.callbacks, self.resumed, batches)
        # One of several ranks cannot make a model that goes on, nor can an estimator.
        if self.plan.ranks.size == 1 and self.plan.options.fit is not None:
            vars(training.run)["_model"] = self.model_now
        return training

    def iterate(self, pause: Pause, batches: Any = None) -> Generator[Run]:
        """Take all steps, and yield the run as `fastmlp.iter_fit` does."""
        training = self._replace(callbacks=[*self.callbacks, pause]).begun(batches)
        with closing(iterate(training)) as runs:
            for run in runs:
                if pause.is_due(run):
                    yield run
                    pause.count(run)
        if training.run.interrupted:
            raise Interrupted(training.run.model())

    def ended(self, run: Run) -> Model:
        """Return the model, once all steps were taken; Interrupted, with the model, after Ctrl-C."""
        assert run.left is not None
        self.plan.ranks.check_equal(self.state.parameters)  # callbacks may change them at the very end
        snapshot = run.left
        if self.callbacks:  # which may keep curves, or have put some of their own there
            run.history.update({name: [*values] for name, values in run.history.items()})
            snapshot = snapshot._replace(history=run.history)
        model = self._model(run, snapshot, self.state.parameters)
        vars(run)["_model"] = None  # which would keep the rows
        if run.interrupted:
            raise Interrupted(model)
        return model

    def model_now(self, run: Run) -> Model:
        """Return the model between two chunks or at the end, with copies of all arrays."""
        snapshot, parameters = run.left or run.snapshot(), aligned_copy(run.parameters)
        last = parameters if snapshot.parameters is run.parameters else aligned_copy(snapshot.parameters)
        snapshot = snapshot._replace(
            parameters=last, moments=snapshot.moments.copy(), callbacks=copy.deepcopy(snapshot.callbacks),
            history={name: [*values] for name, values in run.history.items()},
        )  # fmt: skip
        return self._model(run, snapshot, parameters)

    def _model(self, run: Run, snapshot: Snapshot, parameters: Array) -> Model:
        """Return a model with a snapshot's history, to go on from the snapshot."""
        plan, ranks, sample, ended = self.plan, self.plan.ranks, self.sample, ""
        if ranks.any_of(bool(snapshot.callbacks)) and not sample:
            sample = sample_of(self.data, in_memory(plan.held_out), ranks)
        if snapshot.callbacks or snapshot.parameters is not parameters:
            ended = fingerprint(parameters)
        # The model has the same lists: a copy takes 4 ns an epoch, a twentieth of the smallest steps.
        history = {**snapshot.whole_history}
        left = snapshot._replace(
            setting={}, options=self.kept_options(), rows=self.rows, sample=sample, ended=ended,
            lengths={name: len(values) for name, values in snapshot.history.items()},
        )  # fmt: skip
        now = current_backend(plan.backend)  # type: ignore[arg-type]  # Steps are, or have one
        return Model(plan.network, parameters, history, now, run.stop_reason, left, run.threads)

    def kept_options(self) -> FitOptions:
        """Return the options kept for `fit_more`."""
        return self.plan.options.kept(self.plan.optimizer, self.state.parameters.dtype)


def in_memory(held_out: Any) -> Data | None:
    """Return the validation rows if in memory, else None."""
    return held_out if isinstance(held_out, Data) else None


def ready(
    network: Network,
    options: FitOptions,
    choices: Choices,
    data: Data,
    held_out: Any,
    rows: int,
    ranks: Ranks = ALONE,
    *,
    trainings: int = 1,
    is_sized: bool = True,
    blocks: dict[str, Any] | None = None,
    state: TrainState | None = None,
) -> Prepared:
    """Return a prepared training on clean rows, in memory or in blocks.

    options, choices : as of `options.shared_options`, with a seed
    data : this rank's rows, all or those of the first window; held_out : validation rows
    rows : of an epoch on all ranks, 0 if unknown; is_sized : True if known before rows are read
    ranks, trainings : as of `trainer.prepared`
    blocks : the setting's part for blocks; None for rows in memory
    state : the first state of an estimator, which draws parameters and orders and keeps no setting
    """
    earlier, file, is_array = options.resume, options.file, blocks is None
    more = earlier if file is None else None
    epochs, dtype, callbacks = options.epochs, data.weights.dtype, options.callbacks
    most, whole = rows or sys.maxsize, bool(options.optimizer.whole)
    if whole and (ranks.size > 1 or not is_array):
        got = f"{ranks.size} ranks" if ranks.size > 1 else "blocks of rows"
        raise ValueError(f"{type(options.optimizer).__name__} takes rows of one process in memory, got {got}")
    batch_size = min((None if whole else options.batch_size) or most, most)
    step = min(batch_size * options.accumulate, most)
    per_epoch, rank_rows = batches_of(rows, step, network.needs_batches), -(-batch_size // ranks.size)
    in_file = file is not None or ranks.any_of(any(one.writes_training for one in callbacks))
    start: Callable[[], Any] | None = None
    with ranks.raise_on_all_ranks():
        measures = list[Callback]()
        if options.metrics:
            measured = data if is_array else None, in_memory(held_out)
            given = options.metrics, options.training_metrics, network
            measures += format_of("metrics").metrics_of(*given, *measured, ranks)
        if whole and held_out is not None and options.optimizer.patience is not None:
            measures.append(EarlyStopping(options.optimizer.patience))
        if network.needs_batches and epochs and rows:
            network.check_rows(np.array([batch_size]))
        steps = epochs * per_epoch if per_epoch else None
        averaged = steps if is_sized else None
        optimizer, chosen, may_call_blas, becomes_sparse = choice_of(
            choices, network, options, rank_rows, dtype, steps and steps * trainings, averaged
        )
        if state is not None:
            parameters = state.parameters
        elif more and not in_file:  # what it begins with is taken over; a file says what it would be
            parameters = aligned(parameter_count(network), dtype)
        else:
            seen = data.inputs if len(data.inputs) else None  # of several ranks, those of the first
            start = functools.partial(initial_parameters, network, options.initial, dtype, options.seed, seen)
            parameters = start()
    moment_rows = optimizer.moment_rows
    taken_by, callbacks = ranks.started(chosen, parameters, [*measures, *callbacks], moment_rows)
    if taken_by is not chosen:  # that of the first rank
        chosen, may_call_blas = taken_by, calls_blas(taken_by)
        becomes_sparse = may_become_sparse(chosen, network, optimizer, rank_rows, dtype)
    sample = "" if is_array or state is not None else sample_of(data, in_memory(held_out))
    resumed, rule_steps = earlier, 0
    if more:
        known: str | None = sample
        if is_array:
            known = sample_of(data, in_memory(held_out), ranks) if more.sample else None
        with ranks.raise_on_all_ranks():
            resumed = more.begin(rows if is_array else None, known, held_out is not None, callbacks)
        epochs += len(resumed.history["loss"])
    if resumed is not None:
        rule_steps = resumed.since.step - resumed.other_steps
    taken = data.inputs
    if becomes_sparse and options.mixup is None and is_array and len(taken):
        taken = inputs_of_steps(chosen, network, optimizer, rank_rows, taken, epochs)
    weights = head_weights = None
    if ranks.size > 1:
        weights = ranks.weights(data)
        if network.heads:
            head_weights = ranks.of_all_rows(network.head_weights(data.targets, data.weights))
    shuffled = options.shuffle and per_epoch != 1
    plan = Plan(
        network=network,
        optimizer=optimizer,
        backend=ranks.runner(chosen, per_epoch, data, rule_steps),
        data=data if taken is data.inputs else data._replace(inputs=taken),
        held_out=held_out,
        epochs=epochs,
        step_rows=step,
        orders=RowOrders(options.seed) if shuffled else None,
        dropout_key=dropout_key(network, options.seed) if state is None else 0,
        threads=options.threads,
        stays_finite=True,
        setting={},
        calls_blas=bool(callbacks) or may_call_blas,
        since=BEGINNING if resumed is None else resumed.since,
        other_steps=0 if resumed is None else resumed.other_steps,
        weights=weights,
        head_weights=head_weights,
        microbatch=batch_size if batch_size < step else 0,
        weighed=options.sample_weight is not None or not is_array or ranks.size > 1 or state is not None,
        start=start if options.initial is None and ranks.size == 1 and is_array else None,
        options=options,
        ranks=ranks,
    )
    if whole:
        plan = of_all_rows(plan)
    if in_file:
        plan = format_of("saving").with_setting(
            plan, chosen.name, parameters, data, callbacks, ranks, batch_size=batch_size,
            rows=rows if is_array else None, per_epoch=per_epoch, blocks=blocks or {},
        )  # fmt: skip
    if state is None:
        state = initial_state(parameters, moment_rows, rule_steps)
        optimizer.write_signs(network, state.moments)
    return Prepared(plan, state, callbacks, resumed, data, rows if is_array else None, sample)


# --- rows in memory, of one process or of several -------------------------------------------------------


def cleaned(
    network: Network, X: Any, y: Any, sample_weight: Any, dtype: Any, ranks: Ranks, what: str = ""
) -> Data:
    """Return this rank's rows, clean, with unscaled weights. what : a prefix of names in errors"""
    inputs = clean_rows_of(f"{what}X", network, X, dtype, least=0 if ranks.size > 1 else 1)
    rows = inputs.shape[0]
    targets = clean_targets(f"{what}y", y, network, rows, inputs.dtype)
    if sample_weight is None:
        weights = np.empty(rows, inputs.dtype)
        weights.fill(1)  # np.ones takes 3 us for a few
    else:
        weights = checked_weights(f"{what}sample_weight", sample_weight, rows, inputs.dtype)
    return Data(inputs, targets, weights)


def scaled(data: Data, weighed: bool, ranks: Ranks, what: str = "") -> Data:
    """Return this rank's rows with scaled weights: the largest on all ranks is in [1, 2).

    weighed : True if weights are given here; what : as of `cleaned`
    """
    if not weighed and ranks.size == 1:
        return data
    largest = float(data.weights.max(initial=0.0)) if weighed else 1.0
    received = ranks.all_of((len(data.weights), largest))
    with ranks.raise_on_all_ranks():
        if not any(rows for rows, _ in received):
            raise ValueError(f"{what}X must hold at least 1 row, got 0 on all ranks")
        weights = scaled_weights(f"{what}sample_weight", data.weights, max(most for _, most in received))
    return data._replace(weights=weights)


def validation_rows(
    network: Network, validation: Sequence[Any], dtype: np.dtype[Any], ranks: Ranks = ALONE
) -> Data:
    """Return validation=(X, y) or (X, y, sample_weight) as this rank's clean rows."""
    with ranks.raise_on_all_ranks():
        if len(validation) not in (2, 3):
            raise ValueError(
                f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts"
            )
        X, y, *rest = validation
        weights = rest[0] if rest else None
        data = cleaned(network, X, y, weights, dtype, ranks, "validation ")
    return scaled(data, weights is not None, ranks, "validation ")


# --- the beginning and end of a training --------------------------------------------------------------

NO_LIMIT = nullcontext()
"""The BLAS limit of a training without a BLAS."""


def finished(training: Training) -> Run:
    """Take all chunks of a training; return the run, with the state for a later training in `left`.

    DivergenceError if a loss or a parameter is no longer finite, unless the plan allows infinite numbers.
    """
    with under_way(training):
        for _ in training.chunks():
            pass
    return training.run


@contextmanager
def under_way(training: Training) -> Iterator[None]:
    """Begin a training, and end the training after a `with` block with all chunks."""
    with (
        deferred(training.stop) as signals,
        _callbacks_of(training),
        budget.training(),
        _blas_of(training.plan),
    ):
        yield
    training.run.interrupted |= signal.SIGINT in signals


LEFT = "its loop was left"
"""The stop reason after a user has left the loop."""


def iterate(training: Training) -> Generator[Run]:
    """Take the chunks of a training, and yield the run after each.

    While the run is out, signals are the program's, and the BLAS has all threads.
    """
    run, held = training.run, deferred(training.stop)
    with held as signals, _callbacks_of(training):
        chunks, is_left = training.chunks(), False
        while not is_left:
            with budget.training(), _blas_of(training.plan):
                if next(chunks, None) is None or signals:
                    break
            stopped = run.stop_reason is not None
            with held.suspended():
                try:
                    yield run
                except GeneratorExit:
                    is_left = True
            if is_left and not stopped and run.epoch < run.epochs:
                run.stop(LEFT)
            if run.stop_reason is not None and not stopped:
                training.end_chunk()  # a Checkpoint writes here
    run.interrupted |= signal.SIGINT in signals


def _blas_of(plan: Plan) -> AbstractContextManager[None]:
    """Return a context with the BLAS limited to the plan's threads."""
    return budget.blas_threads(plan.blas_threads or plan.threads) if plan.calls_blas else NO_LIMIT


@contextmanager
def _callbacks_of(training: Training) -> Iterator[None]:
    """Begin the callbacks, and end them however a `with` block ends."""
    run, callbacks, begun = training.run, training.callbacks, list[Callback]()
    try:
        for callback in callbacks:
            callback.on_train_begin(run)
            begun.append(callback)
        if (resumed := training.resumed) is not None:
            for callback, (_, saved) in zip(with_state(callbacks), resumed.callbacks, strict=True):
                if saved:
                    _take_over(callback, run, saved)
        run.snapshot = training.snapshot
        yield
        run.left = training.left()
    finally:
        try:
            if begun:
                _end(begun, run)
        finally:
            # At the very end the run drops its reference to the training. The cycle would keep every
            # array until the garbage collector runs, which goes by numbers of objects and not by bytes.
            run.snapshot = no_snapshot


def _end(begun: Sequence[Callback], run: Run) -> None:
    """End every callback that began, in order, even after an error."""
    try:
        begun[0].on_train_end(run)
    finally:
        if len(begun) > 1:
            _end(begun[1:], run)


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
