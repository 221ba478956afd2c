"""Callbacks: when they run and what they see, early stopping, the time limit, the progress bar."""

import io
import sys

import numpy as np
import pytest
from support.callbacks import Rates, calling
from support.refusals import refusals
from support.resuming import StopAt, assert_same
from support.selection import crossed, quick, some_backends
from support.small_fits import SMALL, X, Y, fit

import fastmlp
from fastmlp import SGD, Callback, Checkpoint, EarlyStopping, ReduceLROnPlateau, TimeLimit


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
    with pytest.raises(AttributeError, match=f"^run.{name} cannot be set; to end the training call run.stop"):
        fit("reference", callbacks=[calling(on_epoch_end=lambda run: setattr(run, name, True))])


def test_a_callback_may_stop_the_training():
    noting = calling(on_epoch_end=lambda run: run.epoch == 2 and run.stop("enough"))
    model = fit("reference", callbacks=[noting])
    assert model.stop_reason == "enough"
    assert len(model.history["loss"]) == 2


def test_early_stopping_counts_only_falls_beyond_min_delta():
    model = fit("reference", optimizer=SGD(1e-6), epochs=50, callbacks=[EarlyStopping(4, min_delta=0.1)])
    assert len(model.history["loss"]) == 5


def test_one_early_stopping_serves_one_training_after_another():
    stopping = EarlyStopping(2)
    first, second = (fit("reference", epochs=6, callbacks=[stopping]) for _ in range(2))
    np.testing.assert_array_equal(first.parameters, second.parameters)


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


@some_backends
def test_a_callback_may_change_the_rate(backend):
    class Halve(Callback):
        def on_epoch_end(self, run):
            run.rate_factor /= 2

    halved = fit(backend, callbacks=[Halve()])
    scheduled = fit(backend, optimizer=SGD(fastmlp.Exponential(0.05, 0.5), 0.5))
    np.testing.assert_array_equal(halved.parameters, scheduled.parameters)


# --- curves that callbacks write, and what they predict under way -----------------------------------------


class Correlation(Callback):
    """Writes the correlation of predictions with targets; keeps the parameters of every epoch."""

    def __init__(self, x=X):
        self.x, self.kept = x, []

    def on_epoch_end(self, run):
        predicted = run.predict(self.x)[:, 0]
        run.history.setdefault("correlation", []).append(float(np.corrcoef(predicted, Y)[0, 1]))
        self.kept.append(run.parameters.copy())


GROWING = {"optimizer": SGD(fastmlp.Exponential(0.02, 1.6)), "epochs": 60}
"""A rate that grows until training falls apart."""

WATCHED = [(None, "min"), ("loss", "min"), ("correlation", "min"), ("correlation", "max")]


@some_backends
@pytest.mark.parametrize(("monitor", "mode"), WATCHED)
def test_early_stopping_restores_the_best_parameters_exactly(backend, monitor, mode):
    scores, stopping = Correlation(), EarlyStopping(3, monitor=monitor, mode=mode)
    model = fit(backend, validation=(X[:20][::-1], Y[:20]), callbacks=[scores, stopping], **GROWING)
    watched = monitor or "validation_loss"
    values = model.history[watched]
    best = int((np.argmax if mode == "max" else np.argmin)(values))
    assert len(values) == best + 1 + 3 < 60
    assert (stopping.best, stopping.best_epoch) == (values[best], best + 1)
    np.testing.assert_array_equal(model.parameters, scores.kept[best])
    assert f"{watched} has not improved for 3 epochs" in model.stop_reason


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

    noting = calling(on_epoch_end=lambda run: run.epoch >= 3 and write(run, np.inf))
    model = fit("reference", callbacks=[noting, Checkpoint(tmp_path / "c")])
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


# --- lower rates ------------------------------------------------------------------------------------------


STEEP = {"epochs": 40, "optimizer": SGD(0.3, 0.5)}
"""Of rows whose targets are 0 on average: the rate is too large for the last epochs."""
CENTRED = (Y - Y.mean()) / Y.std()


def steep(backend, *callbacks, **options):
    return fit(backend, y=CENTRED, callbacks=[*callbacks], **{**STEEP, **options})


def drawn(rng):
    """Options of PyTorch's and a curve that falls, rises and stays, with a NaN now and then."""
    options = {
        "mode": rng.choice(["min", "max"]),
        "factor": rng.choice([0.0, 0.1, 0.5, 0.9]),
        "patience": int(rng.integers(0, 4)),
        "threshold": rng.choice([0.0, 1e-4, 0.05, 0.5]),
        "threshold_mode": rng.choice(["rel", "abs"]),
        "cooldown": int(rng.integers(0, 4)),
        "min_lr": rng.choice([0.0, 1e-3, 0.02, 0.5]),
        "eps": rng.choice([0.0, 1e-8, 0.01]),
    }
    curve = np.cumsum(rng.choice([-0.3, -0.01, -1e-5, 0.0, 0.02, 0.2], 40)) + rng.choice([-1, 0, 1, 5])
    curve[rng.random(40) < 0.03] = np.nan
    return options, curve


@pytest.mark.parametrize("seed", range(40))
def test_rates_are_those_of_pytorch(seed):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    options, curve = drawn(np.random.default_rng(seed))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler, expected = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options), []
    for value in curve:
        scheduler.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    rates = Rates()
    lowers = ReduceLROnPlateau(**options, monitor="value")
    fit("reference", epochs=40, optimizer=SGD(0.1), callbacks=[Rates(curve), lowers, rates])
    np.testing.assert_allclose(
        rates.rates, expected, rtol=1e-14
    )  # a product of factors, of which each rounds


@some_backends
def test_steps_take_the_lower_rate(backend):
    rates = Rates()
    model = steep(backend, ReduceLROnPlateau(patience=2, factor=0.5, cooldown=1), rates)
    changes = [0.3, *rates.rates[:-1]]
    assert len({*changes}) > 2
    again = steep(backend, optimizer=SGD(lambda epoch: changes[epoch], 0.5))
    np.testing.assert_allclose(
        again.parameters, model.parameters, rtol=1e-12
    )  # rates are products of factors
    assert model.history["loss"][-1] < steep(backend).history["loss"][-1]


def test_a_schedule_goes_on_times_the_factor():
    rates = Rates()
    schedule = fastmlp.StepDecay(0.4, every=10, factor=0.5)
    lowers = ReduceLROnPlateau(factor=0.5, patience=7, min_lr=0.06, monitor="value")
    steep("reference", Rates([1.0] * 40), lowers, rates, optimizer=SGD(schedule))
    expected = [0.4] * 8 + [0.2] + [0.1] * 7 + [0.06] * 3 + [0.03] * 10 + [0.015] * 10 + [0.0075]
    np.testing.assert_allclose(rates.rates[:39], expected[:39], rtol=1e-14)


@quick(1)
@crossed(
    blocks=[False, True], rate=[0.3, fastmlp.Exponential(0.3, 0.97), fastmlp.Cosine(0.3, 90, unit="step")]
)
def test_a_resumed_training_has_the_rate_that_it_had(rate, blocks, tmp_path, chunks):
    def callbacks():
        return [ReduceLROnPlateau(patience=1, factor=0.5, cooldown=2, min_lr=0.01)]

    def train(*more, **options):
        x, y = ([(X[:20], CENTRED[:20]), (X[20:], CENTRED[20:])], None) if blocks else (X, CENTRED)
        options = {"epochs": 40, "batch_size": 16, "seed": 1, "optimizer": SGD(rate, 0.5), **options}
        return fastmlp.fit(SMALL, x, y, callbacks=[*callbacks(), *more], backend="reference", **options)

    whole = train(rates := Rates())
    lowered = [epoch for epoch in range(1, 39) if rates.rates[epoch] < 0.6 * rates.rates[epoch - 1]]
    assert len(lowered) >= 2
    path = tmp_path / "c"
    for epochs in (1, lowered[0], lowered[0] + 1, lowered[1] + 2):
        begun = train(Checkpoint(path), epochs=epochs)
        assert_same(train(resume=path), whole)
        more = ([(X[:20], CENTRED[:20]), (X[20:], CENTRED[20:])],) if blocks else (X, CENTRED)
        assert_same(begun.fit_more(*more, epochs=40 - epochs, callbacks=callbacks()), whole)
    if not blocks:
        chunks(steps=1)
        train(Checkpoint(path), StopAt(4 * lowered[0] + 6))
        assert_same(train(resume=path), whole)


def test_a_resumed_training_watches_the_same_curve(tmp_path):
    steep("reference", ReduceLROnPlateau(), Checkpoint(tmp_path / "c"), epochs=3)
    with pytest.raises(fastmlp.CheckpointError, match=r"^ReduceLROnPlateau watched \('loss', 'min'\) before"):
        steep("reference", ReduceLROnPlateau("max"), resume=tmp_path / "c")


def test_each_model_of_many_has_its_own():
    options = {"optimizer": SGD(0.3), "epochs": 30, "batch_size": 16, "backend": "fused"}
    lowers = ReduceLROnPlateau(patience=0, factor=0.5)
    models = fastmlp.fit_many(SMALL, X, CENTRED, seed=[1, 2, 3], callbacks=[lowers], **options)
    for seed, model in zip((1, 2, 3), models, strict=True):
        assert_same(model, fastmlp.fit(SMALL, X, CENTRED, seed=seed, callbacks=[lowers], **options))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few epochs
def test_the_rule_of_an_estimator_changes_the_rate_too():
    def trained(callbacks, **options):
        options = {"solver": "sgd", "max_iter": 6, "random_state": 0, "backend": "reference", **options}
        return fastmlp.MLPRegressor(
            hidden_layer_sizes=8, learning_rate_init=0.01, callbacks=callbacks, **options
        ).fit(X, CENTRED)

    rates = Rates()
    never_better = ReduceLROnPlateau("max", factor=0.5, patience=0, threshold_mode="abs", threshold=1e9)
    trained([never_better, rates], learning_rate="invscaling")
    by_rule = 0.01 / (1 + 50 * np.arange(1, 7)) ** 0.5
    np.testing.assert_allclose(
        rates.rates, by_rule * 0.5 ** np.arange(6), rtol=1e-12
    )  # the first epoch is better
    with pytest.raises(ValueError, match=r"^solver='lbfgs' has no learning rate$"):
        trained([ReduceLROnPlateau()], solver="lbfgs")


test_mistakes_are_one_line = refusals(
    [
        ({"mode": "least"}, "^unknown mode 'least'; choose from: min, max"),
        ({"factor": 1.0}, r"^factor must be in \[0, 1\), got 1.0"),
        ({"patience": -1}, "^patience must be at least 0"),
        ({"threshold_mode": "both"}, "^unknown threshold_mode 'both'; choose from: rel, abs"),
        ({"cooldown": 0.5}, "^cooldown must be a whole number"),
        ({"min_lr": [0.1]}, "^min_lr must be a number"),
    ],
    ReduceLROnPlateau,
)
