"""A training that a backend is chosen for, and a backend of a test's own in the place of the one that is."""

import numpy as np

from fastmlp import Adam, Network
from fastmlp.kernels.variant import Work
from fastmlp.training import preparation

NETWORK, OPTIMIZER = Network([8, 16, 3], "tanh"), Adam()


def work(steps, network=NETWORK, optimizer=OPTIMIZER, rows=32):
    """A training of so many steps, in float32 and on one thread."""
    return Work.of(network, optimizer, rows, np.dtype("f4"), 1, steps)


def have_chosen(patch, backend):
    """Have `fit` take a backend; patch : pytest's monkeypatch"""
    patch.setattr(preparation, "choose", lambda *_, **options: backend)
    forget_choices(patch)


def forget_choices(patch):
    """Have `fit` choose anew what earlier tests have chosen; patch : pytest's monkeypatch"""
    patch.setattr(preparation, "known_choices", {})
