"""scikit-learn's searches and cross-validation with joint training; a search's picture."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn import model_selection
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # what the last two need
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.searches.backend import together
from fastmlp.searches.trainings import trainings_go_on


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
    - the time of a fit is a share of the joint training; Ctrl-C ends the search;
    - with another backend of joblib's, chosen by the program, as Dask, each worker has a share of the
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
        places = _places(one, results[name])
        shown = {"fmt": ".", "color": "0.7", "zorder": 1}
        one.errorbar(places, means, yerr=deviations, **shown)
        one.scatter(places, means, c=means if budget is None else budget, zorder=2)
        one.set_xlabel(name.removeprefix("param_").rpartition("__")[2])
    if budget is not None:
        _draw_budget(axes[-1], results["params"], budget, means, search.resource)
    return figure


def _places(axes: Any, values: Any) -> Any:
    """Set up a parameter's axis; return the values' positions, NaN for missing values."""
    given = [None if value is np.ma.masked else value for value in values]
    numbers = [value for value in given if value is not None]
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in numbers):
        places = np.array([np.nan if value is None else float(value) for value in given])
        if min(numbers) > 0 and max(numbers) > LOG_RATIO * min(numbers):
            axes.set_xscale("log")
        return places
    texts = list(dict.fromkeys(map(str, given)))
    axes.set_xticks(range(len(texts)), texts)
    return np.array([texts.index(str(value)) for value in given])


def _draw_budget(axes: Any, candidates: Any, budget: Any, means: Any, resource: str) -> None:
    """Draw a line for each candidate over the budget."""
    lines = defaultdict(list)
    for candidate, spent, mean in zip(candidates, budget, means, strict=True):
        own = {name: value for name, value in candidate.items() if name != resource}
        lines[repr(own)].append((spent, mean))
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), ".-", alpha=0.7)
    axes.set(xscale="log", xlabel=resource.rpartition("__")[2])
    axes.set_xticks(np.unique(budget), map(str, np.unique(budget)))
    axes.minorticks_off()
