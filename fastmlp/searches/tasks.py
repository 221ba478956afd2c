"""Tasks of a search, run in turns, and pipeline steps shared by tasks.

A task may do anything: preprocess rows, fit other estimators, search. At the training of a network the task
waits, and other tasks run. Once all tasks wait, all trainings are taken together.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from fastmlp.callbacks.callback import Run
from fastmlp.estimators.base import Joint, TrainingThread
from fastmlp.estimators.parameters import PLAIN
from fastmlp.searches.trainings import Awaited, train_together
from fastmlp.system.interrupts import POLL
from fastmlp.training.training import Training

MOST_BYTES = 1 << 28
"""Bytes of rows from which on no further task begins before waiting tasks have trained."""

MOST_TASKS = 1 << 10
"""The most waiting tasks; a task with a thread takes some 50 KB more."""


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


class TaskThread(TrainingThread):
    """A task: a call in a thread, run while the group waits.

    call : the task's work; error : of the call, if any
    ended_call : called by the group after the end
    delay : seconds of waiting for trainings, less the task's fraction of the trainings
    calls : the calls of joblib's in the task
    parent : the task that waits for this task
    unthreaded : the call in two parts, before and after the training, made in the group's thread: 0.15 ms
    less. The
        generator returns the call's result, or None if the thread is needed
    """

    _result: Any = None
    error: BaseException | None = None
    parent: TaskThread | None = None
    runs = ended = False
    delay = 0.0
    calls: Sequence[Call] = ()
    unthreaded: Generator[None, None, Any] | None = None

    def __init__(
        self, group: TaskGroup, call: Callable[[], Any], ended_call: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.group, self._call, self.ended_call = group, call, ended_call
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._task_context, self._warnings = contextvars.copy_context(), warning_state()

    def run(self) -> None:
        """Make the call."""
        try:
            self._result = self._task_context.run(self._call)
        except BaseException as error:
            self.error = error
        self.ended = True
        self._give_turn()

    def go_on(self) -> None:
        """Begin, or go on from where the task waits. RuntimeError if there can be no further thread."""
        set_warning_state(self._warnings)
        if self.unthreaded is not None and self._goes_on_unthreaded(self.unthreaded):
            return
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

    def _goes_on_unthreaded(self, parts: Generator[None, None, Any]) -> bool:
        """Make the next part here; return False if the task's thread is needed."""
        try:
            if self.group.abandoned:
                parts.close()
            else:
                self._task_context.run(next, parts)
            return True
        except StopIteration as end:
            self._result, self.ended = end.value, end.value is not None
        self.unthreaded = None
        return self.ended

    def end(self) -> None:
        """Wait for the thread to end, if it was started."""
        if self.ident is not None:
            self.join()

    def wait(self) -> None:
        """Let other tasks run until this task goes on; Abandoned if the group ends."""
        if not self.group.abandoned:
            self._warnings = warning_state()
            self._give_turn()
            self._turns.get()
        if self.group.abandoned:
            raise Abandoned

    def result(self) -> Any:
        """Return the call's result, or raise its error."""
        if self.error is not None:
            raise self.error
        return self._result

    def _give_turn(self) -> None:
        self.runs = False
        self.group.turns.put(None)

    def train(self, training: Training) -> Run:
        """Return the finished run of a training, taken together with other trainings."""
        began = time.time()
        awaited = self.group.add_training(self, training)
        self.wait()
        self.delay += time.time() - began - awaited.seconds
        outcome = awaited.taken_over()
        if isinstance(outcome, Run):
            return outcome
        raise outcome


class TaskGroup:
    """Tasks that train together, on up to so many threads.

    abandoned : True once no task shall go on
    turns : filled by a task at the end of a turn
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.abandoned = False
        self.turns: SimpleQueue[None] = SimpleQueue()
        self._fresh: deque[TaskThread] = deque()
        self._ready: deque[TaskThread] = deque()
        self._training: list[tuple[TaskThread, Awaited]] = []
        self._left: dict[TaskThread, int] = {}
        """Waiting tasks, with the number of tasks to wait for."""
        self._begun: dict[TaskThread, None] = {}
        self._most_tasks, self._bytes = MOST_TASKS, 0

    def run(self, tasks: Sequence[TaskThread]) -> None:
        """Run tasks to their end; a task may call this, and waits.

        Elsewhere the first error of a task ends all tasks, and is raised.
        """
        thread = threading.current_thread()
        self._fresh.extendleft(reversed(tasks))
        if isinstance(thread, TaskThread) and thread.group is self:
            for task in tasks:
                task.parent = thread
            self._left[thread] = len(tasks)
            thread.wait()
            return
        outside = warning_state()
        try:
            self._take_turns()
        except BaseException:
            self._abandon()
            raise
        finally:
            set_warning_state(outside)

    def add_training(self, task: TaskThread, training: Training) -> Awaited:
        """Add a task's training."""
        awaited = Awaited(training)
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

    def _let_run(self, task: TaskThread) -> None:
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

    def _await(self, task: TaskThread) -> None:
        while task.runs:
            try:
                self.turns.get(timeout=POLL)  # without a timeout Windows would not hear Ctrl-C
            except Empty:
                if task.ident is None:  # Ctrl-C came before its thread
                    return

    def _end(self, task: TaskThread) -> None:
        task.end()
        del self._begun[task]
        if task.ended_call is not None:
            task.ended_call(task)
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
            if not task.ended and (task.unthreaded is not None or task.ident is not None):
                task.go_on()
            task.end()


# --- steps of pipelines that are fitted once for each fold --------------------------------------------

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

FOLD = ("X", "y", "train")
"""Arguments of scikit-learn's functions for the rows of a pipeline's fit."""

_signature = functools.lru_cache(maxsize=8)(inspect.signature)
"""`inspect.signature` takes as long as scaling the rows of a small search."""


def arguments_of(call: Call) -> dict[str, Any]:
    """Return a call's arguments by name."""
    function, given, named = call
    return _signature(inspect.unwrap(function)).bind(*given, **named).arguments


@contextmanager
def shared_steps(call: Call, fitted_steps: dict[Any, Any]) -> Iterator[None]:
    """Let a call's pipeline take over steps fitted on the same rows.

    Only a pipeline that ends in a network of fastmlp's, which does not write to its rows, without a memory.
    fitted_steps : the fitted steps of all calls
    """
    pipeline: Any = call[1][0] if call[1] else None
    if type(pipeline) is not Pipeline or pipeline.memory is not None:
        yield
        return
    arguments = arguments_of(call)
    if not all(name in arguments for name in FOLD):
        yield
        return
    steps = pipeline.memory = SharedSteps(pipeline, tuple(id(arguments[name]) for name in FOLD), fitted_steps)
    try:
        yield
    finally:
        if pipeline.memory is steps:
            pipeline.memory = None


class SharedSteps:
    """The fitted steps of a pipeline, in place of a joblib.Memory.

    rows : a key of the first step's rows, equal for the same rows
    fitted_steps : results of all pipelines, by rows and steps
    """

    def __init__(self, pipeline: Pipeline, rows: Any, fitted_steps: dict[Any, Any]) -> None:
        self._pipeline, self._fitted = pipeline, fitted_steps
        self._led: Any = rows
        """The key of rows and steps so far; None without a common key."""

    def cache(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Return a function that fits a step, or finds the fitted step."""
        if not isinstance(self._pipeline.steps[-1][1], Joint):
            return function

        def fit_transform(transformer: Any, X: Any, *given: Any, **named: Any) -> Any:
            here = self._led
            self._led = key_after(here, transformer, named.get("params"))
            if self._led in self._fitted:
                return self._fitted[self._led]
            if here in self._fitted:  # the step may write to its rows, and others shall find them
                X = copy.deepcopy(X)
            fitted = function(transformer, X, *given, **named)
            if self._led is not None:
                self._fitted[self._led] = fitted
            return fitted

        return fit_transform


def key_after(rows: Any, transformer: Any, routed: Any = None) -> Any:
    """Return the key of the rows after a step; None without a key. rows : the key before the step"""
    hashed = None if rows is None else _hash(transformer, routed)
    return None if hashed is None else (rows, hashed)


def _hash(transformer: Any, routed: Any) -> Any:
    """Return a key of equal transformers; None for a random transformer."""
    if not hasattr(transformer, "get_params"):
        return None
    parameters = vars(transformer)  # before it is fitted, its parameters
    routed = routed if any((routed or {}).values()) else None
    plain = routed is None and PLAIN.issuperset(map(type, parameters.values()))
    for name, value in (parameters if plain else transformer.get_params()).items():
        if name.endswith("random_state") and not isinstance(value, (int, np.integer)):
            return None  # another draw each time
        if name.endswith("copy") and not value:
            return None  # it writes to rows that may be scored later
    if plain:
        return type(transformer), *((name, type(value), value) for name, value in parameters.items())
    try:
        return str(joblib.hash((transformer, routed)))
    except Exception:  # what cannot be pickled, as a function of a notebook
        return None
