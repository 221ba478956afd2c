"""What a backend is given directly is checked before compiled code takes its shape on trust."""

import gc
from types import MappingProxyType

import numpy as np
import pytest
from support.selection import few, matrix, quick

from fastmlp import Adam, Network
from fastmlp.backend import registry
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.state import initial_state

NETWORK = Network([3, 4, 2])
P, ROWS = 26, 5
GIVEN = np.ones(P)
X, Y, W = np.ones((ROWS, 3)), np.ones((ROWS, 2)), np.ones(ROWS)
DATA = Data(X, Y, W)
GOOD = Chunk(np.arange(ROWS), np.array([0, 3]), np.array([3, 5]), np.array([3.0, 2]), np.full((2, 2), 0.1), 3)


def predict(parameters=GIVEN, inputs=X, out=None):
    out = np.empty((ROWS, 2)) if out is None else out
    return lambda b: b.predict(NETWORK, parameters, inputs, out)


def evaluate(parameters=GIVEN, **data):
    return lambda b: b.evaluate(NETWORK, parameters, DATA._replace(**data))


def gradient(gradients=None, **data):
    gradients = np.empty(P) if gradients is None else gradients
    return lambda b: b.gradient(NETWORK, np.ones(P), DATA._replace(**data), 0, 0, gradients)


def train(losses=2, arrays=MappingProxyType({}), **fields):
    state, chunk = initial_state(np.ones(P), 2)._replace(**arrays), GOOD._replace(**fields)
    return lambda b: b.train_chunk(NETWORK, Adam(), state, DATA, chunk, 0, 1, np.empty(losses))


WRONG = {
    "parameters too short": (predict(np.ones(P - 1)), "(25,)"),
    "whole parameters": (predict(np.ones(P, int)), "int64"),
    "parameters that skip": (evaluate(np.ones(2 * P)[::2]), "not in C order"),
    "inputs too wide": (predict(inputs=np.ones((ROWS, 4))), "(5, 4)"),
    "inputs of another dtype": (predict(inputs=X.astype("f4")), "float32"),
    "inputs in Fortran's order": (predict(inputs=np.asfortranarray(X)), "not in C order"),
    "out too short": (predict(out=np.empty((4, 2))), "(4, 2)"),
    "targets too short": (evaluate(targets=Y[:4]), "(4, 2)"),
    "weights too short": (gradient(weights=W[:4]), "(4,)"),
    "no rows": (gradient(inputs=X[:0], targets=Y[:0], weights=W[:0]), "(0, 3)"),
    "bound gradients too short": (lambda b: b.bound(NETWORK, GIVEN, DATA, np.empty(P - 1)), "(25,)"),
    "gradients too short": (gradient(np.empty(P - 1)), "(25,)"),
    "one row of moments": (train(arrays={"moments": np.zeros((1, P))}), "(1, 26)"),
    "gradients of another dtype": (train(arrays={"gradients": np.zeros(P, "f4")}), "float32"),
    "losses too short": (train(losses=1), "(1,)"),
    "stops too short": (train(stops=np.array([3])), "(1,)"),
    "a step beyond the order": (train(stops=np.array([3, 6])), "stops up to 6"),
    "a step before the order": (train(starts=np.array([-1, 3])), "starts -1"),
    "a step without rows": (train(stops=np.array([0, 5])), "1 to most_rows=3"),
    "a step beyond the batch size": (train(most_rows=2), "1 to most_rows=2"),
    "rates in a row": (train(rates=np.ones(4)), "(4,)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape_is_reported_before_compiled_code_sees_it(what):
    do, got = WRONG[what]
    said = set()
    for name in registry.variants():
        with pytest.raises(ValueError, match="must") as caught:
            do(registry.get(name))
        said.add(str(caught.value))
    (message,) = said
    assert got in message
    assert "\n" not in message


@matrix
def test_right_shapes_are_taken():
    backend = registry.get("fused")
    for do in (predict(), evaluate(), gradient(), train()):
        do(backend)


@quick(1)
@pytest.mark.parametrize("name", few(registry.backends()))
def test_a_bound_gradient_is_that_of_the_numbers_that_are_there(name):
    rng, backend = np.random.default_rng(0), registry.get(name)
    inputs, targets = rng.standard_normal((ROWS, 3)), rng.standard_normal((ROWS, 2))
    data = Data(inputs, targets, W)
    parameters, found, expected = np.zeros(P), np.empty(P), np.empty(P)
    objective = backend.bound(NETWORK, parameters, data, found)
    gc.collect()  # the function alone holds what it calls
    for _ in range(3):
        parameters[...] = rng.standard_normal(P)
        assert objective() == backend.gradient(NETWORK, parameters, data, 0, 0, expected)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")
def test_parameters_whose_dtype_was_changed_in_place_are_checked_again():
    backend, parameters = registry.get("fused"), np.ones(P, np.float32)
    predict(parameters, X.astype("f4"), np.empty((ROWS, 2), "f4"))(backend)
    parameters.dtype = np.float64  # half as many numbers: a program would read beyond them
    for _ in range(2):
        with pytest.raises(ValueError, match=r"got float64 of \(13,\)"):
            predict(parameters)(backend)
    parameters.dtype = np.float32
    predict(parameters, X.astype("f4"), np.empty((ROWS, 2), "f4"))(backend)
