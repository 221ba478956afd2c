"""scikit-learn's searches and cross-validation with joint training, by a joblib backend; a search's picture.

The calls of joblib become tasks with joint training, here or in a worker.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from numbers import Real
from typing import Any, Self

import joblib
import numpy as np
from joblib.parallel import ParallelBackendBase, get_active_backend
from sklearn import model_selection
from sklearn.base import BaseEstimator
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # what the last two need
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.estimators.base import Joint
from fastmlp.estimators.convergence import warn
from fastmlp.searches.tasks import TaskGroup, TaskThread, shared_steps
from fastmlp.searches.trainings import trainings_go_on
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


JOBLIBS = (
    "LokyBackend",
    "MultiprocessingBackend",
    "SequentialBackend",
    "ThreadingBackend",
    "TogetherBackend",
)
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
    chosen = None if type(active).__name__ in JOBLIBS else active
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
        parts = [jobs[index::workers] for index in range(min(workers, len(jobs)))]
        with joblib.parallel_config(self._chosen, n_jobs=workers):
            calls = (joblib.delayed(make_in_worker)([job.batch for job in part]) for part in parts)
            found = joblib.Parallel(batch_size=1)(calls)
        for part, results in zip(parts, found, strict=True):
            for job, result in zip(part, results, strict=True):
                job.result = functools.partial(list, result)
                job.callback(result)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget all added calls."""
        self._jobs.clear()


# --- searches ----------------------------------------------------------------------------------------


class _Search:
    """The part of a search unlike scikit-learn's."""

    estimator: Any

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Evaluate the candidates, and fit the best one on all rows; as scikit-learn's search.

        Parameters
        ----------
        X : (rows, n_in), as for the estimator
        y : (rows,) or (rows, n_out)
        **params : of the estimator's fit, the scorer and the splitter, as `sample_weight` and `groups`

        Returns
        -------
        The search itself.

        Raises
        ------
        ValueError, TypeError
            As scikit-learn's search, for a mistake in the search's parameters, and where all fits fail; an
            error of a single fit becomes a warning, unless error_score="raise".
        """
        with together(self.estimator):
            return super().fit(X, y, **params)  # type: ignore[misc]  # scikit-learn's

    def plot(self, metric: str | None = None) -> Any:
        """Return a matplotlib Figure: the scores over each parameter, and over the budget of halving.

        A point is a candidate, with the standard deviation over folds.

        Parameters
        ----------
        metric : str, optional
            A metric of several; None takes the metric of `refit`, else the first metric.

        Raises
        ------
        ImportError
            If matplotlib is not installed, the extra `plot`.
        NotFittedError
            If the search is not fitted.
        """
        check_is_fitted(self, "cv_results_")
        return plot(self, metric)


class GridSearchCV(_Search, model_selection.GridSearchCV):  # type: ignore[misc]  # scikit-learn is untyped
    """scikit-learn's GridSearchCV, with its parameters, attributes and results.

    Where the estimator is an `MLPClassifier` or `MLPRegressor` of fastmlp's, or contains such an estimator,
    as a pipeline does, the networks of all candidates and folds train together, as in `fit_many`:

    - `n_jobs` is the number of threads, None for all cores; `pre_dispatch` is ignored, with a warning;
    - steps of a pipeline before the network are fitted once for each fold, and most often applied to its
      test rows once, for equal parameters, with a number as `random_state`, if any;
    - networks of the solver "lbfgs" are trained in turn, each on all threads;
    - the time of a fit is a fraction of the joint training; Ctrl-C ends the search;
    - with another backend of joblib's, chosen by the program, as Dask, each worker has a fraction of the
      candidates and folds.

    All other estimators are scikit-learn's matter.

    Parameters
    ----------
    estimator : an estimator of scikit-learn's contract
    param_grid : dict of lists, or list of such dicts
    n_jobs, pre_dispatch : see above
    scoring, refit, cv, verbose, error_score, return_train_score
        As in `sklearn.model_selection.GridSearchCV`, with the same defaults.

    Attributes
    ----------
    cv_results_ : dict of arrays
        As scikit-learn's to the last digit, but for times, and for train scores where a custom transformer
        writes to its rows.
    best_params_ : dict
        As scikit-learn's, as are all other attributes.
    """


class RandomizedSearchCV(_Search, model_selection.RandomizedSearchCV):  # type: ignore[misc]
    """scikit-learn's RandomizedSearchCV with joint training: see `GridSearchCV`.

    Parameters and attributes are as in `sklearn.model_selection.RandomizedSearchCV`. The method is from
    Bergstra and Bengio, "Random search for hyper-parameter optimization" (2012).
    """


class _HalvingSearch(_Search):
    """The part of successive halving unlike scikit-learn's."""

    resource: str

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Evaluate the candidates in rounds, and fit the best one on all rows; as scikit-learn's search.

        Arguments and errors are as in `GridSearchCV.fit`.
        """
        with trainings_go_on(self.resource.rpartition("__")[2] == "max_iter"):
            return super().fit(X, y, **params)


class HalvingGridSearchCV(_HalvingSearch, model_selection.HalvingGridSearchCV):  # type: ignore[misc]
    """scikit-learn's HalvingGridSearchCV with joint training: see `GridSearchCV`.

    With `resource="max_iter"` (in a pipeline "mlpclassifier__max_iter") a candidate of the next round goes on
    with its networks, to the same bits as by a training from the beginning. To go on needs a number as
    `random_state`; with `early_stopping`, callbacks, or a falling `learning_rate` a candidate begins again.

    Parameters and attributes are as in `sklearn.model_selection.HalvingGridSearchCV`; the method is from
    Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016).
    """


class HalvingRandomSearchCV(_HalvingSearch, model_selection.HalvingRandomSearchCV):  # type: ignore[misc]
    """scikit-learn's HalvingRandomSearchCV with joint training: see `HalvingGridSearchCV`.

    Parameters and attributes are as in `sklearn.model_selection.HalvingRandomSearchCV`.
    """


def _together(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of scikit-learn's with joint training."""

    @functools.wraps(function, assigned=("__name__", "__qualname__"))
    def called(*given: Any, **named: Any) -> Any:
        with together(given[0] if given else named.get("estimator")):
            return function(*given, **named)

    called.__doc__ = (
        f"scikit-learn's {function.__name__}, whose folds train together: see `fastmlp.GridSearchCV`.\n\n"
        f"    Parameters and results are those of `sklearn.model_selection.{function.__name__}`.\n    "
    )
    return called


cross_val_predict = _together(model_selection.cross_val_predict)
cross_val_score = _together(model_selection.cross_val_score)
cross_validate = _together(model_selection.cross_validate)
learning_curve = _together(model_selection.learning_curve)
validation_curve = _together(model_selection.validation_curve)


# --- the picture of a search

LOG_RATIO = 20.0
"""A parameter with values that differ by more than this factor has a logarithmic scale."""


def plot(search: Any, metric: str | None) -> Any:
    """Return a matplotlib Figure of a fitted search's results; see `GridSearchCV.plot`."""
    results = search.cv_results_
    names = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
    if metric is None:
        metric = search.refit if search.refit in names else names[0]
    checks.choice("metric", metric, names)
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    budget = results.get("n_resources")
    spent = None if budget is None else f"param_{search.resource}"  # which has a panel of its own
    parameters = [name for name in results if name.startswith("param_") and name != spent]
    panels = len(parameters) + (budget is not None)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    axes = [*figure.subplots(1, panels, sharey=True, squeeze=False)[0]]
    means, deviations = results[f"mean_test_{metric}"], results[f"std_test_{metric}"]
    axes[0].set_ylabel(metric)
    for one, name in zip(axes, parameters, strict=False):
        indices = _indices(one, results[name])
        shown = {"fmt": ".", "color": "0.7", "zorder": 1}
        one.errorbar(indices, means, yerr=deviations, **shown)
        one.scatter(indices, means, c=means if budget is None else budget, zorder=2)
        one.set_xlabel(name.removeprefix("param_").rpartition("__")[2])
    if budget is not None:
        _draw_budget(axes[-1], results["params"], budget, means, search.resource)
    return figure


def _indices(axes: Any, values: Any) -> Any:
    """Set up a parameter's axis; return the values' positions, NaN for missing values."""
    given = [None if value is np.ma.masked else value for value in values]
    numbers = [value for value in given if value is not None]
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in numbers):
        indices = np.array([np.nan if value is None else float(value) for value in given])
        if min(numbers) > 0 and max(numbers) > LOG_RATIO * min(numbers):
            axes.set_xscale("log")
        return indices
    texts = list(dict.fromkeys(map(str, given)))
    axes.set_xticks(range(len(texts)), texts)
    return np.array([texts.index(str(value)) for value in given])


def _draw_budget(axes: Any, candidates: Any, budget: Any, means: Any, resource: str) -> None:
    """Draw a line for each candidate over the budget."""
    lines = defaultdict(list)
    for candidate, spent, mean in zip(candidates, budget, means, strict=True):
        settings = {name: value for name, value in candidate.items() if name != resource}
        lines[repr(settings)].append((spent, mean))
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), ".-", alpha=0.7)
    axes.set(xscale="log", xlabel=resource.rpartition("__")[2])
    axes.set_xticks(np.unique(budget), map(str, np.unique(budget)))
    axes.minorticks_off()
