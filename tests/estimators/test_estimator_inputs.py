"""What users pass to the estimators: data frames, sparse rows, layouts, dtypes and labels."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import _check_sample_weight
from support.equal_estimators import assert_same
from support.estimator_pairs import BINARY, TARGETS, X, Y, each, make, pair, unconverged, y_for
from support.selection import quick

import fastmlp
from fastmlp import MLPClassifier
from fastmlp.estimators.classifier import accuracy, binarizer_of
from fastmlp.estimators.rows import rows_of

pytestmark = unconverged


# scikit-learn 1.7 asks polars for what polars deprecates.
@pytest.mark.filterwarnings("ignore:Support for the dataframe interchange:DeprecationWarning")
@each
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_bring_their_names(name, library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({f"c{i}": X[:, i] for i in range(X.shape[1])})
    theirs, ours = (estimator.fit(frame, y_for(name)) for estimator in pair(name))
    np.testing.assert_array_equal(ours.feature_names_in_, theirs.feature_names_in_)
    np.testing.assert_allclose(ours.predict(frame), theirs.predict(frame), rtol=1e-10)
    for estimator in (theirs, ours):
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            estimator.predict(X)
        swapped = frame[[*frame.columns[::-1]]]
        with pytest.raises(ValueError, match="feature names should match"):
            estimator.predict(swapped)


@each
@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array])
@pytest.mark.parametrize(
    "options",
    [{"shuffle": False}, {"early_stopping": True}, {"early_stopping": True, "stopping_metric": "r2"}],
)
def test_sparse_rows_train_and_predict_as_dense_ones(name, form, options):
    rows = np.where(np.abs(X) < 0.5, 0, X)
    options = {"batch_size": 20, "solver": "sgd", "backend": "fused", **options}
    dense = make(fastmlp, name, **options).fit(rows, y_for(name))
    sparse = make(fastmlp, name, **options).fit(form(rows), y_for(name))
    assert_same(sparse, dense, rows, 0.0)
    np.testing.assert_array_equal(sparse.validation_loss_curve_, dense.validation_loss_curve_)
    np.testing.assert_array_equal(sparse.predict(form(rows)), dense.predict(rows))


@each
@pytest.mark.parametrize("layout", ["fortran", "strided", "integers", "read-only", "float32"])
def test_any_layout_predicts_the_same(name, layout):
    estimator = make(fastmlp, name, backend="fused").fit(X, y_for(name))
    rows = np.round(X)
    expected = estimator.predict(rows)
    other = {
        "fortran": np.asfortranarray(rows),
        "strided": np.repeat(rows, 2, axis=0)[::2],
        "integers": rows.astype(int),
        "read-only": rows.copy(),
        "float32": rows.astype(np.float32),
    }[layout]
    other.flags.writeable = layout != "read-only"
    np.testing.assert_allclose(estimator.predict(other), expected, rtol=1e-12)


@each
def test_float32_stays_and_dtype_decides(name):
    narrow = X.astype(np.float32)
    for options, expected in (({}, np.float32), ({"dtype": "float64"}, np.float64)):
        estimator = make(fastmlp, name, **options).fit(narrow, y_for(name))
        assert {array.dtype for array in (*estimator.coefs_, *estimator.intercepts_)} == {np.dtype(expected)}
        outputs = estimator.predict_proba(X) if name == "MLPClassifier" else estimator.predict(X)
        assert outputs.dtype == expected
    assert make(fastmlp, name, dtype="float32").fit(X, y_for(name)).coefs_[0].dtype == np.float32
    assert make(fastmlp, name, solver="lbfgs").fit(narrow, y_for(name)).coefs_[0].dtype == np.float32


def test_labels_come_back_as_they_went_in():
    words = np.array(["setosa", "versicolor", "virginica"])[Y]
    several = np.stack([Y == 0, Y > 0, X[:, 0] > 0], axis=1).astype(int)
    for y in (words, words[Y > 0], BINARY.astype(bool), np.zeros(120, int), several):
        rows = X[Y > 0] if len(y) < 120 else X
        theirs, ours = (estimator.fit(rows, y) for estimator in pair("MLPClassifier"))
        got, expected = ours.predict(rows), theirs.predict(rows)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(ours.predict_log_proba(rows), theirs.predict_log_proba(rows), rtol=1e-9)
        assert ours.score(rows, y) == theirs.score(rows, y)
    sparse = make(fastmlp, "MLPClassifier").fit(X, scipy.sparse.csr_matrix(several))
    assert scipy.sparse.issparse(sparse.predict(X))


SEVERAL = np.stack([Y == 0, Y > 0, X[:, 0] > 0], axis=1).astype(int)


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 1.5, 120)])
def test_sparse_labels_stop_early_as_dense_ones_of_scikit_learns(form, weights):
    theirs, ours = pair("MLPClassifier", early_stopping=True)
    theirs.fit(X, SEVERAL, weights)
    ours.fit(X, form(SEVERAL), weights)  # as scikit-learn 1.9; 1.7 raises TypeError
    assert ours.validation_scores_ == theirs.validation_scores_
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-10)
    np.testing.assert_array_equal(ours.predict(X).toarray(), theirs.predict(X))


@pytest.mark.parametrize("metric", ["loss", "f1_micro", lambda e, X, y: e.score(X, y)])
def test_sparse_labels_are_scored_by_any_metric_as_dense_ones(metric):
    sparse, dense = (
        make(fastmlp, "MLPClassifier", early_stopping=True, stopping_metric=metric).fit(X, y)
        for y in (scipy.sparse.csr_matrix(SEVERAL), SEVERAL)
    )
    assert sparse.validation_scores_ == dense.validation_scores_


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
def test_sparse_targets_train_as_dense_ones(options):
    targets = np.c_[np.maximum(TARGETS, 0), TARGETS]
    sparse, dense = (
        make(fastmlp, "MLPRegressor", **options).fit(X, y) for y in (scipy.sparse.csr_array(targets), targets)
    )
    assert_same(sparse, dense, X, 0.0)


BOOLEANS = [
    *(("adam", name, True) for name in ("alpha", "epsilon", "learning_rate_init")),
    *(("adam", name, False) for name in ("alpha", "beta_1", "beta_2")),
    *(("sgd", "momentum", value) for value in (True, False)),
    *(("lbfgs", "alpha", value) for value in (True, False)),
]


@quick(6)
@each
@pytest.mark.parametrize(("solver", "parameter", "value"), BOOLEANS)
def test_true_and_false_are_numbers_as_in_scikit_learn(name, solver, parameter, value):
    theirs, ours = (e.fit(X, y_for(name)) for e in pair(name, solver=solver, **{parameter: value}))
    assert_same(ours, theirs, X, 1e-10)
    assert ours.get_params()[parameter] is value


@each
@pytest.mark.parametrize("solver", ["adam", fastmlp.SparseAdam(0.01)])
def test_sparse_rows_go_on_in_part_and_in_a_validation_set(name, solver):
    rows = np.where(np.abs(X) < 0.5, 0, X)
    found = []
    for form in (scipy.sparse.csr_matrix, np.asarray):
        options = {
            "solver": solver,
            "backend": "fused",
            "validation_set": (form(rows[:30]), y_for(name)[:30]),
        }
        classes = {"classes": np.unique(Y)} if name == "MLPClassifier" else {}
        estimator = make(fastmlp, name, **options)
        for _ in range(3):
            estimator.partial_fit(form(rows), y_for(name), **classes)
        found.append(estimator)
    sparse, dense = found
    assert_same(sparse, dense, rows, 0.0)
    np.testing.assert_array_equal(sparse.validation_loss_curve_, dense.validation_loss_curve_)


@pytest.mark.parametrize(
    "weights",
    [
        np.arange(7), np.arange(7.0), np.arange(7, dtype=np.float32), np.arange(7, dtype=np.uint8),
        np.arange(7, dtype=">f8"), np.arange(14.0)[::2], np.ones(7, bool), [1] * 7, 2.0,
        np.ones((7, 1)), np.full(7, np.inf), -np.ones(7), np.r_[np.nan, np.ones(6)], np.ones(6),
    ],
    ids=repr,
)  # fmt: skip
def test_weights_are_checked_as_scikit_learn_does(weights):
    found = []
    for check in (_check_sample_weight, lambda *given, **_: rows_of(*given, None)[1]):
        try:
            rows = (np.ones((7, 2)), np.ones((7, 1)), weights)
            found.append(check(*(rows if found else (weights, rows[0])), ensure_non_negative=True))
        except ValueError as error:
            found.append(str(error))
    theirs, ours = found
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs, strict=isinstance(theirs, np.ndarray))


# --- labels that are whole numbers ------------------------------------------------------------------------


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
