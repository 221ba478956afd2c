"""Curves that callbacks write, and what they predict while a training is under way."""

from __future__ import annotations

import numpy as np
import pytest
from support.resuming import assert_same
from support.selection import some_backends
from support.small_fits import SMALL, X, Y, fit

import fastmlp
from fastmlp import SGD, Callback, Checkpoint, EarlyStopping


class Correlation(Callback):
    """Writes the correlation of predictions with targets; keeps the parameters of every epoch."""

    def __init__(self, x=X):
        self.x, self.kept = x, []

    def on_epoch_end(self, run):
        predicted = run.predict(self.x)[:, 0]
        run.history.setdefault("correlation", []).append(float(np.corrcoef(predicted, Y)[0, 1]))
        self.kept.append(run.parameters.copy())


GROWING = {"optimizer": SGD(fastmlp.Exponential(0.02, 1.6)), "epochs": 60}


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_early_stopping_goes_by_what_another_callback_writes(backend, mode):
    scores = Correlation()
    stopping = EarlyStopping(3, monitor="correlation", mode=mode)
    model = fit(backend, callbacks=[scores, stopping], **GROWING)
    values = model.history["correlation"]
    best = int((np.argmax if mode == "max" else np.argmin)(values))
    assert len(values) == best + 1 + 3 < 60
    assert (stopping.best, stopping.best_epoch) == (values[best], best + 1)
    np.testing.assert_array_equal(model.parameters, scores.kept[best])
    assert "correlation has not improved for 3 epochs" in model.stop_reason


@pytest.mark.parametrize(("by", "min_delta", "epochs"), [(1, 0.0, 9), (1, 1.0, 2), (1, 0.5, 9), (-1, 0.0, 2)])
def test_an_improvement_upwards_is_one_beyond_min_delta(by, min_delta, epochs):
    moves = type("Moves", (Callback,), {"on_epoch_end": lambda self, run: write(run, by * run.epoch)})
    model = fit("reference", epochs=9, callbacks=[moves(), EarlyStopping(1, min_delta, "value", "max")])
    assert len(model.history["loss"]) == epochs


def write(run, value):
    run.history.setdefault("value", []).append(value)


def test_nan_is_no_improvement():
    nan = type("Nan", (Callback,), {"on_epoch_end": lambda self, run: write(run, np.nan)})
    for mode in ("min", "max"):
        model = fit("reference", epochs=9, callbacks=[nan(), EarlyStopping(2, 0, "value", mode)])
        assert len(model.history["value"]) == 2


def test_a_curve_that_is_written_too_late_or_never_is_reported():
    stopping = EarlyStopping(monitor="correlation")
    with pytest.raises(ValueError, match="finds no value of epoch 1: a callback that writes it comes before"):
        fit("reference", callbacks=[stopping, Correlation()])
    first = fit("reference", callbacks=[Correlation()])
    with pytest.raises(ValueError, match=r"of epoch 5: .*; the history has: loss, correlation"):
        first.fit_more(X, Y, epochs=1, callbacks=[stopping, Correlation()])


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_resumed_training_goes_on_with_the_curves_of_callbacks(backend, tmp_path):
    def callbacks():
        return [Correlation(), EarlyStopping(3, monitor="correlation", mode="max")]

    path = tmp_path / "c"
    whole = fit(backend, callbacks=callbacks(), **GROWING)
    for epochs in (1, len(whole.history["loss"]) - 1):
        begun = fit(backend, callbacks=[*callbacks(), Checkpoint(path)], **{**GROWING, "epochs": epochs})
        assert fastmlp.load(path).history == begun.history
        assert_same(fit(backend, callbacks=callbacks(), resume=path, **GROWING), whole)
        assert_same(begun.fit_more(X, Y, epochs=60 - epochs, callbacks=callbacks()), whole)
        with pytest.raises(fastmlp.CheckpointError, match=r"watched \('correlation', 'max'\) before"):
            fit(backend, callbacks=[Correlation(), EarlyStopping(3)], resume=path, **GROWING)


def test_a_curve_may_begin_late_and_hold_what_is_not_finite(tmp_path):
    """A file of such a model could be written and not be read."""

    class Late(Callback):
        def on_epoch_end(self, run):
            if run.epoch >= 3:
                write(run, np.inf)

    model = fit("reference", callbacks=[Late(), Checkpoint(tmp_path / "c")])
    fastmlp.save(model, tmp_path / "m")
    assert fastmlp.load(tmp_path / "m").history["value"] == [np.inf, np.inf]
    assert len(fit("reference", epochs=5, resume=tmp_path / "c").history["value"]) == 2
    other = model.fit_more(X[:32], Y[:32], epochs=2, callbacks=[Correlation()])
    assert [len(other.history[name]) for name in ("loss", "value", "correlation")] == [6, 2, 2]


@some_backends
def test_a_run_predicts_as_a_model_with_its_parameters_would(backend):
    class Predicts(Callback):
        def on_train_begin(self, run):
            self.check(run)

        def on_chunk_end(self, run):
            self.check(run)

        def check(self, run):
            self.seen = run.predict(X[:7])
            now = fit(backend, epochs=0, initial=list(zip(*run.layers, strict=True)))
            np.testing.assert_array_equal(self.seen, now.predict(X[:7]))

    predicts = Predicts()
    model = fit(backend, callbacks=[predicts])
    np.testing.assert_array_equal(predicts.seen, model.predict(X[:7]))
    plain = fit(backend)
    np.testing.assert_array_equal(plain.parameters, model.parameters)


def test_a_run_predicts_on_blocks_and_refuses_what_a_model_refuses():
    scores = Correlation()
    model = fastmlp.fit(SMALL, [(X[:20], Y[:20]), (X[20:], Y[20:])], epochs=2, seed=0, callbacks=[scores])
    assert len(model.history["correlation"]) == 2
    with pytest.raises(ValueError, match=r"X must have shape"):
        fit("reference", callbacks=[Correlation(X[:, :3])])
