"""What tests of small networks that take their steps together share."""

from __future__ import annotations

from fastmlp import Network
from support.problems import data_set

X, Y = data_set("diabetes", 48)
ALONE = {"backend": "fused", "progress": False}


def network(number):
    return Network([10, 4, 1], hidden="tanh", l2=0.01 * (1 + number), dropout=0.1 * (1 + number % 3))
