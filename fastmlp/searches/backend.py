"""The backend of joblib's whose tasks train their networks together: `joblib.parallel_config("fastmlp")`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.parallel import ParallelBackendBase

from fastmlp.searches.tasks import Task, TaskGroup
from fastmlp.searches.trainings import LastSteps
from fastmlp.system.budget import usable_cores

WORKERS = 256
"""The number of workers that joblib counts. A bag trains its members in as many parts, one after another."""


def threads_of(n_jobs: int | None) -> int:
    """Return how many threads a number of jobs means; all cores for None."""
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    cores = usable_cores()
    if n_jobs is None:
        return cores
    return n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


class FastmlpBackend(ParallelBackendBase):  # type: ignore[misc]  # joblib is untyped
    """A joblib backend. Tasks take turns, and train their networks together on `n_jobs` threads.

    last_steps : of the trainings so far in a `with` block; nested backends share these
    """

    uses_threads = supports_sharedmem = True
    default_n_jobs = -1

    def __init__(self, last_steps: LastSteps | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._last_steps = LastSteps() if last_steps is None else last_steps

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Begin a group of tasks; within a task, take the task's group."""
        threads, task = threads_of(n_jobs), Task.current()
        self._group = TaskGroup(threads, self._last_steps) if task is None else task.group
        self._tasks: list[Task] = []
        return WORKERS

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of workers, for any number of threads."""
        threads_of(n_jobs)
        return WORKERS

    def submit(self, func: Callable[[], list[Any]], callback: Callable[[Any], Any] | None = None) -> Task:
        """Add a batch of calls."""
        self._tasks.append(Task(self._group, func, callback, self._run))
        return self._tasks[-1]

    apply_async = submit  # joblib below 1.5

    def _run(self) -> None:
        """Run all added tasks to their end."""
        tasks, self._tasks = self._tasks, []
        self._group.run(tasks)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget all added tasks."""
        self._tasks.clear()

    def get_nested_backend(self) -> tuple[FastmlpBackend, None]:
        """Return the backend of calls within a task."""
        return FastmlpBackend(self._last_steps, nesting_level=self.nesting_level), None
