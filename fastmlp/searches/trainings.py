"""The trainings that tasks wait for: those of one kind are taken together, as those of `fit_many` are.

The bits of an estimator's training do not depend on how many epochs it shall take: after n of them it is
where one of n epochs ended. So what trainings leave is kept, and a longer one of the same search goes on from
there (successive halving over epochs).
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from fastmlp.backend.auto import Auto
from fastmlp.estimators.convergence import Convergence
from fastmlp.estimators.draws import ComposedOrders
from fastmlp.many.blocks import BlockMembers, Pattern
from fastmlp.many.lanes import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import Trainings
from fastmlp.model.descriptions import described
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.system.bars import Bar
from fastmlp.system.interrupts import deferred
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.fingerprints import fingerprint
from fastmlp.training.loop import Plan, Training
from fastmlp.training.prepared import Prepared
from fastmlp.training.threads import most_seconds


class Ended(NamedTuple):
    """A training that has ended. snapshot : where; stopped : whether before its last epoch"""

    snapshot: Snapshot
    stopped: bool

    def continued(self, plan: Plan) -> Plan:
        """Return the plan of a longer training from here on; one that would stop here has no epoch left."""
        return plan._replace(epochs=len(self.snapshot.history["loss"])) if self.stopped else plan


_ended: ContextVar[dict[str, Ended] | None] = ContextVar("fastmlp_ended", default=None)


@contextmanager
def trainings_go_on(enabled: bool) -> Iterator[None]:
    """Have trainings in a `with` block go on from shorter ones there, if enabled."""
    token = _ended.set({} if enabled else None)
    try:
        yield
    finally:
        _ended.reset(token)


class KeptTraining:
    """The place among the kept ones of a training that is about to begin; empty where nothing is kept."""

    def __init__(self, plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> None:
        self._kept = _ended.get()
        self._key = None if self._kept is None else key_of(plan, state, callbacks)

    @property
    def ended(self) -> Ended | None:
        """The last training that began in this way, None if there was none."""
        return None if self._kept is None or self._key is None else self._kept.get(self._key)

    def keep(self, run: Run) -> None:
        """Keep what a finished run has left."""
        left = run.left
        if self._kept is None or self._key is None or left is None or run.interrupted:
            return
        own = left._replace(
            parameters=left.parameters.copy(),
            moments=left.moments.copy(),
            history={name: list(values) for name, values in left.history.items()},
        )
        self._kept[self._key] = Ended(own, run.stop_reason is not None)


def key_of(plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> str | None:
    """Return what an estimator's training depends on besides its epochs; None if it cannot go on.

    What scores held-out rows, or changes the rate as it goes, would have to be kept as well.
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
    """A training that a task waits for; it goes on from an earlier one where that is kept, see `going_on`.

    outcome : the finished run, or the error that ended it; None before
    seconds : its share of the time of the trainings that were taken with it
    """

    outcome: Run | BaseException | None = None
    seconds = 0.0

    def __init__(self, plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> None:
        self.plan, self.state, self.callbacks = plan, state, callbacks
        self._place = KeptTraining(plan, state, callbacks)
        earlier = self._place.ended
        self._resumed = earlier and earlier.snapshot
        if earlier:
            self.plan = earlier.continued(plan)

    def taken_over(self) -> Run | BaseException:
        """Return the outcome, and keep a run for longer trainings."""
        assert self.outcome is not None
        if isinstance(self.outcome, Run):
            self._place.keep(self.outcome)
        return self.outcome

    @property
    def parts(self) -> tuple[Plan, TrainState, Sequence[Callback], Snapshot | None]:
        """The arguments of `fastmlp.training.lifecycle.train`."""
        return self.plan, self.state, self.callbacks, self._resumed

    def begun(self, begin: Callable[..., Training]) -> Training:
        """Return it before its first step."""
        return begin(*self.parts)

    def ended(self, run: Run) -> Run:
        """Return what it has come to, which is its run."""
        return run

    @property
    def bytes(self) -> int:
        """The memory of its rows."""
        inputs, targets, weights = self.plan.data
        numbers = len(inputs.values) if isinstance(inputs, SparseRows) else inputs.shape[0] * inputs.shape[1]
        return int(numbers + targets.size + weights.size) * weights.itemsize

    @property
    def work(self) -> float:
        """A bound on the seconds of what was trained."""
        rows = self.outcome.rows_seen if isinstance(self.outcome, Run) else 0
        return most_seconds(self.state.parameters.size, rows)


class AwaitedTrainings(Trainings):
    """Trainings of which each keeps its error for itself.

    results : the outcomes of all
    """

    results: list[Any]

    def fail(self, index: int, error: BaseException) -> None:
        """Take over the error that ended a training."""
        self.results[index] = error


def no_blocks(models: list[int], patterns: list[Pattern]) -> BlockMembers:
    """Refuse to make blocks: callbacks look into all trainings of estimators."""
    raise AssertionError("trainings of estimators have no patterns")


def train_together(awaited: Sequence[Awaited], threads: int) -> None:
    """Train, on up to so many threads in all; each gets its outcome. KeyboardInterrupt after Ctrl-C."""
    began = time.time()
    workers = min(len(awaited), threads)
    for one in awaited:
        one.plan = one.plan._replace(threads=min(one.plan.threads or threads, threads // workers))
    choose_for_all(awaited)
    trainings = AwaitedTrainings([None] * len(awaited))
    with Bar(None, "", "", False) as bar, deferred(trainings.stop) as signals:
        trainings.run(
            groups_of(awaited, workers), workers, lambda index: cast(Prepared, awaited[index]), no_blocks, bar
        )
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    for one, outcome in zip(awaited, trainings.results, strict=True):
        one.outcome = outcome
    seconds, work = time.time() - began, sum(one.work for one in awaited)
    for one in awaited:
        one.seconds = seconds * one.work / work if work else 0.0


def choose_for_all(awaited: Sequence[Awaited]) -> None:
    """Have "auto" compile the program of a network by what it saves in all of its trainings."""
    steps: dict[str, float] = defaultdict(float)
    for one in awaited:
        if isinstance(auto := one.plan.backend, Auto):
            steps[auto.program] += auto.steps
    for one in awaited:
        if isinstance(auto := one.plan.backend, Auto) and auto.program and steps[auto.program] > auto.steps:
            one.plan = one.plan._replace(backend=auto.for_all(steps[auto.program]))


def groups_of(awaited: Sequence[Awaited], workers: int) -> list[ModelGroup]:
    """Return the places of trainings as so many threads take them best."""
    groups: dict[Any, ModelGroup] = {}
    for index, one in enumerate(awaited):
        plan, program = one.plan, program_of(one.plan)
        key = program.bound if program else (plan.network, plan.optimizer.rule, one.state.parameters.dtype)
        saved = saved_together(plan, program, as_one=False)
        groups.setdefault(key, ModelGroup(program, workers)).add([index], None, saved)
    return [*groups.values()]
