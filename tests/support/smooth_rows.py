"""Rows of smooth functions, for trainings whose steps read all rows."""

import numpy as np

import fastmlp
from fastmlp import Network

X = np.random.default_rng(0).uniform(-2, 2, (60, 3))
SMOOTH = np.sin(X[:, :1]) + X[:, 1:2] * X[:, 2:]
Y = np.hstack([SMOOTH, SMOOTH**2])
KINDS = (SMOOTH[:, 0] > 0).astype(int) + (SMOOTH[:, 0] > 1)
NETWORK = Network([3, 5, 2], "tanh", l2=0.01)


def fit(network=NETWORK, x=X, y=Y, epochs=6, **options):
    return fastmlp.fit(network, x, y, epochs=epochs, **{"seed": 0, "progress": False, **options})
