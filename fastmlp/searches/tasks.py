"""Tasks of joblib's, run in turns.

A task may do anything: preprocess rows, fit other estimators, search. At the training of a network the task
waits, and other tasks run. Once all tasks wait, all trainings are taken together.
"""

from __future__ import annotations

import contextvars
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from fastmlp.callbacks.callback import Run
from fastmlp.estimators.base import TrainingThread
from fastmlp.searches.trainings import Awaited, LastSteps, train_together
from fastmlp.system.interrupts import POLL
from fastmlp.training.training import Training

MOST_BYTES = 1 << 28
"""Bytes of rows from which on no further task begins before waiting tasks have trained."""

MOST_TASKS = 1 << 10
"""The most waiting tasks; a task takes some 50 KB."""

WARNING_STATE = ("filters", "showwarning", "_showwarnmsg_impl")
"""The attributes changed by `warnings.catch_warnings`, for all threads of the process."""


def warning_state() -> tuple[Any, ...]:
    """Return the state of the warnings module; each task has a state."""
    return tuple(getattr(warnings, name) for name in WARNING_STATE)


def set_warning_state(state: tuple[Any, ...]) -> None:
    """Go back to a state."""
    for name, value in zip(WARNING_STATE, state, strict=True):
        setattr(warnings, name, value)
    with warnings.catch_warnings():  # which has the interpreter read the filters anew
        pass


class Abandoned(BaseException):
    """Ends an unneeded task."""


class Task(TrainingThread):
    """A batch of joblib's calls in a thread, which runs while the group waits.

    callback : called by the group after the end; run_all : runs all tasks added with this task
    parent : the task that waits for this task
    """

    parent: Task | None = None
    runs = ended = False

    def __init__(
        self,
        group: TaskGroup,
        batch: Callable[[], list[Any]],
        callback: Callable[[Any], Any] | None,
        run_all: Callable[[], None],
    ) -> None:
        super().__init__(daemon=True)
        self.group, self.callback = group, callback
        self.error: BaseException | None = None
        self._batch, self._run_all, self._results = batch, run_all, list[Any]()
        self._delay = 0.0  # seconds of waiting for trainings, less the task's fraction of these
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._task_context, self._warnings = contextvars.copy_context(), warning_state()

    def get(self, timeout: float | None = None) -> list[Any]:
        """Return the calls' results, or raise the first error; the first request runs all tasks."""
        if not self.ended:
            self._run_all()
        if self.error is not None:
            raise self.error
        return self._results

    def run(self) -> None:
        """Make the calls."""
        try:
            self._results = self._task_context.run(self._batch)
            for result in self._results:
                if isinstance(result, dict) and "fit_time" in result:
                    result["fit_time"] -= self._delay  # spent on the networks of other tasks
        except BaseException as error:
            self.error = error
        self.ended = True
        self._give_turn()

    def go_on(self) -> None:
        """Begin, or go on from where the task waits. RuntimeError if there can be no further thread."""
        set_warning_state(self._warnings)
        new = self.ident is None
        self.runs = True  # from here on Ctrl-C comes no earlier than the thread has its turn
        if new:
            try:
                self.start()
            except RuntimeError:
                self.runs = False
                raise
        else:
            self._turns.put(None)

    def wait(self) -> None:
        """Let other tasks run until this task goes on; Abandoned if the group ends."""
        if not self.group.abandoned:
            self._warnings = warning_state()
            self._give_turn()
            self._turns.get()
        if self.group.abandoned:
            raise Abandoned

    def _give_turn(self) -> None:
        self.runs = False
        self.group.turns.put(None)

    def train(self, training: Training) -> Run:
        """Return the finished run of a training, taken together with other trainings."""
        began = time.time()
        awaited = self.group.add_training(self, training)
        self.wait()
        self._delay += time.time() - began - awaited.seconds
        outcome = awaited.taken_over()
        if isinstance(outcome, Run):
            return outcome
        raise outcome


class TaskGroup:
    """Tasks that train together, on up to so many threads.

    abandoned : True once no task shall go on
    turns : filled by a task at the end of a turn
    """

    def __init__(self, threads: int, last_steps: LastSteps) -> None:
        self.threads = threads
        self.abandoned = False
        self.turns: SimpleQueue[None] = SimpleQueue()
        self._last_steps = last_steps
        self._fresh: deque[Task] = deque()
        self._ready: deque[Task] = deque()
        self._training: list[tuple[Task, Awaited]] = []
        self._left: dict[Task, int] = {}
        """Waiting tasks, with the number of tasks to wait for."""
        self._begun: dict[Task, None] = {}
        self._most_tasks, self._bytes = MOST_TASKS, 0

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks to their end; a task may call this, and waits.

        Elsewhere the first error of a task ends all tasks, and is raised.
        """
        parent = Task.current()
        self._fresh.extendleft(reversed(tasks))
        if parent is not None and parent.group is self:
            for task in tasks:
                task.parent = parent
            self._left[parent] = len(tasks)
            parent.wait()
            return
        outside = warning_state()
        try:
            self._take_turns()
        except BaseException:
            self._abandon()
            raise
        finally:
            set_warning_state(outside)

    def add_training(self, task: Task, training: Training) -> Awaited:
        """Add a task's training."""
        awaited = Awaited(training, self._last_steps)
        self._training.append((task, awaited))
        self._bytes += awaited.bytes
        return awaited

    def _take_turns(self) -> None:
        while self._fresh or self._ready or self._training:
            full = len(self._training) >= self._most_tasks or self._bytes > MOST_BYTES
            if self._ready:
                self._let_run(self._ready.popleft())
            elif self._fresh and not full:
                self._let_run(self._fresh.popleft())
            else:
                self._train()

    def _let_run(self, task: Task) -> None:
        new = task not in self._begun
        self._begun[task] = None  # first: Ctrl-C may come while its thread starts
        try:
            task.go_on()
        except RuntimeError:  # "can't start new thread"
            if new:
                del self._begun[task]
            if not self._training:
                raise
            self._fresh.appendleft(task)
            self._most_tasks = len(self._training)
            return
        self._await(task)
        if task.ended:
            self._end(task)

    def _await(self, task: Task) -> None:
        while task.runs:
            try:
                self.turns.get(timeout=POLL)  # without a timeout Windows would not hear Ctrl-C
            except Empty:
                if task.ident is None:  # Ctrl-C came before its thread
                    return

    def _end(self, task: Task) -> None:
        task.join()
        del self._begun[task]
        if task.callback is not None:
            task.callback(task)
        parent = task.parent
        if parent is not None:
            self._left[parent] -= 1
            if not self._left[parent]:
                self._ready.append(parent)
        elif task.error is not None:
            raise task.error

    def _train(self) -> None:
        """Take all awaited trainings; the tasks are ready then."""
        training, self._training, self._bytes = self._training, [], 0
        train_together([awaited for _, awaited in training], self.threads)
        self._ready.extend(task for task, _ in training)

    def _abandon(self) -> None:
        """End all tasks that have begun, in reverse order."""
        self.abandoned = True
        for task in reversed(self._begun):
            self._await(task)
            if task.ident is not None:
                if not task.ended:
                    task.go_on()
                task.join()
