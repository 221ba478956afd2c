"""The estimators' training loop: callbacks, bars, limits of time, backends."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import log_loss
from support.equal_estimators import assert_same
from support.problems import data_set

from fastmlp import Callback, EarlyStopping, MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("wine", 150)
OPTIONS = {"hidden_layer_sizes": (9, 6), "max_iter": 12, "random_state": 0, "backend": "reference"}


def classifier(**options):
    return MLPClassifier(**{**OPTIONS, **options})


class Epochs(Callback):
    def __init__(self):
        self.seen = []

    def on_train_begin(self, run):
        self.seen.append("begin")

    def on_epoch_end(self, run):
        self.seen.append((run.epoch, run.history["loss"][-1]))

    def on_train_end(self, run):
        self.seen.append("end")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_every_epoch(solver):
    watcher = Epochs()
    model = classifier(callbacks=[watcher], solver=solver).fit(X, Y)
    assert [watcher.seen[0], watcher.seen[-1]] == ["begin", "end"]
    assert [epoch for epoch, _ in watcher.seen[1:-1]] == list(range(1, model.n_iter_ + 1))
    assert watcher.seen[-2][1] == model.loss_
    assert_same(model, classifier(solver=solver).fit(X, Y), X, 0.0)
    with pytest.raises(TypeError, match="every callback must be a Callback"):
        classifier(callbacks=[print]).fit(X, Y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_may_stop(solver):
    class Stop(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 3:
                run.stop("enough")

    with_warnings = classifier(callbacks=[Stop()], solver=solver)
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
    model = classifier(max_time=0.3, max_iter=10**7, tol=0.0, n_iter_no_change=10**7, solver=solver)
    rows, y = np.random.default_rng(0).standard_normal((2000, 60)), np.arange(2000) % 3
    model.set_params(hidden_layer_sizes=(200,), max_fun=10**7)
    began = time.perf_counter()
    model.fit(rows, y)
    assert time.perf_counter() - began >= 0.3
    assert 1 <= model.n_iter_ < model.max_iter  # all would take hours


def test_progress_shows_a_bar(capsys):
    classifier(progress=True).fit(X, Y)
    assert "epoch 12/12" in capsys.readouterr().err
    classifier().fit(X, Y)
    assert capsys.readouterr().err == ""


def test_backends_and_threads_are_passed_on():
    assert classifier(backend="tiled").fit(X, Y).model_.backend == "tiled"
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
