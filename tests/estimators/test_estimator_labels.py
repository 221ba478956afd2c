"""Labels that are whole numbers: what scikit-learn makes of them, its warnings included."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer

from fastmlp import MLPClassifier
from fastmlp.estimators.classifier import accuracy, binarizer_of

RNG = np.random.default_rng(0)

LABELS = {
    "two": RNG.integers(0, 2, 40),
    "one": np.full(5, 3),
    "several": RNG.integers(-2, 3, 40),
    "short": RNG.integers(0, 3, 40).astype(np.int8),
    "too many": np.arange(40),
    "three of five": np.array([0, 1, 2, 0, 1]),
    "floats": np.array([0.0, 1.0, 2.0, 1.0] * 10),
    "texts": np.array(["a", "b", "c", "b"] * 10),
    "of several a row": RNG.integers(0, 2, (20, 3)),
    "a list": [0, 1, 2, 1] * 10,
}


def with_warnings(function, *given, **named):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = function(*given, **named)
    return found, [str(one.message) for one in caught]


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_known_as_scikit_learn_knows_them(name):
    y = LABELS[name]
    (ours, said), (theirs, warned) = (with_warnings(f, y) for f in (binarizer_of, LabelBinarizer().fit))
    assert said == warned
    assert vars(ours).keys() == vars(theirs).keys()
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.classes_.dtype == theirs.classes_.dtype
    assert (ours.y_type_, ours.sparse_input_) == (theirs.y_type_, theirs.sparse_input_)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy_is_scikit_learns(name, weighted):
    y = LABELS[name]
    predicted = np.roll(np.asarray(y), 1, axis=0)
    weights = RNG.random(len(y)) if weighted else None
    classes = len(np.unique(predicted))
    ours, said = with_warnings(accuracy, y, predicted, weights, classes)
    theirs, warned = with_warnings(accuracy_score, y, predicted, sample_weight=weights)
    assert ours == theirs
    assert said == warned


def test_only_parameters_that_have_changed_are_checked_and_the_same_one_is_named():
    X, y = RNG.standard_normal((20, 2)), LABELS["two"][:20]
    model = MLPClassifier((2,), solver="sgd", max_iter=1, n_iter_no_change=1, tol=0.0, backend="reference")
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, y)
    for wrong, named in (({"alpha": -1.0}, "alpha"), ({"tol": "x", "alpha": -1.0}, "alpha"), ({}, "tol")):
        model.set_params(**wrong)
        with pytest.raises(ValueError, match=f"The '{named}' parameter of MLPClassifier"):
            model.fit(X, y)
        model.set_params(alpha=0.0)
