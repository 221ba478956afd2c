"""The beginning and end of a training: callbacks, signals and limits around the loop."""

from __future__ import annotations

import copy
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from fastmlp.callbacks.callback import Callback, Run, no_snapshot, with_state
from fastmlp.checks import CheckpointError
from fastmlp.system import budget
from fastmlp.system.interrupts import deferred
from fastmlp.training.loop import Plan, Training

NO_LIMIT = nullcontext()
"""The limit of the BLAS where nothing calls it."""


def finished(training: Training) -> Run:
    """Take all chunks of a training; return its run, in whose `left` is what a later training goes on from.

    DivergenceError if a loss or a parameter is no longer finite, unless the plan allows that.
    """
    with under_way(training):
        for _ in training.chunks():
            pass
    return training.run


@contextmanager
def under_way(training: Training) -> Iterator[None]:
    """Begin a training, and end the training after a `with` block that takes all chunks."""
    with (
        deferred(training.stop) as signals,
        _callbacks_of(training),
        budget.training(),
        _blas_of(training.plan),
    ):
        yield
    training.run.interrupted |= signal.SIGINT in signals


LEFT = "its loop was left"
"""Why a training stops whose loop a user has left."""


def iterate(training: Training) -> Generator[Run]:
    """Take the chunks of a training, and yield the run after each.

    While the run is out, signals are the program's, and the BLAS has its threads.
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
    """Return a context that holds the BLAS to the plan's threads."""
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
