"""Tasks that need no thread: scikit-learn's results and warnings, of rows that a fold's candidates share."""

import copy
import signal
import threading
import warnings
import weakref
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import config_context, get_config, model_selection
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from support.noted import noted
from support.problems import data_set
from support.processes import python
from support.searches import GIVEN, X, Y, assert_same_results
from support.selection import matrix, quick

import fastmlp
from fastmlp import Callback, MLPClassifier, MLPRegressor
from fastmlp.searches import folds, tasks
from fastmlp.searches.tasks import TaskThread

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

_, TARGETS = data_set("diabetes", 60)
ALPHAS = {"mlpclassifier__alpha": [1e-4, 0.1, 1.0]}


@pytest.fixture
def threads(monkeypatch):
    """A list with an entry for each thread that a task has begun."""
    return noted(monkeypatch, TaskThread, "start")


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
    return 1 / int(np.count_nonzero(predicted == 7))  # a Python int, which raises


@quick(2)
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


@quick(2)
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
        (
            {"mlpclassifier__warm_start": [True], "mlpclassifier__tol": [1e-4, 1e-5]},
            {"scoring": {"no": make_scorer(errors_by_zero), "yes": "neg_log_loss"}},
        ),
        ({"verbose": [False, 0]}, {}),  # no valid parameter of a pipeline
        (
            {"steps": [[("a", StandardScaler()), (name, MLPClassifier(**GIVEN))] for name in ("b", "b__c")]},
            {},
        ),
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
    with pytest.raises(ValueError, match="requires y to be passed"):
        fastmlp.cross_val_score(piped(), X, cv=3, error_score="raise")
    weights = 1.0 + np.arange(60) % 3
    with config_context(enable_metadata_routing=True):
        network = MLPClassifier(**GIVEN).set_fit_request(sample_weight=True)
        network.set_score_request(sample_weight=False)
        found = [
            package.cross_val_score(network, X, Y, cv=StratifiedKFold(3), params={"sample_weight": weights})
            for package in (model_selection, fastmlp)
        ]
    np.testing.assert_array_equal(*found)


def test_a_task_that_fails_at_last_has_warned_once():
    network, options = MLPClassifier(**GIVEN, batch_size=5000), {"scoring": make_scorer(errors_by_zero)}
    found = []
    for package in (fastmlp, model_selection):
        _, seen = searched(package, network, {"alpha": [1e-4]}, **options)
        found.append(Counter(message[:30] for _, message in seen))
    assert found[0] == found[1]
    assert found[0]["Got `batch_size` less than 1 o"] == 3


def centred(y, predicted):
    y -= 50.0
    return -float(np.mean((y - predicted) ** 2))


def test_a_metric_may_write_to_the_targets_that_it_is_given():
    grid, options = {"alpha": [1e-4, 0.1, 1.0]}, {"scoring": make_scorer(centred), "return_train_score": True}
    found = [
        searched(package, MLPRegressor(**GIVEN), grid, TARGETS.copy(), cv=KFold(3), **options)[0].cv_results_
        for package in (fastmlp, model_selection)
    ]
    assert_same_results(*found)


@pytest.mark.parametrize("name", ["a__b", "memory", "steps"])
def test_a_pipeline_of_a_network_alone_is_validated(name):
    with pytest.raises(ValueError, match=name):
        fastmlp.cross_val_score(Pipeline([(name, MLPClassifier(**GIVEN))]), X, Y, error_score="raise")


@pytest.mark.parametrize("estimator", [MLPClassifier(**GIVEN), piped()], ids=["alone", "piped"])
def test_weights_count_without_routing(estimator):
    prefix, found = "mlpclassifier__" if isinstance(estimator, Pipeline) else "", []
    for package in (fastmlp, model_selection):
        search = package.GridSearchCV(
            estimator, {f"{prefix}alpha": [1e-4, 1.0]}, cv=3, refit=False, scoring="neg_log_loss"
        )
        search.fit(X, Y, **{f"{prefix}sample_weight": 1.0 + 9 * (Y == 0)})
        found.append(search.cv_results_)
    assert_same_results(*found)


@pytest.mark.parametrize(
    ("lines", "options"), [({"verbose": False}, {"verbose": 2}), ({"verbose": True}, {})]
)
def test_lines_are_printed_as_often_as_scikit_learn_prints_them(lines, options, capsys):
    counts = []
    for package in (fastmlp, model_selection):
        searched(package, piped().set_params(**lines), ALPHAS, **options)
        printed = capsys.readouterr().out.splitlines()
        counts.append([sum(part in one for one in printed) for part in ("[CV] END", "(step 2 of 2)")])
    assert counts[0] == counts[1]
    assert sum(counts[0]) >= 9


def test_networks_of_the_grid_stay_unfitted():
    networks = [MLPClassifier(**GIVEN), MLPClassifier(**GIVEN)]
    searched(fastmlp, piped(), {"mlpclassifier": networks})
    assert not any(hasattr(network, "coefs_") for network in networks)


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_a_thread_starts_leaves_no_thread(begun, monkeypatch):
    start = TaskThread.start

    def interrupted(task):
        if begun:
            start(task)
        raise KeyboardInterrupt

    before, filters = threading.active_count(), [*warnings.filters]
    monkeypatch.setattr(TaskThread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastmlp.cross_val_score(piped(), X, Y, cv=3)
    assert threading.active_count() == before
    assert warnings.filters == filters


class LateError(Exception):
    """Raised by a signal's handler."""


class Late:
    """A handler that is an object."""

    def __call__(self, *given):
        raise LateError

    def method(self, *given):
        raise LateError


def late(*given):
    raise LateError


@pytest.mark.parametrize("handler", [late, Late(), Late().method, partial(partial(Late(), 1), 2)])
def test_what_a_signals_handler_raises_is_not_lost(handler):
    sent = []

    def signalled(y, predicted):
        if not sent:  # the signal comes once
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        return 1.0

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(LateError):
            fastmlp.cross_val_score(MLPClassifier(**GIVEN), X, Y, cv=3, scoring=make_scorer(signalled))
    finally:
        signal.signal(signal.SIGTERM, before)


WITHOUT = """
import sklearn.model_selection, sklearn.utils.metaestimators
del sklearn.utils.metaestimators._safe_split
import fastmlp
from sklearn.datasets import load_iris
network = fastmlp.MLPClassifier((4,), max_iter=4, random_state=0, backend="reference")
print(*fastmlp.cross_val_score(network, *load_iris(return_X_y=True), cv=3))
"""


@matrix
def test_a_search_needs_no_private_name_of_scikit_learn():
    printed = python("-Wignore", "-c", WITHOUT).stdout
    found = fastmlp.cross_val_score(MLPClassifier(**GIVEN), *load_iris(return_X_y=True), cv=3)
    assert [*map(float, printed.split())] == [*found]


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


class Wide(MLPClassifier):
    """A network that takes the parameters of its base by name."""

    def __init__(self, width=4, **others):
        super().__init__(**others)
        self.width = width

    def get_params(self, deep=True):
        return {"width": self.width} | {name: getattr(self, name) for name in MLPClassifier().get_params()}


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
    assert clone(Wide(width=3, alpha=0.5)).alpha == 0.5


def test_parameters_are_those_that_passed_only_if_types_agree():
    MLPClassifier(**GIVEN, shuffle=True).fit(X, Y)
    with pytest.raises(ValueError, match="shuffle"):
        MLPClassifier(**GIVEN, shuffle=1.0).fit(X, Y)
    with pytest.raises(ValueError, match="max_iter"):
        MLPClassifier(**{**GIVEN, "max_iter": 4.0}).fit(X, Y)


# --- calls and estimators that need no thread -------------------------------------------------------------


@pytest.fixture
def call(monkeypatch):
    """A call of scikit-learn's that needs no thread."""
    seen = noted(monkeypatch, folds, "is_plain")
    fastmlp.cross_val_score(MLPClassifier(**GIVEN), X, Y, cv=2)
    (call,) = seen[0]
    assert folds.is_plain(call)
    return call


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ({"function": print}, {}),
        ({"warning_filters": []}, {}),
        ({"config": {**get_config(), "enable_metadata_routing": True}}, {}),
        ({"config": {**get_config(), "array_api_dispatch": True}}, {}),
        ({}, {"fit_params": {"sample_weight": np.ones(60)}}),
        ({}, {"score_params": {"sample_weight": np.ones(60)}}),
        ({}, {"verbose": 2}),
        ({}, {"return_estimator": True}),
        ({}, {"callback_ctx": SimpleNamespace(_callbacks=[print])}),
        ({}, {"scorer": MLPClassifier.score}),
        ({}, {"of a later release": None}),
    ],
)
def test_a_call_that_asks_for_more_is_scikit_learns_matter(function, named, call):
    changed = copy.copy(call[0])
    vars(changed).update(function)
    assert not folds.is_plain((changed, call[1], {**call[2], **named}))


def test_a_call_of_a_later_release_is_scikit_learns_matter(call, monkeypatch):
    without = {name: value for name, value in call[2].items() if name != "fit_params"}
    for changed in ((call[0], call[1], without), (call[0], call[1][:2], call[2])):
        task = SimpleNamespace(calls=[changed])
        with pytest.raises(StopIteration) as end:
            next(folds.fit_and_score(task, folds.SharedFolds({})))
        assert end.value.value is None


def with_steps(*names, **options):
    *before, last = names
    scalers = [(name, StandardScaler()) for name in before]
    return Pipeline([*scalers, (last, MLPClassifier(**GIVEN))], **options)


def with_callbacks(estimator):
    """An estimator that has some of scikit-learn's."""
    estimator._skl_callbacks = [print]
    return estimator


class OwnPipeline(Pipeline):
    """A pipeline of a user's own."""


class OwnNetwork(MLPClassifier):
    """A network of a user's own."""


@pytest.mark.parametrize(
    "estimator",
    [
        StandardScaler(),
        OwnNetwork(**GIVEN),
        *(
            MLPClassifier(**{**GIVEN, **options})
            for options in (
                {"solver": "lbfgs"},
                {"warm_start": True},
                {"verbose": True},
                {"progress": True},
                {"callbacks": [Callback()]},
                {"random_state": np.random.RandomState(0)},
            )
        ),
        with_callbacks(MLPClassifier(**GIVEN)),
        with_callbacks(with_steps("a", "b")),
        Pipeline([("b", with_callbacks(MLPClassifier(**GIVEN)))]),
        with_steps("a", "b", memory="cache"),
        with_steps("a", "b", verbose=True),
        with_steps("a", "b", transform_input=["sample_weight"]),
        with_steps("a", "a"),
        with_steps("a", "b__c"),
        with_steps("steps", "b"),
        OwnPipeline([("b", MLPClassifier(**GIVEN))]),
        Pipeline([("a", StandardScaler())]),
    ],
)
def test_an_estimator_that_does_more_than_to_fit_is_scikit_learns_matter(estimator):
    assert folds.network_in(MLPClassifier(**GIVEN), None) is not None
    assert folds.network_in(with_steps("a", "b"), {"b__alpha": 0.5}).alpha == 0.5
    assert folds.network_in(estimator, None) is None
