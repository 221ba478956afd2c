"""scikit-learn's contract: its checks, signatures, copies and pickles, and its own searches around ours."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import sklearn.neural_network
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.equal_estimators import assert_same
from support.estimator_pairs import NAMES, TARGETS, X, each, make, pair, unconverged, y_for
from support.selection import few, quick

import fastmlp
from fastmlp import MLPClassifier
from fastmlp.estimators.rows import random_state

pytestmark = unconverged


def checks(backend):
    return parametrize_with_checks([getattr(fastmlp, name)(backend=backend) for name in NAMES])


@quick(24)
@checks("auto")
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.matrix
@checks("reference")
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_of_the_reference(estimator, check):
    check(estimator)


@each
@pytest.mark.parametrize("method", ["__init__", "fit", "partial_fit", "predict", "score"])
def test_signatures_begin_as_scikit_learns(name, method):
    theirs, ours = (
        list(inspect.signature(getattr(getattr(package, name), method)).parameters.values())
        for package in (sklearn.neural_network, fastmlp)
    )
    for expected, got in zip(theirs, ours, strict=False):
        assert (got.name, got.default, got.kind) == (expected.name, expected.default, expected.kind)
    assert len(ours) >= len(theirs)


@each
def test_tags_and_public_names_are_scikit_learns(name):
    theirs, ours = pair(name)
    assert ours.__sklearn_tags__() == theirs.__sklearn_tags__()
    names = {n for n in dir(theirs) if not n.startswith("_")}
    assert names <= set(dir(ours))
    for estimator in (theirs, ours):
        estimator.set_params(max_iter=300, solver="adam", tol=1.0).fit(X, y_for(name))
    fitted = {n: type(value) for n, value in vars(theirs).items() if n.endswith("_")}
    assert fitted.items() <= {n: type(value) for n, value in vars(ours).items()}.items()


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

    made = MLPClassifier((3, 2), random_state=4, alpha=np.float64(0.1), max_iter=2).fit(
        X, y_for("MLPClassifier")
    )
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
    MLPClassifier(max_iter=4, shuffle=True).fit(X, y_for("MLPClassifier"))
    for wrong in ({"shuffle": 1.0}, {"max_iter": 4.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MLPClassifier(**{"max_iter": 4, **wrong}).fit(X, y_for("MLPClassifier"))


# --- copies, pickles, arrays put in by hand ----------------------------------------------------------


@each
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_copies_and_pickles_predict_and_train_on(name, backend):
    estimator = make(fastmlp, name, backend=backend).fit(X, y_for(name))
    copies = [pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)]
    estimator.partial_fit(X, y_for(name))
    for other in copies:
        assert other.get_params() == estimator.get_params()
        other.partial_fit(X, y_for(name))
        assert_same(other, estimator, X, 0.0)
        assert all(np.shares_memory(w, other.model_.parameters) for w in other.coefs_)
    twin = clone(estimator)
    assert not hasattr(twin, "coefs_")
    assert_same(twin.fit(X, y_for(name)), make(fastmlp, name, backend=backend).fit(X, y_for(name)), X, 0.0)


@each
def test_arrays_put_in_by_hand_count(name):
    estimators = pair(name)
    for estimator in estimators:
        estimator.fit(X, y_for(name))
        estimator.coefs_[0] = estimator.coefs_[0] * 2
        estimator.intercepts_[1][:] = 0.5
    assert_same(estimators[1], estimators[0], X, 1e-10)
    assert_same(pickle.loads(pickle.dumps(estimators[1])), estimators[0], X, 1e-10)
    for estimator in estimators:
        estimator.partial_fit(X, y_for(name))
    assert_same(estimators[1], estimators[0], X, 1e-10)


# --- one fit after another --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize(
    ("options", "iterations"),
    [
        *(({"solver": solver, "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2}, (3, 5, 4))
          for solver in ("adam", "sgd", "lbfgs")),
        ({"early_stopping": True, "learning_rate_init": 0.1, "alpha": 0.1}, (6, 6, 6)),
    ],
)  # fmt: skip
def test_a_warm_start_goes_on(name, options, iterations):
    estimators = pair(name, warm_start=True, **options)
    for estimator in estimators:
        for most in iterations:
            estimator.set_params(max_iter=most).fit(X, y_for(name))
    assert_same(estimators[1], estimators[0], X, 1e-10)


@pytest.mark.parametrize(("dtype", "power"), [(np.float32, 20), (np.float64, 100)])
def test_a_rate_that_falls_to_nothing_leaves_the_velocity_finite(dtype, power):
    options = {"solver": "sgd", "learning_rate": "invscaling", "power_t": power, "learning_rate_init": 0.1}
    theirs, ours = (e.fit(X.astype(dtype), TARGETS) for e in pair("MLPRegressor", max_iter=4, **options))
    assert_same(ours, theirs, X, 50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", few(["reference", "baseline", "tiled", "fused"]))
def test_poisson_takes_targets_below_zero_as_scikit_learn_does(backend):
    theirs, ours = pair("MLPRegressor", loss="poisson")
    for estimator in (theirs, ours.set_params(backend=backend)):
        estimator.fit(X, TARGETS)
        assert np.isnan(estimator.loss_curve_).all()
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_no_score_is_a_number_the_start_is_kept():
    options = {"solver": "sgd", "learning_rate_init": 1e200, "activation": "identity", "batch_size": 20}
    theirs, ours = pair("MLPRegressor", early_stopping=True, **options)
    for estimator in (theirs, ours):
        estimator.fit(X, TARGETS)
        assert np.isnan(estimator.validation_scores_).all()
    for got, expected in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_array_equal(got, expected)


@quick(4)
@each
@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_after_itself_and_after_fit(name, solver, rate):
    options = {"solver": solver, "learning_rate": rate, "learning_rate_init": 0.1, "tol": 0.03}
    estimators = pair(name, n_iter_no_change=1, **options)
    for estimator in estimators:
        for first in range(0, 120, 40):
            rows = slice(first, first + 40)
            first_call = {"classes": [0, 1, 2]} if name == "MLPClassifier" and first == 0 else {}
            estimator.partial_fit(X[rows], y_for(name)[rows], **first_call)
    assert_same(estimators[1], estimators[0], X, 1e-10)
    for estimator in estimators:
        estimator.fit(X, y_for(name))
        # An optimiser keeps what it was made of.
        estimator.set_params(learning_rate_init=0.3, momentum=0.1)
        for _ in range(8):
            estimator.partial_fit(X, y_for(name))
    assert_same(estimators[1], estimators[0], X, 1e-10)


def test_partial_fit_with_lbfgs_ignores_early_stopping():
    estimators = pair("MLPRegressor", solver="lbfgs", early_stopping=True)
    for _ in range(2):
        for estimator in estimators:
            estimator.partial_fit(X, TARGETS)
        assert_same(estimators[1], estimators[0], X, 1e-10)


@each
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"shuffle": False}])
def test_a_random_state_is_drawn_from_as_scikit_learn_does(name, options):
    states = [np.random.RandomState(5) for _ in range(2)]
    for estimator, state in zip(pair(name, **options), states, strict=True):
        estimator.set_params(random_state=state).fit(X, y_for(name))
    np.testing.assert_array_equal(states[0].random_sample(4), states[1].random_sample(4))


def test_a_training_that_was_left_behind_does_not_draw_from_the_next_ones_generator():
    """After Ctrl-C in a search a thread still drew row orders, while the next fit drew its weights."""
    with pytest.raises(KeyboardInterrupt), random_state(0) as left_behind:
        raise KeyboardInterrupt
    with random_state(0) as following:
        left_behind.random_sample(9)
        np.testing.assert_array_equal(following.random_sample(9), np.random.RandomState(0).random_sample(9))
