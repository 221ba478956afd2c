"""The estimators' `layers`: a network of layers behind scikit-learn's contract."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastmlp import BatchNorm, Dense, Dropout, LayerNorm, MLPClassifier, MLPRegressor, Model, Residual

LAYERS = [Dense(16, "silu"), LayerNorm(), Dropout(0.1), Residual(Dense(16, "relu")), BatchNorm()]


def classifier(**options):
    return MLPClassifier(
        **{"layers": LAYERS, "random_state": 0, "max_iter": 40, "batch_size": 32, "tol": 0} | options
    )


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_classifier_of_layers_learns_and_travels(wine):
    X, y = wine
    fitted = classifier().fit(X, y)
    assert fitted.score(X, y) > 0.97
    assert [coefs.shape for coefs in fitted.coefs_] == [(13, 16), (16, 16), (16, 3)]
    assert set(fitted.model_.layers) == {"dense1", "layer_norm1", "dense2", "batch_norm1", "dense3"}
    for other in (pickle.loads(pickle.dumps(fitted)), clone(fitted).fit(X, y)):
        np.testing.assert_array_equal(other.predict_proba(X), fitted.predict_proba(X))
    again = MLPClassifier.from_model(fitted.model_)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.get_params()["layers"] == LAYERS
    assert isinstance(fitted.model_, Model)
    before = fitted.predict_proba(X)
    fitted.coefs_[2] = 0 * fitted.coefs_[2]
    assert not np.array_equal(fitted.predict_proba(X), before)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_searches_choose_among_layers(wine):
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=5))
    grid = {"mlpclassifier__layers": [[Dense(8, "relu")], LAYERS, None]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(*wine)
    assert len(search.cv_results_["mean_test_score"]) == 3


def test_a_regressor_of_layers_goes_on(wine):
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    regressor = MLPRegressor(layers=[Dense(8, "tanh"), LayerNorm()], random_state=0, batch_size=32)
    for _ in range(30):
        regressor.partial_fit(X, y)
    assert regressor.score(X, y) > 0.4
    regressor.set_params(layers=[Dense(9, "tanh")])
    with pytest.raises(ValueError, match="layers has changed since the fit before"):
        regressor.partial_fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (20,)}, r"layers replaces hidden_layer_sizes; leave that at \(100,\)"),
        ({"dropout": 0.1}, "layers replaces dropout"),
        ({"activation": "tanh"}, "layers replaces activation"),
        ({"layers": [3]}, "a layer must be one of Activate, "),
        ({"layers": []}, "layers must hold at least one layer"),
        ({"solver": "lbfgs"}, "Dropout and BatchNorm need solver"),
        ({"batch_size": 1}, "at least 2 rows in every batch"),
    ],
)
def test_mistakes(options, message, wine):
    with pytest.raises((ValueError, TypeError), match=message):
        classifier(**options).fit(*wine)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_scikit_learns_checks(kind):
    check_estimator(kind(layers=[Dense(20, "relu"), LayerNorm()], max_iter=300, learning_rate_init=0.01))
