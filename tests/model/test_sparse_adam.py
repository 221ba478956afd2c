"""SparseAdam against PyTorch's definition, transcribed row by row, and against PyTorch itself."""

import math

import numpy as np
import scipy.sparse
from support.problems import COMPILED_DTYPES, eps
from support.selection import crossed, some_backends
from support.updates import update

import fastmlp
from fastmlp import Network, SparseAdam
from fastmlp.backend import registry
from fastmlp.model.layout import dense_views
from fastmlp.model.rows import find_nonzero_columns
from fastmlp.model.state import initial_state

RATE, BETAS, EPSILON = 0.05, (0.8, 0.95), 1e-6
ROWS, N_IN, N_OUT, BATCH, EPOCHS = 40, 90, 3, 8, 3


class Rows:
    """torch.optim.SparseAdam: rows whose gradient is not given keep all that they have."""

    def __init__(self, parameter):
        self.parameter, self.m, self.v = parameter, np.zeros_like(parameter), np.zeros_like(parameter)

    def step(self, gradient, rows, t):
        for k in rows:
            self.m[k] += (gradient[k] - self.m[k]) * (1 - BETAS[0])
            self.v[k] += (gradient[k] ** 2 - self.v[k]) * (1 - BETAS[1])
            size = RATE * math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
            self.parameter[k] -= size * self.m[k] / (np.sqrt(self.v[k]) + EPSILON)


def problem():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((ROWS, N_IN)) < 0.06, rng.standard_normal((ROWS, N_IN)), 0)
    X[:, 5] = 0
    return X, rng.standard_normal((ROWS, N_OUT)), rng.standard_normal((N_IN, N_OUT)), np.zeros(N_OUT)


def by_hand(X, y, w, b):
    """A layer with a squared error, whose batches come in order."""
    weights, biases, t = Rows(w.copy()), Rows(b.copy()), 0
    for _ in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            x, target, t = X[start : start + BATCH], y[start : start + BATCH], t + 1
            delta = 2 * (x @ weights.parameter + biases.parameter - target) / target.size
            weights.step(x.T @ delta, [k for k in range(N_IN) if (x[:, k] != 0).any()], t)
            biases.step(delta.sum(axis=0), range(N_OUT), t)
    return weights.parameter, biases.parameter


@crossed(backend=registry.backends(), sparse=[True, False], dtype=COMPILED_DTYPES)
def test_a_training_is_that_of_the_definition(backend, sparse, dtype):
    X, y, w, b = problem()
    model = fastmlp.fit(
        Network([N_IN, N_OUT]), scipy.sparse.csr_array(X) if sparse else X, y,
        optimizer=SparseAdam(RATE, *BETAS, EPSILON), epochs=EPOCHS, batch_size=BATCH, shuffle=False,
        initial=([w], [b]), backend=backend, dtype=dtype,
    )  # fmt: skip
    steps = EPOCHS * ROWS // BATCH
    # Some ten operations a step, each off by an ulp of terms of about 1, which gradients of 1e-2 divide.
    allowed = 10 * 1e2 * eps(dtype) * steps
    for got, expected in zip((model.weights[0], model.biases[0]), by_hand(X, y, w, b), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)
    assert np.array_equal(model.weights[0][5], w[5].astype(dtype))


@some_backends
def test_an_update_gets_the_nonzero_columns(backend):
    network, optimizer = Network([70, 2, 1]), SparseAdam(RATE)
    X = np.zeros((3, 70))
    X[0, 64] = X[2, 3] = -1e-300
    state = initial_state(np.ones(2 * 71 + 3))
    state.gradients[...] = 1
    update(backend, network, optimizer, state, (RATE, RATE), find_nonzero_columns(X))
    views = [view for layer in dense_views(state.parameters, network) for view in layer]
    changed = [(view != 1).any(axis=-1) for view in views]
    assert np.flatnonzero(changed[0]).tolist() == [3, 64]
    assert all(np.all(others) for others in changed[1:])
    assert np.array_equal(state.moments[0] != 0, state.parameters != 1)


def test_an_explicit_zero_touches_nothing():
    X = scipy.sparse.csr_array(([1.0, 0.0], ([0, 1], [0, 1])), shape=(2, 3))
    model = fastmlp.fit(
        Network([3, 1]), X, [1.0, 2.0], optimizer=SparseAdam(), epochs=5, batch_size=1, seed=0,
        initial=([np.ones((3, 1))], [np.zeros(1)]), backend="fused",
    )  # fmt: skip
    assert (model.weights[0][:, 0] == 1).tolist() == [False, True, True]
