"""How a network starts: ranges and variances of each initialiser, at sizes where 5 sigma is little."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
        Network(SIZES, **options),
        np.zeros((1, 200)),
        np.zeros((1, 100)),
        epochs=0,
        seed=4,
        backend="reference",
    )


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


def test_float32_starts_where_float64_does():
    options = {"epochs": 0, "seed": 1, "backend": "reference"}
    wide = fastmlp.fit(Network([3, 4, 1]), np.zeros((1, 3)), [0], **options)
    narrow = fastmlp.fit(Network([3, 4, 1]), np.zeros((1, 3)), [0], dtype="float32", **options)
    np.testing.assert_array_equal(narrow.parameters, wide.parameters.astype(np.float32))
