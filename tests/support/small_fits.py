"""What tests of small trainings share."""

import fastmlp
from fastmlp import SGD, Network
from support.problems import data_set

X, Y = data_set("diabetes", 50)
SMALL = Network([10, 6, 1], hidden="tanh")


def fit(backend, network=SMALL, x=X, y=Y, **options):
    options = {"optimizer": SGD(0.05, 0.5), "epochs": 4, "batch_size": 16, "seed": 1, **options}
    return fastmlp.fit(network, x, y, backend=backend, **options)
