"""Awaited trainings of tasks, taken together as in `fit_many`.

The bits of an estimator's training do not depend on the number of epochs to come. So the end of each training
is kept, and a longer training of the same search goes on from there (successive halving over epochs).
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from fastmlp.backend.auto import Auto
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.estimators.convergence import Convergence
from fastmlp.estimators.rows import ComposedOrders
from fastmlp.many.lanes import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import Trainings
from fastmlp.model.descriptions import described
from fastmlp.model.rows import SparseRows
from fastmlp.model.state import TrainState
from fastmlp.system.interrupts import deferred
from fastmlp.system.notices import Bar
from fastmlp.training.loop import Plan, Training
from fastmlp.training.prepared import Prepared
from fastmlp.training.snapshot import Snapshot, fingerprint
from fastmlp.training.threads import most_seconds

_snapshots: ContextVar[dict[str, tuple[Snapshot, bool]] | None] = ContextVar(
    "fastmlp_snapshots", default=None
)
"""The ends of a search's trainings, each with a flag for an early stop, by `key_of`."""


@contextmanager
def trainings_go_on(enabled: bool) -> Iterator[None]:
    """Let trainings in a `with` block go on from shorter trainings, if enabled."""
    token = _snapshots.set({} if enabled else None)
    try:
        yield
    finally:
        _snapshots.reset(token)


def key_of(plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> str | None:
    """Return a key of an estimator's training without epochs; None if the training cannot go on.

    Scores of held-out rows, or falling rates, would have to be kept as well.
    """
    first, *others = callbacks
    if others or not isinstance(first, Convergence) or state.step or plan.held_out is not None:
        return None
    estimator = first.estimator
    if first.score is not None or first.endless or estimator._optimizer.schedule != "constant":
        return None
    orders = plan.orders.fingerprint() if isinstance(plan.orders, ComposedOrders) else plan.orders
    settings = (
        described(plan.network), described(plan.optimizer), plan.step_rows, plan.dropout_key, orders,
        estimator.backend, estimator.tol, estimator.n_iter_no_change,
    )  # fmt: skip
    return f"{settings} {fingerprint(state.parameters, *plan.data)}"


class Awaited:
    """An awaited training, which may go on from a shorter training.

    outcome : the finished run, or the error of the training; None before
    seconds : the training's fraction of the time of joint trainings
    """

    outcome: Run | BaseException | None = None
    seconds = 0.0

    def __init__(self, training: Prepared) -> None:
        self.training, self._snapshots = training, _snapshots.get()
        self._key = (key_of(*training[:3]) or "") if self._snapshots is not None else ""
        if self._snapshots and self._key in self._snapshots:
            resumed, stopped = self._snapshots[self._key]
            self.training = training._replace(resumed=resumed)
            if stopped:  # a longer training would stop there, too
                self.change_plan(epochs=len(resumed.history["loss"]))

    @property
    def plan(self) -> Plan:
        """The plan of the training."""
        return self.training.plan

    def change_plan(self, **fields: Any) -> None:
        """Replace fields of the plan."""
        self.training = self.training._replace(plan=self.plan._replace(**fields))

    def begun(self, batches: None, kind: type[Training]) -> Training:
        """Return the training before its first step."""
        return self.training.begun(batches, kind)

    def ended(self, run: Run) -> Run:
        """Return the finished run: the task makes a model of it."""
        return run

    def taken_over(self) -> Run | BaseException:
        """Return the outcome, and keep a run for longer trainings."""
        run, snapshots = self.outcome, self._snapshots
        assert run is not None
        if snapshots is not None and self._key and isinstance(run, Run) and run.left and not run.interrupted:
            snapshot = run.left._replace(
                parameters=run.left.parameters.copy(), moments=run.left.moments.copy(),
                history={name: [*values] for name, values in run.left.history.items()},
            )  # fmt: skip
            snapshots[self._key] = snapshot, run.stop_reason is not None
        return run

    @property
    def bytes(self) -> int:
        """The memory of the training's rows."""
        inputs, targets, weights = self.plan.data
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
        one.change_plan(threads=min(one.plan.threads or threads, threads // workers))
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
        if isinstance(auto := one.plan.backend, Auto):
            steps[auto.program] += auto.steps
    for one in awaited:
        if isinstance(auto := one.plan.backend, Auto) and auto.program and steps[auto.program] > auto.steps:
            one.change_plan(backend=auto.for_all(steps[auto.program]))


def groups_of(awaited: Sequence[Awaited], workers: int) -> list[ModelGroup]:
    """Return trainings in groups for so many threads."""
    groups: dict[Any, ModelGroup] = {}
    for index, one in enumerate(awaited):
        plan, program = one.plan, program_of(one.plan)
        key = (
            program.specialized
            if program
            else (plan.network, plan.optimizer.rule, one.training.state.parameters.dtype)
        )
        saved = saved_together(plan, program, as_one=False)
        groups.setdefault(key, ModelGroup(program, workers)).add([index], None, saved)
    return [*groups.values()]
