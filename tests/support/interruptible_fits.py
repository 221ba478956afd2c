"""What tests of interrupted trainings share."""

import numpy as np

import fastmlp
from fastmlp import Network
from support.problems import data_set

X, Y = data_set("diabetes", 50)
SMALL = Network([10, 6, 1], hidden="tanh", dropout=0.2)

LARGE = Network([10, 256, 256, 1], dropout=0.2)
"""Its chunks last their 0.2 s; those of SMALL have all the steps that a chunk may have sooner."""


def fit(backend="reference", network=SMALL, **options):
    # Of the BLAS's own threads the reference has no use here, and beside other processes they spin.
    threads = 1 if backend == "reference" else None
    given = {"epochs": 20, "batch_size": 16, "seed": 1, "backend": backend, "threads": threads, **options}
    copies = 100 if network is LARGE else 1
    return fastmlp.fit(network, np.tile(X, (copies, 1)), np.tile(Y, copies), **given)
