"""scikit-learn's contract: its checks, signatures, copies and pickles, and its own searches around ours."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import sklearn.neural_network
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.equal_estimators import assert_same
from support.estimator_pairs import NAMES, X, each, make, pair, unconverged, y_for
from support.problems import data_set

import fastmlp


def checks(backend):
    return parametrize_with_checks([getattr(fastmlp, name)(backend=backend) for name in NAMES])


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
        blocks = method in ("fit", "partial_fit") and expected.name == "y"  # which hold theirs
        default = None if blocks else expected.default
        assert (got.name, got.default, got.kind) == (expected.name, default, expected.kind)
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


# --- copies, pickles, arrays put in by hand ----------------------------------------------------------


@unconverged
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


@unconverged
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


# --- inside scikit-learn ------------------------------------------------------------------------------


@unconverged
@pytest.mark.parametrize(("name", "data"), [("MLPClassifier", "wine"), ("MLPRegressor", "diabetes")])
def test_a_grid_search_over_a_pipeline_finds_what_scikit_learns_finds(name, data):
    rows, y = data_set(data)
    grid = {"mlp__alpha": [1e-4, 1.0], "mlp__hidden_layer_sizes": [(5,), (8, 4)]}
    found = []
    for estimator in pair(name, max_iter=15, learning_rate_init=0.01):
        pipeline = make_pipeline(StandardScaler(), estimator)
        pipeline.steps[-1] = ("mlp", estimator)
        found.append(GridSearchCV(pipeline, grid, cv=3).fit(rows, y))
    assert found[0].best_params_ == found[1].best_params_
    for key in ("mean_test_score", "rank_test_score"):
        np.testing.assert_allclose(found[1].cv_results_[key], found[0].cv_results_[key], rtol=1e-9)


@unconverged
@each
def test_sample_weights_are_routed(name):
    weights = np.linspace(0.1, 2, 120)
    with config_context(enable_metadata_routing=True):
        scores = []
        for estimator in pair(name):
            estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            scored = cross_validate(estimator, X, y_for(name), params={"sample_weight": weights}, cv=3)
            scores.append(scored["test_score"])
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-9)
