"""How a network starts: ranges and variances of each initialiser, at sizes where 5 sigma is little."""

import math
import re

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import fastmlp
from fastmlp import Network, Normal

SIZES = (200, 300, 100)

WEIGHTS = {
    # name: (variance from fan_in, fan_out; bound, if it has one)
    "glorot_uniform": lambda i, o: (2 / (i + o), math.sqrt(6 / (i + o))),
    "glorot_normal": lambda i, o: (2 / (i + o), None),
    "he_uniform": lambda i, o: (2 / i, math.sqrt(6 / i)),
    "he_normal": lambda i, o: (2 / i, None),
    Normal(0.7): lambda i, o: (0.49, None),
}


def start(**options):
    return fastmlp.fit(
        Network(SIZES, **options), np.zeros((1, 200)), np.zeros((1, 100)), epochs=0, seed=4,
        backend="reference",
    )  # fmt: skip


@pytest.mark.parametrize("init", WEIGHTS, ids=str)
def test_weights(init):
    for w in start(weight_init=init).weights:
        variance, bound = WEIGHTS[init](*w.shape)
        root = math.sqrt(variance)
        assert abs(w.mean()) < 5 * root / math.sqrt(w.size)
        # a normal's sample variance has a standard error of sqrt(2 / n) of it, a uniform's less
        assert abs(w.var() - variance) < 5 * variance * math.sqrt(2 / w.size)
        if bound is not None:
            assert 0.99 * bound < np.abs(w).max() <= bound
        else:
            assert np.abs(w).max() > 3 * root


def test_biases():
    for b in start().biases:
        assert (b == 0).all()
    for b, fan_in in zip(start(bias_init="uniform").biases, SIZES[:2], strict=True):
        assert 0.9 / math.sqrt(fan_in) < np.abs(b).max() <= 1 / math.sqrt(fan_in)
        assert abs(b.mean()) < 5 / math.sqrt(3 * fan_in * b.size)
    for b in start(bias_init=Normal(2.0)).biases:
        assert 1.5 < b.std() < 2.5


def nguyen_widrow(layers, columns, seed=4):
    """The start of a network, as a dict of layers."""
    network = Network(inputs=columns, layers=layers)
    rows = np.zeros((1, columns)), np.zeros((1, network.n_out))
    return fastmlp.fit(network, *rows, epochs=0, seed=seed, backend="reference").layers


def dense(units, activation="identity", **options):
    return fastmlp.Dense(units, activation, weight_init="nguyen_widrow", **options)


@pytest.mark.parametrize(("activation", "steep"), [("tanh", 2), ("sigmoid", 4), ("relu", 1)])
def test_nguyen_widrow_covers_the_inputs(activation, steep):
    # MATLAB's initnw: weights of a unit have the length 0.7 H^(1/n), times the half of `tansig('active')`
    first, last = nguyen_widrow([dense(6, activation), dense(2)], 3).values()
    length = steep * 0.7 * 6 ** (1 / 3)
    np.testing.assert_allclose(np.linalg.norm(first["weights"], axis=0), length)
    places = first["biases"] * np.sign(first["weights"][0])
    np.testing.assert_allclose(places, length * np.array([-1, -0.6, -0.2, 0.2, 0.6, 1]), atol=1e-15)
    assert np.abs(last["weights"]).max() <= math.sqrt(6 / 8)  # an output: as glorot_uniform
    assert not last["biases"].any()


def test_nguyen_widrow_has_the_planes_of_one_input_at_even_distances():
    first, _ = nguyen_widrow([dense(5, "tanh"), dense(1)], 1, 6).values()
    planes = np.sort(-first["biases"] / first["weights"][0])
    np.testing.assert_allclose(planes, np.linspace(-1, 1, 5), atol=1e-15)
    assert len({*np.sign(first["weights"][0])}) == 2
    alone, _ = nguyen_widrow([dense(1, "tanh"), dense(1)], 1).values()
    np.testing.assert_allclose(np.abs(alone["weights"]), 1.4)
    assert alone["biases"] == 0


def test_nguyen_widrow_is_for_layers_that_end_in_an_activation():
    before_a_norm, *_ = nguyen_widrow([dense(5), fastmlp.LayerNorm(), "tanh", dense(1)], 3).values()
    assert np.abs(before_a_norm["weights"]).max() <= math.sqrt(6 / 8)
    assert not before_a_norm["biases"].any()
    without, _ = nguyen_widrow([dense(5, "tanh", bias=False), dense(1)], 3).values()
    assert {*without} == {"weights"}
    np.testing.assert_allclose(np.linalg.norm(without["weights"], axis=0), 1.4 * 5 ** (1 / 3))


def test_estimators_start_as_networks_with_nguyen_widrow():
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-1, 1, (20, 3)), rng.random(20)
    given = {"init": "nguyen_widrow", "activation": "logistic", "max_iter": 1, "learning_rate_init": 1e-12}
    with pytest.warns(ConvergenceWarning):
        fitted = fastmlp.MLPRegressor(hidden_layer_sizes=(7,), **given, random_state=0).fit(X, y)
    first, biases = fitted.coefs_[0], fitted.intercepts_[0]
    length = 2.8 * 7 ** (1 / 3)
    np.testing.assert_allclose(np.linalg.norm(first, axis=0), length)
    np.testing.assert_allclose(biases * np.sign(first[0]), length * np.linspace(-1, 1, 7), atol=1e-9)


def test_nguyen_widrow_sets_the_biases_itself():
    words = "weight_init='nguyen_widrow' sets the biases, too, and takes no bias_init, got 'uniform'"
    for made in (lambda **given: Network([3, 1], **given), lambda **given: fastmlp.Dense(3, **given)):
        with pytest.raises(ValueError, match=re.escape(words)):
            made(weight_init="nguyen_widrow", bias_init="uniform")
    with pytest.raises(ValueError, match=r"after Members no Dense takes weight_init='nguyen_widrow', got De"):
        Network(inputs=3, layers=[fastmlp.Members(2), dense(5, "tanh"), dense(1)])


def test_float32_starts_where_float64_does():
    options = {"epochs": 0, "seed": 1, "backend": "reference"}
    wide = fastmlp.fit(Network([3, 4, 1]), np.zeros((1, 3)), [0], **options)
    narrow = fastmlp.fit(Network([3, 4, 1]), np.zeros((1, 3)), [0], dtype="float32", **options)
    np.testing.assert_array_equal(narrow.parameters, wide.parameters.astype(np.float32))
