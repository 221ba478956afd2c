"""The optimisers step for step against torch.optim, as transcribed in naive.py."""

import numpy as np
import pytest
from support import naive
from support.problems import COMPILED_DTYPES, eps
from support.selection import crossed, matrix
from support.updates import update

import fastmlp
from fastmlp import SGD, Adam, AdamW, Network, RMSprop, ScheduleFreeAdamW, SparseAdam
from fastmlp.backend import registry
from fastmlp.model.backend import dry_run
from fastmlp.model.layout import dense_views
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.state import initial_state

NETWORK = Network([3, 5, 2])
STEPS = 12
RATE, BIAS_RATE = 0.05, 0.01

OPTIMIZERS = {
    "sgd": (SGD(RATE), naive.SGD),
    "momentum": (SGD(RATE, 0.9), lambda: naive.SGD(0.9)),
    "nesterov": (SGD(RATE, 0.8, True), lambda: naive.SGD(0.8, True)),
    "rmsprop": (RMSprop(RATE), naive.RMSprop),
    "rmsprop, alpha, momentum": (RMSprop(RATE, 0.9, 1e-6, 0.5), lambda: naive.RMSprop(0.9, 1e-6, 0.5)),
    "adam": (Adam(RATE), naive.Adam),
    "adam, betas": (Adam(RATE, 0.8, 0.99, 1e-6), lambda: naive.Adam(0.8, 0.99, 1e-6)),
    "adam, epsilon hat": (
        Adam(RATE, epsilon=1e-2, epsilon_hat=True),
        lambda: naive.Adam(epsilon=1e-2, hat=True),
    ),
    "sparse adam": (SparseAdam(RATE, 0.8, 0.99, 1e-6), lambda: naive.Adam(0.8, 0.99, 1e-6, hat=True)),
    "amsgrad": (Adam(RATE, beta2=0.9, amsgrad=True), lambda: naive.Adam(beta2=0.9, amsgrad=True)),
    "adamw, amsgrad": (AdamW(RATE, amsgrad=True), lambda: naive.Adam(decay=0.01, amsgrad=True)),
    "adamw": (AdamW(RATE), lambda: naive.Adam(decay=0.01)),
    "schedule-free": (ScheduleFreeAdamW(RATE), naive.ScheduleFree),
    "schedule-free, warmup": (
        ScheduleFreeAdamW(RATE, 0.8, 0.99, 1e-6, 0.1, 5),
        lambda: naive.ScheduleFree(0.8, 0.99, 1e-6, 0.1, 5),
    ),
    "adamw, decay": (AdamW(RATE, weight_decay=0.3), lambda: naive.Adam(decay=0.3)),
}


def gradients(dtype):
    """A training's worth of gradients (steps, P); the first holds an exact 0 and a tiny value."""
    rng = np.random.default_rng(1)
    found = rng.standard_normal((STEPS, sum(p.size for p in flat_views(np.empty(32)))))
    found[:, 0] = 0
    found[:, 1] = 1e-12
    return found.astype(dtype)


def flat_views(parameters):
    return [part for layer in dense_views(parameters, NETWORK) for part in layer]


@crossed(
    backend=registry.backends(), name=list(OPTIMIZERS), dtype=COMPILED_DTYPES, clip_norm=[None, 1.0, 1e3]
)
def test_updates_are_torchs(backend, name, dtype, clip_norm):
    optimizer, transcription = OPTIMIZERS[name]
    if isinstance(optimizer, SparseAdam) and clip_norm is not None:
        with pytest.raises(ValueError, match=r"^SparseAdam takes no clip_norm, got 1"):
            SparseAdam(clip_norm=clip_norm)
        return
    optimizer = type(optimizer)(**{**vars(optimizer), "clip_norm": clip_norm})
    state = initial_state(np.linspace(-1, 1, 32).astype(dtype), optimizer.moment_rows)
    rates = np.empty(32)
    for w, b in dense_views(rates, NETWORK):
        w[...], b[...] = RATE, BIAS_RATE
    p, oracle = state.parameters.astype(float), transcription()
    for step, gradient in enumerate(gradients(dtype)):
        state.gradients[...] = gradient
        state = update(backend, NETWORK, optimizer, state, (RATE, BIAS_RATE))
        assert state.step == step + 1
        wide = gradient.astype(float)
        if clip_norm is not None:
            wide = naive.clip_grad_norm(wide, clip_norm)
        p = oracle.step(p, wide, rates)
        # Some ten operations a step, each off by an ulp of terms of about 1 times the rate.
        allowed = 4 * eps(dtype) * (step + 1)
        np.testing.assert_allclose(state.parameters, p, rtol=0, atol=allowed, err_msg=f"step {step}")


def test_a_schedule_and_a_bias_rate_reach_the_steps():
    optimizer = SGD(fastmlp.Exponential(0.1, 0.5), bias_learning_rate=fastmlp.StepDecay(1.0, 2, 0.1))
    got = optimizer.rates(np.arange(8), 2)
    np.testing.assert_allclose(got[:, 0], [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])
    np.testing.assert_allclose(got[:, 1], [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])
    assert (SGD(0.3).rates(np.arange(3), 1) == 0.3).all()


def test_a_state_without_room_for_the_moments_is_refused():
    network = Network([1, 1])
    _, data, chunk = dry_run(network, Adam(), np.float64, [1])
    with pytest.raises(ValueError, match=r"moments must be .* of shape \(3, 2\), got"):
        registry.get("fused").train_chunk(
            network, Adam(amsgrad=True), initial_state(np.ones(2), 2), data, chunk, 0, 1, np.empty(1)
        )


class Lion(Adam):
    """A rule of its own, which no backend has."""


def test_a_subclass_does_not_train_as_its_parent():
    network = fastmlp.Network([1, 1])
    for backend in registry.backends():
        with pytest.raises(
            TypeError, match=r"^optimizer must be .*, got Lion.* a subclass would train as Adam$"
        ):
            update(backend, network, Lion(), initial_state(np.ones(2)), (0.1, 0.1))
    for solve in (fastmlp.MLPRegressor(solver=Lion()).fit, fastmlp.MLPRegressor(solver=Lion()).partial_fit):
        with pytest.raises(TypeError, match=r"^solver must be .*, got Lion"):
            solve(np.ones((3, 1)), np.ones(3))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[matrix] * (place % 4 > 0)) for place, name in enumerate(BY_NAME)]
)
def test_a_name_stands_for_an_optimiser_with_its_defaults(name):
    x, y = np.random.default_rng(0).standard_normal((2, 40, 3))
    usual, options = BY_NAME[name](), {"seed": 0, "backend": "fused", "epochs": 2}
    network = Network([3, 5, 3])
    expected = fastmlp.fit(network, x, y, optimizer=usual, **options)
    (many,) = fastmlp.fit_many(network, x, y, optimizer=[name], **options)
    for model in (many, fastmlp.fit(network, x, y, optimizer=name, **options)):
        np.testing.assert_array_equal(model.parameters, expected.parameters)
    more = [expected.fit_more(x, y, epochs=2, optimizer=one).parameters for one in (name, usual)]
    np.testing.assert_array_equal(*more)
    steppers = [fastmlp.Stepper(network, one, seed=0, dtype="f8") for one in (name, usual)]
    assert steppers[0].optimizer == usual
    assert steppers[0].step(x, y) == steppers[1].step(x, y)
    searches = [
        fastmlp.find_rate(network, x, y, optimizer=one, seed=0, steps=9, backend="fused")
        for one in (name, usual)
    ]
    np.testing.assert_array_equal(searches[0].losses, searches[1].losses)


@pytest.mark.parametrize("name", ["adm", "Adam", ""])
def test_an_unknown_name_lists_the_choices(name):
    x = np.ones((4, 3))
    for train in (
        lambda: fastmlp.Stepper(NETWORK, name),
        lambda: fastmlp.fit_many(NETWORK, x, x[:, :2], n_models=2, optimizer=name),
        lambda: fastmlp.find_rate(NETWORK, x, x[:, :2], optimizer=name),
        lambda: fastmlp.fit(NETWORK, [(x, x[:, :2])], optimizer=name),
        lambda: fastmlp.fit(NETWORK, x, x[:, :2], epochs=1).fit_more(x, x[:, :2], epochs=1, optimizer=name),
    ):
        with pytest.raises(
            ValueError, match=f"unknown optimizer '{name}'; choose from: {', '.join(BY_NAME)}, or"
        ):
            train()
