"""Calls that joblib is to make, as tasks whose networks train together: here, or in a worker."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from fastmlp.searches.preprocessing import shared_steps
from fastmlp.searches.tasks import TaskGroup, TaskThread
from fastmlp.system.budget import usable_cores

folds: Any = None
with suppress(ImportError):  # it reads private parts of scikit-learn, which a later release may not have
    folds = importlib.import_module("fastmlp.searches.folds")


def make_together(
    threads: int, batches: Sequence[Any], callbacks: Sequence[Callable[[Any], None] | None]
) -> list[TaskThread]:
    """Return tasks that have made the calls of joblib's batches; each called its callback at its end.

    threads : for all trainings; those of a task's own calls are the group's to which it belongs
    """
    thread = threading.current_thread()
    steps: dict[Any, Any] = {}
    shared = folds and folds.SharedFolds(steps)
    group = thread.group if isinstance(thread, TaskThread) else TaskGroup(threads)
    tasks = []
    for batch, callback in zip(batches, callbacks, strict=True):
        task = TaskThread(group, functools.partial(_make, batch, steps), callback)
        task.calls, task.unthreaded = batch.items, folds and folds.fit_and_score(task, shared)
        tasks.append(task)
    group.run(tasks)
    return tasks


def make_in_worker(batches: Sequence[Any]) -> list[list[Any]]:
    """Return the results of batches that a worker is given, on all of its cores."""
    return [task.result() for task in make_together(usable_cores(), batches, [None] * len(batches))]


def _make(batch: Any, steps: dict[Any, Any]) -> list[Any]:
    """Make a batch's calls, in a task's thread."""
    task = threading.current_thread()
    assert isinstance(task, TaskThread)
    with ExitStack() as stack:
        for call in batch.items:
            stack.enter_context(shared_steps(call, steps))
        results: list[Any] = batch()
    for result in results:
        if isinstance(result, dict) and "fit_time" in result:
            result["fit_time"] -= task.delay  # what others took
    return results
