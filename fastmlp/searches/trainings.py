"""Awaited trainings of tasks, taken together as in `fit_many`.

The bits of an estimator's training do not depend on the number of epochs to come. So the last step of each
training is kept, and a longer training goes on from there (successive halving over epochs).
"""

from __future__ import annotations

import signal
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

from fastmlp.backend.auto import Auto
from fastmlp.callbacks.callback import Run
from fastmlp.estimators.convergence import Convergence
from fastmlp.estimators.rows import ComposedOrders
from fastmlp.many.lanes import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import Trainings
from fastmlp.model.descriptions import described
from fastmlp.model.rows import SparseRows
from fastmlp.system.interrupts import deferred
from fastmlp.system.notices import Bar
from fastmlp.training.loop import Kind
from fastmlp.training.snapshot import Snapshot, fingerprint
from fastmlp.training.threads import most_seconds
from fastmlp.training.training import Training

MOST_KEPT = 1 << 28
"""Bytes of all last steps kept by a `with` block."""


class LastSteps:
    """The last steps of finished trainings, by `key_of`, each with a flag for an early stop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Snapshot, bool]] = OrderedDict()
        self._bytes = 0

    def find(self, key: str | None) -> tuple[Snapshot, bool] | None:
        """Return the last step of a training; None if unknown."""
        return None if key is None else self._kept.get(key)

    def keep(self, key: str, last: Snapshot, stopped: bool) -> None:
        """Keep a copy of a last step, and forget the earliest steps beyond MOST_KEPT."""
        self._forget(key)
        copied = last._replace(
            parameters=last.parameters.copy(), moments=last.moments.copy(),
            history={name: [*values] for name, values in last.history.items()},
        )  # fmt: skip
        self._kept[key] = copied, stopped
        self._bytes += _bytes_of(copied)
        while self._bytes > MOST_KEPT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> None:
        if (known := self._kept.pop(key, None)) is not None:
            self._bytes -= _bytes_of(known[0])


def _bytes_of(last: Snapshot) -> int:
    return int(last.parameters.nbytes + last.moments.nbytes)


def key_of(training: Training) -> str | None:
    """Return a key of an estimator's training without epochs; None if the training cannot go on.

    Scores of held-out rows, or falling rates, would have to be kept as well.
    """
    first, *others = training.callbacks
    if others or not isinstance(first, Convergence) or training.state.step or training.held_out is not None:
        return None
    estimator = first.estimator
    if first.score is not None or first.endless or estimator._optimizer.schedule != "constant":
        return None
    orders: Any = training.orders
    orders = orders.fingerprint() if isinstance(orders, ComposedOrders) else orders
    settings = (
        described(training.network), described(training.optimizer), training.step_rows,
        training.dropout_key, orders,
        estimator.backend, str(estimator.dtype), estimator.tol, estimator.n_iter_no_change,
    )  # fmt: skip
    return f"{settings} {fingerprint(training.state.parameters, *training.data)}"


class Awaited:
    """An awaited training, which may go on from a shorter training.

    outcome : the finished run, or the error of the training; None before
    seconds : the training's fraction of the time of joint trainings
    """

    outcome: Run | BaseException | None = None
    seconds = 0.0

    def __init__(self, training: Training, last_steps: LastSteps) -> None:
        self.training, self._last_steps, self._key = training, last_steps, key_of(training)
        if (known := last_steps.find(self._key)) is not None:
            resumed, stopped = known
            if len(resumed.history["loss"]) > training.epochs:
                return
            self.training = training.having(Training, resumed=resumed)
            if stopped:  # a longer training would stop there, too
                self.change(epochs=len(resumed.history["loss"]))

    def change(self, **attributes: Any) -> None:
        """Replace attributes of the training."""
        self.training = self.training.having(Training, **attributes)

    def begun(self, kind: type[Kind]) -> Kind:
        """Return the training as a kind, before its first step."""
        return self.training.begun(kind)

    def ended(self, run: Run) -> Run:
        """Return the finished run: the task makes a model of it."""
        return run

    def taken_over(self) -> Run | BaseException:
        """Return the outcome, and keep a run's last step for longer trainings."""
        run = self.outcome
        assert run is not None
        if self._key is not None and isinstance(run, Run) and run.left and not run.interrupted:
            self._last_steps.keep(self._key, run.left, run.stop_reason is not None)
        return run

    @property
    def bytes(self) -> int:
        """The memory of the training's rows."""
        inputs, targets, weights = self.training.data
        numbers = len(inputs.values) if isinstance(inputs, SparseRows) else inputs.shape[0] * inputs.shape[1]
        return int(numbers + targets.size + weights.size) * weights.itemsize

    @property
    def work(self) -> float:
        """A bound on the seconds of the steps taken."""
        rows = self.outcome.rows_seen if isinstance(self.outcome, Run) else 0
        return most_seconds(self.training.state.parameters.size, rows)


class AwaitedTrainings(Trainings):
    """Trainings that fail one by one.

    results : the outcomes of all
    """

    results: list[Any]

    def fail(self, index: int, error: BaseException) -> None:
        """Take over the error of a training."""
        self.results[index] = error


def train_together(awaited: Sequence[Awaited], threads: int) -> None:
    """Train on up to so many threads in all, and set all outcomes. KeyboardInterrupt after Ctrl-C."""
    began = time.time()
    workers = min(len(awaited), threads)
    for one in awaited:
        one.change(threads=min(one.training.threads or threads, threads // workers))
    choose_for_all(awaited)
    trainings = AwaitedTrainings([None] * len(awaited))
    with Bar(None, "", "", False) as bar, deferred(trainings.stop) as signals:
        trainings.run(groups_of(awaited, workers), workers, awaited.__getitem__, bar)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    for one, outcome in zip(awaited, trainings.results, strict=True):
        one.outcome = outcome
    seconds, work = time.time() - began, sum(one.work for one in awaited)
    for one in awaited:
        one.seconds = seconds * one.work / work if work else 0.0


def choose_for_all(awaited: Sequence[Awaited]) -> None:
    """Let "auto" choose for all trainings of a network together."""
    steps: dict[str, float] = defaultdict(float)
    for one in awaited:
        if isinstance(auto := one.training.backend, Auto):
            steps[auto.program] += auto.steps
    for one in awaited:
        auto = one.training.backend
        if isinstance(auto, Auto) and auto.program and steps[auto.program] > auto.steps:
            one.change(backend=auto.for_all(steps[auto.program]))


def groups_of(awaited: Sequence[Awaited], workers: int) -> list[ModelGroup]:
    """Return trainings in groups for so many threads."""
    groups: dict[Any, ModelGroup] = {}
    for index, one in enumerate(awaited):
        training, program = one.training, program_of(one.training)
        key = (
            program.specialized
            if program
            else (training.network, training.optimizer.rule, training.state.parameters.dtype)
        )
        saved = saved_together(training, program, as_one=False)
        groups.setdefault(key, ModelGroup(program, workers)).add([index], None, saved)
    return [*groups.values()]
