"""The mean of several models: outputs, spread, derivatives, and the files of the whole."""

import ctypes
import re
import subprocess

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_diabetes
from sklearn.ensemble import BaggingClassifier, BaggingRegressor
from support import needs
from support.problems import data_set
from support.searches import counted, together
from support.selection import quick

import fastmlp
from fastmlp import Ensemble, Head, MLPClassifier, MLPRegressor, Network
from fastmlp.many import ensembles

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("iris", 60)
_, TARGETS = data_set("diabetes", 60)
GIVEN = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0, "backend": "reference"}
BAGS = {
    "labels": (BaggingClassifier(MLPClassifier(**GIVEN), 5, random_state=3), Y),
    "two labels": (BaggingClassifier(MLPClassifier(**GIVEN), 5, random_state=3), Y > 0),
    "numbers": (BaggingRegressor(MLPRegressor(**GIVEN), 5, random_state=3), TARGETS),
}


def ensemble_of(bag):
    models = [member.model_ for member in bag.estimators_]
    return Ensemble(models, bag.estimators_features_, bag.n_features_in_)


def bagged(kind, **options):
    """A bag, and the ensemble of its networks."""
    made, y = BAGS[kind]
    with together():
        bag = made.set_params(**{"max_features": 1.0, **options}).fit(X, y)
    return bag, ensemble_of(bag)


def outputs_of(kind, bag, rows):
    """The bag's outputs (rows, n_out): numbers, or probabilities, of two labels the second one's."""
    if kind == "numbers":
        return bag.predict(rows)[:, None]
    return bag.predict_proba(rows)[:, 1:] if kind == "two labels" else bag.predict_proba(rows)


@quick(2)
@pytest.mark.parametrize("features", [1.0, 0.5])
@pytest.mark.parametrize("kind", BAGS)
def test_the_mean_is_the_bag_s(kind, features):
    bag, ensemble = bagged(kind, max_features=features)
    expected = outputs_of(kind, bag, X)
    np.testing.assert_allclose(ensemble.predict(X), expected, rtol=1e-12)
    np.testing.assert_allclose(ensemble.predict(sparse.csr_array(X)), expected, rtol=1e-12)
    members = ensemble.predict_members(X)
    assert members.shape == (5, *expected.shape)
    np.testing.assert_array_equal(ensemble.predict_std(X), members.std(axis=0))
    low, high = ensemble.predict_quantiles(X, [0.25, 0.75])
    np.testing.assert_array_equal(low, np.quantile(members, 0.25, axis=0))
    assert (low < high).all()
    assert ensemble.predict_quantiles(X, 0.5).shape == expected.shape


@pytest.mark.parametrize(("most", "calls"), [(1 << 23, 1), (10 * 5 * 2, 6)])
def test_models_that_read_some_columns_predict_in_one_call_for_many_rows(most, calls, monkeypatch):
    bag, ensemble = bagged("labels", max_features=2)
    monkeypatch.setattr(ensembles, "MOST_COPIED", most)
    made = counted(monkeypatch, ensembles, "outputs_of")
    np.testing.assert_allclose(ensemble.predict(X), bag.predict_proba(X), rtol=1e-12)
    assert made == [5] * calls


def test_models_of_fit_many_with_heads_have_a_mean_for_each():
    network = Network(inputs=4, layers=[fastmlp.Dense(3)], heads={"a": Head(1), "b": Head(3)})
    y = {"a": TARGETS, "b": np.eye(3)[Y]}
    models = fastmlp.fit_many(network, X, y, n_models=3, epochs=2, seed=0)
    ensemble, members = Ensemble(models), fastmlp.predict_many(models, X)
    for name, of_head in members.items():
        np.testing.assert_array_equal(ensemble.predict_std(X)[name], of_head.std(axis=0))
        np.testing.assert_allclose(ensemble.predict(X)[name], of_head.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("features", [1.0, 0.5])
def test_derivatives_are_those_of_the_mean(features):
    rows, y = load_diabetes(return_X_y=True)
    options = {"hidden_layer_sizes": (8,), "activation": "tanh", "max_iter": 3, "dtype": "float64"}
    bag = BaggingRegressor(MLPRegressor(**options), 3, max_features=features, random_state=0).fit(rows, y)
    ensemble, step = ensemble_of(bag), np.zeros(10)
    gradient, step[2] = ensemble.input_gradient(rows), 1e-6
    slopes = (bag.predict(rows + step) - bag.predict(rows - step)) / 2e-6
    np.testing.assert_allclose(gradient[:, 2], slopes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ensemble.jacobian(rows)[:, 0], gradient, rtol=1e-12)
    found = ensemble.attribute(rows[:20], rows.mean(axis=0), steps=20)
    change = bag.predict(rows[:20]) - bag.predict(rows.mean(axis=0)[None])
    np.testing.assert_allclose(found.change, change, rtol=1e-9, atol=1e-9)
    assert found.error < 1e-6
    with pytest.raises(ValueError, match="baseline must have 10 columns, got 3"):
        ensemble.attribute(rows, np.zeros(3))


@pytest.mark.parametrize("kind", BAGS)
def test_the_whole_goes_to_onnx_and_c(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    bag, ensemble = bagged(kind, max_features=0.5)
    expected, near = outputs_of(kind, bag, X), {"rtol": 1e-12, "atol": 1e-14}
    ensemble.to_onnx(tmp_path / "bag.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "bag.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"X": X})
    np.testing.assert_allclose(outputs, expected, **near)
    np.testing.assert_allclose(rows_through_c(ensemble, tmp_path, expected.shape[1]), expected, **near)


def rows_through_c(ensemble, folder, n_out):
    """What the C of an ensemble gives for each row of X."""
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    ensemble.to_c(folder / "bag.h", name="bag")
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


ONE, OTHER, NARROW = (
    fastmlp.fit(Network(sizes), np.ones((4, sizes[0])), np.ones((4, sizes[-1])), epochs=0, seed=0)
    for sizes in ([4, 1], [4, 2], [3, 1])
)
REFUSED = {
    "models must be a list of Model, at least one, got []": ([],),
    "models[1] must be a Model": ([ONE, 3],),
    "models[1] has 4 inputs and 2 outputs": ([ONE, OTHER],),
    "models[1] has 3 inputs and 1 outputs": ([ONE, NARROW],),
    "the models have 4 inputs, got n_in=5": ([ONE], None, 5),
    "columns need n_in=": ([ONE], [[0, 1, 2, 3]]),
    "columns must be one array for each of 2 models, got 1": ([ONE, ONE], [[0, 1, 2, 3]], 4),
    "columns[0] must be 4 whole numbers, got int64 (2,)": ([ONE], [[0, 1]], 4),
    "columns[0] must lie in 0 .. 3": ([ONE], [[0, 1, 2, 4]], 4),
}


@pytest.mark.parametrize("message", REFUSED)
def test_careless_ensembles_get_one_line(message):
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        Ensemble(*REFUSED[message])


def test_rows_of_another_width_get_one_line():
    ensemble = Ensemble([ONE, NARROW], [[0, 1, 2, 3], [0, 2, 4]], 5)
    assert ensemble.predict(np.ones((2, 5))).shape == (2, 1)
    with pytest.raises(ValueError, match=r"X must have shape \(rows, 5\), got \(2, 4\)"):
        ensemble.predict(np.ones((2, 4)))
