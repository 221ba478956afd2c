"""A joblib backend: calls become tasks with joint training, here or in a worker."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import joblib
from joblib.parallel import ParallelBackendBase, get_active_backend
from sklearn.base import BaseEstimator

from fastmlp.estimators.base import Joint
from fastmlp.estimators.convergence import warn
from fastmlp.searches.tasks import TaskGroup, TaskThread, shared_steps
from fastmlp.system.budget import usable_cores

folds: Any = None
with suppress(ImportError):  # it reads private parts of scikit-learn, which a later release may not have
    folds = importlib.import_module("fastmlp.searches.folds")


def make_together(
    threads: int, batches: Sequence[Any], callbacks: Sequence[Callable[[Any], None] | None]
) -> list[TaskThread]:
    """Return tasks that have made the calls of joblib's batches; each called its callback at its end.

    threads : for all trainings; trainings of a task's calls belong to the task's group
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
    """Return the results of a worker's batches, made on all of its cores."""
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


OWN = ("LokyBackend", "MultiprocessingBackend", "SequentialBackend", "ThreadingBackend", "TogetherBackend")
"""The backends of this process and its children, replaced by joint training."""


def trains_networks(estimator: Any) -> bool:
    """Return True if an estimator trains networks, directly or by a parameter."""
    parameters = estimator.get_params() if isinstance(estimator, BaseEstimator) else {}
    return any(isinstance(one, Joint) for one in (estimator, *parameters.values()))


@contextmanager
def together(estimator: Any, tasks: int | None = None, n_jobs: int | None = None) -> Iterator[None]:
    """Let joblib's tasks in a `with` block train their networks together.

    With another backend chosen by the program, as Dask, the tasks of each worker train together.
    tasks : of a call that divides its work by the number of workers; n_jobs : the number of workers then
    """
    if not trains_networks(estimator):
        yield
        return
    active = get_active_backend()[0]
    chosen = None if type(active).__name__ in OWN else active
    with joblib.parallel_config(TogetherBackend(tasks, n_jobs, chosen)):
        yield


def threads_of(n_jobs: int | None) -> int:
    """Return how many threads a number of jobs means; all cores for None."""
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    cores = usable_cores()
    if n_jobs is None:
        return cores
    return n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


class Job:
    """A batch of joblib's calls; callback(..) is called after the last call."""

    def __init__(self, backend: TogetherBackend, batch: Any, callback: Callable[[Any], None]) -> None:
        self._backend, self.batch, self.callback = backend, batch, callback
        self.result: Callable[[], list[Any]] | None = None

    def get(self) -> list[Any]:
        """Return the calls' results; the first request runs all jobs."""
        self._backend.run()
        assert self.result is not None
        return self.result()


class TogetherBackend(ParallelBackendBase):  # type: ignore[misc]  # joblib is untyped
    """A joblib backend whose tasks train together, with a thread for each job.

    divisor, n_jobs : see `together`; chosen : a backend whose workers share the tasks, or None
    """

    uses_threads = supports_sharedmem = True
    default_n_jobs = -1

    def __init__(self, divisor: int | None, n_jobs: int | None, chosen: Any) -> None:
        super().__init__(nesting_level=0)
        self._divisor, self._n_jobs, self._chosen = divisor, n_jobs, chosen
        self._jobs: list[Job] = []

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Take over the number of threads, and have joblib submit all tasks."""
        self._threads = n_jobs if self._divisor is None else self._n_jobs
        if str(parallel.pre_dispatch).replace(" ", "") not in ("all", "2*n_jobs"):
            warn("pre_dispatch is ignored where networks train together: tasks begin as memory allows")
        parallel.pre_dispatch = "all"
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return a number of workers, at least two: for a single worker joblib would use no backend."""
        return max(2, self._divisor or threads_of(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Job:
        """Add a batch of calls."""
        self._jobs.append(Job(self, func, callback))
        return self._jobs[-1]

    apply_async = submit

    def run(self) -> None:
        """Make all added calls."""
        jobs, self._jobs = self._jobs, []
        workers = 1 if self._chosen is None else self._chosen.effective_n_jobs(self._threads)
        if workers > 1:
            self._run_on(workers, jobs)
        elif jobs:
            batches, callbacks = [job.batch for job in jobs], [job.callback for job in jobs]
            tasks = make_together(threads_of(self._threads), batches, callbacks)
            for job, task in zip(jobs, tasks, strict=True):
                job.result = task.result

    def _run_on(self, workers: int, jobs: Sequence[Job]) -> None:
        """Make calls on the workers of the chosen backend."""
        shares = [jobs[place::workers] for place in range(min(workers, len(jobs)))]
        with joblib.parallel_config(self._chosen, n_jobs=workers):
            calls = (joblib.delayed(make_in_worker)([job.batch for job in share]) for share in shares)
            found = joblib.Parallel(batch_size=1)(calls)
        for share, results in zip(shares, found, strict=True):
            for job, result in zip(share, results, strict=True):
                job.result = functools.partial(list, result)
                job.callback(result)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget all added calls."""
        self._jobs.clear()
