"""The trainings that tasks wait for: those of one kind are taken together, as those of `fit_many` are."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from fastmlp.backend.auto import Auto
from fastmlp.many.blocks import BlockMembers, Pattern
from fastmlp.many.groups import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import Trainings
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.searches.going_on import KeptTraining
from fastmlp.system.bars import Bar
from fastmlp.system.interrupts import deferred
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.pace import most_seconds
from fastmlp.training.plan import Plan
from fastmlp.training.prepared import Prepared


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
