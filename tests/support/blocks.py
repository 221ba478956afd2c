"""Rows in blocks, a training on them, and the threads that fill windows."""

import itertools
import threading

import numpy as np
import pytest

import fastmlp
from fastmlp import Adam, Cosine, Network

RNG = np.random.default_rng(0)
ROWS = 103
X = RNG.normal(size=(ROWS, 5)).astype(np.float32)
Y = RNG.normal(size=(ROWS, 2)).astype(np.float32)
W = RNG.random(ROWS).astype(np.float32) + 1
PIXELS = RNG.integers(0, 256, (ROWS, 5), np.uint8)
NETWORK = Network([5, 8, 2], "tanh", dropout=0.2)
CUTS = [0, 7, 7, 50, 51, ROWS]
SLICES = [slice(*pair) for pair in itertools.pairwise(CUTS)]
BLOCKS = [(X[rows], Y[rows], W[rows]) for rows in SLICES]
GOOD = (X, Y)
OPTIMIZER = Adam(Cosine(0.01, 3))


def fit(x=BLOCKS, y=None, network=NETWORK, **options):
    given = {"epochs": 3, "batch_size": 16, "seed": 3, "backend": "reference", "optimizer": OPTIMIZER}
    return fastmlp.fit(network, x, y, **{**given, **options})


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not filling()


def filling():
    """The threads that fill windows."""
    return [thread for thread in threading.enumerate() if thread.name == "fastmlp windows"]
