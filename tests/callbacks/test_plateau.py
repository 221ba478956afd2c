"""`ReduceLROnPlateau`: PyTorch's rates, what is resumed, schedules beside it."""

from __future__ import annotations

import numpy as np
import pytest
from support.resuming import StopAt, assert_same
from support.selection import some_backends
from support.small_fits import SMALL, X, Y, fit

import fastmlp
from fastmlp import SGD, Callback, Checkpoint, MLPRegressor, ReduceLROnPlateau

STEEP = {"epochs": 40, "optimizer": SGD(0.3, 0.5)}
"""Of rows whose targets are 0 on average: the rate is too large for the last epochs."""
CENTRED = (Y - Y.mean()) / Y.std()


class Rates(Callback):
    """Writes a curve, and what the rate is once the callbacks before it have run."""

    def __init__(self, curve=None):
        self.curve, self.rates = curve, []

    def on_epoch_end(self, run):
        if self.curve is not None:
            run.history.setdefault("value", []).append(float(self.curve[run.epoch - 1]))
        else:
            self.rates.append(run.learning_rate)


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


@pytest.mark.parametrize("rate", [0.3, fastmlp.Exponential(0.3, 0.97), fastmlp.Cosine(0.3, 90, unit="step")])
@pytest.mark.parametrize("blocks", [False, True])
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
    options = {"y": CENTRED, "optimizer": SGD(0.3), "epochs": 30, "batch_size": 16, "backend": "specialized"}
    y = options.pop("y")
    lowers = ReduceLROnPlateau(patience=0, factor=0.5)
    models = fastmlp.fit_many(SMALL, X, y, seed=[1, 2, 3], callbacks=[lowers], **options)
    for seed, model in zip((1, 2, 3), models, strict=True):
        assert_same(model, fastmlp.fit(SMALL, X, y, seed=seed, callbacks=[lowers], **options))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few epochs
def test_the_rule_of_an_estimator_changes_the_rate_too():
    def trained(callbacks, **options):
        options = {"solver": "sgd", "max_iter": 6, "random_state": 0, "backend": "reference", **options}
        return MLPRegressor(
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "least"}, "unknown mode 'least'; choose from: min, max"),
        ({"factor": 1.0}, r"factor must be in \[0, 1\), got 1.0"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"threshold_mode": "both"}, "unknown threshold_mode 'both'; choose from: rel, abs"),
        ({"cooldown": 0.5}, "cooldown must be a whole number"),
        ({"min_lr": [0.1]}, "min_lr must be a number"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises((ValueError, TypeError), match=f"^{said}"):
        ReduceLROnPlateau(**arguments)
