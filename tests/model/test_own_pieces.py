"""Activations, losses and rules of a user's own: they are what their functions say, everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from support.custom_pieces import (
    CASES,
    ONE_HOT,
    ROWS,
    STEPS,
    OwnAdam,
    X,
    Y,
    focal,
    losses_of,
    mish,
    quantiles,
    sine,
    smoothed,
    train,
)
from support.problems import COMPILED_DTYPES, eps, parameters_for
from support.selection import campaign, matrix

import fastmlp
from fastmlp import SGD, Network, RowLoss, Rule
from fastmlp.backend import registry
from fastmlp.kernels.small.eligible import specialize
from fastmlp.model.backend import Data


def has_program(name):
    network, _, optimizer = CASES[name]
    return specialize(network, optimizer, 8, np.dtype("float64")) is not None


TAKEN_FROM = ("fused", "specialized")


@pytest.mark.parametrize(
    ("backend", "name", "dtype"),
    [
        # Each compiles, 1 to 4 s. The other backends take activations, losses and steps from these two; the
        # dtypes take turns.
        pytest.param(b, name, dtype, marks=campaign if turn % 2 else [] if b in TAKEN_FROM else matrix)
        for first, b in enumerate(registry.variants())
        for second, name in enumerate(CASES)
        for turn, dtype in enumerate(COMPILED_DTYPES, first + second)
        if b != "specialized" or has_program(name)
    ],
)
def test_backends_agree_with_the_reference(backend, name, dtype):
    expected, got = train(name, "reference"), train(name, backend, dtype)
    # Numbers of about 1, each step some hundred roundings of theirs at random.
    allowed = 32 * eps(dtype) * STEPS
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=allowed)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=allowed, atol=allowed)


def test_small_networks_have_programs_of_their_own():
    assert [name for name in CASES if has_program(name)] == ["hard, own huber", "hard, asymmetric, Lion"]


def test_trainings_are_real_torchs():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def focal_loss(z, y):
        entropy = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()

    def quantile_loss(z, y):
        q, r = torch.tensor([0.1, 0.5, 0.9], dtype=z.dtype), z - y
        return torch.maximum((1 - q) * r, -q * r).mean()

    def smoothed_loss(z, y):
        return functional.cross_entropy(z, y, label_smoothing=0.1)

    for network, y, criterion, module in (
        (Network([5, 4, 3], mish, loss=focal), ONE_HOT, focal_loss, torch.nn.Mish()),
        (Network([5, 4, 3], sine, loss=quantiles), Y, quantile_loss, lambda z: torch.sin(3 * z)),
        (Network([5, 4, 3], mish, loss=smoothed), ONE_HOT, smoothed_loss, torch.nn.Mish()),
    ):
        weights, biases = parameters_for(network.sizes, np.random.default_rng(0))
        given = [
            torch.tensor(p, requires_grad=True) for pair in zip(weights, biases, strict=True) for p in pair
        ]
        optimizer = torch.optim.Adam(given, 0.01)
        trace = []
        for _ in range(5):
            z = module(torch.tensor(X) @ given[0] + given[1]) @ given[2] + given[3]
            loss = criterion(z, torch.tensor(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
        options = {"initial": (weights, biases), "epochs": 5, "batch_size": None, "backend": "baseline"}
        model = fastmlp.fit(network, X, y, optimizer=OwnAdam(0.01), progress=False, **options)
        np.testing.assert_allclose(model.history["loss"], trace, rtol=1e-11)
        for ours, theirs in zip(model.weights, given[::2], strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-11)


def test_one_column_of_y_is_the_target_of_every_quantile():
    estimator = fastmlp.MLPRegressor(quantiles, (4,), tol=0.1, random_state=0, backend="baseline")
    assert estimator.fit(X, Y[:, 0]).predict(X).shape == (24, 3)


def test_numbers_of_a_rule_are_chosen_element_by_element():
    """A rate is one number, what it is chosen by is a vector."""
    rule = Rule(
        "turns",
        lambda p, g, moments, rate, c, t: (
            p - np.where(g > 0, rate, 0.5 * rate) * g * np.where(t > 2, moments[0], 0.5),
            np.where(t > 1, 0.75, rate),
        ),
        moments=1,
    )
    runs = [
        fastmlp.fit(
            Network([5, 4, 3]), X, Y, optimizer=rule(0.1), epochs=4, batch_size=None, seed=0, dtype="float32",
            backend=backend, progress=False,
        ).parameters
        for backend in ("reference", "baseline", "fused")
    ]  # fmt: skip
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], atol=100 * eps(np.float32))


def test_rules_that_differ_in_their_constants_alone_are_two():
    def step(p, g, moments, rate, c, t):
        return p - rate * g

    few, many = Rule("plain", step), Rule("plain", step, constants={"unused": 50.0})
    assert few.key != many.key
    for rule in (few, many):
        network = Network([4, 6, 1], "tanh")
        expected, *got = losses_of(["reference", "fused"], ROWS[:, 0], network=network, optimizer=rule(0.01))
        np.testing.assert_allclose(got[0], expected, rtol=1e-10)


def test_a_rule_that_moves_what_stands_still_spoils_no_padding():
    rule = Rule("signs", lambda p, g, m, rate, c, t: p - np.where(g > 0, rate, -rate))
    network = Network([4, 6, 1], "tanh")
    expected, got = losses_of(["reference", "specialized"], ROWS[:, 0], network=network, optimizer=rule(0.01))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def pick(o, t):
    """Both are known when it is traced, and take the shape of o in NumPy."""
    sure = np.sum(np.where((o > 0) | True, 1.0, 3.0)) + np.sum(np.where((o > 0) & False, np.max(o), 1.0))
    return np.sum(np.where(True, 2.0, o)) + sure + np.sum(o * t)


ROW_LOSSES = {
    "the sum of one number": lambda o, t: np.sum(np.max(o)) + np.sum(np.sum(np.sum(o * t))),
    "zeros and ones": lambda o, t: (
        np.sum(np.zeros_like(o) + np.max(t))
        + np.sum(np.ones_like(t) * np.sum(o * o)) * np.ones_like(np.max(o))
    ),
    "what is known": pick,
    "next to NaN": lambda o, t: np.sum(np.fmax(o, t)) + np.max(np.fmin(2 * o, 0.5)) * np.sum(np.fmax(t, 0)),
    "log of sums": lambda o, t: np.sum(np.logaddexp(o, t)) + np.sum(np.heaviside(o, t) * o),
    "a sum within a sum": lambda o, t: np.sum(np.log(np.sum(np.exp(o))) - o) / 3,
    "the sum of a maximum": lambda o, t: np.sum(np.max(o)) + np.sum((o - t) ** 2),
    "as many as there are": lambda o, t: np.sum((o - t) ** 2) / np.sum(np.ones_like(o)),
    "a product of sums": lambda o, t: np.sum(o * np.sum(o * t)) + np.max(o) * np.sum(t),
}


@pytest.mark.parametrize(
    "name",
    # Each compiles for two backends, 2 s; their values are compared with NumPy's below.
    [pytest.param(name, marks=[matrix] * (place > 0)) for place, name in enumerate(ROW_LOSSES)],
)
def test_sums_of_what_all_units_share(name):
    loss = RowLoss("shared", ROW_LOSSES[name])
    network, y = Network([4, 3], loss=loss), ROWS[:, :3]
    expected, *got = losses_of(["reference", "baseline", "fused"], y, network=network, optimizer=SGD(0.01))
    for losses in got:
        np.testing.assert_allclose(losses, expected, rtol=1e-10)
    rng = np.random.default_rng(0)
    z, targets, step = rng.normal(size=(1, 3)), rng.normal(size=(1, 3)), 1e-6
    value = lambda z: loss.on_arrays(z, z, targets, np.zeros(3))[0][0, 0]  # noqa: E731
    slopes = [(value(z + step * e) - value(z - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(loss.on_arrays(z, z, targets, np.zeros(3))[1][0], slopes, rtol=1e-6, atol=1e-8)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30]


@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("baseline", marks=pytest.mark.matrix), "fused"]
)
@pytest.mark.parametrize("name", ROW_LOSSES)
def test_a_row_has_the_loss_that_numpy_has_for_it(name, backend):
    """Also where it holds NaN, infinities and zeros of both signs: the biases are the row."""
    loss, rng = RowLoss("of_a_row", ROW_LOSSES[name]), np.random.default_rng(3)
    network, evaluate = Network([1, 3], loss=loss), registry.get(backend).evaluate
    for turn in range(60):
        o, t = rng.normal(size=(2, 3))
        for values in (o, t)[: turn % 3]:
            values[rng.integers(0, 3, 2)] = rng.choice(SPECIAL, 2)
        with np.errstate(all="ignore"):
            expected = ROW_LOSSES[name](o, t)
            parameters = np.concatenate([np.zeros(3), o])
            got = evaluate(network, parameters, Data(np.zeros((1, 1)), t[None], np.ones(1)))
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=f"{o} {t}")


def test_labels_are_classes_for_a_loss_of_softmax():
    labels = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 0)
    own = RowLoss("entropy", lambda output, target: -np.sum(target * np.log(output)), output="softmax")
    networks = Network([4, 3], loss=own), Network([4, 3], output="softmax", loss="cross_entropy")
    first, second = (losses_of(["fused"], labels, network=network)[0] for network in networks)
    np.testing.assert_allclose(first, second, rtol=1e-9)
