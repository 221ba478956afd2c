"""Derivatives of a user's formulas: they are differences of it, and what is wrong is reported."""

from __future__ import annotations

import numpy as np
import pytest
from support.custom_pieces import (
    CASES,
    ROWS,
    Lion,
    X,
    Y,
    by_element,
    focal,
    hard,
    losses_of,
    mish,
    of_outputs,
    own_huber,
    quantiles,
    sine,
    smoothed,
)
from support.problems import parameters_for
from support.selection import matrix

import fastmlp
from fastmlp import SGD, Activation, Loss, Network
from fastmlp.backend import registry
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.backend import Data
from fastmlp.model.layout import flatten
from fastmlp.model.losses import LOSSES
from fastmlp.testing import check


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_differences_of_the_objective(name):
    network, y, _ = CASES[name]
    y = np.broadcast_to(y.reshape(len(y), -1), (len(y), network.n_out)).copy()
    data = Data(X, y, np.arange(len(X)) % 3.0)
    weights, biases = parameters_for(network.sizes, np.random.default_rng(1))
    parameters = flatten(weights, biases, network, np.dtype(float))
    gradient = registry.get("reference").gradient
    found, unused = np.empty_like(parameters), np.empty_like(parameters)
    gradient(network, parameters, data, 7, 0, found)
    for i in range(len(parameters)):
        sides = [parameters.copy(), parameters.copy()]
        sides[0][i] -= 1e-6
        sides[1][i] += 1e-6
        low, high = (gradient(network, side, data, 7, 0, unused) for side in sides)
        assert (high - low) / 2e-6 == pytest.approx(found[i], abs=1e-7)


@pytest.mark.parametrize(
    "piece", [mish, sine, focal, hard, own_huber, quantiles, smoothed, of_outputs, by_element]
)
def test_slopes_are_derivatives(piece):
    check(piece)


@pytest.mark.parametrize(
    "name",
    # Their slopes in the reference are compared with differences in tests/model/test_gradients.py, too.
    [
        pytest.param(name, marks=[matrix] * (place % 4 > 0))
        for place, name in enumerate([*ACTIVATIONS, *LOSSES])
    ],
)
def test_slopes_of_our_own_are_derivatives(name):
    check(name)


NAIVE = {
    "swish": lambda z: z / (1 + np.exp(-z)),
    "gelu by tanh": lambda z: 0.5 * z * (1 + np.tanh(0.79788456 * (z + 0.044715 * z**3))),
    "a kink": lambda z: np.where(z > 0, z, 0.1 * z),
    "a log that is not chosen": lambda z: np.where(z > 0, np.log(np.maximum(z, 1e-3)), z),
}


@pytest.mark.parametrize("name", NAIVE)
def test_slopes_stay_finite_where_the_formula_is(name):
    check(Activation("piece", NAIVE[name]))


def test_kinks_that_cancel_leave_the_slope_of_a_smooth_function():
    """At a logit of 0, where every network of zeros begins."""
    entropy = Loss(
        "entropy",
        lambda logit, t: np.maximum(logit, 0) - logit * t + np.log1p(np.exp(-abs(logit))),
        "sigmoid",
    )
    _, delta = entropy.on_arrays(np.zeros((1, 1)), np.full((1, 1), 0.5), np.ones((1, 1)), np.zeros(1))
    assert delta == -0.5


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (
            Activation("wrong", np.sin, slope=lambda z: 1.001 * np.cos(z)),
            r"^Activation\('wrong'\), as given: at 0 ",
        ),
        (
            Activation("cusp", lambda z: np.sqrt(z * z)),
            r"^Activation\('cusp'\) in float32: at 0 the slope is nan",
        ),
    ],
)
def test_a_slope_that_is_wrong_is_reported(piece, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check(piece)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", ["tanhh", 3, Lion])
def test_what_has_no_slope_is_not_checked(nothing):
    with pytest.raises((ValueError, TypeError), match=r"no activation or loss is named|has a slope to check"):
        check(nothing)


def test_a_slope_may_be_one_number():
    steps, slanted = Activation("steps", np.sign), Activation("slanted", lambda z: 2 * z)
    runs = [
        fastmlp.fit(
            Network([5, 4, 4, 3], [steps, slanted]), X, Y, epochs=2, seed=0, backend=backend, progress=False
        ).parameters
        for backend in ("reference", "baseline")
    ]
    np.testing.assert_allclose(*runs, atol=1e-14)


def test_a_slope_that_is_infinite_at_0_spoils_no_padding():
    root = Activation("root", lambda z: np.sqrt(abs(z)), slope=lambda a: 0.5 / a)
    options = {"network": Network([4, 6, 1], root), "optimizer": SGD(1e-3)}
    expected, got = losses_of(["reference", "specialized"], ROWS[:, 0], **options)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
