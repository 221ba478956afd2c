"""Searches and validation: scikit-learn's results to the last digit, of networks that train together."""

import os
import signal
import threading
import time
import warnings
from contextlib import nullcontext

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context, model_selection
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFECV
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from support.noted import noted
from support.problems import data_set
from support.processes import python
from support.searches import (
    X,
    Y,
    assert_nothing_runs,
    assert_same_results,
    both,
    classifier,
    counted,
    together,
    twice,
    within,
)
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
SMALL = {"hidden_layer_sizes": (4,), "random_state": 0, "backend": "reference"}
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
    search = model_selection.GridSearchCV(classifier(), grid, cv=folds, error_score="raise")
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"), together():
        search.fit(X, Y)
    assert_nothing_runs()


@matrix
def test_searches_within_a_validation_train_with_one_another(trained):
    inner = model_selection.GridSearchCV(classifier(early_stopping=True), {"alpha": [1e-4, 1.0]}, cv=2)
    expected, got = both("cross_val_score", inner, X, Y, cv=StratifiedKFold(3))
    np.testing.assert_array_equal(got, expected)
    assert trained == [3 * 2 * 2, 3]  # the candidates of all outer folds, and the best of each


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
        within("cross_val_score", classifier(), X, Y, cv=StratifiedKFold(3), scoring=scoring)
    filters = warnings.filters[:]
    within("cross_val_score", classifier(), X, Y, cv=StratifiedKFold(3))
    assert warnings.filters == filters


def importance(network):
    return np.abs(network.coefs_[0]).sum(axis=1)


class Threads(Callback):
    """Notes which threads train, and what steps may take."""

    found: set[int]

    def on_train_begin(self, run):
        type(self).found.add(threading.get_ident())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_n_jobs_are_threads(n_jobs):
    Threads.found = set()
    within("cross_val_score", classifier(callbacks=[Threads()]), X, Y, cv=5, n_jobs=n_jobs)
    assert 1 <= len(Threads.found) <= n_jobs
    with pytest.raises(ValueError, match="n_jobs == 0"):
        within("cross_val_score", classifier(), X, Y, cv=5, n_jobs=0)


def test_numpys_seed_fixes_what_networks_without_a_seed_come_to():
    scores = []
    for seed in (1, 1, 2):
        np.random.seed(seed)  # noqa: NPY002  # scikit-learn's estimators draw from it
        scores.append(
            within("cross_val_score", classifier(random_state=None), X, Y, cv=4, scoring="neg_log_loss")
        )
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[1] != scores[2]).all()


def test_few_rows_at_a_time_have_the_same_results(monkeypatch, trained):
    monkeypatch.setattr(tasks, "MOST_BYTES", 4000)
    theirs, ours = both("GridSearchCV", piped(), GRID, cv=StratifiedKFold(3), fit=(X, Y))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert len(trained) > 3


def test_other_estimators_are_left_to_scikit_learn(trained):
    theirs, ours = both(
        "GridSearchCV", DummyClassifier(), {"strategy": ["prior", "most_frequent"]}, cv=3, fit=(X, Y)
    )
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert trained == []


# --- scikit-learn's other estimators, and other code in the block ------------------------------------------


ENSEMBLES = {
    "bag": (BaggingClassifier(classifier(), 12, random_state=0, oob_score=True), [12]),
    "bag of half the columns": (BaggingClassifier(classifier(), 3, max_features=0.5, random_state=0), [3]),
    "stack": (StackingClassifier([("a", classifier()), ("b", classifier(alpha=1.0))], cv=3), [2, 6]),
    "vote": (VotingClassifier([("a", classifier()), ("b", piped())], voting="soft"), [2]),
    "one against the rest": (OneVsRestClassifier(classifier()), [3]),
    "calibrated": (CalibratedClassifierCV(classifier(), cv=3, ensemble=True), [3]),
    "several targets": (MultiOutputClassifier(classifier()), [2]),
    "features": (RFECV(classifier(), cv=3, importance_getter=importance), [3, 3, 3, 3]),
}


@quick(3)
@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_estimator_of_networks_trains_them_together(name, trained):
    made, groups = ENSEMBLES[name]
    y = np.stack([Y, Y % 2], axis=1) if name == "several targets" else Y
    alone, ours = twice(lambda: clone(made).fit(X, y))
    assert [count for count in trained if count > 1] == groups
    np.testing.assert_array_equal(ours.predict(X), alone.predict(X))
    if hasattr(alone, "predict_proba") and name != "several targets":
        np.testing.assert_array_equal(ours.predict_proba(X), alone.predict_proba(X))
    if name == "bag":
        assert ours.oob_score_ == alone.oob_score_


def test_a_tuned_threshold_is_scikit_learns(trained):
    tuned = TunedThresholdClassifierCV(piped(), cv=StratifiedKFold(3), thresholds=5)
    alone, ours = twice(lambda: clone(tuned).fit(X, BINARY))
    assert ours.best_threshold_ == alone.best_threshold_
    assert trained == [3]


def test_a_bag_within_a_validation_trains_with_the_others(trained):
    bag = BaggingClassifier(classifier(), 4, random_state=0)
    expected, got = both("cross_val_score", bag, X, Y, cv=3)
    np.testing.assert_array_equal(got, expected)
    assert trained == [12]


def test_a_table_in_a_search_has_the_same_results():
    table = fastmlp.TableClassifier(epochs=2, random_state=0)
    expected, got = both("cross_val_score", table, X, Y, cv=2)
    np.testing.assert_array_equal(got, expected)


def powers(number):
    return joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(number, i) for i in range(3))


def test_other_code_in_the_block_works(trained):
    forest = RandomForestClassifier(5, random_state=0, n_jobs=2)
    alone, ours = twice(lambda: clone(forest).fit(X, Y).predict_proba(X))
    np.testing.assert_array_equal(ours, alone)
    alone, ours = twice(lambda: KNeighborsClassifier(n_jobs=-1).fit(X, Y).predict_proba(X))
    np.testing.assert_array_equal(ours, alone)
    with together(n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(divmod)(i, 7) for i in range(600))
        nested = joblib.Parallel()(joblib.delayed(powers)(i) for i in range(4))
    assert found == [divmod(i, 7) for i in range(600)]
    assert nested == [[1, i, i * i] for i in range(4)]
    assert trained == []


def test_what_the_block_cannot_do_is_said_in_a_line():
    with (
        together(),
        pytest.raises(ValueError, match=r"FastmlpBackend .* does not support return_as=generator"),
    ):
        joblib.Parallel(return_as="generator")
    with together(), pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(divmod)(i, 7) for i in range(2))


def fitted_within(n_jobs=None):
    return within("cross_val_score", classifier(), X, Y, cv=3, n_jobs=n_jobs)


@pytest.mark.slow  # it starts processes
def test_blocks_within_worker_processes_have_the_same_results():
    expected = fitted_within()
    with joblib.parallel_config("loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(fitted_within)() for _ in range(2))
        with together():
            found.append(model_selection.cross_val_score(classifier(), X, Y, cv=3))
        found.append(model_selection.cross_val_score(classifier(), X, Y, cv=3))
    for scores in found:
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("first", ["joblib", "fastmlp", "sklearn.model_selection, fastmlp"])
def test_the_backend_is_registered_whatever_is_imported_first(first):
    text = f"import {first}, fastmlp, joblib\nwith joblib.parallel_config('fastmlp'): print('entered')"
    assert python("-c", text).stdout == "entered\n"
    assert python("-c", "import fastmlp, sys\nprint('joblib' in sys.modules)").stdout == "False\n"


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
    with pytest.raises(KeyboardInterrupt), together():
        model_selection.GridSearchCV(given, {"alpha": [0.25, 0.5, 0.75]}, cv=2).fit(X, Y)
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
            within("cross_val_score", given, X, Y, cv=ShuffleSplit(1, random_state=0))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert_nothing_runs()


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_a_thread_starts_leaves_no_thread(begun, monkeypatch):
    start = tasks.Task.start

    def interrupted(task):
        if begun:
            start(task)
        raise KeyboardInterrupt

    filters = [*warnings.filters]
    monkeypatch.setattr(tasks.Task, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        within("cross_val_score", piped(), X, Y, cv=3)
    assert_nothing_runs()
    assert warnings.filters == filters


# --- results, warnings and lines are scikit-learn's in odd cases, too --------------------------------------


ALPHAS = {"mlpclassifier__alpha": [1e-4, 0.1, 1.0]}


def searched(estimator, grid, y=Y, **options):
    """Fitted grid searches alone and within the block, and their warnings."""
    found = []
    for context in (nullcontext(), together()):
        with context, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            given = {"cv": StratifiedKFold(3), "refit": False, **options}
            search = model_selection.GridSearchCV(estimator, grid, **given).fit(X, y.copy())
        found.append((search.cv_results_, [(one.category, str(one.message)) for one in seen]))
    assert_same_results(found[1][0], found[0][0])
    return found[0][1], found[1][1]


def errors_by_zero(y, predicted):
    return 1 / int(np.count_nonzero(predicted == 7))  # a Python int, which raises


def centred(y, predicted):
    y -= 1
    return -float(np.mean((y - predicted) ** 2))


@quick(3)
@pytest.mark.parametrize(
    ("grid", "options"),
    [
        (ALPHAS, {"scoring": "neg_log_loss", "return_train_score": True, "verbose": 1}),
        ({"standardscaler": [StandardScaler(), MinMaxScaler(), None], **ALPHAS}, {}),
        ({"mlpclassifier__alpha": [1e-4, -1.0]}, {}),  # no valid parameter
        ({"mlpclassifier__learning_rate_init": [0.1, 1e300]}, {"error_score": -1.0}),  # it diverges
        (ALPHAS, {"scoring": make_scorer(errors_by_zero)}),
        (ALPHAS, {"scoring": {"no": make_scorer(errors_by_zero), "yes": "accuracy"}, "refit": False}),
        (ALPHAS, {"scoring": lambda network, X, y: float(len(network.steps))}),
        (ALPHAS, {"scoring": make_scorer(centred), "return_train_score": True}),
        ({"mlpclassifier__solver": ["adam", "lbfgs"]}, {}),
        ({"mlpclassifier__early_stopping": [True, False]}, {}),
        ({"mlpclassifier__dtype": ["float32", "float64"]}, {}),
        ({"mlpclassifier__warm_start": [True], "mlpclassifier__tol": [1e-4, 1e-5]}, {}),
        ({"mlpclassifier__batch_size": [5000]}, {}),
        ({"verbose": [False, 0]}, {}),  # no valid parameter of a pipeline
    ],
)
def test_results_and_warnings_are_scikit_learns(grid, options):
    expected, seen = searched(piped(), grid, **options)
    assert [one[0] for one in seen] == [one[0] for one in expected]
    for (kind, got), (_, wanted) in zip(seen, expected, strict=True):
        lines = 4 if kind is FitFailedWarning else None
        assert got.splitlines()[:lines] == wanted.splitlines()[:lines]


class Quiet(MLPClassifier):
    """A network of a user's own, whose warnings nobody sees."""

    def fit(self, X, y):
        with warnings.catch_warnings(record=True):
            return super().fit(X, y)


def test_filters_of_a_task_that_waits_are_not_those_of_the_next_one():
    expected, seen = searched(piped(), {"mlpclassifier": [Quiet(**SMALL), classifier()]})
    assert len(seen) == 3
    assert seen == expected


@pytest.mark.parametrize(
    ("lines", "options"), [({"verbose": False}, {"verbose": 2}), ({"verbose": True}, {})]
)
def test_lines_are_printed_as_often_as_scikit_learn_prints_them(lines, options, capsys):
    counts = []
    for context in (nullcontext(), together()):
        with context:
            model_selection.GridSearchCV(
                piped().set_params(**lines), ALPHAS, cv=3, refit=False, **options
            ).fit(X, Y)
        printed = capsys.readouterr().out.splitlines()
        counts.append([sum(part in one for one in printed) for part in ("[CV] END", "(step 2 of 2)")])
    assert counts[0] == counts[1]
    assert sum(counts[0]) >= 9


def test_networks_of_the_grid_stay_unfitted():
    networks = [classifier(), classifier()]
    within("GridSearchCV", piped(), {"mlpclassifier": networks})
    searched(piped(), {"mlpclassifier": networks})
    assert not any(hasattr(network, "coefs_") for network in networks)


class LateError(Exception):
    """Raised by a signal's handler."""


def test_what_a_signals_handler_raises_is_not_lost():
    sent = []

    def handler(*given):
        raise LateError

    def signalled(y, predicted):
        if not sent:  # the signal comes once
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(LateError):
            within("cross_val_score", classifier(), X, Y, cv=3, scoring=make_scorer(signalled))
    finally:
        signal.signal(signal.SIGTERM, before)


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
    options = {"cv": StratifiedKFold(3), "scoring": "neg_log_loss", "fit": (CANCER, KINDS)}
    theirs, ours = both("GridSearchCV", given, grid, **options)
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
    theirs, ours = both("cross_val_score", given, CANCER[:30], KINDS[:30], **options)
    np.testing.assert_array_equal(ours, theirs)
    assert found


# --- halving over epochs goes on with the networks of the round before ------------------------------------


RATES = [1e-6, 1e-3, 1e-2, 0.1]


def halved(estimator, prefix=""):
    """scikit-learn's results are ours; return where each training began, and its epochs, by rounds."""
    options = {
        "resource": f"{prefix}max_iter", "min_resources": 3, "max_resources": 27, "cv": 3, "random_state": 0,
    }  # fmt: skip
    grid, found, train = {f"{prefix}learning_rate_init": RATES}, [], tasks.train_together

    def noted(awaited, threads):
        begun = [one.training.resumed for one in awaited]
        found.append(
            [
                (len(at.history["loss"]) if at else 0, one.training.epochs)
                for at, one in zip(begun, awaited, strict=True)
            ]
        )
        return train(awaited, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "train_together", noted)
        theirs, ours = both("HalvingGridSearchCV", estimator, grid, fit=(X, Y), **options)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    return found


def test_a_round_goes_on_from_the_one_before_to_the_same_bits():
    assert halved(MLPClassifier(**SMALL)) == [[(0, 3)] * 12, [(3, 9)] * 6]  # 3 folds each


def test_a_network_that_has_stopped_takes_no_more_steps():
    found = halved(MLPClassifier(**SMALL, tol=10.0, n_iter_no_change=1))
    assert found[1] == [(3, 3)] * 6


def test_several_that_go_on_from_one_training_have_curves_of_their_own():
    """SGD reads no beta_1: its candidates have one training, from which each goes on."""
    options = {"resource": "max_iter", "min_resources": 4, "max_resources": 16, "cv": 2, "factor": 2}
    grid = {"beta_1": [0.9, 0.8, 0.7, 0.6], "learning_rate_init": [0.2, 1e-6]}
    estimator = MLPClassifier(**SMALL, solver="sgd", n_iter_no_change=1)
    searches = both("HalvingGridSearchCV", estimator, grid, **options, random_state=0, fit=(X, Y))
    assert_same_results(*[search.cv_results_ for search in searches])
    assert searches[0].best_estimator_.n_iter_ == searches[1].best_estimator_.n_iter_


def test_it_goes_on_within_a_pipeline():
    classifier = MLPClassifier(**SMALL, shuffle=False, solver="sgd")
    found = halved(make_pipeline(StandardScaler(), classifier), "mlpclassifier__")
    assert found[1] == [(3, 9)] * 6


@matrix
@pytest.mark.parametrize(
    "options",
    [{"early_stopping": True}, {"learning_rate": "adaptive", "solver": "sgd"}, {"callbacks": [Callback()]}],
    ids=" ".join,
)
def test_what_keeps_more_than_a_network_begins_again(options):
    found = halved(MLPClassifier(**SMALL, **options))
    assert {begin for of_round in found for begin, _ in of_round} == {0}
