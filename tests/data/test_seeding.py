"""Streams of a seed: the same on every platform, and independent by seed, name and numbers."""

from itertools import combinations

import numpy as np
import pytest
from support.selection import matrix

from fastmlp import Dense, Network, Normal, Uniform
from fastmlp.data.seeding import RowOrders, generator, words
from fastmlp.model.layout import drawn, parameter_count
from fastmlp.training.preparation import drawn_starts

SEEDS = [0, 1, 7, 2**32 - 1, 2**32, 2**40 + 3, 2**64 + 9, 2**128 - 1, 2**200 + 3, 10**5000]


def test_streams_are_those_of_every_platform():
    expected = [0x8745DBEA0DC80988, 0x2E012EF4555533DE, 0x2B221B97B929D37C, 0x21622B898EE92F01]
    assert words(7, "order", 0, 2).tolist() == expected
    numbers = generator(7, "order", 0, 2).integers(1 << 32, size=4).tolist()
    assert numbers == [3005573428, 1527541119, 1233398991, 2043150756]
    order = np.empty((1, 8), np.int64)
    RowOrders(7).draw(3, order)
    assert order.tolist() == [[1, 6, 7, 4, 2, 3, 5, 0]]


def test_a_generator_has_the_words_of_its_stream():
    high, low, *sequence = map(int, words(3, "initial"))
    state = generator(3, "initial").bit_generator.state["state"]
    increment = ((sequence[0] << 64 | sequence[1]) << 1 | 1) % 2**128
    number = (high << 64 | low) + increment
    assert state["inc"] == increment
    assert state["state"] == (number * 0x2360ED051FC65DA44385DF649FCCF645 + increment) % 2**128


def test_streams_differ_by_seed_name_and_each_number():
    names = [("initial",), ("split",), ("order", 0, 1), ("order", 1, 0), ("order", 0, 11), ("order", 1, 1)]
    made = {tuple(words(seed, *name).tolist()) for seed in [*SEEDS, 11, 0x11] for name in names}
    assert len(made) == (len(SEEDS) + 2) * len(names)


@matrix
def test_streams_of_neighbours_are_not_alike():
    """The correlation of uniform numbers has a deviation of 1 / sqrt(count)."""
    count = 1 << 16
    streams = [(5, "order", 0, 0), (5, "order", 0, 1), (5, "order", 1, 0), (6, "order", 0, 0), (5, "initial")]
    numbers = [generator(*stream).random(count) for stream in streams]
    # The first number of many streams is uniform as well.
    numbers += [[generator(seed, name).random() for seed in range(count)] for name in ("initial", "split")]
    for one in numbers:
        assert np.mean(one) == pytest.approx(0.5, abs=4 / np.sqrt(12 * count))
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4 / np.sqrt(count)
    for one, other in combinations(numbers, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(count)


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
        np.testing.assert_array_equal(start, drawn(network, generator(seed, "initial"), dtype))
