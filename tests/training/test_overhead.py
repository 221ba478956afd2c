"""What a warm `fit` and `predict` of one row cost besides the compiled steps: calls, as no clock is steady.

A call takes about 0.2 us where all is warm, and twice that within a whole `fit`.
"""

import gc
import sys
from collections import Counter

import numpy as np
import pytest
from support.selection import matrix, quick

import fastmlp

X = np.array([[0.0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]])
Y = np.array([0.0, 1, 1, 0])
NETWORK = fastmlp.Network([3, 4, 1], hidden="relu", output="sigmoid", loss="mse")
OPTIMIZER = fastmlp.SGD(1.2, bias_learning_rate=0.3)

CALLS_OF_A_FIT, CALLS_OF_A_PREDICTION, CALLS_OF_A_STEP = 390, 60, 16
"""Bounds, not counts: these are some 368, 34 and 8 with CPython 3.11 and NumPy 2.4."""

FILES_OF_A_FIT = 40
"""The most files of ours that a warm fit passes through."""


LOOKS = {"stat", "lstat", "access", "open", "scandir", "listdir", "open_code", "getcwd"}
"""C functions that ask the disk."""


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(built_in_backends):
    """Registered variants are candidates of "auto", too: each costs some calls.

    What "auto" asks another process for goes by what the tests before have trained. It asks for nothing where
    the network's own program is there.
    """
    fit("specialized")


def fit(backend):
    return fastmlp.fit(
        NETWORK, X, Y, optimizer=OPTIMIZER, epochs=100, batch_size=None, seed=0, backend=backend,
        progress=False,
    )  # fmt: skip


def calls_of(function):
    """How often each function is called in a warm call, with those that are written in C.

    The fewest of three: every 50 ms a call looks for what another process may have compiled.
    """
    for _ in range(3):
        function()
    gc.collect()  # what other tests have left, with its finalizers
    gc.disable()
    try:
        return min((calls_of_one(function) for _ in range(3)), key=Counter.total)
    finally:
        gc.enable()


def calls_of_one(function):
    calls = Counter()

    def count(frame, event, argument):
        if event == "call":
            calls[frame.f_code.co_name] += 1
            calls.files.add(frame.f_code.co_filename)
        elif event == "c_call":
            calls[argument.__name__] += 1

    calls.files, before = set(), sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


@quick(1)
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_warm_fit_passes_through_few_files(batch_size):
    rows = np.random.default_rng(0).random((50, 3))
    options = {"batch_size": batch_size, "epochs": 3, "seed": 0, "progress": False}
    calls = calls_of(lambda: fastmlp.fit(NETWORK, rows, rows[:, 0], **options))
    ours = {path for path in calls.files if path.startswith(fastmlp.__path__[0])}
    assert calls["train_chunk"] > 0
    assert len(ours) <= FILES_OF_A_FIT, sorted(ours)


@quick(1)
@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_a_warm_fit_makes_few_calls_and_asks_the_disk_nothing(backend):
    calls = calls_of(lambda: fit(backend))
    assert calls["train_chunk"] > 0
    assert calls.total() <= CALLS_OF_A_FIT, calls.most_common(20)
    assert not LOOKS & calls.keys()


def test_a_prediction_of_one_row_makes_few_calls():
    model, row = fit("fused"), X[:1].copy()
    calls = calls_of(lambda: model.predict(row))
    assert calls["predict"] > 0
    assert calls.total() <= CALLS_OF_A_PREDICTION, calls


@quick(1)
@pytest.mark.parametrize("call", ["step", "forward"])
def test_a_single_step_makes_few_calls(call):
    stepper, x, y = fastmlp.Stepper(NETWORK, OPTIMIZER, seed=0), X.astype("f"), Y[:, None].astype("f")
    given = (x, y) if call == "step" else (x,)
    calls = calls_of(lambda: getattr(stepper, call)(*given))
    assert calls[call] == 2  # of the Stepper, and of the backend
    assert calls.total() - 3 <= CALLS_OF_A_STEP, calls  # this function, getattr, and what ends the count


@matrix
def test_the_calls_of_a_fit_do_not_grow_with_its_epochs():
    """Nothing of Python's is between the steps of a chunk; the first one has more steps than these."""
    options = {"optimizer": OPTIMIZER, "batch_size": None, "seed": 0, "progress": False, "backend": "fused"}
    few, many = (
        calls_of(lambda epochs=epochs: fastmlp.fit(NETWORK, X, Y, epochs=epochs, **options)).total()
        for epochs in (1, 1000)
    )
    assert many == few
