"""MLPClassifier on rows of probabilities, against what labels and weights say in other words."""

import re

import numpy as np
import pytest
from scipy.special import softmax
from support.equal_estimators import assert_close, assert_same
from support.problems import data_set
from support.selection import quick

from fastmlp import MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, LABELS = data_set("wine", 150)
LOGITS = X @ np.random.default_rng(0).standard_normal((13, 3))


def classifier(**options):
    given = {"hidden_layer_sizes": (5,), "max_iter": 12, "random_state": 0, "backend": "reference"}
    return MLPClassifier(**{**given, **options})


def rows_of(classes, dtype=np.float64):
    return softmax(LOGITS[:, :classes].astype(dtype), axis=1)


each = pytest.mark.parametrize("classes", [2, 3])


@quick(1)
@each
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_row_of_probabilities_is_a_row_for_each_class_with_so_much_weight(classes, backend):
    y = rows_of(classes)
    options = {"solver": "lbfgs", "backend": backend}
    soft = classifier(**options).fit(X, y)
    labels, rows = np.tile(np.arange(classes), len(X)), np.repeat(X, classes, axis=0)
    # The penalty is divided by the sum of the weights, which is the number of rows in both.
    hard = classifier(**options).fit(rows, labels, sample_weight=y.ravel())
    for got, expected in zip(soft.coefs_, hard.coefs_, strict=True):
        assert_close(got, expected, 1e-7, "coefs_")
    assert soft.loss_ == pytest.approx(hard.loss_, rel=1e-9)
    np.testing.assert_array_equal(soft.classes_, np.arange(classes))
    np.testing.assert_array_equal(soft.predict(X), soft.predict_proba(X).argmax(axis=1))


@quick(1)
@each
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_learns_the_probabilities(classes, dtype):
    y = rows_of(classes, dtype)
    model = classifier(hidden_layer_sizes=(), solver="lbfgs", alpha=0.0, max_iter=2000, ftol=1e-13, tol=1e-8)
    np.testing.assert_allclose(model.fit(X.astype(dtype), y).predict_proba(X), y, atol=1e-3)
    assert model.predict_proba(X).shape == y.shape


@each
def test_the_validation_loss_is_the_cross_entropy(classes):
    y = rows_of(classes)
    model = classifier(validation_set=(X[100:], y[100:])).fit(X[:100], y[:100])
    by_hand = -(y[100:] * np.log(model.predict_proba(X[100:]))).sum(axis=1).mean()
    assert model.validation_loss_curve_[-1] == pytest.approx(by_hand, rel=1e-9)


@each
def test_early_stopping_scores_the_most_probable_class(classes):
    y = rows_of(classes)
    split = classifier(early_stopping=True).fit(X, y)
    right = np.array(split.validation_scores_) * 15  # of the rows that were split off
    np.testing.assert_allclose(right, np.round(right), atol=1e-9)
    held = {"early_stopping": True, "max_iter": 40}
    soft = classifier(validation_set=(X[100:], y[100:]), **held).fit(X[:100], y[:100])
    hard = classifier(validation_set=(X[100:], y[100:].argmax(axis=1)), **held).fit(X[:100], y[:100])
    assert_same(soft, hard, X, 0.0)


def test_trainings_go_on_with_labels_and_with_probabilities():
    """Where a row has one label, floats of 0 and 1 are probabilities, too."""
    sure = np.eye(3)[LABELS]
    for options in ({"warm_start": True}, {}):
        models = []
        for y in (LABELS, sure):
            model = classifier(**options).fit(X, rows_of(3))
            models.append(model.fit(X, y) if options else model.partial_fit(X, y))
        assert_same(*models, X, 0.0)
    first = classifier().partial_fit(X, rows_of(3), classes=[0, 1, 2], epochs=12)
    assert_same(first, classifier().fit(X, rows_of(3)), X, 0.0)
    named = classifier().fit(X, np.array(["a", "b", "c"])[LABELS]).partial_fit(X, rows_of(3))
    assert set(named.predict(X)) <= {"a", "b", "c"}


def test_floats_of_0_and_1_are_several_labels_a_row():
    y = (rows_of(3) > 0.3).astype(np.float64)
    model = classifier().fit(X, y)
    assert model.out_activation_ == "logistic"
    assert model.predict(X).shape == y.shape


def changed(place, value):
    y = rows_of(3)
    y[place] = value
    return y


@pytest.mark.parametrize(
    ("options", "y", "words"),
    [
        ({}, rows_of(3) * 0.5, "rows of probabilities are at least 0 and each sums to 1 within 1e-06, got ["),
        ({}, changed(7, [0.5, 0.5, 2e-6]), "[0.5, 0.5, 2e-06] in row 7, sum 1.000002"),
        ({}, changed(3, [1.5, -0.5, 0.0]), "[1.5, -0.5, 0.0] in row 3, sum 1"),
        ({"class_weight": {0: 2.0}}, rows_of(3), "class_weight is for labels, and y has rows of probab"),
    ],
)
def test_what_is_neither_labels_nor_probabilities(options, y, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        classifier(**options).fit(X, y)
    assert "\n" not in str(caught.value)
    assert classifier().fit(X, changed(7, [0.5, 0.5, 5e-7])).n_iter_ == 12


def test_as_many_columns_as_classes():
    model = classifier().fit(X, LABELS)
    with pytest.raises(ValueError, match=r"\(rows, 3\), one for each of `classes_`, got shape \(150, 2\)"):
        model.partial_fit(X, rows_of(2))
