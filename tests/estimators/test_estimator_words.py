"""What the estimators say: printed lines, errors and warnings in scikit-learn's words and places."""

import re
import signal
import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from support.auto_choice import have_chosen
from support.estimator_pairs import BINARY, NAMES, TARGETS, X, Y, each, make, pair, unconverged, y_for
from support.problems import data_set

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor

pytestmark = unconverged


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


def call(method, *arguments, **options):
    """A call of a method of an estimator, to be made of either package's."""
    return lambda estimator: getattr(estimator, method)(*arguments, **options)


def after_fit(method, *arguments, **options):
    return lambda estimator: getattr(estimator.fit(X, BINARY), method)(*arguments, **options)


def with_params(**params):
    return lambda estimator: estimator.set_params(**params).fit(X, BINARY)


def with_early_stopping(X, y, *weights, classes, **params):
    """A first partial_fit; only the classifier's takes classes."""

    def act(estimator):
        options = {"classes": classes} if type(estimator).__name__ == "MLPClassifier" else {}
        return estimator.set_params(early_stopping=True, **params).partial_fit(X, y, *weights, **options)

    return act


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
    "first partial_fit with early stopping": with_early_stopping(X, BINARY, classes=[0, 1]),
    "early stopping, lengths": with_early_stopping(X, BINARY[:5], classes=[0, 1]),
    "early stopping, rows": with_early_stopping(NAN, BINARY, classes=[0, 1]),
    "early stopping, a column": with_early_stopping(X, BINARY[:, None], classes=[0, 1]),
    "early stopping, weights": with_early_stopping(X, BINARY, [1, 2], classes=[0, 1]),
    "early stopping, hidden sizes": with_early_stopping(X, BINARY, classes=[0, 1], hidden_layer_sizes=(0,)),
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
    "early stopping, unknown class": with_early_stopping(X, Y, classes=[0, 1]),
    "early stopping, several labels": with_early_stopping(X, np.c_[Y, Y] + 1, classes=[0, 1, 2]),
    "stratified split": lambda e: e.set_params(early_stopping=True).fit(X, np.arange(120) == 3),
}
REGRESSORS = {
    "loss": with_params(loss="cubed"),
    "early stopping, other outputs": lambda e: (
        e.fit(X, TARGETS).set_params(early_stopping=True).partial_fit(X, np.c_[TARGETS, TARGETS])
    ),
}

ALL_REFUSALS = [
    *((name, what, act) for name in NAMES for what, act in REFUSALS.items()),
    *(("MLPClassifier", what, act) for what, act in CLASSIFIERS.items()),
    *(("MLPRegressor", what, act) for what, act in REGRESSORS.items()),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "what", "act"), ALL_REFUSALS)
def test_errors_have_scikit_learns_words(name, what, act):
    raised = []
    for estimator in pair(name):
        # A warning is an error here.
        with pytest.raises(
            (ValueError, TypeError, AttributeError, NotFittedError, DataConversionWarning)
        ) as caught:
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


# --- what their own parameters refuse ---------------------------------------------------------------------


ROWS, LABELS = data_set("wine", 150)
VALUES = ROWS[:, 0] - ROWS[:, 1]


def made(kind, **parameters):
    return kind(
        **{"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0, "backend": "reference"} | parameters
    )


TWICE = np.c_[VALUES, VALUES]

START = ([np.ones((13, 5)), np.ones((5, 1))], [np.ones(5), np.ones(1)])
NAN_START = ([np.full((13, 5), np.nan), *START[0][1:]], START[1])
COMPLEX_START = ([START[0][0] + 1j, *START[0][1:]], START[1])
WITH_LBFGS = {"validation_set": (ROWS, LABELS), "solver": "lbfgs"}
NOTHING_COUNTS = {0: 0, 1: 0, 2: 0}

REFUSED = {
    "validation y wide": (MLPRegressor, {"validation_set": (ROWS, TWICE)}, VALUES, "2 outputs, y has 1"),
    "validation y narrow": (MLPRegressor, {"validation_set": (ROWS, VALUES)}, TWICE, "1 outputs, y has 2"),
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
        made(kind, **parameters).fit(ROWS, y)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_generators_are_refused_with_what_to_pass_instead(kind):
    fitted = made(kind).fit(ROWS, LABELS)
    for call in (
        lambda: made(kind).fit((row for row in ROWS), LABELS),
        lambda: made(kind).fit(ROWS, LABELS).partial_fit(map(list, ROWS), LABELS),
        lambda: made(kind, validation_set=(iter(ROWS), LABELS)).fit(ROWS, LABELS),
        lambda: fitted.predict(row for row in ROWS),
        lambda: fitted.score(iter(ROWS), LABELS),
    ):
        with pytest.raises(TypeError, match=r"^X must be an array, got <.*; .* np\.array\(list\(X\)\)$"):
            call()
    with pytest.raises(TypeError, match=r"^y must be an array, got <.*; .* np\.array\(list\(y\)\)$"):
        made(kind).fit(ROWS, iter(LABELS))


@pytest.mark.parametrize("given", [(lambda: [(ROWS, LABELS)], LABELS), ("rows.csv", LABELS), (ROWS, "kind")])
def test_what_fit_of_a_network_takes_is_refused_in_one_line(given):
    for call in (
        made(MLPRegressor).fit,
        lambda X, y: made(MLPClassifier).partial_fit(X, y, classes=[0, 1, 2]),
    ):
        with pytest.raises(
            TypeError, match=r"^X and y must be arrays, got .* for fastmlp\.fit and a Network$"
        ):
            call(*given)


def test_sparse_rows_with_a_dense_validation_set():
    sparse = made(MLPClassifier, validation_set=(ROWS, LABELS)).fit(scipy.sparse.csr_matrix(ROWS), LABELS)
    dense = made(MLPClassifier, validation_set=(ROWS, LABELS)).fit(ROWS, LABELS)
    np.testing.assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_, rtol=1e-10)


def test_sparse_rows_held_out_that_all_weigh_nothing_have_no_loss():
    stops = {"early_stopping": True, "stopping_metric": "loss", "backend": "reference"}
    for row in range(3):  # the only one that counts, and held out now and then
        weights = np.arange(len(ROWS)) == row
        sparse, dense = (
            made(MLPClassifier, **stops).fit(x, LABELS, weights)
            for x in (scipy.sparse.csr_matrix(ROWS), ROWS)
        )
        np.testing.assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_, rtol=1e-10)


@pytest.mark.parametrize("before", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
@pytest.mark.parametrize("after", [{"early_stopping": True}, {"early_stopping": False}])
def test_a_warm_start_with_another_way_of_stopping(before, after):
    estimator = made(MLPClassifier, warm_start=True, **before).fit(ROWS, LABELS)
    estimator.set_params(solver="adam", **after).fit(ROWS, LABELS)
    assert (estimator.validation_scores_ is not None) == after["early_stopping"]
    assert estimator.loss_curve_


def test_a_batch_without_weight_takes_no_step():
    # scikit-learn raises ZeroDivisionError.
    options = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "batch_size": 50}
    whole = made(MLPClassifier, **options).fit(ROWS, LABELS, np.repeat([1.0, 0.0, 1.0], 50))
    rest = np.r_[0:50, 100:150]
    without = made(MLPClassifier, **options).fit(ROWS[rest], LABELS[rest])
    for got, expected in zip(
        whole.coefs_ + whole.intercepts_, without.coefs_ + without.intercepts_, strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_metric_that_takes_no_weights():
    estimator = made(MLPClassifier, early_stopping=True, stopping_metric=lambda e, ROWS, y: e.score(ROWS, y))
    estimator.fit(ROWS, LABELS, np.linspace(0.5, 1.5, len(ROWS)))
    assert len(estimator.validation_scores_) == estimator.n_iter_


def test_an_error_between_the_values_of_an_epoch_is_the_one_that_comes_out(monkeypatch):
    def fail(*_):
        raise MemoryError("the validation's own")

    backend = fastmlp.backend.registry.get("reference")._replace(evaluate=fail)
    have_chosen(monkeypatch, backend)
    with pytest.raises(MemoryError, match="the validation's own"):
        made(MLPClassifier, validation_set=(ROWS, LABELS)).fit(ROWS, LABELS)
