"""One model of `fit_many`: trained as by `fit`, in the thread of its call."""

from __future__ import annotations

import contextlib
import gc
import signal
import weakref

import numpy as np
import pytest
from scipy import sparse
from support.problems import data_set
from support.resuming import assert_same

from fastmlp import (
    SGD,
    Adam,
    Callback,
    Cosine,
    DivergenceError,
    InterruptedMany,
    Network,
    fit,
    fit_many,
)

X, Y = data_set("diabetes", 48)
SMALL = Network([10, 4, 1], hidden="tanh")
OPTIONS = {"epochs": 3, "batch_size": 16, "backend": "fused", "progress": False}

PLAIN = {
    "a number of models": {"n_models": 1, "seed": 3},
    "a list of networks": {"networks": [SMALL], "seed": 3},
    "a list of rows": {"X": [X], "y": [Y], "seed": [3]},
    "lists of options": {"n_models": 1, "optimizer": [SGD(Cosine(0.1, 3), 0.9)], "epochs": [2], "seed": 3},
    "validation": {"n_models": 1, "validation": 0.25, "seed": 3, "dtype": np.float32},
    "blank lists": {"n_models": 1, "callbacks": [], "metrics": [], "seed": 3, "threads": 2},
}
"""Arguments of one model that are those of `fit`, or lists of one."""

OTHERS = {
    "callbacks": {"callbacks": [Callback()]},
    "rows": {"rows": np.arange(40)},
    "metrics": {"metrics": ["r2"], "validation": 0.25},
    "sparse rows": {"X": sparse.csr_array(X)},
    "a bar": {"progress": True},
}
"""Arguments of one model that `fit_many` reads by itself."""


def trained(given):
    given = {"networks": SMALL, "X": X, "y": Y, **OPTIONS, **given}
    return fit_many(given.pop("networks"), given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize("given", PLAIN)
def test_plain_arguments_are_those_of_fit(given):
    options = PLAIN[given]
    [model] = trained(options)
    own = {name: value[0] if isinstance(value, list) and value else value for name, value in options.items()}
    for name in ("networks", "X", "y", "n_models"):
        own.pop(name, None)
    alone = fit(SMALL, X, Y, **{**OPTIONS, **own})
    assert_same(model, alone)
    assert (model.backend, model.threads) == (alone.backend, alone.threads)
    assert_same(model.fit_more(X, Y, epochs=2), alone.fit_more(X, Y, epochs=2))


@pytest.mark.parametrize("given", OTHERS)
def test_others_train_as_by_fit(given):
    options = {"seed": 3, **OTHERS[given]}
    [model] = trained({"n_models": 1, **options})
    rows = options.pop("rows", slice(None))
    assert_same(model, fit(SMALL, options.pop("X", X)[rows], Y[rows], **{**OPTIONS, **options}))


WEIGHTS, BIASES = [np.ones((10, 4)), np.ones((4, 1))], [np.ones(4), np.ones(1)]


def test_what_raises_while_it_is_read_is_read_once():
    def weights():
        yield np.ones((10, 4))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        trained({"n_models": 1, "initial": (weights(), [np.ones(4), np.ones(1)])})


def test_the_optimiser_of_calls_that_give_none_is_chosen_for_once(fresh_setups):
    for _ in range(3):
        trained({"n_models": 1})
    assert len(fresh_setups) == 1


def test_one_that_diverges_leaves_its_error():
    [error] = trained({"n_models": 1, "optimizer": SGD(1e200), "seed": 3})
    with pytest.raises(DivergenceError) as alone:
        fit(SMALL, X, Y, optimizer=SGD(1e200), seed=3, **OPTIONS)
    assert isinstance(error, DivergenceError)
    np.testing.assert_array_equal(error.parameters, alone.value.parameters)
    assert (error.step, error.history, error.__traceback__) == (alone.value.step, alone.value.history, None)


def at_epoch(number, do):
    """Return a schedule of a user's that does something once the training is under way."""

    def rate(epoch):
        if epoch == number:
            do()
        return 0.01

    return rate


def test_an_error_under_way_names_the_model_and_trains_once():
    calls = []

    def fail():
        calls.append(1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        trained({"n_models": 1, "optimizer": Adam(at_epoch(1, fail))})
    assert caught.value.__notes__ == ["in the training of model 0"]
    assert calls == [1]


def test_ctrl_c_keeps_a_divergence():
    rate = at_epoch(1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(InterruptedMany) as caught:
        trained({"n_models": 1, "optimizer": Adam(lambda epoch: 1e300 + rate(epoch)), "seed": 3})
    [model] = caught.value.models
    assert isinstance(model, DivergenceError)


def test_ctrl_c_leaves_no_cycle_that_holds_the_rows():
    x, rate = X.copy(), at_epoch(1, lambda: signal.raise_signal(signal.SIGINT))
    watched = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(InterruptedMany):
            trained({"X": x, "n_models": 1, "optimizer": Adam(rate)})
        del x
        assert watched() is None
    finally:
        gc.enable()
