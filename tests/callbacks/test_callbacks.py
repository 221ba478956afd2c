"""Callbacks: when they run and what they see, early stopping, the time limit, the progress bar."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from support.selection import some_backends
from support.small_fits import X, Y, fit

import fastmlp
from fastmlp import SGD, Callback, EarlyStopping, TimeLimit


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, run):
        self.events.append("begin")
        assert (run.epoch, run.step, run.rows_seen) == (0, 0, 0)

    def on_chunk_end(self, run):
        self.events.append("chunk")

    def on_epoch_end(self, run):
        self.events.append(f"epoch {run.epoch}")
        assert run.step == run.epoch * -(-run.rows // 16)
        assert run.rows_seen == run.epoch * run.rows
        assert all(len(values) == run.epoch for values in run.history.values())
        assert np.shares_memory(run.layers[0][0], run.parameters)

    def on_train_end(self, run):
        self.events.append("end")


@some_backends
def test_callbacks_are_called_in_order(backend):
    recorder = Recorder()
    fit(backend, epochs=3, validation=0.2, callbacks=[recorder])
    rare = [event for event in recorder.events if event != "chunk"]
    assert rare == ["begin", "epoch 1", "epoch 2", "epoch 3", "end"]
    assert recorder.events.count("chunk") >= 3
    assert recorder.events[-2] == "chunk"


def test_callbacks_are_called_at_the_end_after_an_error():
    class Breaks(Callback):
        def on_epoch_end(self, run):
            raise KeyboardInterrupt

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit("reference", callbacks=[Breaks(), recorder])
    assert recorder.events == ["begin", "end"]


@pytest.mark.parametrize("name", ["stop", "stop_training", "parameters", "layers"])
def test_what_a_training_would_not_notice_cannot_be_set(name):
    class Sets(Callback):
        def on_epoch_end(self, run):
            setattr(run, name, True)

    with pytest.raises(AttributeError, match=f"^run.{name} cannot be set; to end the training call run.stop"):
        fit("reference", callbacks=[Sets()])


def test_a_callback_may_stop_the_training():
    class Stops(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                run.stop("enough")

    model = fit("reference", callbacks=[Stops()])
    assert model.stop_reason == "enough"
    assert len(model.history["loss"]) == 2


class Keeper(Callback):
    """Keeps the parameters of every epoch."""

    def __init__(self):
        self.kept = []

    def on_epoch_end(self, run):
        self.kept.append(run.parameters.copy())


@some_backends
@pytest.mark.parametrize("monitor", [None, "loss"])
def test_early_stopping_restores_the_best_parameters_exactly(backend, monitor):
    keeper = Keeper()
    stopping = EarlyStopping(patience=3, monitor=monitor)
    # A rate that grows until training falls apart.
    model = fit(
        backend,
        optimizer=SGD(fastmlp.Exponential(0.02, 1.6)),
        epochs=60,
        validation=(X[:20][::-1], Y[:20]),
        callbacks=[keeper, stopping],
    )
    values = model.history[monitor or "validation_loss"]
    best = int(np.argmin(values))
    assert len(values) == best + 1 + 3 < 60
    np.testing.assert_array_equal(model.parameters, keeper.kept[best])
    assert "not improved for 3 epochs" in model.stop_reason
    assert stopping.best_epoch == best + 1
    assert stopping.best == values[best]


def test_early_stopping_counts_only_falls_beyond_min_delta():
    model = fit("reference", optimizer=SGD(1e-6), epochs=50, callbacks=[EarlyStopping(4, min_delta=0.1)])
    assert len(model.history["loss"]) == 5


def test_one_early_stopping_serves_one_training_after_another():
    stopping = EarlyStopping(2)
    first, second = (fit("reference", epochs=6, callbacks=[stopping]) for _ in range(2))
    np.testing.assert_array_equal(first.parameters, second.parameters)


def test_early_stopping_does_not_hide_a_training_that_diverges():
    stopping = EarlyStopping(3)
    with pytest.raises(fastmlp.DivergenceError):
        fit("reference", optimizer=SGD(1e200), epochs=20, callbacks=[stopping], batch_size=None)
    assert np.isfinite(stopping.best_parameters).all()


@some_backends
def test_a_time_limit_stops_between_chunks(backend, chunks):
    chunks(steps=1)
    model = fit(backend, epochs=10**6, callbacks=[TimeLimit(1e-9)])
    assert "time limit" in model.stop_reason
    assert model.history["loss"] == []  # one step of four


@some_backends
def test_the_progress_bar(backend, capfd):
    fit(backend, epochs=1, progress=False)
    capfd.readouterr()
    fit(backend, epochs=5, progress=True, validation=0.2)
    out, err = capfd.readouterr()
    assert out == ""
    for piece in ("epoch 5/5", "loss=", "validation_loss=", "row/s", "100%"):
        assert piece in err
    fit(backend, epochs=5, progress=False)
    fit(backend, epochs=5)  # not a terminal
    assert capfd.readouterr() == ("", "")


def test_every_callback_that_began_ends_even_if_another_raises():
    events = []

    class Noisy(Callback):
        def __init__(self, name, fails=""):
            self.name, self.fails = name, fails

        def on_train_begin(self, run):
            events.append(f"{self.name} begins")
            if self.fails == "begin":
                raise RuntimeError("at the beginning")

        def on_train_end(self, run):
            events.append(f"{self.name} ends")
            if self.fails == "end":
                raise RuntimeError("at the end")

    with pytest.raises(RuntimeError, match="at the end"):
        fit("reference", callbacks=[Noisy("a", fails="end"), Noisy("b")])
    assert events == ["a begins", "b begins", "a ends", "b ends"]
    events.clear()
    with pytest.raises(RuntimeError, match="at the beginning"):
        fit("reference", callbacks=[Noisy("a"), Noisy("b", fails="begin")])
    assert events == ["a begins", "b begins", "a ends"]


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_shows_by_itself_if_a_terminal_watches(monkeypatch, watched):
    class Terminal(io.StringIO):
        def isatty(self):
            return watched

    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    fit("reference")
    assert ("row/s" in stderr.getvalue()) == watched


def test_the_blas_is_held_to_the_threads_and_given_back():
    def most():
        return max(
            pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"
        )

    class Watch(Callback):
        def on_epoch_end(self, run):
            self.seen = most()

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        watch = Watch()
        fit("reference", threads=1, callbacks=[watch])
        assert (watch.seen, most()) == (1, 2)


class EveryThird(Callback):
    def __init__(self):
        self.called = []

    def next_epoch(self, run):
        return run.epoch - run.epoch % 3 + 3

    def on_epoch_end(self, run):
        self.called.append((run.epoch, len(run.history["loss"])))


@some_backends
def test_a_callback_may_skip_epochs(backend):
    alone, both = EveryThird(), EveryThird()
    fit(backend, epochs=8, callbacks=[alone])
    assert alone.called == [(3, 3), (6, 6), (8, 8)]
    fit(backend, epochs=4, callbacks=[both, Recorder()])
    assert both.called == [(1, 1), (2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize(
    ("epoch", "message"),
    [
        (2, "At.next_epoch must be at least 3, got 2"),
        (-1, "At.next_epoch must be at least 1, got -1"),
        (1.5, "At.next_epoch must be a whole number, got 1.5"),
        (None, "At.next_epoch must be a whole number, got None"),
    ],
)
def test_an_epoch_that_is_over_is_no_next_one(epoch, message):
    class At(EveryThird):
        def next_epoch(self, run):
            return epoch

    with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
        fit("reference", epochs=4, callbacks=[At()])


def test_the_former_name_of_next_epoch_warns_and_works():
    with pytest.warns(DeprecationWarning, match=r"^Old.hear_by is deprecated: its name is next_epoch$"):

        class Old(EveryThird):
            def hear_by(self, run):
                return super().hear_by(run) + 1  # every second

    old = Old()
    with pytest.warns(DeprecationWarning, match=r"^Callback.hear_by is deprecated"):
        fit("reference", epochs=4, callbacks=[old])
    with pytest.warns(DeprecationWarning, match=r"^Callback.hear_by is deprecated"):
        assert EveryThird().hear_by(SimpleNamespace(epoch=1)) == 3
    assert old.called == [(2, 2), (4, 4)]


@some_backends
def test_a_callback_may_change_the_rate(backend):
    class Halve(Callback):
        def on_epoch_end(self, run):
            run.rate_factor /= 2

    halved = fit(backend, callbacks=[Halve()])
    scheduled = fit(backend, optimizer=SGD(fastmlp.Exponential(0.05, 0.5), 0.5))
    np.testing.assert_array_equal(halved.parameters, scheduled.parameters)
