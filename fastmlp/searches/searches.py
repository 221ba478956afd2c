"""scikit-learn's searches, whose networks train together."""

from __future__ import annotations

from typing import Any, Self

from sklearn import model_selection
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # what the last two need
from sklearn.utils.validation import check_is_fitted

from fastmlp.searches.backend import together
from fastmlp.searches.plots import plot
from fastmlp.searches.trainings import trainings_go_on


class _Search:
    """The part of a search that differs from scikit-learn's."""

    estimator: Any

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Evaluate the candidates, and fit the best one on all rows; as scikit-learn's search.

        Parameters
        ----------
        X : (rows, n_in), as the estimator takes it
        y : (rows,) or (rows, n_out)
        **params : of the estimator's fit, the scorer and the splitter, as `sample_weight` and `groups`

        Returns
        -------
        The search itself.

        Raises
        ------
        ValueError, TypeError
            As scikit-learn's search, for a mistake in its own parameters, and where all fits
            fail; what a single one raises is a warning, unless error_score="raise".
        """
        with together(self.estimator):
            return super().fit(X, y, **params)  # type: ignore[misc]  # scikit-learn's

    def plot(self, metric: str | None = None) -> Any:
        """Return a matplotlib Figure: the scores over each parameter, and over the budget of halving.

        A point is a candidate, with the standard deviation over folds.

        Parameters
        ----------
        metric : str, optional
            One of several metrics; None takes that of `refit`, else the first.

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

    Where the estimator is an `MLPClassifier` or `MLPRegressor` of fastmlp's, or has one inside, as a
    pipeline, the networks of all candidates and folds train together, as those of `fit_many`:

    - `n_jobs` is the number of threads, None for all cores; `pre_dispatch` is ignored, with a warning;
    - steps of a pipeline before the network are fitted once for each fold, and most often applied to its
      test rows once, where their parameters are equal, and `random_state`, if they have one, is a number;
    - networks of the solver "lbfgs" are trained one after another, each on all threads;
    - the time of a fit is its share; Ctrl-C ends the search;
    - with another backend of joblib's that the program has chosen, as Dask, each worker has a share of the
      candidates and folds.

    All other estimators are scikit-learn's matter.

    Parameters
    ----------
    estimator : an estimator of scikit-learn's contract
    param_grid : dict of lists, or list of such dicts
    n_jobs, pre_dispatch : see above
    scoring, refit, cv, verbose, error_score, return_train_score
        As those of `sklearn.model_selection.GridSearchCV`, with its defaults.

    Attributes
    ----------
    cv_results_ : dict of arrays
        As scikit-learn's to the last digit, but for times, and for train scores where a transformer of
        one's own writes to the rows that it is given.
    best_params_ : dict
        As scikit-learn's, as are all other attributes.
    """


class RandomizedSearchCV(_Search, model_selection.RandomizedSearchCV):  # type: ignore[misc]
    """scikit-learn's RandomizedSearchCV, whose networks train together: see `GridSearchCV`.

    Parameters and attributes are those of `sklearn.model_selection.RandomizedSearchCV`. The method is that of
    Bergstra and Bengio, "Random search for hyper-parameter optimization" (2012).
    """


class _HalvingSearch(_Search):
    """The part of successive halving that differs from scikit-learn's."""

    resource: str

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Evaluate the candidates in rounds, and fit the best one on all rows; as scikit-learn's search.

        Arguments and errors are those of `GridSearchCV.fit`.
        """
        with trainings_go_on(self.resource.rpartition("__")[2] == "max_iter"):
            return super().fit(X, y, **params)


class HalvingGridSearchCV(_HalvingSearch, model_selection.HalvingGridSearchCV):  # type: ignore[misc]
    """scikit-learn's HalvingGridSearchCV, whose networks train together: see `GridSearchCV`.

    With `resource="max_iter"` (in a pipeline "mlpclassifier__max_iter") a candidate that comes to the next
    round goes on with the networks that it has, to the same bits as by a training from the beginning. That
    needs a number as `random_state`; with `early_stopping`, callbacks, or a `learning_rate` that falls it
    begins again.

    Parameters and attributes are those of `sklearn.model_selection.HalvingGridSearchCV`; the method is from
    Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016).
    """


class HalvingRandomSearchCV(_HalvingSearch, model_selection.HalvingRandomSearchCV):  # type: ignore[misc]
    """scikit-learn's HalvingRandomSearchCV, whose networks train together: see `HalvingGridSearchCV`.

    Parameters and attributes are those of `sklearn.model_selection.HalvingRandomSearchCV`.
    """
