"""SeededGenerators of many seeds have the states that NumPy gives each alone."""

import numpy as np
import pytest

from fastmlp import Dense, Network, Normal, Uniform
from fastmlp.data.seeding import FEW, LARGEST, SeededGenerators
from fastmlp.model.layout import drawn, parameter_count
from fastmlp.training.start import drawn_starts

SEEDS = [0, 1, 7, 2**32 - 1, 2**32, 2**40 + 3, 2**64 + 9, 2**96, 2**127 + 2**70 + 5, 2**128 - 1, 2**200 + 3]


@pytest.mark.parametrize("key", [0, 3])
def test_states_are_those_of_numpy(key):
    for seed, rng in zip(SEEDS, SeededGenerators(SEEDS, key), strict=True):
        alone = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))
        assert rng.bit_generator.state == alone.bit_generator.state


@pytest.mark.parametrize("seeds", [SEEDS, [seed for seed in SEEDS if seed <= LARGEST], [*range(700)]])
@pytest.mark.parametrize("count", [1, 5, FEW, FEW + 1])
def test_first_numbers_are_those_that_each_generator_draws(seeds, count):
    alone = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))) for seed in seeds]
    found = SeededGenerators(seeds, 2).random(count)
    np.testing.assert_array_equal(found, [rng.random(count) for rng in alone])


NETWORKS = {
    "uniform": Network([3, 5, 2], weight_init="glorot_uniform", bias_init="zeros"),
    "uniform biases": Network([3, 5, 2], weight_init="he_uniform", bias_init="uniform"),
    "normal": Network([3, 5, 2], weight_init="he_normal"),
    "spread": Network([3, 5, 2], "tanh", weight_init="nguyen_widrow"),
    "own": Network([3, 5, 2], weight_init=Normal(0.3), bias_init=Uniform(0.0, 1.0)),
    "of both kinds": Network(inputs=3, layers=[Dense(5, weight_init="he_normal"), Dense(2)]),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_starts_are_those_of_each_seed(name, dtype):
    network = NETWORKS[name]
    starts = drawn_starts(network, SEEDS, np.dtype(dtype))
    assert starts.shape == (len(SEEDS), parameter_count(network))
    for start, seed in zip(starts, SEEDS, strict=True):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        np.testing.assert_array_equal(start, drawn(network, rng, dtype))
