"""The trainings that tasks wait for: those of one kind are taken together, as those of `fit_many` are."""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from fastmlp.backend.auto import Auto
from fastmlp.many.groups import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import Trainings
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.searches.going_on import Ended
from fastmlp.system.bars import Bar
from fastmlp.system.interrupts import deferred
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.pace import most_seconds
from fastmlp.training.plan import Plan
from fastmlp.training.prepared import Prepared

PAUSE = 0.002
"""Seconds between two looks at whether a training has ended."""


class Awaited:
    """A training that a task waits for.

    earlier : from which it goes on, see `going_on`
    outcome : the finished run, or the error that ended it; None before
    seconds : its share of the time of the trainings that were taken with it and have ended, by their work
    """

    outcome: Run | BaseException | None = None
    seconds = 0.0

    def __init__(
        self, plan: Plan, state: TrainState, callbacks: Sequence[Callback], earlier: Ended | None = None
    ) -> None:
        self.plan, self.state, self.callbacks = plan, state, callbacks
        self._resumed = earlier and earlier.snapshot
        if earlier:
            self.plan = earlier.continued(plan)

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
    """Trainings of which each keeps its error for itself, and whose tasks go on while others train.

    awaited : all trainings; order : their places, as they are taken
    go_on(place) has a task go on; it is called in this order, whatever training ends first
    """

    def __init__(
        self, awaited: Sequence[Awaited], order: Sequence[int], go_on: Callable[[int], None]
    ) -> None:
        super().__init__([None] * len(awaited))
        self.results: list[Any]
        self._awaited, self._left, self._go_on = awaited, deque(order), go_on
        self._began, self._ended_work = time.time(), 0.0

    def take_over(self, index: int, result: Any) -> None:
        """Take over the outcome of a training, in whose results the main thread may find it at once."""
        one = self._awaited[index]
        one.outcome = result
        with self._taking:
            self._ended_work += one.work
        super().take_over(index, result)

    def fail(self, index: int, error: BaseException) -> None:
        """Take over the error that ended a training, and no other."""
        self.results[index] = error

    def wait(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the worker threads; meanwhile tasks go on whose trainings have ended."""
        try:
            while any(thread.is_alive() for thread in threads):
                if not self.next_goes_on():
                    time.sleep(PAUSE)
        except BaseException:
            self.stop("another error")
            super().wait(threads)
            raise

    def next_goes_on(self) -> bool:
        """Have the next task go on, if its training has ended, and none is to stop; return whether."""
        if not self._left or self.results[self._left[0]] is None or self.reason is not None:
            return False
        place = self._left.popleft()
        one, seconds = self._awaited[place], time.time() - self._began
        one.seconds = seconds * one.work / self._ended_work if self._ended_work else 0.0
        self._go_on(place)
        return True


def no_blocks(models: Iterable[Any]) -> list[Any]:
    """Return no members of blocks: callbacks look into all trainings of estimators."""
    return []


def train_together(awaited: Sequence[Awaited], threads: int, go_on: Callable[[int], None]) -> None:
    """Train, on up to so many threads in all. KeyboardInterrupt after Ctrl-C.

    go_on(place) is called of each that has its outcome, also while others train
    """
    workers = min(len(awaited), threads)
    for one in awaited:
        one.plan = one.plan._replace(threads=min(one.plan.threads or threads, threads // workers))
    choose_for_all(awaited)
    groups = groups_of(awaited, workers)
    order = [place for group in groups for place in group.indices]
    trainings = AwaitedTrainings(awaited, order, go_on)
    with Bar(None, "", "", False) as bar, deferred(trainings.stop) as signals:
        trainings.run(groups, workers, lambda index: cast(Prepared, awaited[index]), no_blocks, bar)
        while trainings.next_goes_on():
            continue
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


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
