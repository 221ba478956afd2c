"""What tests of a Stepper share."""

import numpy as np

from fastmlp import Adam, Network, Stepper
from support.problems import data_set

NETWORK = Network((4, 8, 3), "relu", "softmax", "cross_entropy", dropout=0.3, l2=0.01)
X, Y = (array.astype("f") for array in (data_set("iris", 60)[0], np.eye(3)[data_set("iris", 60)[1]]))


def stepped(**options):
    stepper = Stepper(NETWORK, Adam(0.01), **({"seed": 5} | options))
    for _ in range(3):
        stepper.step(X, Y)
    return stepper
