"""Bags of networks: scikit-learn's members to the bit, and what they predict together."""

import ctypes
import subprocess

import numpy as np
import pytest
from scipy import sparse
from sklearn import ensemble
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from support import needs
from support.problems import data_set
from support.searches import counted
from support.selection import quick

import fastmlp
from fastmlp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor
from fastmlp.searches import ensembles

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("iris", 60)
_, TARGETS = data_set("diabetes", 60)
LABELS = np.array(["a", "b", "c"])[Y]
GIVEN = {"hidden_layer_sizes": (4,), "max_iter": 4, "backend": "reference"}
MEMBERS = {"Classifier": MLPClassifier(**GIVEN), "Regressor": MLPRegressor(**GIVEN)}


def pair(kind, **options):
    """scikit-learn's bag and ours."""
    given = {"n_estimators": 5, "random_state": 3, **options}
    return [
        made(clone(MEMBERS[kind]), **given)
        for made in (getattr(ensemble, f"Bagging{kind}"), getattr(fastmlp, f"MLPEnsemble{kind}"))
    ]


OPTIONS = [
    {"oob_score": True, "n_estimators": 12},
    {"max_samples": 0.5, "bootstrap": False, "n_jobs": 1},
    {"max_features": 0.5, "bootstrap_features": True, "n_jobs": 2},
]


@quick(3)
@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_members_and_predictions_are_scikit_learns(kind, options, monkeypatch):
    together = counted(monkeypatch)
    theirs, ours = pair(kind, **options)
    theirs.set_params(n_jobs=None)  # which sums predictions in another order, job by job
    y = LABELS if kind == "Classifier" else TARGETS
    for one in (theirs, ours):
        one.fit(X, y)
    assert together == [options.get("n_estimators", 5)]
    assert ours.n_jobs == options.get("n_jobs")
    for got, expected in zip(ours.estimators_, theirs.estimators_, strict=True):
        assert got.random_state == expected.random_state
        for own, other in zip(
            got.coefs_ + got.intercepts_, expected.coefs_ + expected.intercepts_, strict=True
        ):
            np.testing.assert_array_equal(own, other)
    for got, expected in zip(ours.estimators_samples_, theirs.estimators_samples_, strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    if kind == "Classifier":
        np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-12)
    if "oob_score" in options:
        assert ours.oob_score_ == theirs.oob_score_


def test_weights_more_members_and_sparse_rows():
    for kind, y in (("Classifier", Y > 0), ("Regressor", TARGETS)):
        theirs, ours = pair(kind, warm_start=True)
        for one in (theirs, ours):
            one.fit(sparse.csr_array(X), y, sample_weight=1.0 + np.arange(60) % 3)
            one.set_params(n_estimators=8).fit(sparse.csr_array(X), y, sample_weight=1.0 + np.arange(60) % 3)
        assert len(ours.estimators_) == 8
        np.testing.assert_array_equal(ours.predict(sparse.csr_array(X)), theirs.predict(sparse.csr_array(X)))


def test_what_members_predict_has_a_spread():
    ours = MLPEnsembleRegressor(MEMBERS["Regressor"], n_estimators=6, random_state=0).fit(X, TARGETS)
    members = ours.predict_members(X)
    expected = np.array([member.predict(X) for member in ours.estimators_])
    np.testing.assert_array_equal(members, expected)
    np.testing.assert_array_equal(ours.predict_std(X), expected.std(axis=0))
    low, high = ours.predict_quantiles(X, [0.25, 0.75])
    np.testing.assert_array_equal(low, np.quantile(expected, 0.25, axis=0))
    assert (low < high).all()
    assert ours.predict_quantiles(X, 0.5).shape == (60,)

    labelled = MLPEnsembleClassifier(MEMBERS["Classifier"], n_estimators=6, random_state=0).fit(X, Y > 0)
    expected = np.array([member.predict_proba(X) for member in labelled.estimators_])
    np.testing.assert_array_equal(labelled.predict_members(X), expected)
    assert labelled.predict_std(X).shape == (60, 2)
    assert labelled.predict_quantiles(X).shape == (3, 60, 2)


@pytest.mark.parametrize(("most", "calls"), [(1 << 23, 1), (10 * 6 * 2, 6)])
def test_members_that_read_some_columns_predict_in_one_call_for_many_rows(most, calls, monkeypatch):
    ours = MLPEnsembleClassifier(MEMBERS["Classifier"], n_estimators=6, max_features=2, random_state=0)
    expected = np.array([
        member.predict_proba(X[:, columns])
        for member, columns in zip(ours.fit(X, Y).estimators_, ours.estimators_features_, strict=True)
    ])  # fmt: skip
    monkeypatch.setattr(ensembles, "MOST_COPIED", most)
    made = counted(monkeypatch, ensembles, "outputs_of")
    np.testing.assert_allclose(ours.predict_members(X), expected, rtol=1e-12)  # a BLAS goes by the rows
    assert made == [6] * calls
    assert ours.predict_members(sparse.csr_array(X)).shape == expected.shape


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_whole_goes_to_onnx_and_c(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, bag = pair(kind, max_features=0.5, n_estimators=3)
    bag.fit(X, LABELS if kind == "Classifier" else TARGETS)
    expected = bag.predict_proba(X) if kind == "Classifier" else bag.predict(X)[:, None]
    bag.to_onnx(tmp_path / "bag.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "bag.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"X": X})
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        rows_through_c(bag, tmp_path, expected.shape[1]), expected, rtol=1e-12, atol=1e-14
    )


def rows_through_c(bag, folder, n_out):
    """What the C of a bag gives for each row of X."""
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    bag.to_c(folder / "bag.h", name="bag")
    (folder / "bag.c").write_text(
        '#include "bag.h"\nvoid predict(const double *X, double *out) { bag_predict(X, out); }\n'
    )
    command = [needs.COMPILER, "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", "bag.so", "bag.c", "-lm"], cwd=folder, check=True)
    library, rows = ctypes.CDLL(str(folder / "bag.so")), []
    for row in np.ascontiguousarray(X):
        out = np.empty(n_out)
        library.predict(*(ctypes.c_void_p(array.ctypes.data) for array in (row, out)))
        rows.append(out)
    return np.array(rows)


def test_a_bag_within_a_search_trains_with_the_others(monkeypatch):
    together = counted(monkeypatch)
    ours = MLPEnsembleClassifier(MEMBERS["Classifier"], n_estimators=4, random_state=0)
    got = fastmlp.cross_val_score(ours, X, Y, cv=3)
    assert together == [12]
    np.testing.assert_array_equal(got, cross_val_score(ours, X, Y, cv=3))


def test_members_are_networks_of_fastmlps():
    with pytest.raises(
        ValueError, match="'estimator' parameter of MLPEnsembleClassifier must be an instance of"
    ):
        MLPEnsembleClassifier(ensemble.RandomForestClassifier()).fit(X, Y)
    members = MLPEnsembleRegressor(n_estimators=2, random_state=0).fit(X[:10], TARGETS[:10]).estimators_
    assert {*map(type, members)} == {MLPRegressor}


@parametrize_with_checks(
    [
        MLPEnsembleClassifier(MLPClassifier(learning_rate_init=0.01, max_iter=50, backend="reference"), 3),
        MLPEnsembleRegressor(MLPRegressor(learning_rate_init=0.01, max_iter=50, backend="reference"), 3),
    ]
)
@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    if "weight_equivalence" not in check.func.__name__:
        check(estimator)
        return
    # Rows are drawn by their weights, so that scikit-learn's list of exceptions has its own bags here.
    with pytest.raises(AssertionError, match="is not equivalent to fitting with removed or repeated"):
        check(estimator)
