"""What the estimators do beyond scikit-learn's: each parameter, against the same thing done by hand."""

import pickle
import time

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.metrics import balanced_accuracy_score, log_loss, mean_pinball_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import check_estimator
from support.callbacks import calling
from support.equal_estimators import assert_same
from support.problems import data_set
from support.refusals import refusals
from support.selection import matrix, quick

import fastmlp
from fastmlp import Callback, Dense, EarlyStopping, LayerNorm, MLPClassifier, MLPRegressor, Model, Network
from fastmlp.estimators.parameters import FTOL

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("wine", 150)
_, TARGETS = data_set("diabetes", 150)
OPTIONS = {"hidden_layer_sizes": (9, 6), "max_iter": 12, "random_state": 0, "backend": "reference"}


def classifier(**options):
    return MLPClassifier(**{**OPTIONS, **options})


def regressor(**options):
    return MLPRegressor(**{**OPTIONS, **options})


# --- the objective --------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0, 2: 0.5}])
def test_class_weights_multiply_sample_weights(class_weight):
    weights = np.linspace(0.5, 1.5, 150)
    got = classifier(class_weight=class_weight).fit(X, Y, sample_weight=weights)
    by_hand = weights * compute_sample_weight(class_weight, Y)
    assert_same(got, classifier().fit(X, Y, sample_weight=by_hand), X, 1e-14)
    assert not np.allclose(got.coefs_[0], classifier().fit(X, Y, sample_weight=weights).coefs_[0])


def test_class_weights_do_not_touch_scores():
    weighted = classifier(class_weight={0: 1e-9, 1: 1e-9, 2: 1.0}, early_stopping=True, max_iter=40).fit(X, Y)
    # Only class 2 is learnt; a score that counted it alone would be 1.
    assert weighted.validation_scores_[-1] < 0.9


def test_balanced_needs_all_rows():
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    one, two = (classifier(class_weight=weight) for weight in ({0: 3.0}, None))
    one.partial_fit(X, Y, classes=[0, 1, 2])
    two.partial_fit(X, Y, classes=[0, 1, 2], sample_weight=np.where(Y == 0, 3.0, 1.0))
    assert_same(one, two, X, 1e-14)


def test_activations_may_differ_by_layer():
    assert_same(
        classifier(activation=["logistic", "sigmoid"]).fit(X, Y),
        classifier(activation="logistic").fit(X, Y),
        X,
        0.0,
    )
    model = classifier(activation=("gelu", "silu")).fit(X, Y).model_
    assert model.network.activations[:-1] == ("gelu", "silu")
    with pytest.raises(ValueError, match="hidden must hold one value for each of 2 hidden layers, got 1"):
        classifier(activation=["relu"]).fit(X, Y)
    with pytest.raises(ValueError, match="unknown hidden activation 'swish'"):
        classifier(activation=["relu", "swish"]).fit(X, Y)


@pytest.mark.parametrize(
    ("loss", "options", "by_hand"),
    [
        ("mae", {}, lambda y, p: np.abs(y - p).mean()),
        (fastmlp.Quantiles(0.8), {}, lambda y, p: mean_pinball_loss(y, p, alpha=0.8)),
        (
            fastmlp.Huber(0.4),
            {},
            lambda y, p: np.where(np.abs(y - p) <= 0.4, (y - p) ** 2 / 2, 0.4 * (np.abs(y - p) - 0.2)).mean(),
        ),
    ],
)
def test_the_trainers_losses_are_minimised(loss, options, by_hand):
    y = np.column_stack([TARGETS, TARGETS**2])
    rows = data_set("diabetes", 150).X
    model = regressor(loss=loss, alpha=0.0, validation_set=(rows, y), max_iter=80, **options).fit(rows, y)
    assert model.validation_loss_curve_[-1] == pytest.approx(by_hand(y, model.predict(rows)), rel=1e-12)
    assert model.loss_ < 0.8 * model.loss_curve_[0]
    assert model.out_activation_ == "identity"


def test_dropout_drops_and_its_seed_disturbs_nothing():
    plain, dropped = classifier().fit(X, Y), classifier(dropout=0.4).fit(X, Y)
    assert not np.allclose(plain.coefs_[0], dropped.coefs_[0])
    assert_same(dropped, classifier(dropout=0.4).fit(X, Y), X, 0.0)
    assert_same(classifier(dropout=[0.0, 0.0]).fit(X, Y), plain, X, 0.0)
    compiled = clone(dropped).set_params(backend="fused").fit(X, Y)
    assert_same(compiled, dropped, X, 1e-10)
    with pytest.raises(ValueError, match="dropout needs solver 'sgd', 'adam' or an optimizer, got 'lbfgs'"):
        classifier(dropout=0.4, solver="lbfgs").fit(X, Y)


# --- optimisers and starts ---------------------------------------------------------------------------


def test_the_trainers_optimisers_and_schedules():
    adam = fastmlp.Adam(0.001, epsilon_hat=True)
    assert_same(classifier(solver=adam).fit(X, Y), classifier().fit(X, Y), X, 0.0)
    cosine = fastmlp.Cosine(0.02, length=12)
    by_schedule = classifier(learning_rate=cosine).fit(X, Y)
    by_optimiser = classifier(solver=fastmlp.Adam(cosine, epsilon_hat=True)).fit(X, Y)
    assert_same(by_schedule, by_optimiser, X, 0.0)
    assert not np.allclose(by_schedule.coefs_[0], classifier(learning_rate_init=0.02).fit(X, Y).coefs_[0])
    for solver in (fastmlp.RMSprop(0.003), fastmlp.AdamW(0.01, weight_decay=0.1), fastmlp.SGD(0.1, 0.9)):
        fitted = classifier(solver=solver, max_iter=60).fit(X, Y)
        assert fitted.loss_ < 0.7 * fitted.loss_curve_[0]


def test_a_schedule_goes_on_in_partial_fit():
    schedule = fastmlp.Exponential(0.05, 0.5)
    whole = classifier(solver="sgd", learning_rate=schedule, momentum=0.0, shuffle=False, max_iter=6).fit(
        X, Y
    )
    parts = classifier(solver="sgd", learning_rate=schedule, momentum=0.0, shuffle=False)
    for epochs in (1, 2, 3):
        parts.partial_fit(X, Y, classes=[0, 1, 2], epochs=epochs)
    for got, expected in zip(parts.coefs_, whole.coefs_, strict=True):
        np.testing.assert_array_equal(got, expected)


@matrix
def test_a_search_by_lbfgs_goes_on_with_a_smaller_ftol():
    rows = X[:60], Y[:60]
    options = {"solver": "lbfgs", "max_iter": 10**4, "tol": 1e-9, "alpha": 1.0}
    fits = [classifier(ftol=ftol, **options).fit(*rows) for ftol in (1e-3, FTOL, 1e-13)]
    iterations, losses = ([getattr(one, name) for one in fits] for name in ("n_iter_", "loss_"))
    assert iterations[0] < iterations[1] < iterations[2]
    assert losses[0] > losses[1] > losses[2]
    assert_same(classifier(**options).fit(*rows), fits[1], rows[0], 0.0)
    # Without a hidden layer roundings grow little, and scikit-learn's search ends where SciPy's ftol says.
    options |= {"hidden_layer_sizes": (), "random_state": 0}
    theirs = sklearn.neural_network.MLPClassifier(**options).fit(*rows)
    assert classifier(**options).fit(*rows).n_iter_ == theirs.n_iter_
    assert classifier(ftol=FTOL / 10, **options).fit(*rows).n_iter_ > theirs.n_iter_
    with pytest.raises(ValueError, match="The 'ftol' parameter of MLPClassifier must be a float"):
        classifier(ftol=-1.0).fit(*rows)


def test_init_takes_schemes_and_arrays():
    narrow = classifier(init=fastmlp.Normal(1e-12), max_iter=1, learning_rate_init=1e-12).fit(X, Y)
    assert max(np.abs(w).max() for w in narrow.coefs_) < 1e-10
    wide = classifier(init="he_normal", max_iter=1, learning_rate_init=1e-12).fit(X, Y)
    assert wide.coefs_[0].std() == pytest.approx(np.sqrt(2 / 13), rel=0.2)
    drawn = classifier(max_iter=1, learning_rate_init=1e-12).fit(X, Y)
    given = classifier(init=(drawn.coefs_, drawn.intercepts_), max_iter=1, learning_rate_init=1e-12).fit(X, Y)
    np.testing.assert_allclose(given.coefs_[1], drawn.coefs_[1], atol=1e-10)
    assert not np.shares_memory(given.coefs_[0], drawn.coefs_[0])
    for init, words in (
        ("orthogonal", "unknown init 'orthogonal'; choose from: glorot_uniform"),
        ((drawn.coefs_[:1], drawn.intercepts_), "initial weights must hold 3 arrays, got 1"),
        (3.0, "init must be None, a scheme's name, a Normal, or (coefs, intercepts), got 3.0"),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            classifier(init=init).fit(X, Y)
        assert words in str(caught.value)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_epochs_of_partial_fit_are_epochs_of_fit(make):
    y = Y if make is classifier else TARGETS
    first = {"classes": [0, 1, 2]} if make is classifier else {}
    whole, parts = make().fit(X, y), make().partial_fit(X, y, epochs=12, **first)
    assert_same(parts, whole, X, 0.0)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        make().partial_fit(X, y, epochs=0, **first)


# --- validation ---------------------------------------------------------------------------------------


def test_a_validation_set_takes_the_place_of_the_split():
    rows, held = slice(0, 100), slice(100, 150)
    options = {"validation_set": (X[held], Y[held]), "early_stopping": True, "max_iter": 30}
    model = classifier(**options).fit(X[rows], Y[rows])
    assert model.t_ == 100 * model.n_iter_  # all rows were trained on
    assert model.best_validation_score_ == model.score(X[held], Y[held])
    best = np.argmax(model.validation_scores_)
    probabilities = model.predict_proba(X[held])
    assert model.validation_loss_curve_[best] == pytest.approx(log_loss(Y[held], probabilities), rel=1e-9)
    watched = classifier(validation_set=(X[held], Y[held])).fit(X[rows], Y[rows])
    assert_same(watched, classifier().fit(X[rows], Y[rows]), X, 0.0)
    assert len(watched.validation_loss_curve_) == 12


@pytest.mark.parametrize(
    ("validation_set", "words"),
    [
        ((X,), "validation_set must be (X, y) or (X, y, sample_weight), got 1 parts"),
        ((X[:, :3], Y), "X has 3 features, but MLPClassifier is expecting 13 features as input"),
        ((X, Y + 1), "`y` has classes not in `self.classes_`"),
        ("X", "The 'validation_set' parameter of MLPClassifier must be"),
    ],
)
def test_validation_sets_that_do_not_fit(validation_set, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        classifier(validation_set=validation_set).fit(X, Y)
    assert words in str(caught.value)


@quick(3)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["balanced_accuracy", "neg_log_loss", "loss"])
def test_any_metric_may_decide(metric, weighted):
    held = (X[100:], Y[100:], np.linspace(0.1, 1, 50)) if weighted else (X[100:], Y[100:])
    model = classifier(early_stopping=True, stopping_metric=metric, validation_set=held, max_iter=30)
    model.fit(X[:100], Y[:100])
    weights = held[2] if weighted else None
    if metric == "balanced_accuracy":
        by_hand = balanced_accuracy_score(held[1], model.predict(held[0]), sample_weight=weights)
    else:
        by_hand = -log_loss(held[1], model.predict_proba(held[0]), sample_weight=weights)
    assert model.best_validation_score_ == pytest.approx(by_hand, rel=1e-9)
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_a_metric_by_function_and_one_that_does_not_exist():
    called = []

    def scorer(estimator, rows, y):
        called.append(len(y))
        return -float(len(called))

    model = classifier(early_stopping=True, stopping_metric=scorer, n_iter_no_change=2, max_iter=30).fit(X, Y)
    assert called == [15] * 4
    assert model.n_iter_ == 4
    with pytest.raises(ValueError, match="The 'stopping_metric' parameter of MLPClassifier must be"):
        classifier(stopping_metric="accurracy").fit(X, Y)


def test_a_metric_sees_no_names_to_warn_about():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(13)])
    model = classifier(early_stopping=True, stopping_metric="f1_macro").fit(frame, Y)
    assert len(model.feature_names_in_) == 13


def test_the_objective_is_described_as_a_network():
    network = classifier(alpha=0.5).fit(X, Y).model_.network
    assert network == Network([13, 9, 6, 3], "relu", "softmax", "cross_entropy", l2=0.5, convention="sklearn")


# --- callbacks, bars, limits of time, backends ------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_every_epoch(solver):
    seen = []
    noting = calling(
        on_train_begin=lambda run: seen.append("begin"), on_train_end=lambda run: seen.append("end"),
        on_epoch_end=lambda run: seen.append((run.epoch, run.history["loss"][-1])),
    )  # fmt: skip
    model = classifier(callbacks=[noting], solver=solver).fit(X, Y)
    assert [seen[0], seen[-1]] == ["begin", "end"]
    assert [epoch for epoch, _ in seen[1:-1]] == list(range(1, model.n_iter_ + 1))
    assert seen[-2][1] == model.loss_
    assert_same(model, classifier(solver=solver).fit(X, Y), X, 0.0)
    with pytest.raises(TypeError, match="every callback must be a Callback"):
        classifier(callbacks=[print]).fit(X, Y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_may_stop(solver):
    noting = calling(on_epoch_end=lambda run: run.epoch == 3 and run.stop("enough"))
    with_warnings = classifier(callbacks=[noting], solver=solver)
    model = with_warnings.fit(X, Y)
    assert model.n_iter_ == 3
    assert_same(model, classifier(solver=solver, max_iter=3).fit(X, Y), X, 0.0)
    patient = classifier(callbacks=[EarlyStopping(patience=2)], solver="sgd", learning_rate_init=5.0)
    assert patient.set_params(max_iter=300).fit(X, Y).n_iter_ < 300


class Accuracy(Callback):
    def on_epoch_end(self, run):
        right = run.predict(X).argmax(axis=1) == Y
        run.history.setdefault("accuracy", []).append(right.mean())


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_may_predict_and_write_a_curve_to_stop_by(solver):
    plain = classifier(solver=solver, tol=1.0, n_iter_no_change=3, max_iter=30).fit(X, Y)
    watched = classifier(**plain.get_params() | {"callbacks": [Accuracy()]}).fit(X, Y)
    assert_same(watched, plain, X, 0.0)  # it ends after the same epochs
    callbacks = [Accuracy(), EarlyStopping(1, monitor="accuracy", mode="max")]
    stopped = classifier(solver=solver, callbacks=callbacks, max_iter=300).fit(X, Y)
    assert stopped.score(X, Y) == callbacks[1].best
    assert stopped.n_iter_ < 300


@quick(4)
@pytest.mark.parametrize("moment", ["on_train_begin", "on_chunk_end"])
@pytest.mark.parametrize(
    "options", [{}, {"early_stopping": True}, {"validation_set": (X, Y)}, {"solver": "lbfgs"}]
)
def test_a_stop_before_an_epoch_is_complete_leaves_all_attributes(options, moment, chunks):
    chunks(seconds=0.0)  # every step is a chunk
    stop = type("Stop", (Callback,), {moment: lambda self, run: run.stop("now")})
    model = classifier(callbacks=[stop()], batch_size=50, **options).fit(X, Y)
    assert set(vars(model)) >= set(vars(classifier(**options).fit(X, Y)))
    start = classifier(max_iter=1, learning_rate_init=1e-300).fit(X, Y)
    moved = not np.array_equal(model.coefs_[0], start.coefs_[0])
    iterations = int("solver" in options and moment == "on_chunk_end")
    assert (moved, model.n_iter_) == (moment == "on_chunk_end", iterations)
    if "solver" in options:
        objective = log_loss(Y, model.predict_proba(X))
        objective += sum((w**2).sum() for w in model.coefs_) * 0.5e-4 / len(X)
        assert model.loss_ == pytest.approx(objective, rel=1e-12)
    else:
        assert np.isnan(model.loss_)
        assert not model.loss_curve_


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_max_time_ends_it_without_a_warning(solver):
    model = classifier(max_time=0.1, max_iter=10**7, tol=0.0, n_iter_no_change=10**7, solver=solver)
    rows, y = np.random.default_rng(0).standard_normal((500, 60)), np.arange(500) % 3
    model.set_params(hidden_layer_sizes=(200,), max_fun=10**7)
    began = time.perf_counter()
    model.fit(rows, y)
    assert time.perf_counter() - began >= 0.1
    assert 1 <= model.n_iter_ < model.max_iter  # all would take hours


def test_progress_shows_a_bar(capsys):
    classifier(progress=True).fit(X, Y)
    assert "epoch 12/12" in capsys.readouterr().err
    classifier().fit(X, Y)
    assert capsys.readouterr().err == ""


def test_backends_and_threads_are_passed_on():
    assert classifier(backend="fused").fit(X, Y).model_.backend == "fused"
    assert_same(
        classifier(backend="fused", threads=2, batch_size=128).fit(X, Y),
        classifier(backend="fused", threads=1, batch_size=128).fit(X, Y),
        X,
        0.0,
    )
    with pytest.raises(ValueError, match="unknown backend 'fussed'; choose from: auto, reference"):
        classifier(backend="fussed").fit(X, Y)
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got 'int8'"):
        classifier(dtype="int8").fit(X, Y)


# --- layers -----------------------------------------------------------------------------------------------


LAYERS = [
    Dense(16, "silu"),
    LayerNorm(),
    fastmlp.Dropout(0.1),
    fastmlp.Residual(Dense(16, "relu")),
    fastmlp.BatchNorm(),
]


def layered(**options):
    return MLPClassifier(
        **{"layers": LAYERS, "random_state": 0, "max_iter": 40, "batch_size": 32, "tol": 0} | options
    )


WINE, KINDS = load_wine(return_X_y=True)
WINE = StandardScaler().fit_transform(WINE)


def test_a_classifier_of_layers_learns_and_travels():
    X, y = WINE, KINDS
    fitted = layered().fit(X, y)
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


def test_searches_choose_among_layers():
    pipeline = make_pipeline(StandardScaler(), layered(max_iter=5))
    grid = {"mlpclassifier__layers": [[Dense(8, "relu")], LAYERS, None]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(WINE, KINDS)
    assert len(search.cv_results_["mean_test_score"]) == 3


def test_a_regressor_of_layers_goes_on():
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    regressor = MLPRegressor(layers=[Dense(8, "tanh"), LayerNorm()], random_state=0, batch_size=32)
    for _ in range(30):
        regressor.partial_fit(X, y)
    assert regressor.score(X, y) > 0.4
    regressor.set_params(layers=[Dense(9, "tanh")])
    with pytest.raises(ValueError, match="layers has changed since the fit before"):
        regressor.partial_fit(X, y)


test_mistakes = refusals(
    [
        ({"hidden_layer_sizes": (20,)}, r"layers replaces hidden_layer_sizes; leave that at \(100,\)"),
        ({"dropout": 0.1}, "layers replaces dropout"),
        ({"activation": "tanh"}, "layers replaces activation"),
        ({"layers": [3]}, "a layer must be one of Activate, "),
        ({"layers": []}, "layers must hold at least one layer"),
        ({"solver": "lbfgs"}, "Dropout and BatchNorm need solver"),
        ({"batch_size": 1}, "at least 2 rows in every batch"),
    ],
    lambda **options: layered(**options).fit(WINE, KINDS),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_scikit_learns_checks(kind):
    check_estimator(kind(layers=[Dense(20, "relu"), LayerNorm()], max_iter=300, learning_rate_init=0.01))
