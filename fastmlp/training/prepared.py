"""A training before its first step: all arguments are checked, and all that it begins with is there."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.backend.choice import settled
from fastmlp.model.backend import Array, Data
from fastmlp.model.layout import aligned, aligned_copy, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.state import Snapshot, TrainState, initial_state
from fastmlp.system.budget import found_blas_threads
from fastmlp.system.interrupts import Interrupted
from fastmlp.training.batches import Mixing
from fastmlp.training.callbacks import Callback, Pause, Run, with_state
from fastmlp.training.data import checked_weights, clean_rows_of, clean_targets, scaled_weights
from fastmlp.training.lifecycle import finished, iterate
from fastmlp.training.loop import HeldOut, Plan, Training
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation, sample_of
from fastmlp.training.options import FitOptions, Setup, StepSetup
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.sparse_data import inputs_of_steps
from fastmlp.training.start import RowOrders, Streams, dropout_key, initial_parameters, split_rows


class Prepared(NamedTuple):
    """A training that can begin.

    plan : what its steps go by; state : where they begin, which they write to
    data : the rows as they were given, where steps visit others, as sparse ones
    training : what the model will keep, with what is known before the first step
    ranks : the processes that train together
    """

    plan: Plan
    data: Data
    state: TrainState
    callbacks: list[Callback]
    training: Continuation
    ranks: Ranks

    def train(self, begin: Callable[..., Training] | None = None) -> Model:
        """Take all steps; return the model. Errors as of `fit`; begin : as of `lifecycle.train`"""
        return self.ended(finished(self.begun(begin)))

    def begun(self, begin: Callable[..., Training] | None = None) -> Training:
        """Return the training before its first step; begin : as of `lifecycle.train`"""
        training = (begin or self.ranks.begin or Training)(*self.parts)
        if self.ranks.size == 1:  # one of several ranks cannot make a model that goes on
            vars(training.run)["_model"] = self.model_now
        return training

    @property
    def parts(self) -> tuple[Plan, TrainState, list[Callback], Snapshot | None]:
        """The arguments of `train`."""
        return self.plan, self.state, self.callbacks, self.training.beginning.snapshot

    def iterate(self, pause: Pause, begin: Callable[..., Training] | None = None) -> Generator[Run]:
        """Take all steps, and yield the run as `fastmlp.iter_fit` does."""
        training = self._replace(callbacks=[*self.callbacks, pause]).begun(begin)
        with closing(iterate(training)) as runs:
            for run in runs:
                if pause.is_due(run):
                    yield run
                    pause.count(run)
        if training.run.interrupted:
            raise Interrupted(training.run.model())

    def ended(self, run: Run) -> Model:
        """Return the model, once all steps were taken; Interrupted, which has it, after Ctrl-C."""
        assert run.left is not None
        self.ranks.check_equal(self.state.parameters)  # callbacks may change them at the very end
        snapshot = run.left
        if self.callbacks:  # which may keep curves, or have put some of their own there
            run.history.update({name: [*values] for name, values in run.history.items()})
            snapshot = snapshot._replace(history=run.history)
        model = self._model(run, snapshot, self.state.parameters)
        vars(run)["_model"] = None  # which would keep the rows
        if isinstance(self.plan.orders, RowOrders):
            self.plan.orders.leave()
        if run.interrupted:
            raise Interrupted(model)
        return model

    def model_now(self, run: Run) -> Model:
        """Return the model between two chunks, or after the last one, with copies of all arrays and lists."""
        snapshot, parameters = run.left or run.snapshot(), aligned_copy(run.parameters)
        own = parameters if snapshot.parameters is run.parameters else aligned_copy(snapshot.parameters)
        snapshot = snapshot._replace(
            parameters=own, moments=snapshot.moments.copy(), callbacks=copy.deepcopy(snapshot.callbacks),
            history={name: [*values] for name, values in run.history.items()},
        )  # fmt: skip
        return self._model(run, snapshot, parameters)

    def _model(self, run: Run, snapshot: Snapshot, parameters: Array) -> Model:
        """Return a model that goes on from a snapshot, whose history it has."""
        plan, beginning, ranks, sample = self.plan, self.training.beginning, self.ranks, self.training.sample
        if ranks.any_of(bool(snapshot.callbacks)) and not sample:
            sample = sample_of(self.data, in_memory(plan.held_out), ranks)
        now = settled(plan.backend)  # type: ignore[arg-type]  # Steps are, or have one
        # The model has the same lists: a copy takes 4 ns an epoch, a twentieth of the smallest steps.
        lengths = {name: len(values) for name, values in snapshot.history.items()}
        beginning = Beginning(snapshot, beginning.since, beginning.earlier, beginning.other_steps, lengths)
        ended, history = "", {**beginning.whole(snapshot.history)}
        if snapshot.callbacks or snapshot.parameters is not parameters:
            from fastmlp.training.fingerprints import fingerprint

            ended = fingerprint(parameters)
        left = self.training._replace(backend=now.name, sample=sample, beginning=beginning, ended=ended)
        return Model(plan.network, parameters, history, now, run.stop_reason, left, run.threads)


def in_memory(held_out: Data | HeldOut | None) -> Data | None:
    """Return rows to validate on that are in memory."""
    return held_out if isinstance(held_out, Data) else None


class EpochRows(NamedTuple):
    """The rows of a training, as far as they are known before its first step.

    data : this rank's, all or those of the first window; held_out : those to validate on
    in_epoch : how many an epoch has on all ranks; None of blocks, which are known by `sample`
    batch_size : rows of a batch on all ranks; step, microbatch : of a step, see `options.step_rows`
    per_epoch : steps to an epoch, 0 where that is not known; is_sized : whether it is before rows are read
    setting : of blocks, for a `Snapshot`
    """

    data: Data
    held_out: Data | HeldOut | None
    in_epoch: int | None
    batch_size: int
    step: int
    microbatch: int
    per_epoch: int
    is_sized: bool = True
    sample: str = ""
    setting: dict[str, Any] = {}  # noqa: RUF012  # never written


def ready(
    network: Network,
    options: FitOptions,
    setup: Setup,
    streams: Streams,
    mixing: Mixing | None,
    rows: EpochRows,
    ranks: Ranks = ALONE,
    trainings: int = 1,
) -> Prepared:
    """Return a training that can begin, on rows in memory or in blocks.

    options : checked, with a seed, whose streams are given; setup : theirs
    ranks, trainings : as for `trainer.prepared`
    """
    data, (more, file) = rows.data, options.earlier
    epochs, dtype, own_rows = options.epochs, data.weights.dtype, -(-rows.batch_size // ranks.size)
    callbacks, is_array = options.callbacks, rows.in_epoch is not None
    in_file = file is not None or ranks.any_of(any(one.writes_training for one in callbacks))
    start: Callable[[], Any] | None = None
    with ranks.raise_on_all_ranks():
        on_training, measures = checks.flag("training_metrics", options.training_metrics), list[Callback]()
        if options.metrics:
            from fastmlp.training.metrics import metrics_of

            measured = data if is_array else None, in_memory(rows.held_out)
            measures += metrics_of(options.metrics, on_training, network, *measured, ranks)
        if network.needs_batches and epochs and is_array:
            network.check_rows(np.array([rows.batch_size]))
        steps = epochs * rows.per_epoch if rows.per_epoch else None
        averaged = steps if rows.is_sized else None
        step_setup = setup.steps_of(network, options, own_rows, dtype, steps and steps * trainings, averaged)
        if more and not in_file:  # what it begins with is taken over; a file says what it would be
            parameters = aligned(parameter_count(network), dtype)
        else:
            seen = data.inputs if len(data.inputs) else None  # of several ranks, those of the first
            start = functools.partial(initial_parameters, network, options.initial, dtype, streams, seen)
            parameters = start()
    optimizer = step_setup.optimizer
    moment_rows = optimizer.moment_rows
    chosen, callbacks = ranks.started(step_setup.backend, parameters, [*measures, *callbacks], moment_rows)
    if chosen is not step_setup.backend:  # that of the first rank
        step_setup = StepSetup.on(chosen, network, optimizer, options, own_rows, dtype)
    beginning = Beginning(file and file.snapshot)
    if more:
        beginning = _beginning_of_more(more, rows, callbacks, ranks)
        epochs += beginning.epochs
    rule_steps, shuffled = beginning.rule_steps, options.shuffle and rows.per_epoch != 1
    done = beginning.since.epoch + beginning.epochs
    setting: dict[str, Any] = {}
    blas_threads = None
    if in_file:
        setting, blas_threads = _setting(network, options, step_setup, parameters, rows, callbacks, ranks)
    taken = data.inputs
    if step_setup.becomes_sparse and mixing is None and is_array and len(taken):
        taken = inputs_of_steps(chosen, network, optimizer, own_rows, taken, epochs)
    weights = head_weights = None
    if ranks.size > 1:
        weights = ranks.weights(data)
        if network.heads:
            head_weights = ranks.of_all_rows(network.head_weights(data.targets, data.weights))
    plan = Plan(
        network=network,
        optimizer=optimizer,
        backend=ranks.runner(chosen, rows.per_epoch, data, rule_steps),
        data=data if taken is data.inputs else data._replace(inputs=taken),
        held_out=rows.held_out,
        epochs=epochs,
        step_rows=rows.step,
        orders=RowOrders.of(streams.seed, rows.in_epoch or 0, done) if shuffled else None,
        dropout_key=dropout_key(network, streams),
        threads=options.threads,
        stays_finite=True,
        setting=setting,
        blas_threads=blas_threads,
        calls_blas=bool(callbacks) or step_setup.calls_blas,
        since=beginning.since,
        other_steps=beginning.other_steps,
        weights=weights,
        head_weights=head_weights,
        microbatch=rows.microbatch,
        mixing=mixing,
        weighed=options.sample_weight is not None or not is_array or ranks.size > 1,
        start=start if options.initial is None and ranks.size == 1 and is_array else None,
    )
    state = initial_state(parameters, moment_rows, rule_steps)
    validation: Any = options.validation
    is_share = validation is not None and isinstance(validation, Real)
    training = Continuation(
        fit=options.fit,
        options={**step_setup.staying, "seed": options.seed},
        share=float(validation) if is_share else None,
        backend=chosen.name,
        rows=rows.in_epoch,
        sample=rows.sample,
        beginning=beginning,
    )
    return Prepared(plan, data, state, callbacks, training, ranks)


def _beginning_of_more(
    more: Continuation, rows: EpochRows, callbacks: list[Callback], ranks: Ranks
) -> Beginning:
    """Return where a training begins that goes on from a model's."""
    sample: str | None = rows.sample
    if rows.in_epoch is not None:
        sample = sample_of(rows.data, in_memory(rows.held_out), ranks) if more.goes_by_sample else None
    with ranks.raise_on_all_ranks():
        return more.begin(rows.in_epoch, sample, rows.held_out is not None, callbacks)


def _setting(
    network: Network,
    options: FitOptions,
    steps: StepSetup,
    parameters: Array,
    rows: EpochRows,
    callbacks: list[Callback],
    ranks: Ranks,
) -> tuple[dict[str, Any], int | None]:
    """Return the setting of a training that is in a file, and the limit for the BLAS of one that resumes.

    CheckpointError if the file to resume from is of another training.
    """
    from fastmlp.training import resuming

    (_, file), backend, optimizer = options.earlier, steps.backend.name, steps.optimizer
    with ranks.raise_on_all_ranks():
        blas_threads = resuming.held_blas_threads(file, backend)
    setting = resuming.setting(
        network, optimizer, backend, parameters, rows.data, in_memory(rows.held_out), rows.batch_size,
        options, blas_threads or found_blas_threads(options.threads), ranks,
        ranks.by_rows if file is None else file.by_rows,
    ) | rows.setting  # fmt: skip
    if file:
        with ranks.raise_on_all_ranks():
            names = [type(callback).__name__ for callback in with_state(callbacks)]
            same = file, setting, names, optimizer
            if rows.in_epoch is None:
                resuming.check_same_blocks(*same, options.epochs)
            else:
                resuming.check_same_training(*same, rows.in_epoch, rows.per_epoch, options.epochs)
    return setting, blas_threads


# --- rows in memory, of one process or of several -------------------------------------------------------


def check_no_blocks(y: Any, window: int | None) -> None:
    """Raise TypeError for rows that come block by block."""
    if y is None or window is not None:
        got = "" if window is None else f", without a window; got window={checks.shown(window)}"
        raise TypeError(f"with a communicator X and y are arrays, of which each process has its rows{got}")


def arrays_of(X: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Return the rows of an Arrow table, whose columns y and weights name, as arrays; others as they are.

    TypeError for what is no rows in memory.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(X, arrow.Table):
        if isinstance(X, (str, os.PathLike)) or isinstance(y, str) or callable(X) or hasattr(X, "scanner"):
            raise TypeError(
                "with a communicator X is an array, or a pyarrow.Table of which y names columns, got "
                f"{checks.shown(X)}; fastmlp.shard reads this rank's rows of Parquet files"
            )
        return X, y, weights
    from fastmlp.training.sources.arrow import arrow_source

    found, targets, *others = zip(*arrow_source("X", X, y, weights), strict=True)
    if isinstance(y, Mapping):
        joined: Any = {name: np.concatenate([part[name] for part in targets]) for name in y}
    else:
        joined = np.concatenate(targets)
    return np.concatenate(found), joined, np.concatenate(others[0]) if others else None


def cleaned(
    network: Network, X: Any, y: Any, sample_weight: Any, dtype: Any, ranks: Ranks, what: str = ""
) -> Data:
    """Return this rank's rows, clean, with weights that are not scaled.

    what : comes before the names of the arguments in an error
    """
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
    """Return this rank's rows with weights whose largest on all ranks is one in [1, 2).

    weighed : whether weights are given here; what : as of `cleaned`
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
    """Return (X, y) or (X, y, sample_weight) to validate on as this rank's clean rows."""
    with ranks.raise_on_all_ranks():
        if len(validation) not in (2, 3):
            raise ValueError(
                f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts"
            )
        X, y, *rest = validation
        weights = rest[0] if rest else None
        data = cleaned(network, X, y, weights, dtype, ranks, "validation ")
    return scaled(data, weights is not None, ranks, "validation ")


def split(network: Network, data: Data, validation: Any, streams: Streams, ranks: Ranks) -> tuple[Data, Data]:
    """Return this rank's rows to train on, and its rows held out."""
    if isinstance(validation, (tuple, list)):
        return data, validation_rows(network, validation, data.inputs.dtype, ranks)
    rows = ranks.place(len(data.weights))
    with ranks.raise_on_all_ranks():
        parts = split_rows(validation, rows, streams)
    (train_rows, _), (held_rows, _) = map(ranks.own, parts)
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.raise_on_all_ranks():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
