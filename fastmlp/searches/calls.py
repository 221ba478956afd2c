"""Calls that joblib is to make, as tasks whose networks train together: here, or in a worker."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from fastmlp.searches.folds import SharedFolds, fit_and_score
from fastmlp.searches.preprocessing import shared_steps
from fastmlp.searches.tasks import TaskGroup, TaskThread
from fastmlp.system.budget import usable_cores


def make_together(
    threads: int, batches: Sequence[Any], callbacks: Sequence[Callable[[Any], None] | None]
) -> list[TaskThread]:
    """Return tasks that have made the calls of joblib's batches; each called its callback at its end.

    threads : for all trainings; those of a task's own calls are the group's to which it belongs
    """
    thread, shared = threading.current_thread(), SharedFolds()
    group = thread.group if isinstance(thread, TaskThread) else TaskGroup(threads)
    tasks = []
    for batch, callback in zip(batches, callbacks, strict=True):
        task = TaskThread(group, functools.partial(_make, batch, shared), callback)
        task.calls, task.unthreaded = batch.items, fit_and_score(task, shared)
        tasks.append(task)
    group.run(tasks)
    return tasks


def make_in_worker(batches: Sequence[Any]) -> list[list[Any]]:
    """Return the results of batches that a worker is given, on all of its cores."""
    return [task.result() for task in make_together(usable_cores(), batches, [None] * len(batches))]


def _make(batch: Any, shared: SharedFolds) -> list[Any]:
    """Make a batch's calls, in a task's thread."""
    task = threading.current_thread()
    assert isinstance(task, TaskThread)
    with ExitStack() as stack:
        for call in batch.items:
            stack.enter_context(shared_steps(call, shared.steps))
        results: list[Any] = batch()
    for result in results:
        if isinstance(result, dict) and "fit_time" in result:
            result["fit_time"] -= task.delay  # what others took
    return results
