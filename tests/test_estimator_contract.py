"""scikit-learn's contract: signatures, checks, errors, warnings, output, and everything around fit."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import signal
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from likeness import assert_same
from problems import data_set
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastmlp

X, Y = data_set("iris", 120)
_, TARGETS = data_set("diabetes", 120)
BINARY = (Y > 0).astype(int)

NAMES = ("MLPClassifier", "MLPRegressor")
each = pytest.mark.parametrize("name", NAMES)
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(package, name, **options):
    if package is fastmlp:
        options = {"backend": "reference", **options}
    return getattr(package, name)(**{"max_iter": 6, "random_state": 0, "hidden_layer_sizes": (7,), **options})


def pair(name, **options):
    """scikit-learn's estimator and ours."""
    return make(sklearn.neural_network, name, **options), make(fastmlp, name, **options)


def y_for(name):
    return Y if name == "MLPClassifier" else TARGETS


@parametrize_with_checks([getattr(fastmlp, name)(backend=b) for name in NAMES for b in ("auto", "reference")])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@each
@pytest.mark.parametrize("method", ["__init__", "fit", "partial_fit", "predict", "score"])
def test_signatures_begin_as_scikit_learns(name, method):
    theirs, ours = (
        list(inspect.signature(getattr(getattr(package, name), method)).parameters.values())
        for package in (sklearn.neural_network, fastmlp)
    )
    for wanted, got in zip(theirs, ours, strict=False):
        assert (got.name, got.default, got.kind) == (wanted.name, wanted.default, wanted.kind)
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


# --- one call after another ---------------------------------------------------------------------


@unconverged
@each
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_warm_start_goes_on(name, solver):
    estimators = pair(name, solver=solver, warm_start=True, learning_rate="adaptive", tol=0.05)
    for estimator in estimators:
        estimator.set_params(n_iter_no_change=2)
        for iterations in (3, 5, 4):
            estimator.set_params(max_iter=iterations).fit(X, y_for(name))
    assert_same(estimators[1], estimators[0], X, 1e-10)


@unconverged
@each
def test_a_warm_start_after_early_stopping_goes_on(name):
    estimators = pair(name, warm_start=True, early_stopping=True, learning_rate_init=0.1, alpha=0.1)
    for estimator in estimators:
        for _ in range(3):
            estimator.fit(X, y_for(name))
    assert_same(estimators[1], estimators[0], X, 1e-10)


@unconverged
@pytest.mark.parametrize(("dtype", "power"), [(np.float32, 20), (np.float64, 100)])
def test_a_rate_that_falls_to_nothing_leaves_the_velocity_finite(dtype, power):
    options = {"solver": "sgd", "learning_rate": "invscaling", "power_t": power, "learning_rate_init": 0.1}
    theirs, ours = (e.fit(X.astype(dtype), TARGETS) for e in pair("MLPRegressor", max_iter=4, **options))
    assert_same(ours, theirs, X, 50 * np.finfo(dtype).eps)


@unconverged
@pytest.mark.parametrize("backend", ["reference", "baseline", "tiled"])
def test_poisson_takes_targets_below_zero_as_scikit_learn_does(backend):
    theirs, ours = pair("MLPRegressor", loss="poisson")
    for estimator in (theirs, ours.set_params(backend=backend)):
        estimator.fit(X, TARGETS)
        assert np.isnan(estimator.loss_curve_).all()
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


@unconverged
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_no_score_is_a_number_the_start_is_kept():
    options = {"solver": "sgd", "learning_rate_init": 1e200, "activation": "identity", "batch_size": 20}
    theirs, ours = pair("MLPRegressor", early_stopping=True, **options)
    for estimator in (theirs, ours):
        estimator.fit(X, TARGETS)
        assert np.isnan(estimator.validation_scores_).all()
    for got, wanted in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_array_equal(got, wanted)


@unconverged
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


@unconverged
@each
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"shuffle": False}])
def test_a_random_state_is_drawn_from_as_scikit_learn_does(name, options):
    states = [np.random.RandomState(5) for _ in range(2)]
    for estimator, state in zip(pair(name, **options), states, strict=True):
        estimator.set_params(random_state=state).fit(X, y_for(name))
    np.testing.assert_array_equal(states[0].random_sample(4), states[1].random_sample(4))


@unconverged
@each
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True, "max_iter": 50, "tol": 0.1, "n_iter_no_change": 3},
        {"tol": 0.5, "n_iter_no_change": 2},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 60},
    ],
)
def test_verbose_prints_what_scikit_learn_prints(name, options, capsys):
    printed = []
    for estimator in pair(name, verbose=True, **options):
        estimator.fit(X, y_for(name))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Iteration 1, loss = " in printed[0]


# --- refusals and warnings ------------------------------------------------------------------------

WEIGHTS = np.ones(120)


def call(method, *arguments, **options):
    """A call of a method of an estimator, to be made of either package's."""
    return lambda estimator: getattr(estimator, method)(*arguments, **options)


def after_fit(method, *arguments, **options):
    return lambda estimator: getattr(estimator.fit(X, BINARY), method)(*arguments, **options)


def with_params(**params):
    return lambda estimator: estimator.set_params(**params).fit(X, BINARY)


NAN = X.copy()
NAN[3, 1] = np.nan

REFUSALS = {
    "one dimension": call("fit", X[0], BINARY),
    "lengths": call("fit", X, BINARY[:5]),
    "columns": after_fit("predict", X[:, :2]),
    "predict nan": after_fit("predict", NAN),
    "predict one row flat": after_fit("predict", X[0]),
    "predict nothing": after_fit("predict", X[:0]),
    "not fitted": call("predict", X),
    "hidden sizes": with_params(hidden_layer_sizes=(3, 0)),
    "solver": with_params(solver="newton"),
    "alpha": with_params(alpha=-1),
    "learning rate": with_params(learning_rate_init=0.0),
    "batch size": with_params(batch_size=0),
    "max_iter": with_params(max_iter=0),
    "momentum": with_params(momentum=1.5),
    "shuffle": with_params(shuffle="yes"),
    "betas": with_params(beta_1=1.0),
    "n_iter_no_change": with_params(n_iter_no_change=-1),
    "early stopping in partial_fit": lambda e: e.set_params(early_stopping=True).fit(X, Y).partial_fit(X, Y),
    "validation too small": lambda e: e.set_params(early_stopping=True, validation_fraction=0.001).fit(X, Y),
    "diverged": lambda e: e.set_params(
        solver="sgd", learning_rate_init=1e100, activation="identity", alpha=1e9
    ).fit(1e100 * X, 1.0 * BINARY),
}

CLASSIFIERS = {
    "partial_fit with lbfgs": lambda e: e.set_params(solver="lbfgs").partial_fit,
    "first partial_fit": call("partial_fit", X, Y),
    "other classes": lambda e: e.partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X, Y, classes=[0, 1]),
    "unknown class": lambda e: e.partial_fit(X, BINARY, classes=[0, 1]).partial_fit(X, Y),
    "continuous y": call("fit", X, TARGETS),
    "warm start, other classes": lambda e: e.set_params(warm_start=True).fit(X, Y).fit(X, BINARY),
    "stratified split": lambda e: e.set_params(early_stopping=True).fit(X, np.arange(120) == 3),
}
REGRESSORS = {"loss": with_params(loss="cubed")}

ALL_REFUSALS = [
    *((name, what, act) for name in NAMES for what, act in REFUSALS.items()),
    *(("MLPClassifier", what, act) for what, act in CLASSIFIERS.items()),
    *(("MLPRegressor", what, act) for what, act in REGRESSORS.items()),
]


@unconverged
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "what", "act"), ALL_REFUSALS)
def test_errors_have_scikit_learns_words(name, what, act):
    raised = []
    for estimator in pair(name):
        with pytest.raises((ValueError, TypeError, AttributeError, NotFittedError)) as caught:
            act(estimator)
        raised.append((type(caught.value), squeezed(caught.value)))
    if what in ("solver", "loss"):  # ours list more choices
        raised = [(kind, re.sub("must be.*Got", "must be ... Got", words)) for kind, words in raised]
    assert raised[0] == raised[1]


def squeezed(error):
    return " ".join(str(error).split())


@each
@pytest.mark.parametrize(
    ("options", "y"),
    [
        ({}, None),
        ({"solver": "lbfgs", "max_iter": 2}, None),
        ({"batch_size": 1000, "max_iter": 1000, "tol": 1.0}, None),
        ({"max_iter": 1000, "tol": 1.0}, "column"),
    ],
)
def test_warnings_have_scikit_learns_words(name, options, y):
    seen = []
    for estimator in pair(name, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(X, y_for(name)[:, None] if y else y_for(name))
        seen.append([(w.category, squeezed(w.message)) for w in caught])
    assert seen[0] == seen[1]
    assert seen[0]


@each
def test_an_interrupt_leaves_a_fitted_estimator(name):
    class Interrupting(fastmlp.Callback):
        def on_epoch_end(self, run):
            if run.epoch == 3:
                raise KeyboardInterrupt

    estimator = make(fastmlp, name, callbacks=[Interrupting()])
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        estimator.fit(X, y_for(name))
    assert estimator.n_iter_ == 3
    assert len(estimator.predict(X)) == 120


def test_an_error_after_an_interrupt_is_not_swallowed_with_it():
    class Failing(fastmlp.Callback):
        def on_epoch_end(self, run):
            signal.raise_signal(signal.SIGINT)
            raise OSError("a full disk")

    with pytest.raises(KeyboardInterrupt) as caught:
        make(fastmlp, "MLPClassifier", callbacks=[Failing()]).fit(X, Y)
    assert isinstance(caught.value.__context__, OSError)


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"batch_size": 1000}])
def test_warnings_point_at_the_caller(options):
    with pytest.warns((ConvergenceWarning, UserWarning)) as caught:
        make(fastmlp, "MLPClassifier", **options).fit(X, Y)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize(
    ("options", "category"),
    [
        ({}, ConvergenceWarning),
        ({"solver": "lbfgs"}, ConvergenceWarning),
        ({"batch_size": 1000}, UserWarning),
    ],
)
def test_a_filter_of_scikit_learns_module_holds(options, category):
    estimators = pair("MLPClassifier", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", category=category, module="sklearn"
        )  # as in scikit-learn's examples
        for estimator in estimators:
            estimator.fit(X, Y)
    counts = []
    for estimator in estimators:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")  # once for each place
            for _ in range(3):
                estimator.fit(X, Y)
        counts.append(len(caught))
    assert counts[0] == counts[1] > 0


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
        assert all(np.shares_memory(w, other._model.parameters) for w in other.coefs_)
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


# --- what users pass ---------------------------------------------------------------------------------


@unconverged
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


@unconverged
@each
@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array])
@pytest.mark.parametrize("options", [{"backend": "fused", "shuffle": False}, {"early_stopping": True}])
def test_sparse_rows_train_and_predict_as_dense_ones(name, form, options, monkeypatch):
    from fastmlp.estimators import sparse_rows

    monkeypatch.setattr(sparse_rows, "DENSE_BYTES", 1000)  # 31 rows: less than a batch
    rows = np.where(np.abs(X) < 0.5, 0, X)
    options = {"batch_size": 20, "solver": "sgd", **options}
    dense = make(fastmlp, name, **options).fit(rows, y_for(name))
    sparse = make(fastmlp, name, **options).fit(form(rows), y_for(name))
    assert_same(sparse, dense, rows, 1e-12)
    np.testing.assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(sparse.predict(form(rows)), dense.predict(rows), rtol=1e-12)


@unconverged
@each
@pytest.mark.parametrize("layout", ["fortran", "strided", "integers", "read-only", "float32"])
def test_any_layout_predicts_alike(name, layout):
    estimator = make(fastmlp, name, backend="fused").fit(X, y_for(name))
    rows = np.round(X)
    wanted = estimator.predict(rows)
    other = {
        "fortran": np.asfortranarray(rows),
        "strided": np.repeat(rows, 2, axis=0)[::2],
        "integers": rows.astype(int),
        "read-only": rows.copy(),
        "float32": rows.astype(np.float32),
    }[layout]
    other.flags.writeable = layout != "read-only"
    np.testing.assert_allclose(estimator.predict(other), wanted, rtol=1e-12)


@unconverged
@each
def test_float32_stays_and_dtype_decides(name):
    narrow = X.astype(np.float32)
    for options, wanted in (({}, np.float32), ({"dtype": "float64"}, np.float64)):
        estimator = make(fastmlp, name, **options).fit(narrow, y_for(name))
        assert {array.dtype for array in (*estimator.coefs_, *estimator.intercepts_)} == {np.dtype(wanted)}
        outputs = estimator.predict_proba(X) if name == "MLPClassifier" else estimator.predict(X)
        assert outputs.dtype == wanted
    assert make(fastmlp, name, dtype="float32").fit(X, y_for(name)).coefs_[0].dtype == np.float32
    assert make(fastmlp, name, solver="lbfgs").fit(narrow, y_for(name)).coefs_[0].dtype == np.float32


@unconverged
def test_labels_come_back_as_they_went_in():
    words = np.array(["setosa", "versicolor", "virginica"])[Y]
    several = np.stack([Y == 0, Y > 0, X[:, 0] > 0], axis=1).astype(int)
    for y in (words, words[Y > 0], BINARY.astype(bool), np.zeros(120, int), several):
        rows = X[Y > 0] if len(y) < 120 else X
        theirs, ours = (estimator.fit(rows, y) for estimator in pair("MLPClassifier"))
        got, wanted = ours.predict(rows), theirs.predict(rows)
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(ours.predict_log_proba(rows), theirs.predict_log_proba(rows), rtol=1e-9)
        assert ours.score(rows, y) == theirs.score(rows, y)
    sparse = make(fastmlp, "MLPClassifier").fit(X, scipy.sparse.csr_matrix(several))
    assert scipy.sparse.issparse(sparse.predict(X))


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
