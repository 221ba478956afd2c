"""What a warm `fit` and `predict` of one row cost beside the compiled steps: calls, as no clock is steady.

A call takes about 0.2 us where all is warm, and twice that within a whole `fit`.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

import fastmlp
from fastmlp.backend import registry

X = np.array([[0.0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]])
Y = np.array([0.0, 1, 1, 0])
NETWORK = fastmlp.Network([3, 4, 1], hidden="relu", output="sigmoid", loss="mse")
OPTIMIZER = fastmlp.SGD(1.2, bias_learning_rate=0.3)

CALLS_OF_A_FIT, CALLS_OF_A_PREDICTION = {"fused": 560, "auto": 605}, 40
"""At most: with CPython 3.11 and NumPy 2.4 526, 576 and 34, with 3.12 and 2.5 some more; once 790 and 47.

"auto" finds that the network's own program is not on the disk; 528 where it is.
"""

LOOKS = {"stat", "lstat", "access", "open", "scandir", "listdir", "open_code", "getcwd"}
"""C functions that ask the disk."""


@pytest.fixture(autouse=True)
def own_variants_alone(monkeypatch):
    """Variants that other tests have registered are candidates of "auto", too: each costs some calls."""
    monkeypatch.setattr(registry, "_files", {})


def fit(backend):
    return fastmlp.fit(
        NETWORK, X, Y, optimizer=OPTIMIZER, epochs=100, batch_size=None, seed=0, backend=backend,
        progress=False,
    )  # fmt: skip


def calls_of(function):
    """How often each function is called in a call, with those that are written in C."""
    for _ in range(3):
        function()
    calls = Counter()

    def count(frame, event, argument):
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            calls[argument.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_a_warm_fit_makes_few_calls_and_asks_the_disk_nothing(backend):
    calls = calls_of(lambda: fit(backend))
    assert calls["train_chunk"] > 0
    assert calls.total() <= CALLS_OF_A_FIT[backend], calls.most_common(20)
    assert not LOOKS & calls.keys()


def test_a_prediction_of_one_row_makes_few_calls():
    model, row = fit("fused"), X[:1].copy()
    calls = calls_of(lambda: model.predict(row))
    assert calls["predict"] > 0
    assert calls.total() <= CALLS_OF_A_PREDICTION, calls


def test_the_calls_of_a_fit_do_not_grow_with_its_epochs():
    """Nothing of Python's is between the steps of a chunk; the first one has more steps than these."""
    options = {"optimizer": OPTIMIZER, "batch_size": None, "seed": 0, "progress": False, "backend": "fused"}
    few, many = (
        calls_of(lambda epochs=epochs: fastmlp.fit(NETWORK, X, Y, epochs=epochs, **options)).total()
        for epochs in (1, 1000)
    )
    assert many == few
