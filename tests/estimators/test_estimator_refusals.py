"""What the estimators' own parameters refuse, in one line, and odd ways to use them that work."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from support.problems import data_set

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor

X, LABELS = data_set("wine", 150)
VALUES = X[:, 0] - X[:, 1]

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")


def made(kind, **parameters):
    return kind(
        **{"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0, "backend": "tiled"} | parameters
    )


TWICE = np.c_[VALUES, VALUES]

START = ([np.ones((13, 5)), np.ones((5, 1))], [np.ones(5), np.ones(1)])
NAN_START = ([np.full((13, 5), np.nan), *START[0][1:]], START[1])
COMPLEX_START = ([START[0][0] + 1j, *START[0][1:]], START[1])
WITH_LBFGS = {"validation_set": (X, LABELS), "solver": "lbfgs"}
NOTHING_COUNTS = {0: 0, 1: 0, 2: 0}

REFUSED = {
    "validation y too wide": (MLPRegressor, {"validation_set": (X, TWICE)}, VALUES, "2 outputs, y has 1"),
    "validation y too narrow": (MLPRegressor, {"validation_set": (X, VALUES)}, TWICE, "1 outputs, y has 2"),
    "validation with lbfgs": (MLPClassifier, WITH_LBFGS, LABELS, "validation_set needs solver"),
    "class weight nan": (MLPClassifier, {"class_weight": {0: np.nan}}, LABELS, "class_weight must be finite"),
    "class weight below 0": (MLPClassifier, {"class_weight": {0: -1}}, LABELS, "at least 0"),
    "class weights all 0": (MLPClassifier, {"class_weight": NOTHING_COUNTS}, LABELS, "above 0 for a class"),
    "init nan": (MLPRegressor, {"init": NAN_START}, VALUES, "init coefs[0]"),
    "init complex": (MLPRegressor, {"init": COMPLEX_START}, VALUES, "init coefs"),
    "activation in a list in a list": (MLPRegressor, {"activation": [["relu"]]}, VALUES, "must be a name"),
    "checkpoint": (MLPRegressor, {"callbacks": [fastmlp.Checkpoint("never.npz")]}, VALUES, "pickling"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(case):
    kind, parameters, y, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        made(kind, **parameters).fit(X, y)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_generators_are_refused_with_what_to_pass_instead(kind):
    fitted = made(kind).fit(X, LABELS)
    for call in (
        lambda: made(kind).fit((row for row in X), LABELS),
        lambda: made(kind).fit(X, LABELS).partial_fit(map(list, X), LABELS),
        lambda: made(kind, validation_set=(iter(X), LABELS)).fit(X, LABELS),
        lambda: fitted.predict(row for row in X),
        lambda: fitted.score(iter(X), LABELS),
    ):
        with pytest.raises(TypeError, match=r"^X must be an array, got <.*; .* np\.array\(list\(X\)\)$"):
            call()
    with pytest.raises(TypeError, match=r"^y must be an array, got <.*; .* np\.array\(list\(y\)\)$"):
        made(kind).fit(X, iter(LABELS))


def test_sparse_rows_with_a_dense_validation_set():
    sparse = made(MLPClassifier, validation_set=(X, LABELS)).fit(scipy.sparse.csr_matrix(X), LABELS)
    dense = made(MLPClassifier, validation_set=(X, LABELS)).fit(X, LABELS)
    np.testing.assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_, rtol=1e-10)


def test_sparse_rows_held_out_that_all_weigh_nothing_have_no_loss():
    stops = {"early_stopping": True, "stopping_metric": "loss", "backend": "reference"}
    for row in range(3):  # the only one that counts, and held out now and then
        weights = np.arange(len(X)) == row
        sparse, dense = (
            made(MLPClassifier, **stops).fit(x, LABELS, weights) for x in (scipy.sparse.csr_matrix(X), X)
        )
        np.testing.assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_, rtol=1e-10)


@pytest.mark.parametrize("before", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
@pytest.mark.parametrize("after", [{"early_stopping": True}, {"early_stopping": False}])
def test_a_warm_start_with_another_way_of_stopping(before, after):
    estimator = made(MLPClassifier, warm_start=True, **before).fit(X, LABELS)
    estimator.set_params(solver="adam", **after).fit(X, LABELS)
    assert (estimator.validation_scores_ is not None) == after["early_stopping"]
    assert estimator.loss_curve_


def test_a_batch_without_weight_takes_no_step():
    # scikit-learn raises ZeroDivisionError.
    options = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "batch_size": 50}
    whole = made(MLPClassifier, **options).fit(X, LABELS, np.repeat([1.0, 0.0, 1.0], 50))
    rest = np.r_[0:50, 100:150]
    without = made(MLPClassifier, **options).fit(X[rest], LABELS[rest])
    for got, expected in zip(
        whole.coefs_ + whole.intercepts_, without.coefs_ + without.intercepts_, strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_metric_that_takes_no_weights():
    estimator = made(MLPClassifier, early_stopping=True, stopping_metric=lambda e, X, y: e.score(X, y))
    estimator.fit(X, LABELS, np.linspace(0.5, 1.5, len(X)))
    assert len(estimator.validation_scores_) == estimator.n_iter_


def test_an_error_between_the_values_of_an_epoch_is_the_one_that_comes_out(monkeypatch):
    def fail(*_):
        raise MemoryError("the validation's own")

    backend = fastmlp.backend.registry.get("reference")._replace(evaluate=fail)
    monkeypatch.setattr("fastmlp.training.options.choose", lambda *_, **options: backend)
    with pytest.raises(MemoryError, match="the validation's own"):
        made(MLPClassifier, validation_set=(X, LABELS)).fit(X, LABELS)
