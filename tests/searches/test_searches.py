"""Searches and validation: scikit-learn's results to the last digit, of networks that train together."""

import os
import signal
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import LokyBackend
from scipy import sparse
from sklearn import config_context, model_selection
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from support.noted import noted
from support.problems import data_set
from support.searches import X, Y, assert_nothing_runs, assert_same_results, both, classifier, counted
from support.selection import matrix, quick

import fastmlp
from fastmlp import Callback, MLPClassifier, MLPRegressor
from fastmlp.backend import lanes
from fastmlp.backend.auto import Auto
from fastmlp.kernels.small.layouts import lanes_of
from fastmlp.searches import tasks

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BINARY = (Y > 0).astype(int)
_, TARGETS = data_set("diabetes", 60)
GRID = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__hidden_layer_sizes": [(3,), (4,)]}


def regressor(**options):
    return MLPRegressor(hidden_layer_sizes=(4,), max_iter=4, random_state=0, backend="reference", **options)


def piped(**options):
    return make_pipeline(StandardScaler(), classifier(**options))


@pytest.fixture
def trained(monkeypatch):
    """How many trainings were taken together, one number for each time."""
    return counted(monkeypatch)


@quick(1)
@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("GridSearchCV", {"param_grid": GRID}, [12]),
        ("RandomizedSearchCV", {"param_distributions": GRID, "n_iter": 3, "random_state": 0}, [9]),
        ("HalvingGridSearchCV", {"param_grid": GRID, "factor": 2, "random_state": 0}, [12, 6]),
        ("HalvingRandomSearchCV", {"param_distributions": GRID, "factor": 2, "random_state": 0}, [9, 6]),
    ],
)
def test_a_search_has_scikit_learns_results(name, options, groups, trained):
    theirs, ours = both(name, piped(), cv=StratifiedKFold(3), return_train_score=True, fit=(X, Y), **options)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_score_ == theirs.best_score_
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    assert trained == groups
    assert ours.best_estimator_.memory is None


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("cross_val_score", {}, [3]),
        ("cross_val_predict", {"method": "predict_proba"}, [3]),
        ("learning_curve", {"train_sizes": [0.5, 1.0]}, [6]),
        ("learning_curve", {"train_sizes": [0.5, 1.0], "exploit_incremental_learning": True}, [3, 3]),
        ("validation_curve", {"param_name": "alpha", "param_range": [1e-4, 1.0]}, [6]),
    ],
)
def test_a_function_has_scikit_learns_results(name, options, groups, trained):
    theirs, ours = both(name, classifier(), X, Y, cv=StratifiedKFold(3), **options)
    for got, expected in zip(
        *(one if isinstance(one, tuple) else [one] for one in (ours, theirs)), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    assert trained == groups


def test_auto_weighs_a_program_by_the_steps_of_all_trainings(monkeypatch):
    found = noted(monkeypatch, Auto, "for_all")
    alphas = {"param_name": "alpha", "param_range": [1e-4, 1.0], "cv": KFold(3)}
    theirs, ours = both("validation_curve", classifier(backend="auto"), X, Y, **alphas)
    np.testing.assert_array_equal(ours, theirs)
    assert {count for _, count in found} == {2 * 3 * 4}  # candidates, folds and epochs of one step
    assert len(found) >= 6, "each training goes by it, and what is compiled ahead of them"


def test_cross_validate_returns_estimators_and_a_share_of_the_time_for_each(trained):
    began = time.perf_counter()
    scorings = ["r2", "neg_mean_absolute_error"]
    given = {"cv": KFold(4), "scoring": scorings, "return_estimator": True, "return_indices": True}
    theirs, ours = both("cross_validate", regressor(), X, TARGETS, **given)
    assert sum(ours["fit_time"]) < time.perf_counter() - began
    assert min(ours["fit_time"]) > 0
    del ours["indices"], theirs["indices"]
    assert_same_results(ours, theirs)
    for got, expected in zip(ours["estimator"], theirs["estimator"], strict=True):
        np.testing.assert_array_equal(got.coefs_[0], expected.coefs_[0])
    assert trained == [4]


class Counted(TransformerMixin, BaseEstimator):
    """Counts how often it is fitted, and writes to what it is given."""

    fits = 0

    def __init__(self, shift=1.0, random_state=0):
        self.shift, self.random_state = shift, random_state

    def fit(self, X, y=None):
        Counted.fits += 1
        return self

    def transform(self, X):
        X += self.shift
        return X


@quick(2)
@pytest.mark.parametrize(
    ("first", "grid", "fits"),
    [
        (Counted(), {"alpha": [0.1, 1.0, 2.0]}, 3),
        (Counted(), {"alpha": [0.1, 1.0], "counted__shift": [1.0, 2.0]}, 6),
        (Counted(random_state=None), {"alpha": [0.1, 1.0, 2.0]}, 9),
        (make_pipeline(FunctionTransformer(lambda X: X)), {"alpha": [0.1, 1.0]}, 6),
    ],
)
def test_steps_are_fitted_once_a_fold_where_they_are_equal(first, grid, fits):
    second = () if isinstance(first, Counted) else (Counted(),)  # after one that cannot be hashed
    pipeline = make_pipeline(first, *second, PCA(2, random_state=0), classifier())
    names = {"alpha": "mlpclassifier__alpha"}
    theirs, ours = both(
        "GridSearchCV", pipeline, {names.get(name, name): values for name, values in grid.items()},
        cv=StratifiedKFold(3), refit=False, fit=(X, Y),
    )  # fmt: skip
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    Counted.fits = 0
    ours.fit(X, Y)
    assert Counted.fits == fits


def test_sparse_rows_weights_groups_several_metrics_and_a_choice_of_ones_own(trained):
    def own(y, predicted, sample_weight=None):
        return np.average(y == predicted, weights=sample_weight)

    weights, groups = 1.0 + np.arange(60) % 3, np.arange(60) // 10
    given = {
        "cv": GroupKFold(3),
        "scoring": {"own": make_scorer(own), "log": "neg_log_loss"},
        "refit": lambda results: int(results["mean_test_own"].argmin()),
    }
    fit = sparse.csr_array(X * (X > 0)), Y, {"sample_weight": weights, "groups": groups}
    theirs, ours = both("GridSearchCV", classifier(), {"alpha": [1e-4, 1.0, 9.0]}, fit=fit, **given)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.best_index_ == theirs.best_index_
    assert trained == [9]
    with config_context(enable_metadata_routing=True):
        routed = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        fit = X, Y, {"sample_weight": weights}
        theirs, ours = both("GridSearchCV", routed, {"alpha": [1e-4, 1.0]}, cv=StratifiedKFold(3), fit=fit)
    assert_same_results(ours.cv_results_, theirs.cv_results_)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_candidate_that_fails_has_the_score_for_that():
    grid, folds = {"hidden_layer_sizes": [(4,), (-1,)]}, StratifiedKFold(3)
    with pytest.warns(FitFailedWarning, match="hidden_layer_sizes must be > 0"):
        theirs, ours = both("GridSearchCV", classifier(), grid, cv=folds, error_score=-7.0, fit=(X, Y))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.cv_results_["mean_test_score"][1] == -7
    search = fastmlp.GridSearchCV(classifier(), grid, cv=folds, error_score="raise")
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        search.fit(X, Y)
    assert_nothing_runs()


@matrix
def test_searches_within_a_validation_train_with_one_another(trained):
    inner = {
        package: package.GridSearchCV(classifier(early_stopping=True), {"alpha": [1e-4, 1.0]}, cv=2)
        for package in (model_selection, fastmlp)
    }
    expected = model_selection.cross_val_score(inner[model_selection], X, Y, cv=StratifiedKFold(3))
    got = fastmlp.cross_val_score(inner[fastmlp], X, Y, cv=StratifiedKFold(3))
    np.testing.assert_array_equal(got, expected)
    assert trained == [3 * 2 * 2, 3]  # the candidates of all outer folds, and the best of each
    trained.clear()
    got = fastmlp.cross_val_score(inner[model_selection], X, Y, cv=StratifiedKFold(3))
    np.testing.assert_array_equal(got, expected)
    assert trained == [3] * 5  # of scikit-learn's one after another


@matrix
def test_a_tuned_threshold_is_that_of_scikit_learns_search(trained):
    tuned = TunedThresholdClassifierCV(piped(), cv=StratifiedKFold(2), thresholds=5)
    theirs, ours = both(
        "GridSearchCV", tuned, {"estimator__mlpclassifier__alpha": [1e-4, 1.0]}, cv=2, fit=(X, BINARY)
    )
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.best_estimator_.best_threshold_ == theirs.best_estimator_.best_threshold_
    assert trained[0] == 4


def test_warnings_of_tasks_reach_the_caller_and_leave_its_filters():
    def scoring(estimator, X, y):
        warnings.warn(f"scored {len(y)} rows", UserWarning, stacklevel=1)
        return 1.0

    with pytest.warns(UserWarning, match="scored 20 rows"):
        fastmlp.cross_val_score(classifier(), X, Y, cv=StratifiedKFold(3), scoring=scoring)
    filters = warnings.filters[:]
    fastmlp.cross_val_score(classifier(), X, Y, cv=StratifiedKFold(3))
    assert warnings.filters == filters
    with pytest.warns(UserWarning, match="pre_dispatch is ignored"):
        fastmlp.cross_val_score(classifier(), X, Y, cv=StratifiedKFold(3), pre_dispatch=1)


class Threads(Callback):
    """Notes which threads train, and what steps may take."""

    found: set[int]

    def on_train_begin(self, run):
        type(self).found.add(threading.get_ident())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_n_jobs_are_threads(n_jobs):
    Threads.found = set()
    fastmlp.cross_val_score(classifier(callbacks=[Threads()]), X, Y, cv=5, n_jobs=n_jobs)
    assert 1 <= len(Threads.found) <= n_jobs
    with pytest.raises(ValueError, match="n_jobs == 0"):
        fastmlp.cross_val_score(classifier(), X, Y, cv=5, n_jobs=0)


class Elsewhere(LokyBackend):
    """A backend that a program has chosen: worker processes, whose name says nothing of joblib's own."""


@pytest.mark.slow  # it starts processes
def test_workers_of_a_chosen_backend_have_a_share_each(trained):
    expected = model_selection.GridSearchCV(piped(), GRID, cv=StratifiedKFold(3)).fit(X, Y)
    joblib.register_parallel_backend("elsewhere", Elsewhere)
    with joblib.parallel_config("elsewhere", n_jobs=2):
        ours = fastmlp.GridSearchCV(piped(), GRID, cv=StratifiedKFold(3), n_jobs=2).fit(X, Y)
        assert_same_results(ours.cv_results_, expected.cv_results_)
        with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
            fastmlp.cross_val_score(classifier(hidden_layer_sizes=(-1,)), X, Y, error_score="raise")
    assert trained == []  # here


def test_numpys_seed_fixes_what_networks_without_a_seed_come_to():
    scores = []
    for seed in (1, 1, 2):
        np.random.seed(seed)  # noqa: NPY002  # scikit-learn's estimators draw from it
        scores.append(
            fastmlp.cross_val_score(classifier(random_state=None), X, Y, cv=4, scoring="neg_log_loss")
        )
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[1] != scores[2]).all()


def test_few_rows_at_a_time_have_the_same_results(monkeypatch, trained):
    monkeypatch.setattr(tasks, "MOST_BYTES", 4000)
    theirs, ours = both("GridSearchCV", piped(), GRID, cv=StratifiedKFold(3), fit=(X, Y))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert len(trained) > 3


def test_the_picture_of_a_search_has_each_parameter_and_the_budget():
    grid = {"alpha": [1e-4, 1.0], "activation": ["relu", "tanh"]}
    search = fastmlp.HalvingGridSearchCV(classifier(), grid, cv=2, factor=2, random_state=0)
    with pytest.raises(NotFittedError):
        search.plot()
    search.fit(X, Y)
    activation, alpha, budget = search.plot().axes
    assert alpha.get_xscale() == "log"
    assert [text.get_text() for text in activation.get_xticklabels()] == ["relu", "tanh"]
    assert len(budget.lines) == 4
    points = alpha.collections[-1].get_offsets()
    np.testing.assert_array_equal(points[:, 1], search.cv_results_["mean_test_score"])
    with pytest.raises(ValueError, match="metric"):
        search.plot("speed")


def test_other_estimators_are_left_to_scikit_learn(trained):
    theirs, ours = both(
        "GridSearchCV", DummyClassifier(), {"strategy": ["prior", "most_frequent"]}, cv=3, fit=(X, Y)
    )
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert trained == []


# --- what ends a search, or one of its trainings ----------------------------------------------------------


class AtEpoch(Callback):
    """Does something after an epoch of the training with a given penalty."""

    def __init__(self, penalty, do):
        self.penalty, self.do = penalty, do

    def on_epoch_end(self, run):
        if run.network.l2 == self.penalty:
            self.do()


def fail():
    raise ZeroDivisionError("of the program")


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_an_error_of_a_callback_ends_its_training_only():
    grid, folds = {"alpha": [0.25, 0.5, 0.75]}, StratifiedKFold(3)
    given = classifier(callbacks=[AtEpoch(0.5, fail)]), grid
    with pytest.warns(FitFailedWarning, match="of the program"):
        theirs, ours = both("GridSearchCV", *given, cv=folds, fit=(X, Y))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True, False]


def interrupt(sent=[]):  # noqa: B006  # of all copies of the callback: a second signal acts at once
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process of Windows")
def test_ctrl_c_ends_the_search():
    given = classifier(max_iter=10**6, tol=0, callbacks=[AtEpoch(0.25, interrupt)])
    filters = warnings.filters[:]
    with pytest.raises(KeyboardInterrupt):
        fastmlp.GridSearchCV(given, {"alpha": [0.25, 0.5, 0.75]}, cv=2).fit(X, Y)
    assert_nothing_runs()
    assert warnings.filters == filters


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no SIGALRM")
def test_a_limit_of_time_ends_a_search_of_one_training():
    class TooLong(Exception):
        pass

    came = threading.Event()

    def handle(*_):
        came.set()
        raise TooLong

    def take_too_long():
        if not came.is_set():
            os.kill(os.getpid(), signal.SIGALRM)
            came.wait(10)  # the handler runs in the main thread

    before = signal.signal(signal.SIGALRM, handle)
    try:
        given = classifier(alpha=0.25, callbacks=[AtEpoch(0.25, take_too_long)])
        with pytest.raises(TooLong):
            fastmlp.cross_val_score(given, X, Y, cv=ShuffleSplit(1, random_state=0))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert_nothing_runs()


# --- candidates whose networks take their steps together --------------------------------------------------


CANCER, KINDS = data_set("breast_cancer", 150)


@pytest.mark.slow  # it compiles the program of lanes
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_grid_in_lanes_has_scikit_learns_results(monkeypatch, lane_programs):
    lane_programs(is_worth=lambda *_: True)
    found = counted(monkeypatch, lanes, "blocks_of", 1)
    given = fastmlp.MLPClassifier(
        (6,), max_iter=20, tol=0.02, n_iter_no_change=2, random_state=0, backend="fused"
    )
    grid = {"learning_rate_init": [1e-3, 1e-2, 0.05], "alpha": [1e-4, 1e-2], "early_stopping": [False, True]}
    theirs, ours = (
        package.GridSearchCV(given, grid, cv=StratifiedKFold(3), scoring="neg_log_loss").fit(CANCER, KINDS)
        for package in (model_selection, fastmlp)
    )
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert len(np.unique(ours.cv_results_["mean_test_score"])) > 6
    assert max(found) == lanes_of(np.dtype(np.float64))


@matrix
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("batch_size", "early_stopping"), [(22, False), (19, True)])
def test_folds_of_unequal_rows_take_the_steps_that_they_share_together(
    batch_size, early_stopping, monkeypatch, lane_programs
):
    """Of 22 and 23 rows the first step is the same, and the order of an epoch is longer by one."""
    lane_programs(is_worth=lambda *_: True)
    found = counted(monkeypatch, lanes, "blocks_of", 1)
    given = fastmlp.MLPRegressor(
        hidden_layer_sizes=(5,), max_iter=1, random_state=1, batch_size=batch_size,
        early_stopping=early_stopping, backend="fused",
    )  # fmt: skip
    # Two threads might divide the folds so that no two folds go together.
    options = {"cv": KFold(4), "error_score": "raise", "n_jobs": 1}
    theirs, ours = (
        package.cross_val_score(given, CANCER[:30], KINDS[:30], **options)
        for package in (model_selection, fastmlp)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert found


# --- halving over epochs goes on with the networks of the round before ------------------------------------


GIVEN = {"hidden_layer_sizes": (4,), "random_state": 0, "backend": "reference"}
RATES = [1e-6, 1e-3, 1e-2, 0.1]


def halved(estimator, prefix=""):
    """scikit-learn's results are ours; return where each training began, and its epochs, by rounds."""
    options = {
        "resource": f"{prefix}max_iter", "min_resources": 3, "max_resources": 27, "cv": 3, "random_state": 0,
    }  # fmt: skip
    grid, found, together = {f"{prefix}learning_rate_init": RATES}, [], tasks.train_together

    def noted(awaited, threads):
        begun = [one.training.resumed for one in awaited]
        found.append(
            [
                (len(at.history["loss"]) if at else 0, one.training.epochs)
                for at, one in zip(begun, awaited, strict=True)
            ]
        )
        return together(awaited, threads)

    theirs = model_selection.HalvingGridSearchCV(estimator, grid, **options).fit(X, Y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "train_together", noted)
        ours = fastmlp.HalvingGridSearchCV(estimator, grid, **options).fit(X, Y)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    return found


def test_a_round_goes_on_from_the_one_before_to_the_same_bits():
    assert halved(MLPClassifier(**GIVEN)) == [[(0, 3)] * 12, [(3, 9)] * 6]  # 3 folds each


def test_a_network_that_has_stopped_takes_no_more_steps():
    found = halved(MLPClassifier(**GIVEN, tol=10.0, n_iter_no_change=1))
    assert found[1] == [(3, 3)] * 6


def test_several_that_go_on_from_one_training_have_curves_of_their_own():
    """SGD reads no beta_1: its candidates have one training, from which each goes on."""
    options = {"resource": "max_iter", "min_resources": 4, "max_resources": 16, "cv": 2, "factor": 2}
    grid = {"beta_1": [0.9, 0.8, 0.7, 0.6], "learning_rate_init": [0.2, 1e-6]}
    estimator = MLPClassifier(**GIVEN, solver="sgd", n_iter_no_change=1)
    searches = [
        of.HalvingGridSearchCV(estimator, grid, **options, random_state=0).fit(X, Y)
        for of in (fastmlp, model_selection)
    ]
    assert_same_results(*[search.cv_results_ for search in searches])
    assert searches[0].best_estimator_.n_iter_ == searches[1].best_estimator_.n_iter_


def test_it_goes_on_within_a_pipeline():
    classifier = MLPClassifier(**GIVEN, shuffle=False, solver="sgd")
    found = halved(make_pipeline(StandardScaler(), classifier), "mlpclassifier__")
    assert found[1] == [(3, 9)] * 6


def test_the_picture_has_a_line_for_each_candidate_over_its_epochs():
    pytest.importorskip("matplotlib")
    options = {"resource": "max_iter", "min_resources": 3, "max_resources": 27, "cv": 3, "random_state": 0}
    search = fastmlp.HalvingGridSearchCV(MLPClassifier(**GIVEN), {"learning_rate_init": RATES}, **options)
    rates, budget = search.fit(X, Y).plot().axes
    assert (rates.get_xlabel(), budget.get_xlabel()) == ("learning_rate_init", "max_iter")
    assert sorted(len(line.get_xdata()) for line in budget.lines) == [1, 1, 2, 2]


@matrix
@pytest.mark.parametrize(
    "options",
    [{"early_stopping": True}, {"learning_rate": "adaptive", "solver": "sgd"}, {"callbacks": [Callback()]}],
    ids=" ".join,
)
def test_what_keeps_more_than_a_network_begins_again(options):
    found = halved(MLPClassifier(**GIVEN, **options))
    assert {begin for of_round in found for begin, _ in of_round} == {0}
