"""Learning rates against their closed forms, written out as torch.optim.lr_scheduler documents them."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

import fastmlp
from fastmlp import SGD, Checkpoint, Cosine, Exponential, OneCycle, Schedule, StepDecay, Warmup
from fastmlp.backend.choice import choose

FORMS = [
    (fastmlp.Constant(0.3), lambda t: 0.3),
    (StepDecay(0.3, 3), lambda t: 0.3 * 0.1 ** (t // 3)),
    (StepDecay(0.3, 4, 0.5), lambda t: 0.3 * 0.5 ** (t // 4)),
    (Exponential(0.3, 0.9), lambda t: 0.3 * 0.9**t),
    (fastmlp.InverseScaling(0.3), lambda t: 0.3 / math.sqrt(t + 1)),
    (fastmlp.InverseScaling(0.3, 2.0), lambda t: 0.3 / (t + 1) ** 2),
    (Cosine(0.3, 10), lambda t: 0.15 * (1 + math.cos(math.pi * min(t, 10) / 10))),
    (Cosine(0.3, 7, 0.1), lambda t: 0.1 + 0.1 * (1 + math.cos(math.pi * min(t, 7) / 7))),
    (Warmup(0.3), lambda t: 0.3 * (1 / 3 + 2 / 3 * min(t, 5) / 5)),
    (Warmup(Exponential(0.3, 0.9), 4, 0.0), lambda t: 0.3 * 0.9**t * min(t, 4) / 4),
    (fastmlp.CosineRestarts(0.3, 6), lambda t: 0.15 * (1 + math.cos(math.pi * (t % 6) / 6))),
    (fastmlp.CosineRestarts(0.3, 2, 0.1, 3), lambda t: restarts(t, 2, 3)),
    (OneCycle(0.3, 11), lambda t: one_cycle(t, 3.3 - 1, 10, 0.3 / 25, 0.3 / 25e4)),
    (OneCycle(0.3, 16, 0.25, 0.5, 0.1), lambda t: one_cycle(t, 3, 15, 0.15, 0.015)),
]


def restarts(t, length, growth):
    """CosineAnnealingWarmRestarts from 0.3 to 0.1."""
    while t >= length:
        t, length = t - length, length * growth
    return 0.1 + 0.1 * (1 + math.cos(math.pi * t / length))


def one_cycle(t, top, end, first, last):
    """Half a cosine from `first` to 0.3 at `top`, another one to `last` at `end`."""
    if t <= top:
        return 0.3 + (first - 0.3) * (1 + math.cos(math.pi * t / top)) / 2
    return last + (0.3 - last) * (1 + math.cos(math.pi * (min(t, end) - top) / (end - top))) / 2


@pytest.mark.parametrize("per_epoch", [1, 3])
@pytest.mark.parametrize(("schedule", "form"), FORMS)
def test_rates_by_epoch_are_constant_within_one(schedule, form, per_epoch):
    got = schedule.rates(np.arange(20 * per_epoch), per_epoch)
    np.testing.assert_allclose(got, np.repeat([form(t) for t in range(20)], per_epoch), rtol=1e-14)


@pytest.mark.parametrize(
    ("schedule", "form"), [case for case in FORMS if not isinstance(case[0], Warmup) or case[0].after == 0.3]
)
def test_rates_by_step(schedule, form):
    by_step = type(schedule)(**{**vars(schedule), "unit": "step"})
    got = by_step.rates(np.arange(20), 7)
    np.testing.assert_allclose(got, [form(t) for t in range(20)], rtol=1e-14)


def test_a_warm_up_by_step_over_a_schedule_by_epoch_keeps_both_units():
    got = Warmup(StepDecay(1.0, 2, 0.1), 4, 0.5, unit="step").rates(np.arange(8), 2)
    np.testing.assert_allclose(got, [0.5, 0.625, 0.75, 0.875, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(("schedule", "form"), FORMS)
def test_rates_do_not_depend_on_where_a_chunk_begins(schedule, form):
    whole = schedule.rates(np.arange(30), 4)
    parts = [schedule.rates(np.arange(a, b), 4) for a, b in ((0, 1), (1, 13), (13, 30))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (StepDecay(0.3, 3, 0.5), lambda o, s: s.StepLR(o, 3, 0.5)),
        (Exponential(0.3, 0.9), lambda o, s: s.ExponentialLR(o, 0.9)),
        (Cosine(0.3, 20, 0.01), lambda o, s: s.CosineAnnealingLR(o, 20, 0.01)),
        (Warmup(0.3), lambda o, s: s.LinearLR(o)),
        (OneCycle(0.3, 20), lambda o, s: s.OneCycleLR(o, 0.3, total_steps=20)),
        (OneCycle(0.3, 20, 0.0), lambda o, s: s.OneCycleLR(o, 0.3, total_steps=20, pct_start=0.0)),
        (OneCycle(0.3, 20, 1.0), lambda o, s: s.OneCycleLR(o, 0.3, total_steps=20, pct_start=1.0)),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_rates_are_real_torchs(schedule, theirs):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = theirs(optimizer, torch.optim.lr_scheduler)
    for rate in schedule.rates(np.arange(20), 1):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if scheduler.last_epoch < 19:  # OneCycleLR counts to its end, and raises then
            scheduler.step()


def test_a_cycle_that_does_not_rise_begins_at_its_peak():
    np.testing.assert_allclose(OneCycle(0.3, 10, 0.1).rates(np.arange(10), 1)[[0, -1]], [0.3, 0.3 / 25e4])


# --- functions of the epochs done -----------------------------------------------------------------------

X = np.random.default_rng(0).standard_normal((50, 3))
NETWORK = fastmlp.Network([3, 4, 1], "tanh")


def fit(rate, optimizer=SGD, **options):
    given = {"epochs": 6, "batch_size": 16, "seed": 1, "backend": "reference", **options}
    return fastmlp.fit(NETWORK, X, X[:, 0], optimizer=optimizer(rate), **given)


def halved(epochs):
    assert type(epochs) is int
    return 0.1 * 0.5**epochs


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_a_function_of_the_epochs_done_is_a_schedule(backend):
    by_schedule, by_function = (fit(rate, backend=backend) for rate in (Exponential(0.1, 0.5), halved))
    np.testing.assert_array_equal(by_function.parameters, by_schedule.parameters)
    by_step = Warmup(halved, 7, 0.0, unit="step").rates(np.arange(12), 4)
    np.testing.assert_array_equal(
        by_step, Warmup(Exponential(0.1, 0.5), 7, 0.0, unit="step").rates(np.arange(12), 4)
    )
    of_biases = SGD(0.1, bias_learning_rate=halved).rates(np.arange(4), 2)
    np.testing.assert_array_equal(of_biases, [[0.1, 0.1], [0.1, 0.1], [0.1, 0.05], [0.1, 0.05]])


def test_blocks_count_epochs_for_a_function_too():
    blocks = [(X[:20], X[:20, 0]), (X[20:], X[20:, 0])]
    models = [
        fastmlp.fit(NETWORK, blocks, optimizer=SGD(rate), epochs=4, batch_size=16, seed=1)
        for rate in (Exponential(0.1, 0.5), halved)
    ]
    np.testing.assert_array_equal(models[1].parameters, models[0].parameters)


def test_estimators_take_functions_and_schedules():
    options = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0, "backend": "reference"}
    options |= {"solver": "sgd", "n_iter_no_change": 99}
    fitted = []
    for rate in (halved, Exponential(0.1, 0.5)):
        with pytest.warns(match="Maximum iterations"):
            fitted.append(fastmlp.MLPRegressor(learning_rate=rate, **options).fit(X, X[:, 0]))
    np.testing.assert_array_equal(fitted[0].coefs_[0], fitted[1].coefs_[0])


@pytest.mark.parametrize("optimizer", [SGD, fastmlp.Adam])
def test_a_checkpoint_goes_on_with_the_same_function_and_with_no_other(optimizer, tmp_path):
    path, factor = tmp_path / "c", 0.5
    fit(lambda epoch: 0.1 * factor**epoch, optimizer, epochs=3, callbacks=[Checkpoint(path)])
    whole = fit(halved, optimizer)
    # The function is the same if it gives the same rates, wherever it stands.
    np.testing.assert_array_equal(fit(halved, optimizer, resume=path).parameters, whole.parameters)
    factor = 0.25
    for other in (
        lambda epoch: 0.1 * factor**epoch, 0.1, Exponential(0.1, 0.5), [0.1, 0.05, 0.025].__getitem__,
    ):  # fmt: skip
        with pytest.raises(fastmlp.CheckpointError, match="of another training; these differ: optimizer"):
            fit(other, optimizer, resume=path)


def test_a_list_of_rates_serves_as_a_function_and_may_end(tmp_path):
    rates = [0.1, 0.05, 0.025]
    fit(rates.__getitem__, epochs=2, callbacks=[Checkpoint(tmp_path / "c")])
    resumed = fit(rates.copy().__getitem__, epochs=3, resume=tmp_path / "c")
    np.testing.assert_array_equal(resumed.parameters, fit(halved, epochs=3).parameters)


def test_a_model_that_was_trained_by_a_function_can_be_saved(tmp_path):
    model = fit(lambda epoch: 0.1)
    fastmlp.save(model, tmp_path / "m")
    np.testing.assert_array_equal(fastmlp.load(tmp_path / "m").predict(X), model.predict(X))
    np.testing.assert_array_equal(
        model.fit_more(X, X[:, 0], epochs=2).parameters, fit(0.1, epochs=8).parameters
    )


def test_a_pickled_model_goes_on_by_a_function_of_a_module():
    model = pickle.loads(pickle.dumps(fit(halved, epochs=2)))
    more = model.fit_more(X, X[:, 0], epochs=4)
    np.testing.assert_array_equal(more.parameters, fit(halved).parameters)


def test_what_chooses_a_backend_has_no_function():
    """A lambda would keep it from being pickled."""
    optimizer = SGD(Warmup(lambda epoch: 0.1), 0.9, bias_learning_rate=lambda epoch: 0.1)
    chosen = choose("auto", NETWORK, optimizer, 16, np.dtype(np.float32), 1, steps=10**6)
    assert pickle.loads(pickle.dumps(chosen.optimizer)) == SGD(0.0, 0.9, bias_learning_rate=0.0)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (lambda epoch: None, "learning_rate(0) must be a number, got None"),
        (lambda epoch: 1.0 - epoch, "learning_rate(2) must be at least 0, got -1.0"),
        (lambda epoch: math.nan, "learning_rate(0) must be finite and at least 0, got nan"),
        (Cosine, "learning_rate must be a number, got <class"),
        (Schedule(), "learning_rate must be a number, a function or one of the schedules, got the base"),
    ],
)
def test_a_rate_that_is_none_is_refused_in_one_line(rate, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(rate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_of_one_s_own_is_a_frozen_dataclass_with_rates(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Halves(Schedule):
        first: float

        def rates(self, steps, steps_per_epoch, since):
            return self.first * 0.5 ** (steps // steps_per_epoch)

    fit(Halves(0.1), epochs=2, callbacks=[Checkpoint(tmp_path / "c")])
    whole = fit(Halves(0.1), resume=tmp_path / "c")
    np.testing.assert_array_equal(whole.parameters, fit(halved).parameters)
    with pytest.raises(fastmlp.CheckpointError, match="these differ: optimizer"):
        fit(Halves(0.2), resume=tmp_path / "c")
