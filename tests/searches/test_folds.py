"""Tasks that need no thread: scikit-learn's results and warnings, of rows that a fold's candidates share."""

from __future__ import annotations

import warnings
import weakref

import numpy as np
import pytest
from problems import data_set
from searching import assert_same_results
from sklearn import config_context, model_selection
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.searches import folds, tasks
from fastmlp.searches.tasks import TaskThread

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("iris", 60)
_, TARGETS = data_set("diabetes", 60)
ALPHAS = {"mlpclassifier__alpha": [1e-4, 0.1, 1.0]}
GIVEN = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0, "backend": "reference"}


@pytest.fixture
def threads(monkeypatch):
    """A list with an entry for each thread that a task has begun."""
    begun, start = [], TaskThread.start
    monkeypatch.setattr(TaskThread, "start", lambda task: begun.append(task) or start(task))
    return begun


def piped(**options):
    return make_pipeline(StandardScaler(), MLPClassifier(**{**GIVEN, **options}))


def searched(package, estimator, grid, y=Y, rows=X, **options):
    """A fitted grid search, and its warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        search = package.GridSearchCV(
            estimator, grid, **{"cv": StratifiedKFold(3), "refit": False, **options}
        )
        search.fit(rows, y)
    return search, [(one.category, str(one.message)) for one in seen]


def errors_by_zero(y, predicted):
    return 1 / np.count_nonzero(predicted == 7)


@pytest.mark.parametrize(
    ("grid", "options", "first"),
    [
        (ALPHAS, {}, 3),
        (ALPHAS, {"scoring": "neg_log_loss", "return_train_score": True}, 3),
        (ALPHAS, {"scoring": ["accuracy", "f1_macro"]}, 3),
        (ALPHAS | {"standardscaler__with_mean": [True, False]}, {"return_train_score": True}, 6),
        ({"standardscaler": [StandardScaler(), MinMaxScaler(), None], **ALPHAS}, {}, 6),
        ({"mlpclassifier__hidden_layer_sizes": [(3,), (2, 2)]}, {"verbose": 1}, 3),
    ],
)
def test_only_a_step_that_no_task_has_fitted_yet_needs_a_thread(grid, options, first, threads):
    theirs, expected = searched(model_selection, piped(), grid, **options)
    ours, seen = searched(fastmlp, piped(), grid, **options)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert seen == expected
    assert len(threads) == first


@pytest.mark.parametrize("seed", [3, None])
def test_a_network_alone_needs_no_thread(seed, threads):
    network, cv, expected = MLPRegressor(**{**GIVEN, "random_state": seed}), KFold(3), []
    np.random.seed(5)  # noqa: NPY002  # the global one: of None each network draws its own generator from it
    for train, test in cv.split(X):
        if seed is None:
            words = np.random.randint(2**32, size=4, dtype=np.uint32)  # noqa: NPY002
            network.set_params(random_state=np.random.RandomState(words))
        expected.append(network.fit(X[train], TARGETS[train]).score(X[test], TARGETS[test]))
    np.random.seed(5)  # noqa: NPY002
    found = fastmlp.cross_val_score(network.set_params(random_state=seed), X, TARGETS, cv=cv)
    np.testing.assert_array_equal(found, expected)
    assert not threads


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ({"mlpclassifier__alpha": [1e-4, -1.0]}, {}),  # no valid parameter
        ({"mlpclassifier__learning_rate_init": [0.1, 1e300]}, {"error_score": -1.0}),  # it diverges
        (ALPHAS, {"scoring": make_scorer(errors_by_zero)}),
        (ALPHAS, {"scoring": {"no": make_scorer(errors_by_zero), "yes": "accuracy"}}),
        (ALPHAS, {"scoring": lambda network, X, y: float(len(network.steps))}),
        ({"mlpclassifier__solver": ["adam", "lbfgs"]}, {}),
        ({"mlpclassifier__early_stopping": [True, False]}, {}),
    ],
)
def test_what_fails_or_is_seen_by_others_is_scikit_learns_matter(grid, options):
    theirs, expected = searched(model_selection, piped(), grid, **options)
    ours, seen = searched(fastmlp, piped(), grid, **options)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert [one[0] for one in seen] == [one[0] for one in expected]
    for (kind, got), (_, wanted) in zip(seen, expected, strict=True):
        if kind is FitFailedWarning:
            assert got.splitlines()[:4] == wanted.splitlines()[:4]


def test_an_error_that_shall_be_raised_is_and_routed_weights_count(threads):
    with pytest.raises(ValueError, match="alpha"):
        searched(fastmlp, piped(), {"mlpclassifier__alpha": [1e-4, -1.0]}, error_score="raise")
    weights = 1.0 + np.arange(60) % 3
    with config_context(enable_metadata_routing=True):
        network = MLPClassifier(**GIVEN).set_fit_request(sample_weight=True)
        network.set_score_request(sample_weight=False)
        found = [
            package.cross_val_score(network, X, Y, cv=StratifiedKFold(3), params={"sample_weight": weights})
            for package in (model_selection, fastmlp)
        ]
    np.testing.assert_array_equal(*found)


class Quiet(MLPClassifier):
    """A network of a user's own, whose warnings nobody sees."""

    def fit(self, X, y):
        with warnings.catch_warnings(record=True):
            return super().fit(X, y)


def test_filters_of_a_task_that_waits_are_not_those_of_the_next_one():
    grid = {"mlpclassifier": [Quiet(**GIVEN), MLPClassifier(**GIVEN)]}
    _, expected = searched(model_selection, piped(), grid)
    _, seen = searched(fastmlp, piped(), grid)
    assert len(seen) == 3
    assert seen == expected


def test_rows_of_a_fold_go_with_the_last_task_that_needs_them(monkeypatch):
    alive, most, made = weakref.WeakSet(), [], folds.Fold.__init__

    def counting(fold, *given):
        alive.add(fold)
        most.append(len(alive))
        made(fold, *given)

    monkeypatch.setattr(folds.Fold, "__init__", counting)
    monkeypatch.setattr(tasks, "MOST_TASKS", 1)
    fastmlp.cross_val_score(MLPClassifier(**GIVEN), X, Y, cv=StratifiedKFold(4))
    assert most == [1, 1, 1, 1]


def test_a_clone_is_scikit_learns_with_what_else_it_copies():
    class Own(MLPClassifier):
        def __init__(self, alpha=2):
            super().__init__(alpha=float(alpha) / 3)

    made = MLPClassifier((3, 2), random_state=4, alpha=np.float64(0.1), max_iter=2).fit(X, Y)
    copied = clone(made)
    assert copied.get_params() == made.get_params()
    assert not hasattr(copied, "coefs_")
    with config_context(enable_metadata_routing=True):
        made.set_fit_request(sample_weight=True)
        assert clone(made)._metadata_request.fit.requests == {"sample_weight": True}
    seeded = MLPClassifier(random_state=np.random.RandomState(0))
    assert clone(seeded).random_state is not seeded.random_state
    with pytest.raises(RuntimeError, match="constructor either does not set or modifies"):
        clone(Own())


def test_parameters_are_those_that_passed_only_if_types_agree():
    MLPClassifier(**GIVEN, shuffle=True).fit(X, Y)
    with pytest.raises(ValueError, match="shuffle"):
        MLPClassifier(**GIVEN, shuffle=1.0).fit(X, Y)
    with pytest.raises(ValueError, match="max_iter"):
        MLPClassifier(**{**GIVEN, "max_iter": 4.0}).fit(X, Y)
